"""What the end of a job means for the flow run that ran in it. Makes no call."""

from __future__ import annotations

from datetime import UTC, timedelta
from enum import StrEnum
from typing import Any, Final

from prefect.client.schemas.objects import FlowRun, State

from sched_plugins.client import Ended, Standing, Status
from sched_plugins.prefect.worker.flow_run_job import Execution

_CLOCKS_DIFFER: Final = timedelta(seconds=2)
"""By so much AWS's clock and that of Prefect's server may differ."""


def execution_of(flow_run: FlowRun) -> Execution:
    """The execution for which a flow run is claimed, of one that is pending."""
    details = flow_run.state.state_details if flow_run.state is not None else None
    at = details.scheduled_time if details is not None else None
    return Execution(str(flow_run.id), flow_run.run_count, at.astimezone(UTC).isoformat() if at else "")


class Verdict(StrEnum):
    """What is to become of a flow run whose job has ended."""

    LEAVE = "leave"
    """Its state is its own: it has ended, waits to be run again, or is claimed or executed anew already."""
    CANCELLED = "cancelled"
    CRASHED = "crashed"


def verdict(flow_run: FlowRun | None, ended: Ended) -> Verdict:
    """What is to become of a flow run whose job has ended so.

    Args:
        flow_run: read after the job's end was known; None if it was deleted.
        ended: the end of its job.
    """
    state = flow_run.state if flow_run is not None else None
    if (
        flow_run is None
        or state is None
        or state.is_final()
        or _has_let_go(state)
        or ended.standing is Standing.SUPERSEDED
    ):
        return Verdict.LEAVE
    if state.is_cancelling():
        return Verdict.CANCELLED
    job = ended.job if ended.standing is Standing.ENDED else None
    if state.is_pending():
        if not execution_of(flow_run).is_of(ended.run.run_id):
            return Verdict.LEAVE
    elif job is not None and job.finished_at is not None and state.timestamp > job.finished_at + _CLOCKS_DIFFER:
        # A later execution has started, in another job's hands.
        return Verdict.LEAVE
    if job is not None and job.status is Status.CANCELLED:
        return Verdict.CANCELLED
    return Verdict.CRASHED


def has_killed(state: State[Any] | None, ended: Ended) -> bool:
    """Whether a flow run has told that it crashed, and may have done so because the scheduler ended its job.

    Prefect's program then tells of a signal or a broken pipe, and not of the timeout behind it.
    """
    job = ended.job if ended.standing is Standing.ENDED else None
    is_crashed = state is not None and state.is_crashed()
    return is_crashed and job is not None and job.status in (Status.FAILED, Status.CANCELLED)


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
