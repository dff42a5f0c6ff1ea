"""What the tasks return: plain, frozen data that can be stored as a result and handed to another task."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sched_plugins.client import Job, Run


class JobHandle(BaseModel):
    """A job that was submitted: what to wait for."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    run_id: str = Field(default="", description="The run; empty for whichever the job's record shows.")
    scheduler: str = Field(default="", description="Stack name of its scheduler, for who names none.")

    @property
    def run(self) -> Run:
        """For the client's functions."""
        return Run(self.job_id, self.run_id)


class JobResult(BaseModel):
    """A job that has ended, as its record tells."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    run_id: str
    status: str
    """``SUCCEEDED``, ``FAILED``, ``CANCELLED`` or ``REJECTED``."""
    status_reason: str = ""
    attempt: int = 1
    exit_code: int | None = None
    queue: str = ""
    worker_id: str = ""
    results_uri: str = ""
    """S3 folder of what it wrote; empty if it named none."""
    stdout_uri: str = ""
    stderr_uri: str = ""
    metrics: dict[str, Any] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    scheduler: str = ""
    """Stack name of its scheduler."""
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it ended SUCCEEDED."""
        return self.status == "SUCCEEDED"

    @property
    def handle(self) -> JobHandle:
        """The run that this tells of."""
        return JobHandle(job_id=self.job_id, run_id=self.run_id, scheduler=self.scheduler)

    @classmethod
    def of(cls, job: Job, scheduler: str = "") -> JobResult:
        """What a record tells."""
        return cls(
            job_id=job.job_id,
            run_id=job.run_id,
            status=str(job.status),
            status_reason=job.status_reason,
            attempt=job.attempt,
            exit_code=job.exit_code,
            queue=job.queue,
            worker_id=job.worker_id,
            results_uri=results_uri(job),
            stdout_uri=job.stdout_uri,
            stderr_uri=job.stderr_uri,
            metrics=dict(job.metrics),
            tags=dict(job.spec.tags),
            scheduler=scheduler,
            submitted_at=job.submitted_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
        )


def results_uri(job: Job) -> str:
    """The folder of a job's results: named by the job, or by its stage."""
    return job.spec.results_uri or (job.spec.stage.output if job.spec.stage else "")
