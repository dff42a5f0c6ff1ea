"""``sched status``, ``list``, ``wait`` and ``cancel``."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sched_plugins.cli.advice import QueueAdvice
from sched_plugins.cli.command import EnvironmentName, SchedulerName, Shell, check_used_with, command
from sched_plugins.cli.exit_codes import ExitCode, of_error, worst
from sched_plugins.cli.output import duration, told
from sched_plugins.cli.waiting import wait_for
from sched_plugins.errors import InvalidInput, JobNotFound

if TYPE_CHECKING:
    from sched_plugins.client import Job, Status

Jobs = Annotated[list[str], typer.Argument(metavar="JOB", help="Ids of jobs.", show_default=False)]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "status")(status)
    command(app, "list")(list_)
    command(app, "wait")(wait)
    command(app, "cancel")(cancel)


def status(shell: Shell, jobs: Jobs, scheduler: SchedulerName = None, environment: EnvironmentName = None) -> int:
    """Show what is known of jobs. The exit code is 0 whatever their state."""
    from sched_plugins.client import plain

    client = shell.jobs(scheduler, environment)
    found = client.get_many(jobs)
    missing = [job_id for job_id in jobs if job_id not in found]
    if missing and len(jobs) == 1:
        raise JobNotFound(_not_there(missing[0]))
    documents = [
        plain(found[job_id]) if job_id in found else {"job_id": job_id, **told(JobNotFound(_not_there(job_id)))}
        for job_id in jobs
    ]
    shell.output.document(documents[0] if len(jobs) == 1 else documents)
    if len(jobs) == 1:
        _show(shell, found[jobs[0]])
    elif found:
        _table(shell, [found[job_id] for job_id in jobs if job_id in found])
    for job_id in missing:
        shell.output.complain(_not_there(job_id))
    advice = QueueAdvice(shell, client)
    for job in found.values():
        advice.of_job(job)
    return ExitCode.NOT_FOUND if missing else ExitCode.SUCCEEDED


def list_(
    shell: Shell,
    scheduler: SchedulerName = None,
    environment: EnvironmentName = None,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help="queued, live, ended, or a status such as FAILED; repeatable."),
    ] = None,
    group: Annotated[str, typer.Option(metavar="NAME", help="Only of this group.")] = "",
    queue: Annotated[str, typer.Option(metavar="NAME", help="Only of this queue.")] = "",
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="Only what came into its state since: 90s, 15m, 2h, 3d, or a time.")
    ] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many.")] = 25,
) -> None:
    """List jobs, newest first."""
    from sched_plugins.client import plain

    chosen, begin = _statuses(state or []), moment(since)
    client = shell.jobs(scheduler, environment)
    found = client.list(statuses=chosen, group=group, queue=queue, since=begin, limit=limit)
    shell.output.document([plain(job) for job in found])
    _table(shell, found)


def wait(
    shell: Shell,
    jobs: Jobs,
    scheduler: SchedulerName = None,
    environment: EnvironmentName = None,
    timeout: Annotated[float | None, typer.Option(metavar="SECONDS", min=0, help="How long to wait.")] = None,
    run_id: Annotated[str, typer.Option(metavar="KEY", help="Wait for that run of the job, not a later one.")] = "",
    may_come: Annotated[
        bool, typer.Option("--may-come", help="The jobs need not exist yet (a message or upload is on its way).")
    ] = False,
) -> int:
    """Wait until jobs have ended.

    The exit code is 0 if all succeeded, 1 if one failed, 5 if one was cancelled, 3 if the time is over, 4 if one does
    not exist.
    """
    from sched_plugins.client import Run

    if run_id and len(jobs) > 1:
        raise InvalidInput(f"--run-id is a run of one job, but {len(jobs)} are named")
    client = shell.jobs(scheduler, environment)
    runs = [Run(job_id, run_id, may_come=may_come) for job_id in dict.fromkeys(jobs)]
    return wait_for(shell, client, runs, timeout, single=len(jobs) == 1)


def cancel(
    shell: Shell,
    jobs: Jobs,
    scheduler: SchedulerName = None,
    environment: EnvironmentName = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until they have ended.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="With --wait: how long to wait.")
    ] = None,
) -> int:
    """Cancel jobs. A queued job ends at once, a running one when its command has been stopped.

    The exit code is 0 if that was done, or they had ended already; with --wait, when they have ended, however.
    """
    check_used_with("--timeout", timeout, "--wait", used=wait)
    client = shell.jobs(scheduler, environment)
    answers = client.cancel_many(jobs)
    if len(answers) == 1 and answers[0].error is not None:
        raise answers[0].error
    documents: list[dict[str, Any]] = []
    for answer in answers:
        if answer.error is not None:
            shell.output.complain(str(answer.error))
            documents.append({"job_id": answer.job_id, **told(answer.error)})
            continue
        documents.append({"job_id": answer.job_id, "outcome": answer.outcome, "status": answer.status})
        shell.output.line(f"{answer.job_id} {_cancelled(answer.outcome, answer.status)}")
    code = worst(of_error(answer.error) for answer in answers if answer.error is not None)
    if wait:
        client.wait_all([answer.job_id for answer in answers if answer.error is None], timeout=timeout)
        for answer, document in zip(answers, documents, strict=True):
            if answer.error is None:
                document["status"] = str(client.get(answer.job_id).status)
    shell.output.document(documents[0] if len(jobs) == 1 else documents)
    return code


def _cancelled(outcome: str, status: str) -> str:
    if outcome == "requested":
        return f"is {status} and will end as soon as its command has been stopped"
    return f"had ended already: {status}" if outcome == "ended already" else "is cancelled"


def moment(text: str) -> datetime | None:
    """A moment given as an age (``90s``, ``15m``, ``2h``, ``3d``) or in ISO 8601 (local time unless it says).

    Raises:
        InvalidInput: it is neither.
    """
    if not text:
        return None
    if age := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return datetime.now(UTC) - timedelta(seconds=int(age[1]) * _UNITS[age[2]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise InvalidInput(
            f"--since {text!r} is neither an age (90s, 15m, 2h, 3d) nor a time (2026-01-31T08:00)"
        ) from None


def _statuses(states: list[str]) -> frozenset[Status] | None:
    from sched_plugins.client import Status
    from sched_plugins.client.records import KINDS

    chosen: set[Status] = set()
    for state in states:
        if state.lower() in KINDS:
            chosen |= KINDS[state.lower()]
        elif state.upper() in Status.__members__:
            chosen.add(Status[state.upper()])
        else:
            known = ", ".join([*KINDS, *(one.lower() for one in Status.__members__ if one != "QUEUED")])
            raise InvalidInput(f"--state {state!r} is no state of a job; there are {known}")
    return frozenset(chosen) or None


def _not_there(job_id: str) -> str:
    return f"no job has the id {job_id!r}; `sched list` shows the ids that there are"


def _table(shell: Shell, found: list[Job]) -> None:
    rows = [
        (
            job.job_id, job.status, f"{job.retries} of {job.spec.retry}", job.exit_code, job.worker_id,
            job.submitted_at, duration(job.started_at, job.finished_at),
        )
        for job in found
    ]  # fmt: skip
    columns = ("JOB", "STATUS", "RETRIES", "EXIT", "WORKER", "SUBMITTED", "RAN")
    shell.output.table(columns, rows, empty="no jobs")


def _show(shell: Shell, job: Job) -> None:
    spec = job.spec
    shell.output.facts(
        [
            ("job", job.job_id),
            ("status", job.status),
            ("reason", job.status_reason),
            ("attempt", f"{job.attempt} (retries {job.retries} of {spec.retry}, losses {job.losses})"),
            ("exit code", job.exit_code),
            ("queue", job.queue),
            ("worker", job.worker_id),
            ("command", job.command_id),
            ("submitted", job.submitted_at),
            ("started", job.started_at),
            ("finished", job.finished_at),
            ("ran", duration(job.started_at, job.finished_at)),
            ("cancel asked", job.cancel_requested),
            ("run", job.run_id),
            ("next run", job.next_run.run_id if job.next_run else ""),
            ("group", spec.group_id),
            ("document", spec.ssm_document),
            ("commands", "\n".join(spec.commands)),
            ("executable", spec.stage.executable if spec.stage else ""),
            ("success string", spec.success_string),
            ("results", spec.results_uri),
            ("stdout", job.stdout_uri),
            ("stderr", job.stderr_uri),
            ("metrics", ", ".join(f"{name}={value}" for name, value in job.metrics.items())),
            ("earlier tries", "\n".join(f"{one.attempt}: {one.status_reason}" for one in job.attempts[:-1])),
            ("output", job.output.rstrip("\n")),
        ]
    )
