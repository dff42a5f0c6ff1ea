"""Links from a task to what AWS shows of its job; on a laptop stack, which has no console, to the objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from sched_plugins.client import console

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from sched_plugins.core.record import JobRecord

XCOM_KEY: Final = "sched_links"
"""Where operators store the addresses of all links, by the links' keys."""


class SchedulerLink(BaseOperatorLink):
    """A link whose address the operator has stored in an XCom."""

    key: ClassVar[str] = ""

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Get the address; empty while it is not known."""
        stored = XCom.get_value(key=XCOM_KEY, ti_key=ti_key)
        return str(stored.get(self.key, "")) if isinstance(stored, Mapping) else ""


class JobItemLink(SchedulerLink):
    """The job's record in DynamoDB's console."""

    name = "Job record"
    key = "item"


class ResultsLink(SchedulerLink):
    """The folder of the job's results."""

    name = "Results"
    key = "results"


class OutputLink(SchedulerLink):
    """The whole of the job's stdout."""

    name = "Output log"
    key = "output"


class WorkerExecutionLink(SchedulerLink):
    """The execution of the worker that ran the job, in the console of Step Functions."""

    name = "Worker execution"
    key = "execution"


JOB_LINKS: Final = (JobItemLink, ResultsLink, OutputLink, WorkerExecutionLink)


def addresses(
    *, scheduler: str, region: str, job: JobRecord | None, job_id: str, results_uri: str = "", account: str = "",
    endpoint_url: str = "",
) -> dict[str, str]:  # fmt: skip
    """Where a job's links lead, as far as that is known.

    Args:
        scheduler: the scheduler's stack name.
        region: AWS region.
        job: the record; None before it was read.
        job_id: the job.
        results_uri: S3 folder of the results; by default what the record says.
        account: AWS account number; without it there is no link to the worker's execution.
        endpoint_url: the endpoint of a stack that has no console; then objects are linked directly.
    """
    return console.addresses(
        scheduler=scheduler, region=region, job_id=job_id,
        results_uri=results_uri or (job.spec.results_uri if job else ""),
        stdout_uri=job.stdout_uri if job else "", worker_id=job.worker_id if job else "",
        account=account, endpoint_url=endpoint_url,
    )  # fmt: skip
