"""``airflow sched-executor``: look at what the executor does, from a shell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand

if TYPE_CHECKING:
    from argparse import Namespace

_TEAM = Arg(("--team",), help="The team whose executor is meant; all by default", default=None)  # type: ignore[no-untyped-call]


def commands() -> list[GroupCommand]:
    """The executor's commands."""
    return [
        GroupCommand(
            name="sched-executor",
            help="Tools for the SchedulerExecutor",
            subcommands=(
                ActionCommand(
                    name="check",
                    help="Make each call that tasks need once, to no effect, and say which fails",
                    func=check,
                    args=(_TEAM,),
                ),
                ActionCommand(
                    name="jobs",
                    help="The tasks whose jobs wait or run",
                    func=jobs,
                    args=(_TEAM,),
                ),
            ),
        )
    ]


def check(args: Namespace) -> None:
    """Each kind of call that tasks need, with its outcome; exits 1 if one does not work."""
    from sched_plugins.airflow.exceptions import SchedulerException
    from sched_plugins.airflow.executors.scheduler_executor import SchedulerExecutor
    from sched_plugins.errors import SchedulerError

    try:
        executor = SchedulerExecutor(team_name=args.team)
        # All of them first: Airflow's log goes to stdout too.
        found = list(executor.health())
    except (SchedulerError, SchedulerException) as error:
        raise SystemExit(f"sched-executor: {error}") from None
    for row in (("CALL", "ACTION", "OUTCOME"), *((one.name, one.action, one.outcome) for one in found)):
        print("{:<12} {:<22} {}".format(*row), flush=True)  # noqa: T201
    named = f"Scheduler {executor.settings.scheduler!r} and environment {executor.settings.environment!r}"
    if any(one.error is not None for one in found):
        raise SystemExit(f"sched-executor: {named} cannot be used; see the outcomes above")
    print(f"{named} can be used.")  # noqa: T201


def jobs(args: Namespace) -> None:
    """The tasks whose jobs wait or run, newest first; stdout is for these alone."""
    from sched_plugins.airflow.exceptions import SchedulerException
    from sched_plugins.airflow.executors.scheduler_executor import SchedulerExecutor
    from sched_plugins.client import Status
    from sched_plugins.errors import SchedulerError

    try:
        executor = SchedulerExecutor(team_name=args.team)
        found = executor.client.list(statuses=[Status.QUEUED, Status.STARTING, Status.RUNNING], limit=1000)
    except (SchedulerError, SchedulerException) as error:
        raise SystemExit(f"sched-executor: {error}") from None
    tasks = [job for job in found if "airflow_task_id" in job.spec.tags]
    for job in tasks:
        names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
        told = (job.spec.tags.get(f"airflow_{name}", "") for name in names)
        print(job.status, job.job_id, *told, sep="\t")  # noqa: T201
    if not tasks:
        print(f"No task's job waits or runs on scheduler {executor.settings.scheduler!r}.", file=sys.stderr)  # noqa: T201
