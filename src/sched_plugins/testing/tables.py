"""DynamoDB as the rules see it: conditional writes, transactions, and listings that lag behind."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sched_plugins.core import limits
from sched_plugins.core import record as records
from sched_plugins.core import slot as slots
from sched_plugins.core.record import JobRecord, to_text
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import SlotState
from sched_plugins.core.write import Table, Write
from sched_plugins.errors import Refused
from sched_plugins.ports import BROKEN_ITEM, Clock, ConditionFailed, TransactionFailed, Unreadable

Item = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """One committed write, as a table's stream tells it."""

    at: datetime
    write: Write
    before: Item | None
    after: Item | None
    commit: int
    """The same for all writes of one transaction."""


class MemoryTables:
    """The ``Tables`` port, in memory.

    Attributes:
        history: every change that was ever committed, in order.
        listeners: called with every change, as streams are.
        index_lag: how far the listings lag behind the tables.
    """

    def __init__(self, clock: Clock, index_lag: float = 2.0) -> None:
        self.history: list[Change] = []
        self.listeners: list[Callable[[Change], None]] = []
        self.index_lag = index_lag
        self._clock = clock
        self._items: dict[Table, dict[str, Item]] = {table: {} for table in Table}
        self._listed: dict[Table, dict[str, Item]] = {table: {} for table in Table}
        self._unlisted: deque[Change] = deque()

    def item(self, table: Table, key: str) -> Item | None:
        """A stored item."""
        return self._items[table].get(key)

    def items(self, table: Table) -> Mapping[str, Item]:
        """All stored items of a table, as they are now."""
        return self._items[table]

    def job(self, job_id: str) -> JobRecord | None:
        """The record, or None if there is none."""
        item = self._items[Table.JOBS].get(job_id)
        return None if item is None else _record(item)

    def jobs(self, job_ids: Sequence[str]) -> Mapping[str, JobRecord | Unreadable]:
        """The records of those that exist."""
        items = self._items[Table.JOBS]
        return {job_id: _or_unreadable(_record, items[job_id]) for job_id in job_ids if job_id in items}

    def slot(self, slot_id: str) -> Slot | None:
        """The slot, or None if there is none."""
        item = self._items[Table.SLOTS].get(slot_id)
        return None if item is None else _slot(item)

    def write(self, write: Write) -> None:
        """Carry out one conditional write.

        Raises:
            ConditionFailed: nothing changed.
            Refused: the item would be larger than DynamoDB stores.
        """
        if not write.permitted(self.item(write.table, write.key)):
            raise ConditionFailed(write)
        self._commit([write])

    def write_each(self, writes: Sequence[Write]) -> Sequence[Exception | None]:
        """Carry out independent writes; the outcome of each."""
        outcomes: list[Exception | None] = []
        for write in writes:
            try:
                self.write(write)
            except (ConditionFailed, Refused) as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes

    def transact(self, writes: Sequence[Write]) -> None:
        """Carry out all the writes, or none.

        Raises:
            TransactionFailed: nothing changed.
            Refused: DynamoDB would not take the transaction.
        """
        if len({(write.table, write.key) for write in writes}) < len(writes):
            raise Refused("a transaction cannot write one item twice")
        failed = [write.name for write in writes if not write.permitted(self.item(write.table, write.key))]
        if failed:
            raise TransactionFailed(failed, "ConditionalCheckFailed")
        self._commit(writes)

    def _commit(self, writes: Sequence[Write]) -> None:
        changes: list[Change] = []
        commit = self.history[-1].commit + 1 if self.history else 0
        for write in writes:
            before = self.item(write.table, write.key)
            after = write.applied(before)
            if after is not None and item_size(after) > limits.MAX_ITEM_BYTES:
                raise Refused(f"item {write.key[:100]!r} would be larger than {limits.MAX_ITEM_BYTES:,} bytes")
            changes.append(Change(self._clock.now(), write, before, after, commit))
        for change in changes:
            _apply(self._items, change)
        self.history += changes
        self._unlisted += changes
        for change in changes:
            for listener in self.listeners:
                listener(change)

    def _index(self, table: Table) -> Mapping[str, Item]:
        visible = self._clock.now() - timedelta(seconds=self.index_lag)
        while self._unlisted and self._unlisted[0].at <= visible:
            _apply(self._listed, self._unlisted.popleft())
        return self._listed[table]

    def pending(self, before: datetime) -> Iterator[JobRecord | Unreadable]:
        """Records whose effect has been pending since before that moment."""
        yield from self._by("pending", "pending", before)

    def queued(self, before: datetime) -> Iterator[JobRecord | Unreadable]:
        """Records that have been QUEUED since before that moment."""
        yield from self._by("state", "queued", before)

    def _by(self, index: str, kind: str, before: datetime) -> Iterator[JobRecord | Unreadable]:
        listed = self._index(Table.JOBS)
        moment = to_text(before)
        for shard in range(limits.INDEX_SHARDS):
            wanted = f"{kind}#{shard}"
            found = [item for item in listed.values() if item.get(f"{index}_shard") == wanted]
            for item in sorted(found, key=lambda one: str(one[f"{index}_at"])):
                if str(item[f"{index}_at"]) < moment:
                    yield _or_unreadable(_record, item)

    def slots(self) -> Iterator[Slot | Unreadable]:
        """All slots."""
        for item in list(self._index(Table.SLOTS).values()):
            yield _or_unreadable(_slot, item)

    def slots_of(self, queue: str) -> Mapping[SlotState, int]:
        """How many slots of a queue are in each state, the queue written as the workers' tag has it."""
        listed = self._index(Table.SLOTS).values()
        known = [item["state"] for item in listed if item["queue"] == queue and item["state"] in set(SlotState)]
        return Counter(map(SlotState, known))


def item_size(item: Item) -> int:
    """The bytes that DynamoDB counts for an item, numbers at their largest.

    Source: Amazon DynamoDB, "DynamoDB item sizes and formats".
    """
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Any) -> int:
    # The common types first, and of classes before abstract ones, which are slow to ask: every write comes here.
    match value:
        case str():
            return len(value.encode(errors="replace"))
        case None | bool():
            return 1
        case int() | float():
            return 21
        case list() | tuple():
            return 3 + sum(1 + _value_size(inner) for inner in value)
        case Mapping():
            return 3 + sum(1 + len(str(name).encode()) + _value_size(inner) for name, inner in value.items())
        case _:
            return 21


def _record(item: Item) -> JobRecord:
    try:
        return records.from_item(item)
    except BROKEN_ITEM as error:
        raise Unreadable(str(item["job_id"]), error) from error


def _slot(item: Item) -> Slot:
    try:
        return slots.from_item(item)
    except BROKEN_ITEM as error:
        raise Unreadable(str(item["slot_id"]), error) from error


def _or_unreadable(read: Callable[[Item], T], item: Item) -> T | Unreadable:
    try:
        return read(item)
    except Unreadable as error:
        return error


def _apply(items: dict[Table, dict[str, Item]], change: Change) -> None:
    if change.after is None:
        items[change.write.table].pop(change.write.key, None)
    else:
        items[change.write.table][change.write.key] = change.after
