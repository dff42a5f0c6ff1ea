"""Where a browser finds a job: AWS's console; on a laptop stack, which has no console, the objects themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from sched_plugins.core import names

_DOMAINS: Final[Mapping[str, str]] = {
    "cn": "console.amazonaws.cn",
    "us-gov": "console.amazonaws-us-gov.com",
}


def addresses(
    *, scheduler: str, region: str, job_id: str, results_uri: str = "", stdout_uri: str = "", stderr_uri: str = "",
    worker_id: str = "", account: str = "", endpoint_url: str = "",
) -> dict[str, str]:  # fmt: skip
    """Addresses of a job's ``item``, ``results``, ``output``, ``errors`` and ``execution``, as far as they are known.

    Args:
        scheduler: the scheduler's stack name.
        region: AWS region.
        job_id: the job.
        results_uri: S3 folder of the results.
        stdout_uri: S3 object of the stdout.
        stderr_uri: S3 object of the stderr.
        worker_id: the instance that ran it.
        account: AWS account number; without it there is no link to the worker's execution.
        endpoint_url: the endpoint of a stack that has no console; then objects are linked directly.
    """
    if endpoint_url:
        found = {
            "results": _object(endpoint_url, results_uri, folder=True),
            "output": _object(endpoint_url, stdout_uri),
            "errors": _object(endpoint_url, stderr_uri),
        }
        return {name: url for name, url in found.items() if url}
    console = f"https://{region}.{_domain(region)}"
    found = {
        "item": f"{console}/dynamodbv2/home?region={region}#edit-item?itemMode=2&pk={quote(job_id, safe='')}"
        f"&route=ROUTE_ITEM_EXPLORER&sk=&table={names.job_table(scheduler)}",
        "results": _console_of_s3(console, region, results_uri, "buckets"),
        "output": _console_of_s3(console, region, stdout_uri, "object"),
        "errors": _console_of_s3(console, region, stderr_uri, "object"),
        "execution": _execution(console, scheduler, region, account, worker_id),
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


def _execution(console: str, scheduler: str, region: str, account: str, worker_id: str) -> str:
    """The worker's first execution; the console lists those that continued it beside it."""
    if not account or not worker_id:
        return ""
    name = names.execution(names.slot_id(worker_id), 1)
    arn = f"arn:{_partition(region)}:states:{region}:{account}:execution:{scheduler}-worker:{name}"
    return f"{console}/states/home?region={region}#/v2/executions/details/{quote(arn, safe=':')}"


def _domain(region: str) -> str:
    return next(
        (domain for part, domain in _DOMAINS.items() if region.startswith(f"{part}-")), "console.aws.amazon.com"
    )


def _partition(region: str) -> str:
    return next((f"aws-{part}" for part in _DOMAINS if region.startswith(f"{part}-")), "aws")
