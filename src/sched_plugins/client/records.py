"""Reading job records: by key, strongly consistent; by state, from the sparse index."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from operator import itemgetter
from typing import Any, Final

from boto3.dynamodb.types import TypeDeserializer

from sched_plugins.client.connection import Connection
from sched_plugins.client.retry import Backoff, Clock
from sched_plugins.core import limits, names
from sched_plugins.core.record import JobRecord, from_item, to_text
from sched_plugins.core.state import LIVE, TERMINAL, Status
from sched_plugins.errors import InvalidInput, SchedulerNotFound, Throttled

Row = Mapping[str, Any]
"""One item of the by-state index: ``job_id``, ``state_at``, ``run_id``, ``status``, ``queue``, ``group_id``, …"""

ENDED: Final = "ended"
KINDS: Final[Mapping[str, frozenset[Status]]] = {
    "queued": frozenset({Status.QUEUED}),
    "live": LIVE,
    ENDED: TERMINAL,
}
"""Kinds of the by-state index, and the statuses that each holds."""
_INDEX = "by-state"
_PAGE = 100
_PATIENCE = 60.0
_DESERIALIZER = TypeDeserializer()


class Records:
    """The job table of one scheduler, to be read.

    AWS calls: ``get`` one GetItem; ``get_many`` one BatchGetItem for 100 ids; ``recent`` one Query for each of the
    4 shards of each kind, a page each, and one BatchGetItem for 100 candidates.
    """

    def __init__(self, connection: Connection, scheduler: str, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock
        self.scheduler = scheduler
        self.table = names.job_table(scheduler)
        self.missing = SchedulerNotFound(
            f"there is no scheduler {scheduler!r} in {connection.place} (no table {self.table!r}). Deploy it with "
            f"`sched deploy scheduler {scheduler}`, or check its name and the region."
        )

    def get(self, job_id: str) -> JobRecord | None:
        """The record, or None if there is none."""
        _check_key(job_id)
        with self._connection.doing(f"read job {job_id!r}", self.missing):
            found = self._connection.client("dynamodb").get_item(
                TableName=self.table, Key={"job_id": {"S": job_id}}, ConsistentRead=True
            )
        return from_item(plain_item(found["Item"])) if "Item" in found else None

    def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
        """The records of those that exist."""
        wanted = list(dict.fromkeys(job_ids))
        for job_id in wanted:
            _check_key(job_id)
        found: dict[str, JobRecord] = {}
        for first in range(0, len(wanted), limits.DYNAMODB_BATCH_GET):
            for item in self._batch(wanted[first : first + limits.DYNAMODB_BATCH_GET]):
                record = from_item(item)
                found[record.job_id] = record
        return found

    def _batch(self, job_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        backoff = Backoff(_PATIENCE, self._clock)
        asked: Mapping[str, Any] = batch_request(self.table, job_ids)
        while True:
            with self._connection.doing("read jobs", self.missing):
                found = self._connection.client("dynamodb").batch_get_item(RequestItems=asked)
            for item in found["Responses"].get(self.table, []):
                yield plain_item(item)
            # Over 16 MiB of records, or over the table's capacity: DynamoDB leaves the rest for later.
            asked = found.get("UnprocessedKeys") or {}
            if not asked:
                return
            if not backoff.wait():
                raise Throttled(
                    f"cannot read jobs of scheduler {self.scheduler!r}: DynamoDB left some unread; try again"
                )

    def newest_end(self, shard: int) -> str:
        """When the newest ended job of a shard ended, as text; empty if there is none."""
        row = next(self._query(ENDED, shard, "", newest_first=True, page=1), None)
        return str(row["state_at"]) if row else ""

    def ended_since(self, shard: int, since: str) -> Iterator[Row]:
        """Ended jobs of a shard from that moment on, oldest first."""
        yield from self._query(ENDED, shard, since, newest_first=False, page=None)

    def recent(
        self,
        *,
        statuses: frozenset[Status],
        group: str,
        queue: str,
        since: datetime | None,
        limit: int,
    ) -> list[JobRecord]:
        """The newest records that are wanted, by when their present state began, newest first.

        Args:
            statuses: only these.
            group: only those of this group, unless it is empty.
            queue: only those of this queue, unless it is empty.
            since: only those whose present state began at that moment or later.
            limit: at most so many.
        """
        begin = to_text(since) if since else ""
        kinds = [kind for kind, held in KINDS.items() if held & statuses]
        narrowed = bool(group or queue) or any(not KINDS[kind] <= statuses for kind in kinds)
        chunk = min(_PAGE, limit)
        shards = [
            self._query(kind, shard, begin, newest_first=True, page=_PAGE if narrowed else chunk)
            for kind in kinds
            for shard in range(limits.INDEX_SHARDS)
        ]
        rows = heapq.merge(*shards, key=itemgetter("state_at"), reverse=True)
        found: list[JobRecord] = []
        # A job that changes its state meanwhile may be seen under both.
        likely = (row for row in rows if _fits(row, group, queue))
        for ids in _chunks(_distinct(str(row["job_id"]) for row in likely), chunk):
            records = self.get_many(ids)
            wanted = (records[job_id] for job_id in ids if job_id in records)
            found += [record for record in wanted if record.status in statuses]
            if len(found) >= limit:
                break
        return found[:limit]

    def _query(self, kind: str, shard: int, since: str, *, newest_first: bool, page: int | None) -> Iterator[Row]:
        request = query_request(self.table, kind, shard, since, newest_first=newest_first, page=page)
        while True:
            with self._connection.doing("list jobs", self.missing):
                found = self._connection.client("dynamodb").query(**request)
            for item in found["Items"]:
                yield plain_item(item)
            if "LastEvaluatedKey" not in found:
                return
            request["ExclusiveStartKey"] = found["LastEvaluatedKey"]


def batch_request(table: str, job_ids: Iterable[str]) -> dict[str, Any]:
    """The request items of a strongly consistent BatchGetItem."""
    keys = [{"job_id": {"S": job_id}} for job_id in job_ids]
    return {table: {"Keys": keys, "ConsistentRead": True}}


def query_request(
    table: str, kind: str, shard: int, since: str, *, newest_first: bool, page: int | None
) -> dict[str, Any]:
    """The request of a Query of one shard of the by-state index, from a moment on."""
    request: dict[str, Any] = {
        "TableName": table,
        "IndexName": _INDEX,
        "KeyConditionExpression": "#s = :s AND #a >= :a",
        "ExpressionAttributeNames": {"#s": "state_shard", "#a": "state_at"},
        "ExpressionAttributeValues": {":s": {"S": f"{kind}#{shard}"}, ":a": {"S": since or "0"}},
        "ScanIndexForward": not newest_first,
    }
    return {**request, "Limit": page} if page else request


def plain_item(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item as DynamoDB sends it, in plain types; whole numbers as ``int``, others as ``float``."""
    return {name: _plain(_DESERIALIZER.deserialize(value)) for name, value in item.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _fits(row: Row, group: str, queue: str) -> bool:
    return (not group or row.get("group_id", "") == group) and (not queue or row.get("queue", "") == queue)


def _distinct(ids: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for job_id in ids:
        if job_id not in seen:
            seen.add(job_id)
            yield job_id


def _chunks(ids: Iterable[str], size: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    for job_id in ids:
        chunk.append(job_id)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _check_key(job_id: str) -> None:
    if not job_id:
        raise InvalidInput("a job id cannot be empty")
    try:
        size = len(job_id.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"{job_id!r} cannot be a job id: it is not valid Unicode") from None
    if size > limits.MAX_JOB_ID_BYTES:
        raise InvalidInput(f"{job_id[:60]!r}… cannot be a job id: it is longer than {limits.MAX_JOB_ID_BYTES:,} bytes")
