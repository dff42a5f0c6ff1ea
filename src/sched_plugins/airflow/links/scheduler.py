"""Links from a task to what AWS shows of its job; on a laptop stack, which has no console, to the objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from sched_plugins.core import names

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

    from sched_plugins.core.record import JobRecord

XCOM_KEY: Final = "sched_links"
"""Where operators store the addresses of all links, by the links' keys."""
_DOMAINS: Final[Mapping[str, str]] = {
    "cn": "console.amazonaws.cn",
    "us-gov": "console.amazonaws-us-gov.com",
}


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
    results = results_uri or (job.spec.results_uri if job else "")
    output = job.stdout_uri if job else ""
    if endpoint_url:
        found = {"results": _object(endpoint_url, results, folder=True), "output": _object(endpoint_url, output)}
        return {name: url for name, url in found.items() if url}
    console = f"https://{region}.{_domain(region)}"
    found = {
        "item": f"{console}/dynamodbv2/home?region={region}#edit-item?itemMode=2&pk={quote(job_id, safe='')}"
        f"&route=ROUTE_ITEM_EXPLORER&sk=&table={names.job_table(scheduler)}",
        "results": _console_of_s3(console, region, results, "buckets"),
        "output": _console_of_s3(console, region, output, "object"),
        "execution": _execution(console, scheduler, region, account, job),
    }
    return {name: url for name, url in found.items() if url}


def _console_of_s3(console: str, region: str, uri: str, kind: str) -> str:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return f"{console}/s3/{kind}/{bucket}?region={region}&prefix={quote(key)}" if bucket else ""


def _object(endpoint_url: str, uri: str, *, folder: bool = False) -> str:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    base = f"{urlsplit(endpoint_url).scheme}://{urlsplit(endpoint_url).netloc}/{bucket}"
    if not bucket:
        return ""
    return f"{base}?list-type=2&prefix={quote(key, safe='')}" if folder else f"{base}/{quote(key)}"


def _execution(console: str, scheduler: str, region: str, account: str, job: JobRecord | None) -> str:
    """The worker's first execution; the console lists those that continued it beside it."""
    if not account or job is None or not job.worker_id:
        return ""
    name = names.execution(names.slot_id(job.worker_id), 1)
    arn = f"arn:{_partition(region)}:states:{region}:{account}:execution:{scheduler}-worker:{name}"
    return f"{console}/states/home?region={region}#/v2/executions/details/{quote(arn, safe=':')}"


def _domain(region: str) -> str:
    return next(
        (domain for part, domain in _DOMAINS.items() if region.startswith(f"{part}-")), "console.aws.amazon.com"
    )


def _partition(region: str) -> str:
    return next((f"aws-{part}" for part in _DOMAINS if region.startswith(f"{part}-")), "aws")
