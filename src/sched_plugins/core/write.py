"""Conditional writes as values: what changes, and what must still be true for it to change.

A decision returns a :class:`Write`; a table carries it out or refuses it whole. Only the fields that the
decision changed are written, so that a field which somebody else changed meanwhile is not lost; the
conditions name everything that the decision relied on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sched_plugins.core import record as records
from sched_plugins.core import slot as slots
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot


class Table(StrEnum):
    """The two tables."""

    JOBS = "jobs"
    SLOTS = "slots"


KEY = {Table.JOBS: "job_id", Table.SLOTS: "slot_id"}


class Operator(StrEnum):
    """How a condition compares."""

    EQUALS = "equals"
    ABSENT = "absent"
    ONE_OF = "one of"
    AT_MOST = "at most, or absent"


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must be true of the stored item."""

    field: str
    operator: Operator
    value: Any = None

    def holds(self, item: Mapping[str, Any] | None) -> bool:
        """Whether it is true of ``item`` (None: there is no item)."""
        stored = None if item is None else item.get(self.field)
        match self.operator:
            case Operator.EQUALS:
                return bool(stored == self.value)
            case Operator.ABSENT:
                return stored is None
            case Operator.ONE_OF:
                return stored in self.value
            case Operator.AT_MOST:
                return stored is None or bool(stored <= self.value)


def equals(field: str, value: Any) -> Condition:
    """The field holds this value; an empty value means that it must be absent, as items leave it out."""
    if value in ("", None):
        return absent(field)
    return Condition(field, Operator.EQUALS, value)


def absent(field: str) -> Condition:
    """The field, or with the table's key the whole item, is absent."""
    return Condition(field, Operator.ABSENT)


def one_of(field: str, values: Sequence[str]) -> Condition:
    """The field holds one of these values."""
    return Condition(field, Operator.ONE_OF, tuple(sorted(str(value) for value in values)))


def at_most(field: str, value: Any) -> Condition:
    """The field is absent or not greater."""
    return Condition(field, Operator.AT_MOST, value)


@dataclass(frozen=True)
class Write:
    """One conditional write of one item."""

    name: str
    """Which decision wrote it, for logs and for the tests that remove a condition at a time."""
    table: Table
    key: str
    changes: Mapping[str, Any]
    """Fields to set."""
    removals: tuple[str, ...]
    """Fields to remove."""
    conditions: tuple[Condition, ...]
    delete: bool = False

    def applied(self, item: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The item after this write; None when it was deleted."""
        if self.delete:
            return None
        kept = {name: value for name, value in (item or {}).items() if name not in self.removals}
        return {**kept, KEY[self.table]: self.key, **self.changes}

    def permitted(self, item: Mapping[str, Any] | None) -> bool:
        """Whether every condition holds of the stored item."""
        return all(condition.holds(item) for condition in self.conditions)


def job(name: str, before: JobRecord | None, after: JobRecord, *conditions: Condition) -> Write:
    """The write that turns one job record into another."""
    old = {} if before is None else records.to_item(before)
    return _difference(name, Table.JOBS, after.job_id, old, records.to_item(after), conditions)


def slot(name: str, before: Slot | None, after: Slot, *conditions: Condition) -> Write:
    """The write that turns one slot into another."""
    old = {} if before is None else slots.to_item(before)
    return _difference(name, Table.SLOTS, after.slot_id, old, slots.to_item(after), conditions)


def drop_slot(name: str, gone: Slot, *conditions: Condition) -> Write:
    """The write that deletes a slot."""
    return Write(name, Table.SLOTS, gone.slot_id, {}, (), conditions, delete=True)


def fence(job: JobRecord) -> tuple[Condition, Condition]:
    """The record still stands at this run and attempt: a writer of an older one changes nothing."""
    return equals("run_id", job.run_id), equals("attempt", job.attempt)


def _difference(
    name: str,
    table: Table,
    key: str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    conditions: tuple[Condition, ...],
) -> Write:
    changes = {field: value for field, value in new.items() if old.get(field) != value and field != KEY[table]}
    removals = tuple(sorted(field for field in old if field not in new))
    return Write(name, table, key, changes, removals, conditions)
