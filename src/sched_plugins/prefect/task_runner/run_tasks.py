"""Runs on a worker: fetches a bundle of task calls, runs them one after the other, and leaves each one's outcome in S3.

``python -m sched_plugins.prefect.task_runner.run_tasks --region R --secret NAME --bucket B --shared KEY --calls KEY
--range FIRST-LAST --results PREFIX --python 3.11``

Exit code 0 says that every outcome was left, whether its task failed or not: Prefect has been told of that.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any, Final

GONE: Final = 65
"""Exit code: the runner that submitted the job has ended, and with it the secret that the job needs."""
OTHER_PYTHON: Final = 66
"""Exit code: functions that travel by value cannot run with another Python than they come from."""


class Objects:
    """The bucket with the payloads and the results.

    Args:
        bucket: its name.
        region: where it is.
        environment: the environment's name, which keeps a result from being taken for an upload that starts a job.
    """

    def __init__(self, bucket: str, region: str, environment: str) -> None:
        import boto3
        from botocore.config import Config

        self._bucket = bucket
        self._metadata = {"sched-environment": environment}
        config = Config(region_name=region, retries={"mode": "standard", "total_max_attempts": 8})
        self._s3: Any = boto3.client("s3", config=config)

    def get(self, key: str, bytes_range: str = "") -> bytes:
        """An object, or a part of one."""
        part = {"Range": f"bytes={bytes_range}"} if bytes_range else {}
        return bytes(self._s3.get_object(Bucket=self._bucket, Key=key, **part)["Body"].read())

    def put(self, key: str, text: bytes) -> None:
        """Write an object."""
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=text, Metadata=self._metadata)

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        found = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
        return any(one["Key"] == key for one in found.get("Contents", ()))


def main(argv: list[str] | None = None) -> int:
    """Run the calls of a job."""
    options = _arguments(argv)
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if here != options.python:
        return _refuse(
            f"The flow runs with Python {options.python}, and {sys.executable} is {here}. Give the task runner python= "
            f"a Python {options.python} of the worker's image.",
            OTHER_PYTHON,
        )
    from sched_plugins.aws import secrets

    variables = secrets.read(options.secret, options.region)
    if variables is None:
        return _refuse(f"There is no secret {options.secret}: the flow run that submitted this job has ended.", GONE)
    # Before Prefect is imported, which reads its settings then.
    os.environ.update(json.loads(variables))
    objects = Objects(options.bucket, options.region, options.environment)
    calls, shared = objects.get(options.calls, options.range), objects.get(options.shared)
    from sched_plugins.prefect.task_runner.execution import run_calls

    return run_calls(shared, calls, objects, options.results, attempt=int(os.environ.get("SCHED_ATTEMPT", "1")))


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_tasks", description="Run calls of Prefect tasks.")
    for name, told in (
        ("region", "AWS region"),
        ("environment", "the environment"),
        ("secret", "parameter with the settings of Prefect"),
        ("bucket", "the environment's bucket"),
        ("shared", "key of what the calls have in common"),
        ("calls", "key of the calls"),
        ("range", "bytes of that object"),
        ("results", "what the keys of the results begin with"),
        ("python", "version of the flow's Python"),
    ):
        parser.add_argument(f"--{name}", required=True, help=told)
    return parser.parse_args(argv)


def _refuse(why: str, code: int) -> int:
    print(why, file=sys.stderr)  # noqa: T201 - the job's output is where its user looks
    return code


if __name__ == "__main__":
    sys.exit(main())
