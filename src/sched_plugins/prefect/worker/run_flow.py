"""Runs on a worker: reads one flow run's command and variables from Parameter Store, and becomes that command.

``python -m sched_plugins.prefect.worker.run_flow --region REGION NAME``

The variables have Prefect's API key, which is so in no queue, table, command line or log. The secret stays where it is:
after a Spot interruption the scheduler runs the job again. Who submitted the job deletes it when the job has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Final

from sched_plugins.aws.secrets import read

GONE: Final = 65
"""Exit code: there is no such secret; the flow run is over, or it was left over and swept up."""
EXECUTE: Final = "prefect flow-run execute"
"""Prefect's own command, which is run by this very Python, wherever the PATH leads."""


def main(argv: list[str] | None = None) -> int:
    """Run a flow run; only comes back when it cannot be started."""
    parser = argparse.ArgumentParser(prog="run_flow", description="Run one Prefect flow run.")
    parser.add_argument("--region", required=True)
    parser.add_argument("name", help="the parameter that holds the command and its variables")
    options = parser.parse_args(argv)
    secret = read(options.name, options.region)
    if secret is None:
        print(  # noqa: T201 - the job's output is where its user looks
            f"There is no secret {options.name}: the flow run has ended, or waited for so long that it was swept up. "
            "Run it again in Prefect.",
            file=sys.stderr,
        )
        return GONE
    found = json.loads(secret)
    become(arguments(str(found["command"])), found["environment"])
    return 0


def become(command: list[str], variables: dict[str, str]) -> None:
    """Replace this process."""
    os.execve(command[0], command, {**os.environ, **variables})  # noqa: S606 - a shell only where one is meant


def arguments(command: str) -> list[str]:
    """The program to become, and its arguments."""
    if command.strip() == EXECUTE:
        return [sys.executable, "-m", *EXECUTE.split()]
    return ["/bin/sh", "-c", command]


if __name__ == "__main__":
    sys.exit(main())
