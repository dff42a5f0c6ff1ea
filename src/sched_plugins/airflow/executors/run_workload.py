"""Runs on a worker: fetches one workload, deletes it where it was, and becomes Airflow's supervisor of that task.

``python -m sched_plugins.airflow.executors.run_workload --region REGION NAME``

The workload goes from Parameter Store into a pipe that Airflow's program reads as its standard input: it is never
an argument, an environment variable or a file.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

GONE: Final = 65
"""Exit code: there is no such workload; another attempt has taken it, or it was revoked."""
_ATTEMPTS: Final = 10
_SUPERVISOR: Final = ("-m", "airflow.sdk.execution_time.execute_workload", "--json-path", "/dev/stdin")


def main(argv: list[str] | None = None) -> int:
    """Run a workload; only comes back when it cannot be started."""
    parser = argparse.ArgumentParser(prog="run_workload", description="Run one Airflow workload.")
    parser.add_argument("--region", required=True)
    parser.add_argument("name", help="the parameter that holds the workload")
    options = parser.parse_args(argv)
    workload = take(options.name, options.region)
    if workload is None:
        print(  # noqa: T201 - the job's output is where its user looks
            f"There is no workload {options.name}: an earlier attempt has taken it, or the task was revoked. "
            "Airflow decides whether the task is tried again.",
            file=sys.stderr,
        )
        return GONE
    become_supervisor(workload)
    return 0


def take(name: str, region: str) -> bytes | None:
    """Read a workload and delete it, so that nobody else reads it; None if there is none.

    The deletion comes first to be answered: a workload that cannot be deleted is still run, and the executor deletes
    it in the end.
    """
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    # Parameter Store answers 40 reads a second of an account by default, and many workers may start at once.
    config = Config(region_name=region, retries={"mode": "standard", "total_max_attempts": _ATTEMPTS})
    ssm = boto3.client("ssm", config=config)
    try:
        value = ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ParameterNotFound":
            return None
        raise
    try:
        ssm.delete_parameter(Name=name)
    except (BotoCoreError, ClientError) as error:
        print(f"The workload {name} could not be deleted: {error}", file=sys.stderr)  # noqa: T201
    return str(value).encode()


def become_supervisor(workload: bytes) -> None:
    """Replace this process by Airflow's, with the workload as its standard input."""
    reading, writing = os.pipe()
    # At most 8 KiB, which a pipe holds (at least 4 KiB at once, 64 KiB on Linux) until somebody reads.
    os.write(writing, workload)
    os.close(writing)
    os.dup2(reading, 0)
    os.close(reading)
    os.execv(sys.executable, [sys.executable, *_SUPERVISOR])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    sys.exit(main())
