"""What the end of a job means for the flow run that ran in it. Makes no call."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from prefect.client.schemas.objects import State

from sched_plugins.client import Ended, Standing, Status

_CLOCKS_DIFFER: Final = timedelta(seconds=2)
"""By so much AWS's clock and that of Prefect's server may differ."""


class Verdict(StrEnum):
    """What is to become of a flow run whose job has ended."""

    LEAVE = "leave"
    """Its state is its own: it has ended, waits to be run again, or is executed anew already."""
    CANCELLED = "cancelled"
    CRASHED = "crashed"


def verdict(state: State[Any] | None, ended: Ended) -> Verdict:
    """What is to become of a flow run in this state whose job has ended so.

    Args:
        state: of the flow run, read after the job's end was known; None if it was deleted.
        ended: the end of its job.
    """
    if state is None or state.is_final() or _has_let_go(state) or ended.standing is Standing.SUPERSEDED:
        return Verdict.LEAVE
    if state.is_cancelling():
        return Verdict.CANCELLED
    job = ended.job if ended.standing is Standing.ENDED else None
    if job is not None and job.finished_at is not None and _is_later(state, job.finished_at):
        return Verdict.LEAVE
    if job is not None and job.status is Status.CANCELLED:
        return Verdict.CANCELLED
    return Verdict.CRASHED


def explanation(ended: Ended) -> str:
    """How a job ended, and where to look, in words."""
    job_id, job = ended.run.job_id, ended.job
    if job is None or ended.standing is Standing.MISSING:
        return f"Job {job_id!r} is lost: the scheduler has no record of its run {ended.run.run_id!r}."
    if job.status is Status.SUCCEEDED:
        told = [
            f"Job {job_id!r} ended with exit code 0, but its command did not tell Prefect how the flow run ended.",
            "Is it one that runs the flow, such as `prefect flow-run execute`?",
        ]
    else:
        code = "" if job.exit_code is None else f" (exit code {job.exit_code})"
        tries = f" after {job.attempt} attempts, {job.losses} of them lost" if job.losses else ""
        told = [f"Job {job_id!r} ended {job.status}{code}{tries}: {job.status_reason or 'no reason given'}."]
    if job.worker_id:
        told.append(f"It ran on {job.worker_id}.")
    if job.stderr_uri or job.stdout_uri:
        told.append(f"Its output is in {job.stderr_uri or job.stdout_uri}")
    elif job.worker_id:
        told.append(f"Its output: `sched logs {job_id}`")
    return " ".join(told)


def status_code(ended: Ended) -> int:
    """The job's exit code; -1 where it has none and did not succeed."""
    job = ended.job if ended.standing is Standing.ENDED else None
    if job is not None and job.status is Status.SUCCEEDED:
        return 0
    return job.exit_code if job is not None and job.exit_code else -1


def _has_let_go(state: State[Any]) -> bool:
    """Whether the flow run has ended its process itself and waits to be executed again: rescheduled, or suspended."""
    return state.is_scheduled() or (state.is_paused() and bool(state.state_details.pause_reschedule))


def _is_later(state: State[Any], finished_at: datetime) -> bool:
    """Whether the state belongs to a later execution, in another job's hands."""
    return state.timestamp > finished_at + _CLOCKS_DIFFER
