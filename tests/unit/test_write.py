"""Conditional writes as values."""

from __future__ import annotations

from typing import Any

import pytest
from rule_records import LATER, free_slot, queued, running

from sched_plugins.core import record as records
from sched_plugins.core import write
from sched_plugins.core.write import Condition, Operator, Table


@pytest.mark.parametrize(
    ("condition", "item", "holds"),
    [
        (write.equals("a", 1), {"a": 1}, True),
        (write.equals("a", 1), {"a": 2}, False),
        (write.equals("a", 1), {}, False),
        (write.equals("a", 1), None, False),
        (write.equals("a", ""), {}, True),
        (write.equals("a", ""), {"a": "x"}, False),
        (write.equals("a", None), {}, True),
        (write.absent("a"), None, True),
        (write.absent("a"), {"a": 0}, False),
        (write.one_of("a", ["x", "y"]), {"a": "y"}, True),
        (write.one_of("a", ["x", "y"]), {"a": "z"}, False),
        (write.one_of("a", ["x", "y"]), None, False),
        (write.at_most("a", "5"), {"a": "5"}, True),
        (write.at_most("a", "5"), {"a": "6"}, False),
        (write.at_most("a", "5"), {}, True),
    ],
)
def test_conditions(condition: Condition, item: dict[str, Any] | None, holds: bool) -> None:
    assert condition.holds(item) is holds


def test_an_empty_value_is_an_absent_field() -> None:
    assert write.equals("pending", "") == Condition("pending", Operator.ABSENT)


def test_a_write_changes_what_its_decision_changed_and_nothing_else() -> None:
    before = queued()
    made = write.job("test", before, before.changed(pending="", status_reason="why"), write.absent("x"))
    assert dict(made.changes) == {"status_reason": "why"}
    assert made.removals == ("pending", "pending_at", "pending_shard")
    assert (made.table, made.key) == (Table.JOBS, "job")


def test_what_others_changed_meanwhile_stays() -> None:
    before = running()
    made = write.job("test", before, before.changed(exit_code=0))
    stored = records.to_item(before.changed(cancel_requested="now", updated_at=LATER))
    assert made.applied(stored) == stored | {"exit_code": 0}


def test_a_first_write_makes_the_whole_item() -> None:
    assert write.job("test", None, queued()).applied(None) == records.to_item(queued())


def test_a_dropped_slot_is_gone() -> None:
    assert write.drop_slot("test", free_slot()).applied({"slot_id": "x"}) is None


def test_all_conditions_must_hold() -> None:
    made = write.job("test", None, queued(), write.equals("a", 1), write.absent("b"))
    assert made.permitted({"a": 1})
    assert not made.permitted({"a": 1, "b": 2})
    assert not made.permitted({})


def test_a_fence_is_run_and_attempt() -> None:
    assert write.fence(running(attempt=4)) == (write.equals("run_id", "run-1"), write.equals("attempt", 4))
