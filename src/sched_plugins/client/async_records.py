"""Reading the job table in an event loop, with whatever asynchronous DynamoDB client there is (aiobotocore's, say)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from sched_plugins.client.failures import explain
from sched_plugins.client.records import ENDED, Row, batch_request, plain_item, query_request
from sched_plugins.core import limits, names
from sched_plugins.core.record import JobRecord, from_item
from sched_plugins.errors import SchedulerError, SchedulerNotFound, Throttled

_TRIES: Final = 5
"""Tries of a batch of which DynamoDB left some unread."""
_PAUSE: Final = 0.5
_log = logging.getLogger(__name__)


class AsyncRecords:
    """The job table of one scheduler, for a :class:`~sched_plugins.client.watch.Watch` in an event loop.

    AWS calls: ``get_many`` one BatchGetItem for 100 ids; ``newest_end`` and ``ended_since`` one Query a page.

    Args:
        dynamodb: an asynchronous client of DynamoDB: its methods are awaited.
        scheduler: the scheduler's stack name.
        place: region and endpoint, in words, for messages.
        loopback: whether the endpoint is on this machine.
        read: told of the read units that each call used, if given (DynamoDB then has to say so).
    """

    def __init__(
        self,
        dynamodb: Any,
        scheduler: str,
        *,
        place: str,
        loopback: bool = False,
        read: Callable[[float], None] | None = None,
    ) -> None:
        self._dynamodb = dynamodb
        self.table = names.job_table(scheduler)
        self._place = place
        self._loopback = loopback
        self._read = read
        self._missing = SchedulerNotFound(
            f"there is no scheduler {scheduler!r} in {place} (no table {self.table!r}). Deploy it with "
            f"`sched deploy scheduler {scheduler}`, or check its name and the region."
        )

    async def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
        """The records of those that exist, strongly consistent; one that cannot be read is left out, and logged."""
        wanted = list(dict.fromkeys(job_ids))
        found: dict[str, JobRecord] = {}
        for first in range(0, len(wanted), limits.DYNAMODB_BATCH_GET):
            for item in await self._batch(wanted[first : first + limits.DYNAMODB_BATCH_GET]):
                try:
                    record = from_item(plain_item(item))
                except (SchedulerError, ValueError, KeyError, TypeError) as error:
                    _log.warning("The record of job %s cannot be read: %s", item.get("job_id"), error)
                else:
                    found[record.job_id] = record
            await asyncio.sleep(0)  # Others of the loop have their turn between two batches.
        return found

    async def newest_end(self, shard: int) -> str:
        """When the newest ended job of a shard ended, as text; empty if there is none."""
        request = query_request(self.table, ENDED, shard, "", newest_first=True, page=1)
        rows = (await self._call("query", request))["Items"]
        return str(plain_item(rows[0])["state_at"]) if rows else ""

    async def ended_since(self, shard: int, since: str) -> list[Row]:
        """Ended jobs of a shard from that moment on, oldest first."""
        request = query_request(self.table, ENDED, shard, since, newest_first=False, page=None)
        rows: list[Row] = []
        while True:
            found = await self._call("query", request)
            rows += [plain_item(item) for item in found["Items"]]
            if "LastEvaluatedKey" not in found:
                return rows
            request["ExclusiveStartKey"] = found["LastEvaluatedKey"]
            await asyncio.sleep(0)

    async def _batch(self, job_ids: list[str]) -> list[dict[str, Any]]:
        asked: dict[str, Any] = batch_request(self.table, job_ids)
        items: list[dict[str, Any]] = []
        for number in range(_TRIES):
            found = await self._call("batch_get_item", {"RequestItems": asked})
            items += found["Responses"].get(self.table, [])
            asked = found.get("UnprocessedKeys") or {}
            if not asked:
                return items
            await asyncio.sleep(_PAUSE * 2**number)
        raise Throttled(f"cannot read jobs of table {self.table!r}: DynamoDB left some unread; try again")

    async def _call(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        if self._read:
            request = {**request, "ReturnConsumedCapacity": "TOTAL"}
        try:
            answer: dict[str, Any] = await getattr(self._dynamodb, method)(**request)
        except (ClientError, BotoCoreError) as error:
            raise explain(error, "follow jobs", self._place, loopback=self._loopback, missing=self._missing) from error
        if self._read:
            used = answer.get("ConsumedCapacity") or {}
            for one in used if isinstance(used, list) else [used]:
                self._read(float(one.get("CapacityUnits", 0.0)))
        return answer
