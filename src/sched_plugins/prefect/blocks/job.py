"""The block that describes a job, to be run again and again."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from prefect.blocks.abstract import JobBlock, JobRun
from pydantic import Field, HttpUrl, model_validator

from sched_plugins.client import Job
from sched_plugins.client.submission import job_entry
from sched_plugins.errors import InvalidJob
from sched_plugins.prefect.blocks.scheduler import LOGO, ServerlessScheduler
from sched_plugins.prefect.identity import Caller, CallIdentity
from sched_plugins.prefect.output import tell_change, tell_output
from sched_plugins.prefect.records import JobHandle, JobResult
from sched_plugins.prefect.submission import submit_job_to


class SchedulerJob(JobBlock[JobResult]):
    """A job of a serverless scheduler.

    Example::

        from sched_plugins.prefect import SchedulerJob

        run = SchedulerJob.load("solver").trigger()
        run.wait_for_completion()
        print(run.fetch_result().results_uri)
    """

    _block_type_name: ClassVar[str | None] = "Scheduler Job"
    _block_type_slug: ClassVar[str | None] = "scheduler-job"
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl(LOGO)
    _description: ClassVar[str | None] = "A command that runs on a worker of a serverless scheduler, once."

    scheduler: ServerlessScheduler = Field(description="The scheduler.")
    commands: list[str] = Field(description="The lines of the script.", examples=[["./run.sh"]])
    environment: str = Field(default="", description="Environment whose workers run it; by default the scheduler's.")
    queue: str = Field(default="", description="A job queue (name, ARN or URL) instead.")
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Other fields of the job message: retry, timeout_seconds, working_directory, environment, tags, …",
    )
    job_timeout: float | None = Field(default=None, description="Seconds to wait for its end; without end by default.")

    @model_validator(mode="after")
    def _is_a_job(self) -> SchedulerJob:
        try:
            job_entry(self.job())
        except InvalidJob as error:
            raise ValueError(str(error)) from None
        return self

    def job(self) -> dict[str, Any]:
        """The job's fields, without its id."""
        return {**self.fields, "commands": self.commands}

    async def atrigger(self, job_key: str | None = None) -> SchedulerJobRun:
        """As :meth:`trigger`, for async code."""
        identity = self._identity(job_key)
        return await asyncio.to_thread(self._triggered, identity)

    def trigger(self, job_key: str | None = None) -> SchedulerJobRun:  # type: ignore[override]
        """Submit the job; its run.

        Within a flow run, one with a ``job_key`` is submitted once, however often the flow is retried. Without, each
        call submits a job.

        Raises:
            InvalidInput: a ``job_key`` is named outside flow runs.
            SchedulerError: the job was refused.
        """
        return self._triggered(self._identity(job_key))

    def _identity(self, job_key: str | None) -> CallIdentity:
        caller, content = Caller(job_key), {**self.job(), "environment of the call": self.environment}
        return caller.identity(content) if job_key else caller.unique(content)

    def _triggered(self, identity: CallIdentity) -> SchedulerJobRun:
        client = self.scheduler.jobs(self.environment)
        handle = submit_job_to(client, identity, self.job(), queue=self.queue)
        self.logger.info("Job %s is submitted (run %s)", handle.job_id, handle.run_id)
        return SchedulerJobRun(block=self, handle=handle)


class SchedulerJobRun(JobRun[JobResult]):
    """A run of a :class:`SchedulerJob`."""

    block: SchedulerJob
    handle: JobHandle

    def __init__(self, block: SchedulerJob, handle: JobHandle) -> None:
        self.block, self.handle = block, handle
        self._job: Job | None = None

    async def await_for_completion(self) -> None:
        """As :meth:`wait_for_completion`, for async code."""
        from sched_plugins.prefect.waiting import await_each

        client = self.block.scheduler.client()
        ended = await await_each(
            client, [self.handle], timeout=self.block.job_timeout, on_change=tell_change(self.logger)
        )
        job = self._job = ended[self.handle.job_id]
        await asyncio.to_thread(tell_output, client, job, self.logger)

    def wait_for_completion(self) -> None:  # type: ignore[override]
        """Wait until the job has ended, and show what it wrote.

        Raises:
            JobWaitTimeout: it had not ended in ``job_timeout``; it goes on.
        """
        from sched_plugins.prefect.waiting import wait_each

        client = self.block.scheduler.client()
        ended = wait_each(client, [self.handle], timeout=self.block.job_timeout, on_change=tell_change(self.logger))
        job = self._job = ended[self.handle.job_id]
        tell_output(client, job, self.logger)

    def fetch_result(self) -> JobResult:  # type: ignore[override]
        """How the job ended.

        Raises:
            JobRunFailed: it failed. JobRunCancelled: it was cancelled.
            InvalidInput: it has not been waited for.
        """
        from sched_plugins.errors import InvalidInput
        from sched_plugins.prefect.exceptions import check_succeeded

        if self._job is None:
            raise InvalidInput(f"job {self.handle.job_id!r} was not waited for; call wait_for_completion() first")
        return JobResult.of(check_succeeded(self._job))

    def cancel(self) -> str:
        """Cancel the job; ``cancelled``, ``requested`` or ``ended already``."""
        return self.block.scheduler.jobs(self.block.environment).cancel(self.handle.job_id).outcome
