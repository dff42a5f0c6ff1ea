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

from sched_plugins.aws.secrets import take

GONE: Final = 65
"""Exit code: there is no such workload; another attempt has taken it, or it was revoked."""
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
