"""The exceptions of the collection that are Prefect's as well as the package's.

All others are those of :mod:`sched_plugins.errors`. Each message names the value and the next step.
"""

from __future__ import annotations

from prefect.exceptions import CancelledRun, FailedRun, InfrastructureNotAvailable

from sched_plugins.client import Job, Status
from sched_plugins.errors import InvalidSettings, JobFailed, WaitTimeout


class JobRunFailed(JobFailed, FailedRun):
    """A job ended FAILED or REJECTED."""


class JobRunCancelled(JobFailed, CancelledRun):
    """A job was cancelled."""


class JobWaitTimeout(WaitTimeout, TimeoutError):
    """The wait ended before the job did; the job goes on."""


class InvalidWorkPool(InvalidSettings, InfrastructureNotAvailable):
    """A value of a work pool or deployment cannot be; nothing was submitted."""


def check_succeeded(job: Job) -> Job:
    """The record itself, if the job ended SUCCEEDED.

    Raises:
        JobRunCancelled: it was cancelled.
        JobRunFailed: it ended otherwise; the message carries its reason and where its output is.
    """
    if job.status is Status.SUCCEEDED:
        return job
    kind = JobRunCancelled if job.status is Status.CANCELLED else JobRunFailed
    written = [uri for uri in (job.stderr_uri, job.stdout_uri) if uri]
    where = f" Its output: {', '.join(written)}" if written else ""
    raise kind(
        f"job {job.job_id!r} ended {job.status} after {job.attempt} attempt(s): "
        f"{job.status_reason or 'no reason given'}.{where}"
    )
