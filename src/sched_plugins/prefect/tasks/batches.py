"""Tasks about many jobs: thousands are submitted by a few requests and waited for together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from sched_plugins.client import Job
from sched_plugins.errors import InvalidInput
from sched_plugins.prefect.artifact_keys import check_key
from sched_plugins.prefect.cancellation import asubmitting, cancelling
from sched_plugins.prefect.events import emit_job_event
from sched_plugins.prefect.exceptions import JobRunFailed
from sched_plugins.prefect.identity import Caller, CallIdentity
from sched_plugins.prefect.output import BATCH_STDERR, run_logger, tell_stderr
from sched_plugins.prefect.progress import BatchProgress
from sched_plugins.prefect.records import JobHandle, JobResult
from sched_plugins.prefect.submission import (
    JobClientLike,
    JobLike,
    batch_fields,
    handle_of,
    submit_batch,
    tell_unserved,
)
from sched_plugins.prefect.tasks.dispatch import aio, dual
from sched_plugins.prefect.tasks.jobs import HandleLike, SchedulerLike, as_handle, client_of, reader_of
from sched_plugins.prefect.waiting import await_each, wait_each

REFUSED: Final = "REFUSED"
_SHOWN: Final = 10
"""Failures that the log and the error show."""


class BatchResult(BaseModel):
    """How the jobs of a batch ended, in the order in which they were given."""

    model_config = ConfigDict(frozen=True)

    results: list[JobResult] = Field(default_factory=list)

    @property
    def failures(self) -> list[JobResult]:
        """Those that did not succeed."""
        return [result for result in self.results if not result.succeeded]

    @property
    def counts(self) -> dict[str, int]:
        """How many ended how."""
        return dict(Counter(result.status for result in self.results))


class SubmittedJobs(BaseModel):
    """The jobs of a batch, in the order in which they were given."""

    model_config = ConfigDict(frozen=True)

    handles: list[JobHandle]
    refused: dict[str, str] = Field(default_factory=dict, description="Why, by job id.")


@aio(name="submit_jobs")
async def asubmit_jobs(
    jobs: Sequence[JobLike],
    *,
    common: Mapping[str, Any] | None = None,
    scheduler: SchedulerLike = None,
    environment: str = "",
    queue: str = "",
    job_key: str | None = None,
) -> SubmittedJobs:
    """As :func:`submit_jobs`, for async code."""
    caller, client = Caller(job_key), await asyncio.to_thread(client_of, scheduler, environment)
    fields, each = _identified(caller, jobs, common, environment, queue)
    own = [handle_of(client, one.job_id) for one in each]
    return await asubmitting(client, caller.root_id, lambda: _submitted(client, caller, each, fields, queue), own)


@dual(asubmit_jobs, name="submit_jobs")
def submit_jobs(
    jobs: Sequence[JobLike],
    *,
    common: Mapping[str, Any] | None = None,
    scheduler: SchedulerLike = None,
    environment: str = "",
    queue: str = "",
    job_key: str | None = None,
) -> SubmittedJobs:
    """Submit many jobs, 100 a request, without waiting for them.

    Run again by a retry, it submits those that failed or were cancelled; the others are live or have succeeded.

    Args:
        jobs: the jobs, each as for ``submit_job``.
        common: fields of every job.
        scheduler: as of ``submit_job``.
        environment: as of ``submit_job``.
        queue: as of ``submit_job``.
        job_key: who the batch is within the flow run; its jobs are numbered.

    Raises:
        InvalidInput: a job cannot be; nothing was submitted.
        SchedulerError: all were refused. Where some are, ``refused`` tells why.
    """
    caller, client = Caller(job_key), client_of(scheduler, environment)
    fields, each = _identified(caller, jobs, common, environment, queue)
    return _submitted(client, caller, each, fields, queue)


@aio(name="wait_for_jobs")
async def await_for_jobs(
    jobs: SubmittedJobs | Sequence[HandleLike],
    *,
    scheduler: SchedulerLike = None,
    timeout: float | None = None,
    allowed_failures: int = 0,
    cancel_on_interrupt: bool = True,
    progress: str = "job-progress",
) -> BatchResult:
    """As :func:`wait_for_jobs`, for async code."""
    wait = await asyncio.to_thread(_Wait, jobs, scheduler, allowed_failures, progress)
    async with wait.progress() as told:
        ended = await await_each(
            wait.client,
            wait.open,
            timeout=timeout,
            root_id=wait.root_id,
            cancel=cancel_on_interrupt,
            on_end=wait.counter(told),
        )
    return await asyncio.to_thread(wait.finished, ended)


@dual(await_for_jobs, name="wait_for_jobs")
def wait_for_jobs(
    jobs: SubmittedJobs | Sequence[HandleLike],
    *,
    scheduler: SchedulerLike = None,
    timeout: float | None = None,
    allowed_failures: int = 0,
    cancel_on_interrupt: bool = True,
    progress: str = "job-progress",
) -> BatchResult:
    """Wait until many jobs have ended, with a progress artifact; what each came to.

    Args:
        jobs: what ``submit_jobs`` returned, or handles or ids.
        scheduler: as of ``submit_job``.
        timeout: seconds; without end by default.
        allowed_failures: how many may end otherwise than SUCCEEDED before the task fails.
        cancel_on_interrupt: cancel the jobs when the task is interrupted.
        progress: key of the progress artifact; empty for none.

    Raises:
        JobRunFailed: more failed than are allowed; names the first of them. A retry of the flow submits only these
            again.
        JobWaitTimeout: they had not all ended in time; they go on.
        JobNotFound: there is no such job.
    """
    wait = _Wait(jobs, scheduler, allowed_failures, progress)
    with wait.progress() as told:
        ended = wait_each(
            wait.client,
            wait.open,
            timeout=timeout,
            root_id=wait.root_id,
            cancel=cancel_on_interrupt,
            on_end=wait.counter(told),
        )
    return wait.finished(ended)


def _identified(
    caller: Caller, jobs: Sequence[JobLike], common: Mapping[str, Any] | None, environment: str, queue: str
) -> tuple[list[dict[str, Any]], list[CallIdentity]]:
    fields = batch_fields(jobs, common)
    place = {"environment of the call": environment, "queue of the call": queue}
    return fields, caller.batch([{**one, **place} for one in fields])


def _submitted(
    client: JobClientLike,
    caller: Caller,
    each: Sequence[CallIdentity],
    fields: Sequence[Mapping[str, Any]],
    queue: str,
) -> SubmittedJobs:
    logger = run_logger()
    decided: list[JobHandle] = []
    with cancelling(client, decided, caller.root_id, late=True):
        batch = submit_batch(client, each, fields, queue=queue, on_decided=decided.extend)
    others = len(batch.handles) - batch.submitted - len(batch.refused)
    logger.info(
        "%d jobs: %d submitted, %d live or succeeded already, %d refused",
        len(batch.handles), batch.submitted, others, len(batch.refused),
    )  # fmt: skip
    for job_id, why in list(batch.refused.items())[:_SHOWN]:
        logger.error("Job %s was refused: %s", job_id, why)
    if batch.submitted:
        tell_unserved(client, queue, logger.warning)
    return SubmittedJobs(handles=list(batch.handles), refused=dict(batch.refused))


class _Wait:
    """A wait for many jobs: what both forms of the task have in common."""

    def __init__(
        self, jobs: SubmittedJobs | Sequence[HandleLike], scheduler: SchedulerLike, allowed: int, progress: str
    ) -> None:
        if isinstance(jobs, (str, JobHandle, JobResult)):
            raise InvalidInput(f"jobs is {jobs!r}; give a list, or use wait_for_job for one job")
        if not isinstance(allowed, int) or allowed < 0:
            raise InvalidInput(f"allowed_failures is {allowed!r}; give a number of jobs, 0 or more")
        given = jobs.handles if isinstance(jobs, SubmittedJobs) else [as_handle(job) for job in jobs]
        self.handles = list(dict.fromkeys(given))
        self.refused = jobs.refused if isinstance(jobs, SubmittedJobs) else {}
        if not self.handles:
            raise InvalidInput("jobs is empty; give at least one job to wait for")
        known = {handle.scheduler for handle in self.handles if handle.scheduler}
        if scheduler is None and len(known) > 1:
            raise InvalidInput(
                f"the jobs are of several schedulers ({', '.join(sorted(known))}); wait for each's apart"
            )
        self.client: JobClientLike = reader_of(scheduler, next(iter(known), ""))
        self.open = [handle for handle in self.handles if handle.job_id not in self.refused]
        self.root_id = Caller().root_id
        self._allowed = allowed
        self._key = check_key(progress) if progress else ""

    def progress(self) -> Any:
        """The progress artifact, as a context manager of both kinds."""
        return BatchProgress(len(self.handles), key=self._key) if self._key else _NoProgress()

    def counter(self, told: Any) -> Callable[[Job], None]:
        """Counts the ends."""
        for _ in self.refused:
            told.ended(None)
        logger, total, tell_at = run_logger(), len(self.handles), max(1, len(self.handles) // 10)
        done = len(self.refused)

        def count(job: Job) -> None:
            nonlocal done
            done += 1
            told.ended(job)
            if done % tell_at == 0 or done == total:
                logger.info("%d of %d jobs have ended", done, total)

        return count

    def finished(self, ended: Mapping[str, Job]) -> BatchResult:
        """The results; tells of failures."""
        logger = run_logger()
        results = []
        for handle in self.handles:
            job = ended.get(handle.job_id)
            if job is None:
                why = self.refused.get(handle.job_id, "")
                results.append(JobResult(job_id=handle.job_id, run_id=handle.run_id, status=REFUSED, status_reason=why))
                continue
            results.append(JobResult.of(job, self.client.scheduler))
            emit_job_event(results[-1], scheduler=self.client.scheduler)
        batch = BatchResult(results=results)
        logger.info("%s", ", ".join(f"{number} {status}" for status, number in sorted(batch.counts.items())))
        failures = batch.failures
        for failure in failures[:_SHOWN]:
            logger.error("Job %s ended %s: %s", failure.job_id, failure.status, failure.status_reason)
            if failure.job_id in ended:
                tell_stderr(self.client, ended[failure.job_id], logger, BATCH_STDERR)
        if len(failures) > self._allowed:
            first = failures[0]
            where = f" Its output: {first.stderr_uri or first.stdout_uri}" if first.stdout_uri else ""
            raise JobRunFailed(
                f"{len(failures)} of {len(results)} jobs did not succeed ({self._allowed} are allowed); the first is "
                f"{first.job_id!r}: {first.status}, {first.status_reason or 'no reason given'}.{where}"
            )
        return batch


class _NoProgress:
    def ended(self, job: Job | None) -> None:
        """Nothing is shown."""

    def __enter__(self) -> _NoProgress:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    async def __aenter__(self) -> _NoProgress:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None
