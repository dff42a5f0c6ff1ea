"""The two tables on Amazon DynamoDB.

========================  ==========  ==========================  =================  ==========================
index                     table       keys                        projection         holds
========================  ==========  ==========================  =================  ==========================
:data:`PENDING_INDEX`     jobs        pending_shard, pending_at   KEYS_ONLY          records with a due effect
:data:`STATE_INDEX`       jobs        state_shard, state_at       INCLUDE            all; :data:`STATE_PROJECTION`
:data:`QUEUE_INDEX`       slots       queue, state                KEYS_ONLY          all
========================  ==========  ==========================  =================  ==========================

All keys are text. The first two are sharded (``kind#shard``); what they list is read again by key, so that an
item of 400 KB is not copied into an index.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from typing import Any, Final, TypeVar
from uuid import uuid4

from botocore.exceptions import ClientError

from sched_plugins.aws.answers import ERRORS, THROTTLES, answer, code_of, failure, lost_replies
from sched_plugins.aws.clients import POOL, Clients
from sched_plugins.aws.items import WRITE_ID, Placeholders, arguments_of, from_attributes, to_attribute
from sched_plugins.aws.settings import Settings
from sched_plugins.core import limits
from sched_plugins.core import record as records
from sched_plugins.core import slot as slots
from sched_plugins.core.record import JobRecord, to_text
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import SlotState
from sched_plugins.core.write import KEY, Table, Write
from sched_plugins.errors import Refused, SchedulerError, Throttled, Unknown
from sched_plugins.ports import BROKEN_ITEM, ConditionFailed, TransactionFailed, Unreadable

T = TypeVar("T")

PENDING_INDEX: Final = "by-pending"
STATE_INDEX: Final = "by-state"
QUEUE_INDEX: Final = "by-queue"
STATE_PROJECTION: Final = (
    "run_id", "status", "status_reason", "attempt", "losses", "retry", "exit_code", "queue", "group_id", "worker_id",
    "submitted_at", "finished_at",
)  # fmt: skip
"""What following jobs needs; all of it small."""

_READS: Final = 8
"""Rounds of a batch read that DynamoDB answers only in part, before it counts as throttled."""


class DynamoTables:
    """:class:`~sched_plugins.ports.Tables` on DynamoDB."""

    def __init__(self, settings: Settings, clients: Clients, sleep: Callable[[float], None] = time.sleep) -> None:
        self._clients = clients
        self._names = {Table.JOBS: settings.job_table, Table.SLOTS: settings.slot_table}
        self._sleep = sleep

    def job(self, job_id: str) -> JobRecord | None:
        """The record. One GetItem, strongly consistent."""
        item = self._item(Table.JOBS, job_id)
        return None if item is None else _record(item)

    def slot(self, slot_id: str) -> Slot | None:
        """The slot. One GetItem, strongly consistent."""
        item = self._item(Table.SLOTS, slot_id)
        return None if item is None else _slot(item)

    def jobs(self, job_ids: Sequence[str]) -> Mapping[str, JobRecord | Unreadable]:
        """The records of those that exist. One BatchGetItem for each hundred, strongly consistent."""
        return {item["job_id"]: _or_unreadable(_record, item) for item in self._items(job_ids)}

    def write(self, write: Write) -> None:
        """Carry out one conditional write. One UpdateItem or DeleteItem.

        Raises:
            ConditionFailed: nothing changed, because a condition does not hold.
        """
        write_id = str(uuid4())
        arguments = {"TableName": self._names[write.table], **arguments_of(write, write_id)}
        call = self._clients.dynamodb.delete_item if write.delete else self._clients.dynamodb.update_item
        try:
            call(**arguments)
        except ERRORS as error:
            if code_of(error) != "ConditionalCheckFailedException":
                raise answer(error, f"write {write.name!r} of {write.key!r}") from error
            _judge_refusal(write, write_id, _reply_of(error).get("Item"), lost_replies(error))

    def write_each(self, writes: Sequence[Write]) -> Sequence[Exception | None]:
        """Carry out independent writes, 16 at once. One UpdateItem or DeleteItem each."""
        if len(writes) <= 1:
            return [self._outcome(write) for write in writes]
        with ThreadPoolExecutor(min(POOL, len(writes))) as pool:
            return list(pool.map(self._outcome, writes))

    def _outcome(self, write: Write) -> Exception | None:
        try:
            self.write(write)
        except SchedulerError as error:
            return error
        return None

    def transact(self, writes: Sequence[Write]) -> None:
        """Carry out all the writes, or none. One TransactWriteItems.

        Its request token makes botocore's own repetition safe: DynamoDB answers a repeated token for ten minutes as
        it did the first time. The write id is compared as well.

        Raises:
            TransactionFailed: nothing changed.
        """
        write_id = str(uuid4())
        actions: Any = [
            {
                "Delete" if write.delete else "Update": {
                    "TableName": self._names[write.table],
                    **arguments_of(write, write_id),
                }
            }
            for write in writes
        ]
        try:
            self._clients.dynamodb.transact_write_items(TransactItems=actions, ClientRequestToken=write_id)
        except ERRORS as error:
            action = f"transaction {[write.name for write in writes]}"
            if code_of(error) != "TransactionCanceledException":
                raise answer(error, action) from error
            reasons: Sequence[Mapping[str, Any]] = _reply_of(error).get("CancellationReasons", [])
            if not any(_is_ours(reason.get("Item"), write_id) for reason in reasons):
                raise _cancelled(writes, reasons, action) from error

    def pending(self, before: datetime) -> Iterator[JobRecord | Unreadable]:
        """Records whose effect has been pending since before that moment.

        A Query for each of the four shards and each page, and a BatchGetItem for each hundred found.
        """
        return self._listed(PENDING_INDEX, "pending", before)

    def queued(self, before: datetime) -> Iterator[JobRecord | Unreadable]:
        """Records that have been QUEUED since before that moment; calls as for :meth:`pending`."""
        return self._listed(STATE_INDEX, "queued", before)

    def slots(self) -> Iterator[Slot | Unreadable]:
        """All slots. One Scan a page (1 MiB, about 1,500 slots), strongly consistent."""
        for item in self._pages("scan", TableName=self._names[Table.SLOTS], ConsistentRead=True):
            yield _or_unreadable(_slot, item)

    def slots_of(self, queue: str) -> Mapping[SlotState, int]:
        """How many slots of a queue are in each state, the queue written as the workers' tag has it.

        One Query of the index a page; it returns each slot's state, because counting state by state would take
        three.
        """
        places = Placeholders()
        found = self._pages(
            "query",
            TableName=self._names[Table.SLOTS],
            IndexName=QUEUE_INDEX,
            KeyConditionExpression=f"{places.name('queue')} = {places.value(queue)}",
            ProjectionExpression=places.name("state"),
            **places.arguments(),
        )
        # A state of a newer version's making is left out here; the sweep reports the slot.
        return Counter(SlotState(item["state"]) for item in found if item["state"] in set(SlotState))

    def _item(self, table: Table, key: str) -> dict[str, Any] | None:
        name = self._names[table]
        try:
            reply = self._clients.dynamodb.get_item(
                TableName=name, Key={KEY[table]: to_attribute(key)}, ConsistentRead=True
            )
        except ERRORS as error:
            raise answer(error, f"GetItem of {key!r} in {name!r}") from error
        return from_attributes(reply["Item"]) if "Item" in reply else None

    def _items(self, job_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        wanted = iter(dict.fromkeys(job_ids))
        while some := list(islice(wanted, limits.DYNAMODB_BATCH_GET)):
            yield from self._batch(some)

    def _batch(self, job_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        name = self._names[Table.JOBS]
        keys: Any = [{KEY[Table.JOBS]: to_attribute(job_id)} for job_id in job_ids]
        for round_ in range(_READS):
            try:
                reply = self._clients.dynamodb.batch_get_item(
                    RequestItems={name: {"Keys": keys, "ConsistentRead": True}}
                )
            except ERRORS as error:
                raise answer(error, f"BatchGetItem of {len(keys)} jobs in {name!r}") from error
            yield from map(from_attributes, reply.get("Responses", {}).get(name, []))
            unread: Mapping[str, Any] = reply.get("UnprocessedKeys", {})
            keys = unread.get(name, {}).get("Keys", [])
            if not keys:
                return
            self._sleep(random.uniform(0.5, 1.0) * 0.05 * 2**round_)  # noqa: S311 - spreads callers, keeps no secret
        raise failure(Throttled, f"BatchGetItem in {name!r}", f"{len(keys)} keys were left unread {_READS} times")

    def _listed(self, index: str, kind: str, before: datetime) -> Iterator[JobRecord | Unreadable]:
        """Records that an index lists under a kind, and that still belong there when they are read."""
        hash_key, range_key = index.removeprefix("by-") + "_shard", index.removeprefix("by-") + "_at"
        for shard in range(limits.INDEX_SHARDS):
            places = Placeholders()
            condition = (
                f"{places.name(hash_key)} = {places.value(f'{kind}#{shard}')} AND "
                f"{places.name(range_key)} < {places.value(to_text(before))}"
            )
            listed = self._pages(
                "query",
                TableName=self._names[Table.JOBS],
                IndexName=index,
                KeyConditionExpression=condition,
                ProjectionExpression=places.name("job_id"),
                **places.arguments(),
            )
            while some := [item["job_id"] for item in islice(listed, limits.DYNAMODB_BATCH_GET)]:
                for item in self._batch(some):
                    still = item.get(hash_key) == f"{kind}#{shard}" and item.get(range_key, "") < to_text(before)
                    if still:
                        yield _or_unreadable(_record, item)

    def _pages(self, operation: Any, **arguments: Any) -> Iterator[dict[str, Any]]:
        try:
            for page in self._clients.dynamodb.get_paginator(operation).paginate(**arguments):
                yield from map(from_attributes, page["Items"])
        except ERRORS as error:
            raise answer(error, f"{operation.capitalize()} of {arguments['TableName']!r}") from error


def _record(item: Mapping[str, Any]) -> JobRecord:
    try:
        return records.from_item(item)
    except BROKEN_ITEM as error:
        raise Unreadable(str(item.get("job_id")), error) from error


def _slot(item: Mapping[str, Any]) -> Slot:
    try:
        return slots.from_item(item)
    except BROKEN_ITEM as error:
        raise Unreadable(str(item.get("slot_id")), error) from error


def _or_unreadable(read: Callable[[Mapping[str, Any]], T], item: Mapping[str, Any]) -> T | Unreadable:
    try:
        return read(item)
    except Unreadable as error:
        return error


def _reply_of(error: Exception) -> Mapping[str, Any]:
    return dict(error.response) if isinstance(error, ClientError) else {}


def _is_ours(stored: Mapping[str, Any] | None, write_id: str) -> bool:
    return stored is not None and stored.get(WRITE_ID) == {"S": write_id}


def _judge_refusal(write: Write, write_id: str, stored: Mapping[str, Any] | None, lost: int) -> None:
    """Whether a write whose condition failed was carried out by an earlier try of the same call.

    Returns if it was.

    Raises:
        ConditionFailed: it was not.
        Unknown: an earlier try's reply was lost, and the item has been written by somebody since.
    """
    if write.delete and stored is None and lost:
        return  # A deletion leaves no write id, but what it was to do is done.
    if _is_ours(stored, write_id):
        return
    if lost:
        detail = f"{lost} replies were lost, and the item is another writer's now"
        raise failure(Unknown, f"write {write.name!r} of {write.key!r}", detail)
    raise ConditionFailed(write)


def _cancelled(writes: Sequence[Write], reasons: Sequence[Mapping[str, Any]], action: str) -> SchedulerError:
    codes = [str(reason.get("Code", "None")) for reason in reasons]
    failed = [write.name for write, code in zip(writes, codes, strict=False) if code == "ConditionalCheckFailed"]
    told = "; ".join(
        f"{write.name}: {code} {reason.get('Message', '')}".rstrip()
        for write, code, reason in zip(writes, codes, reasons, strict=False)
        if code != "None"
    )
    passing = THROTTLES | {"None", "ConditionalCheckFailed", "ProvisionedThroughputExceeded"}
    if not failed and set(codes) - passing:
        # ValidationError, say of an item grown too large: the same writes would be refused for ever.
        return failure(Refused, action, told)
    return TransactionFailed(failed, told or "AWS gave no reason")
