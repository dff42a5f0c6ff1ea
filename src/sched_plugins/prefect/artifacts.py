"""What Prefect's UI shows of jobs: a table of them, the pictures that they made, and where their results are.

A picture is an image artifact with the picture itself in it, as a data URI. The address of an object of a private
bucket would show nothing, a presigned one nothing after hours, and Prefect's newer UI leaves data URIs out of markdown;
image artifacts show in both of its UIs. Since the picture is stored in Prefect's database and sent with the flow run's
page, pictures over a size are left out, and named in a warning.

Each function has an asynchronous twin, ``acreate_…``, which is called instead in asynchronous flows. The progress of a
batch is :class:`~sched_plugins.prefect.progress.BatchProgress`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Final
from uuid import UUID

from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

from sched_plugins.client import Job
from sched_plugins.client.connection import Connection
from sched_plugins.client.console import addresses
from sched_plugins.client.jobs import JobClient
from sched_plugins.client.results import INTERNAL, listing
from sched_plugins.errors import InvalidInput, NotFound
from sched_plugins.prefect.artifact_keys import check_key, keys_of
from sched_plugins.prefect.blocks.scheduler import ServerlessScheduler, as_scheduler
from sched_plugins.prefect.events import as_result, current_run_ids
from sched_plugins.prefect.records import JobResult

SchedulerLike = JobClient | ServerlessScheduler | str | None
"""A client, a block, a stack name, or None for what ``SCHED_SCHEDULER`` names."""
MAX_ROWS: Final = 1_000
"""Rows of a table: Prefect stores it as one value, and the UI loads all of it."""
MAX_METRICS: Final = 20
"""Columns for what the jobs measured."""
MAX_PICTURE_BYTES: Final = 1024 * 1024
MAX_PICTURES: Final = 20
MEDIA_TYPES: Final = {
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
    ".svg": "image/svg+xml",
}  # fmt: skip
"""What counts as a picture, by the end of its name."""
_ORDER: Final = {"REFUSED": 0, "REJECTED": 1, "FAILED": 2, "CANCELLED": 3, "SUCCEEDED": 9}
_LINKS: Final = {
    "results": "Results",
    "output": "Output (stdout)",
    "errors": "Errors (stderr)",
    "item": "Job record",
}


async def acreate_job_table(
    jobs: Iterable[JobResult | Job], *, key: str = "jobs", description: str | None = None
) -> UUID:
    """As :func:`create_job_table`."""
    return (await _asend([table_of(jobs, key, description)]))[0]


@async_dispatch(acreate_job_table)
def create_job_table(jobs: Iterable[JobResult | Job], *, key: str = "jobs", description: str | None = None) -> UUID:
    """A table of jobs, those that did not succeed first, at most 1,000 of them. One call of Prefect's API.

    Args:
        jobs: results of tasks, or records.
        key: the artifact's key: lower-case letters, digits and dashes.
        description: markdown shown above it; by default how many jobs ended how.

    Returns:
        The artifact's id.

    Raises:
        InvalidInput: Prefect takes no such key.
    """
    return _send([table_of(jobs, key, description)])[0]


async def acreate_image_artifacts(
    scheduler: SchedulerLike,
    results: JobResult | Job | str,
    *,
    key: str = "pictures",
    limit: int = MAX_PICTURES,
    max_bytes: int = MAX_PICTURE_BYTES,
) -> list[UUID]:
    """As :func:`create_image_artifacts`."""
    images = await asyncio.to_thread(images_of, scheduler, results, key, limit, max_bytes)
    return await _asend(images)


@async_dispatch(acreate_image_artifacts)
def create_image_artifacts(
    scheduler: SchedulerLike,
    results: JobResult | Job | str,
    *,
    key: str = "pictures",
    limit: int = MAX_PICTURES,
    max_bytes: int = MAX_PICTURE_BYTES,
) -> list[UUID]:
    """An image artifact for each picture of a results folder: PNG, JPEG, GIF, WebP or SVG, by its name.

    One ListObjectsV2 for 1,000 objects, one GetObject and one call of Prefect's API for each picture.

    Args:
        scheduler: a client, a block or a stack name; it says how to reach S3.
        results: the job, or the S3 folder of its results.
        key: how the artifacts' keys begin; the picture's name follows.
        limit: at most so many pictures, in the order of their names.
        max_bytes: pictures over this size are left out, which is logged.

    Returns:
        The artifacts' ids, in the order of the pictures' names.

    Raises:
        InvalidInput: the folder is no S3 address, or Prefect takes no such key.
        NotFound: there is no such bucket.
    """
    return _send(images_of(scheduler, results, key, limit, max_bytes))


async def acreate_job_links(job: JobResult | Job, *, scheduler: SchedulerLike = None, key: str = "job-links") -> UUID:
    """As :func:`create_job_links`."""
    return (await _asend([links_of(job, scheduler, key)]))[0]


@async_dispatch(acreate_job_links)
def create_job_links(job: JobResult | Job, *, scheduler: SchedulerLike = None, key: str = "job-links") -> UUID:
    """Links to a job's results, output and record: in AWS's console, or to the objects of a laptop stack.

    One call of Prefect's API, none of AWS.

    Args:
        job: the job.
        scheduler: a client, a block or a stack name; it says in which region the job is.
        key: the artifact's key.

    Returns:
        The artifact's id.

    Raises:
        InvalidInput: nothing names a scheduler, or Prefect takes no such key.
    """
    return _send([links_of(job, scheduler, key)])[0]


def table_of(jobs: Iterable[JobResult | Job], key: str, description: str | None = None) -> ArtifactCreate:
    """The artifact of a table of jobs."""
    jobs = [jobs] if isinstance(jobs, (JobResult, Job)) else list(jobs)
    for one in jobs:
        if not isinstance(one, (JobResult, Job)):
            raise InvalidInput(f"jobs has {str(one)[:80]!r} ({type(one).__name__}); give results of jobs, or records")
    results = sorted((as_result(job) for job in jobs), key=lambda job: (_ORDER.get(job.status, 5), job.job_id))
    counts: dict[str, int] = {}
    for job in results:
        counts[job.status] = counts.get(job.status, 0) + 1
    told = ", ".join(f"{number:,} {status}" for status, number in counts.items())
    words = f"{len(results):,} jobs: {told}" if results else "No jobs"
    if len(results) > MAX_ROWS:
        words += f". The first {MAX_ROWS:,} are shown, those that did not succeed before the others"
    shown = results[:MAX_ROWS]
    # The UI takes the columns from the first row: each row has all of them.
    metrics = list(dict.fromkeys(name for job in shown for name in job.metrics))[:MAX_METRICS]
    rows = [_row(job, metrics) for job in shown]
    return _new("table", key, words if description is None else description, json.dumps(rows))


def _row(job: JobResult, metrics: Sequence[str]) -> dict[str, Any]:
    ran = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    waited = (job.started_at - job.submitted_at).total_seconds() if job.started_at and job.submitted_at else None
    told = {
        "job": job.job_id,
        "status": job.status,
        "reason": " ".join(job.status_reason.split()),
        "exit code": job.exit_code,
        "attempt": job.attempt,
        "waited (s)": waited if waited is None else round(waited, 1),
        "ran (s)": ran if ran is None else round(ran, 1),
        "ended": _time(job.finished_at),
        "worker": job.worker_id,
        "queue": job.queue,
        "results": job.results_uri,
    }
    return told | {name: _cell(job.metrics.get(name)) for name in metrics if name not in told}


def _cell(value: Any) -> Any:
    """What a cell can hold: JSON knows no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value, default=str)


def _time(moment: datetime | None) -> str:
    return moment.isoformat(timespec="seconds") if moment else ""


def images_of(
    scheduler: SchedulerLike, results: JobResult | Job | str, key: str, limit: int, max_bytes: int
) -> list[ArtifactCreate]:
    """The artifacts of the pictures in a results folder."""
    check_key(key)
    uri = results if isinstance(results, str) else as_result(results).results_uri
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket:
        named = f"{uri!r} is not an S3 folder (s3://bucket/folder/)"
        raise InvalidInput(
            named if isinstance(results, str) else f"job {results.job_id!r} names no results folder (results_uri)"
        )
    prefix = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    connection = client_of(scheduler).connection
    found = _pictures(connection, bucket, prefix, limit, max_bytes)
    keys = keys_of(key, found)
    made: list[ArtifactCreate] = []
    for name in found:
        data = _read(connection, bucket, prefix + name)
        media = MEDIA_TYPES[PurePosixPath(name).suffix.lower()]
        picture = f"data:{media};base64,{base64.b64encode(data).decode()}"
        made.append(_new("image", keys[name], f"`{name}` of `{uri}`", picture))
    return made


def _pictures(connection: Connection, bucket: str, prefix: str, limit: int, max_bytes: int) -> list[str]:
    """Names of the pictures that are shown, below the prefix."""
    shown: list[str] = []
    large: list[str] = []
    for found, size in sorted(listing(connection, bucket, prefix)):
        name = found.removeprefix(prefix)
        if name.startswith(INTERNAL) or PurePosixPath(name).suffix.lower() not in MEDIA_TYPES:
            continue
        (shown if 0 < size <= max_bytes else large).append(name)
    if large:
        _log().warning(
            "%s pictures of s3://%s/%s are over %s bytes (or empty) and are not shown: %s",
            len(large), bucket, prefix, max_bytes, ", ".join(large[:10]),
        )  # fmt: skip
    if len(shown) > limit:
        _log().warning("s3://%s/%s has %s pictures; the first %s are shown", bucket, prefix, len(shown), limit)
    return shown[:limit]


def _read(connection: Connection, bucket: str, key: str) -> bytes:
    gone = NotFound(f"s3://{bucket}/{key} is not there any more")
    with connection.doing(f"read s3://{bucket}/{key}", gone):
        body: bytes = connection.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


def links_of(job: JobResult | Job, scheduler: SchedulerLike, key: str) -> ArtifactCreate:
    """The artifact with a job's links."""
    result, client = as_result(job), client_of(scheduler)
    found = addresses(
        scheduler=client.scheduler, region=client.connection.region, job_id=result.job_id,
        results_uri=result.results_uri, stdout_uri=result.stdout_uri, stderr_uri=result.stderr_uri,
        endpoint_url=client.connection.endpoint_url or "",
    )  # fmt: skip
    uris = {"results": result.results_uri, "output": result.stdout_uri, "errors": result.stderr_uri}
    lines = [f"`{result.job_id}` ended **{result.status}**", ""]
    for name, text in _LINKS.items():
        if name in found:
            uri = f": `{uris[name]}`" if uris.get(name) else ""
            lines.append(f"- [{text}](<{found[name]}>){uri}")
    return _new("markdown", key, f"Where to look for job `{result.job_id}`", "\n".join(lines))


def client_of(scheduler: SchedulerLike) -> JobClient:
    """The client of whatever names a scheduler.

    Raises:
        InvalidInput: nothing names one, or it is something else.
    """
    return scheduler if isinstance(scheduler, JobClient) else as_scheduler(scheduler).client()


def _new(kind: str, key: str, description: str, data: Any) -> ArtifactCreate:
    task_run_id, flow_run_id = current_run_ids()
    return ArtifactCreate(
        type=kind, key=check_key(key), description=description, data=data,
        task_run_id=task_run_id, flow_run_id=flow_run_id,
    )  # fmt: skip


def _send(artifacts: Sequence[ArtifactCreate]) -> list[UUID]:
    with get_client(sync_client=True) as client:
        return [client.create_artifact(artifact).id for artifact in artifacts]


async def _asend(artifacts: Sequence[ArtifactCreate]) -> list[UUID]:
    async with get_client() as client:
        return [(await client.create_artifact(artifact)).id for artifact in artifacts]


def _log() -> logging.Logger | logging.LoggerAdapter[Any]:
    """The run's log, where there is a run."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger(__name__)
