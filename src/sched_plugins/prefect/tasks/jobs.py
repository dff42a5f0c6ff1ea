"""Tasks about one job: submit it, wait for it, both, cancel it, read what it wrote."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from sched_plugins.client import Cancellation, Job
from sched_plugins.client.jobs import checked
from sched_plugins.client.output import DEFAULT_MAXIMUM
from sched_plugins.prefect.blocks.scheduler import ServerlessScheduler, as_scheduler
from sched_plugins.prefect.cancellation import asubmitting, cancelling
from sched_plugins.prefect.events import emit_job_event
from sched_plugins.prefect.exceptions import check_succeeded
from sched_plugins.prefect.identity import Caller, CallIdentity
from sched_plugins.prefect.output import run_logger, tell_change, tell_output
from sched_plugins.prefect.records import JobHandle, JobResult
from sched_plugins.prefect.submission import JobClientLike, JobLike, handle_of, job_fields, submit_job_to, tell_unserved
from sched_plugins.prefect.tasks.dispatch import aio, dual
from sched_plugins.prefect.waiting import await_each, check_timeout, wait_each

SchedulerLike = ServerlessScheduler | str | None
"""A block, a stack name, or None for that of ``SCHED_SCHEDULER``."""
HandleLike = JobHandle | JobResult | str
"""What :func:`submit_job` returned, or a job's id."""


@aio(name="submit_job")
async def asubmit_job(
    job: JobLike,
    *,
    scheduler: SchedulerLike = None,
    environment: str = "",
    queue: str = "",
    job_key: str | None = None,
) -> JobHandle:
    """As :func:`submit_job`, for async code."""
    caller, client = Caller(job_key), await asyncio.to_thread(client_of, scheduler, environment)
    return await _asubmitted(client, caller, job, environment, queue)


@dual(asubmit_job, name="submit_job")
def submit_job(
    job: JobLike,
    *,
    scheduler: SchedulerLike = None,
    environment: str = "",
    queue: str = "",
    job_key: str | None = None,
) -> JobHandle:
    """Submit a job, once, and return its handle without waiting for it.

    Run again by a retry, it returns the handle of the live or succeeded job, and submits anew only after a failure.

    Args:
        job: its command, its commands, or the fields of the job message (docs/contracts.md).
        scheduler: a ServerlessScheduler block or a stack name; by default that of ``SCHED_SCHEDULER``.
        environment: an environment of that scheduler, whose workers run it; by default the block's.
        queue: a job queue (name, ARN or URL) instead.
        job_key: who the job is within the flow run; by default it follows from what the job does, and of several calls
            that do the same from their number.

    Raises:
        InvalidInput: a value cannot be; nothing was submitted.
        NotFound: there is no such scheduler, environment or queue.
        JobConflict: a live job has the same id and does something else.
    """
    caller, client = Caller(job_key), client_of(scheduler, environment)
    return _submitted(client, caller.root_id, *_identified(caller, job, environment, queue), queue)


@aio(name="wait_for_job")
async def await_for_job(
    job: HandleLike,
    *,
    scheduler: SchedulerLike = None,
    timeout: float | None = None,
    check: bool = True,
    cancel_on_interrupt: bool = True,
    max_log_characters: int = DEFAULT_MAXIMUM,
) -> JobResult:
    """As :func:`wait_for_job`, for async code."""
    handle = as_handle(job)
    client = await asyncio.to_thread(reader_of, scheduler, handle.scheduler)
    return await _awaited(client, handle, timeout, check, cancel_on_interrupt, max_log_characters)


@dual(await_for_job, name="wait_for_job")
def wait_for_job(
    job: HandleLike,
    *,
    scheduler: SchedulerLike = None,
    timeout: float | None = None,
    check: bool = True,
    cancel_on_interrupt: bool = True,
    max_log_characters: int = DEFAULT_MAXIMUM,
) -> JobResult:
    """Wait until a job has ended, show what it wrote, and return how it ended.

    All waits of a process share one watch, so that the calls of AWS do not grow with the number of jobs.

    Args:
        job: what ``submit_job`` returned, or a job's id.
        scheduler: as of :func:`submit_job`.
        timeout: seconds; without end by default.
        check: raise if it did not succeed.
        cancel_on_interrupt: cancel the job when the task is interrupted: a signal, a timeout of the task.
        max_log_characters: how much of its output the log shows; 0 for none.

    Raises:
        JobRunFailed: with ``check``: it failed. JobRunCancelled: it was cancelled.
        JobWaitTimeout: it had not ended in time; it goes on.
        JobNotFound: there is no such job.
    """
    handle = as_handle(job)
    client = reader_of(scheduler, handle.scheduler)
    return _waited(client, handle, timeout, check, cancel_on_interrupt, max_log_characters)


@aio(name="run_job")
async def arun_job(
    job: JobLike,
    *,
    scheduler: SchedulerLike = None,
    environment: str = "",
    queue: str = "",
    job_key: str | None = None,
    timeout: float | None = None,
    check: bool = True,
    cancel_on_interrupt: bool = True,
    max_log_characters: int = DEFAULT_MAXIMUM,
) -> JobResult:
    """As :func:`run_job`, for async code."""
    check_timeout(timeout)
    caller, client = Caller(job_key), await asyncio.to_thread(client_of, scheduler, environment)
    handle = await _asubmitted(client, caller, job, environment, queue, cancel_on_interrupt)
    return await _awaited(client, handle, timeout, check, cancel_on_interrupt, max_log_characters)


@dual(arun_job, name="run_job")
def run_job(
    job: JobLike,
    *,
    scheduler: SchedulerLike = None,
    environment: str = "",
    queue: str = "",
    job_key: str | None = None,
    timeout: float | None = None,
    check: bool = True,
    cancel_on_interrupt: bool = True,
    max_log_characters: int = DEFAULT_MAXIMUM,
) -> JobResult:
    """Run a job, once, and return how it ended: :func:`submit_job` and :func:`wait_for_job` in one.

    A retry of the task or of the flow, also in a new process, attaches to the live job, takes the result of one that
    has succeeded, and submits it anew only after it failed or was cancelled.

    The arguments and errors are those of the two.
    """
    check_timeout(timeout)
    caller, client = Caller(job_key), client_of(scheduler, environment)
    identity, fields = _identified(caller, job, environment, queue)
    own = [handle_of(client, identity.job_id)] if cancel_on_interrupt else []
    with cancelling(client, own, caller.root_id, late=True):
        handle = _submitted(client, caller.root_id, identity, fields, queue, cancel_on_interrupt)
        return _waited(client, handle, timeout, check, cancel_on_interrupt, max_log_characters)


@aio(name="cancel_job")
async def acancel_job(job: HandleLike, *, scheduler: SchedulerLike = None, environment: str = "") -> str:
    """As :func:`cancel_job`, for async code."""
    return await asyncio.to_thread(_cancelled, job, scheduler, environment)


@dual(acancel_job, name="cancel_job")
def cancel_job(job: HandleLike, *, scheduler: SchedulerLike = None, environment: str = "") -> str:
    """Cancel a job: a queued one ends at once, a running one when its processes have been killed.

    Returns:
        ``cancelled``, ``requested`` (it ends when its command has) or ``ended already``.

    Raises:
        JobNotFound: there is no such job.
    """
    return _cancelled(job, scheduler, environment)


@aio(name="job_logs")
async def ajob_logs(
    job: HandleLike,
    *,
    scheduler: SchedulerLike = None,
    stream: Literal["stdout", "stderr"] = "stdout",
    attempt: int | None = None,
) -> str:
    """As :func:`job_logs`, for async code."""
    return await asyncio.to_thread(_logs, job, scheduler, stream, attempt)


@dual(ajob_logs, name="job_logs")
def job_logs(
    job: HandleLike,
    *,
    scheduler: SchedulerLike = None,
    stream: Literal["stdout", "stderr"] = "stdout",
    attempt: int | None = None,
) -> str:
    """What a job has written, as far as AWS tells: the whole when it has ended.

    Args:
        job: what ``submit_job`` returned, or a job's id.
        scheduler: as of :func:`submit_job`.
        stream: ``stdout`` or ``stderr``.
        attempt: which try; the newest by default.

    Raises:
        JobNotFound: there is no such job.
        NotFound: it has no such attempt.
    """
    return _logs(job, scheduler, stream, attempt)


def as_handle(job: HandleLike) -> JobHandle:
    """What to wait for, however it was given."""
    if isinstance(job, JobHandle):
        return job
    if isinstance(job, JobResult):
        return job.handle
    return JobHandle(job_id=str(job))


def finished(client: JobClientLike, job: Job, check: bool, max_log_characters: int) -> JobResult:
    """Show what a job has written, tell Prefect's events of its end, and give its result."""
    logger = run_logger()
    tell_change(logger)(job)
    tell_output(client, job, logger, max_log_characters)
    found = JobResult.of(job, client.scheduler)
    emit_job_event(found, scheduler=client.scheduler)
    if check:
        check_succeeded(job)
    return found


def client_of(scheduler: SchedulerLike, environment: str) -> JobClientLike:
    """Whose functions submit and cancel."""
    return as_scheduler(scheduler, environment=environment).jobs(environment)


def reader_of(scheduler: SchedulerLike, known: str = "") -> JobClientLike:
    """The client that reads a job's scheduler: that which is named, or that of the job's handle."""
    return as_scheduler(scheduler or known or None).client()


def _identified(caller: Caller, job: JobLike, environment: str, queue: str) -> tuple[CallIdentity, dict[str, Any]]:
    fields = job_fields(job)
    return caller.identity({**fields, "environment of the call": environment, "queue of the call": queue}), fields


def _submitted(
    client: JobClientLike,
    root_id: str,
    identity: CallIdentity,
    fields: dict[str, Any],
    queue: str,
    cancel: bool = True,
) -> JobHandle:
    logger = run_logger()
    with cancelling(client, [handle_of(client, identity.job_id)] if cancel else [], root_id, late=True):
        handle = submit_job_to(client, identity, fields, queue=queue, say=lambda text: logger.info("The job %s", text))
        tell_unserved(client, queue, logger.warning)
    return handle


async def _asubmitted(
    client: JobClientLike, caller: Caller, job: JobLike, environment: str, queue: str, cancel: bool = True
) -> JobHandle:
    identity, fields = _identified(caller, job, environment, queue)
    own = [handle_of(client, identity.job_id)] if cancel else []
    submit = lambda: _submitted(client, caller.root_id, identity, fields, queue, cancel)  # noqa: E731
    return await asubmitting(client, caller.root_id, submit, own)


def _waited(
    client: JobClientLike, handle: JobHandle, timeout: float | None, check: bool, cancel: bool, maximum: int
) -> JobResult:
    root_id = Caller().root_id
    ended = wait_each(client, [handle], timeout=timeout, root_id=root_id, cancel=cancel, on_change=live_changes())
    return finished(client, ended[handle.job_id], check, maximum)


async def _awaited(
    client: JobClientLike, handle: JobHandle, timeout: float | None, check: bool, cancel: bool, maximum: int
) -> JobResult:
    root_id = Caller().root_id
    ended = await await_each(
        client, [handle], timeout=timeout, root_id=root_id, cancel=cancel, on_change=live_changes()
    )
    return await asyncio.to_thread(finished, client, ended[handle.job_id], check, maximum)


def live_changes() -> Any:
    """Tells a task's log of each change of its job before the end, of which its output tells."""
    tell = tell_change(run_logger())
    return lambda job: None if job.is_terminal else tell(job)


def _cancelled(job: HandleLike, scheduler: SchedulerLike, environment: str) -> str:
    handle = as_handle(job)
    client = client_of(scheduler or (None if environment else handle.scheduler), environment)
    answer: Cancellation = checked(client.cancel_many([handle.job_id])[0])
    run_logger().info("Cancelling job %s: %s", answer.job_id, answer.outcome)
    return answer.outcome


def _logs(job: HandleLike, scheduler: SchedulerLike, stream: Literal["stdout", "stderr"], attempt: int | None) -> str:
    handle = as_handle(job)
    chunks = reader_of(scheduler, handle.scheduler).logs(handle.job_id, stream=stream, attempt=attempt)
    return "".join(chunk.text for chunk in chunks)
