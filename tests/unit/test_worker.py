"""The life of a worker's slot, and how many workers to want."""

from __future__ import annotations

import pytest
from rule_records import LATER, NOW, QUEUE, WORKER, free_slot, held_slot

from sched_plugins.core import worker
from sched_plugins.core.slot import Wake, from_item, to_item
from sched_plugins.core.state import SlotState, Verdict


def test_a_new_slot_is_free_and_waits_for_its_first_execution() -> None:
    slot, write = worker.new_slot(WORKER, QUEUE, NOW)
    assert (slot.slot_id, slot.state, slot.execution, slot.ticket) == (f"{WORKER}-0", SlotState.FREE, 1, "")
    assert write.applied(None) == to_item(slot)


def test_the_next_execution_changes_its_number_alone() -> None:
    slot, write = worker.next_execution(held_slot(), LATER)
    assert (slot.execution, slot.execution_at, slot.job_id) == (2, LATER, "job")
    assert set(write.changes) == {"execution", "execution_at"}


def test_an_execution_that_retires_its_worker_was_woken() -> None:
    waking = free_slot(wake=Wake("token-1", Verdict.NEXT))
    assert worker.retire(waking, "000001.9999999.9999")[0].wake is None
    assert worker.retire(waking, worker.LATEST)[0].wake == waking.wake


def test_draining_keeps_a_short_reason() -> None:
    assert len(worker.drain(held_slot(), "r" * 1_000).changes["draining"]) == 200


@pytest.mark.parametrize(
    ("maximum", "busy", "waiting", "desired", "wanted"),
    [
        (8, 0, 0, 0, 0), (8, 0, 3, 0, 3), (8, 2, 3, 2, 5), (8, 5, 200, 5, 8), (8, 0, 0, 4, 4), (0, 0, 5, 0, 0),
        (8, 1, 1, 5, 5), (2, 3, 3, 3, 3),
    ],
)  # fmt: skip
def test_workers_wanted(maximum: int, busy: int, waiting: int, desired: int, wanted: int) -> None:
    assert worker.wanted(maximum, busy, waiting, desired) == wanted


def test_a_slot_survives_its_item() -> None:
    slot = held_slot(
        wake=Wake("token-1", Verdict.RETIRE), draining="Spot", streak=("a", "b"), absent_since=LATER
    )  # fmt: skip
    assert from_item(to_item(slot)) == slot
    assert from_item(to_item(free_slot())) == free_slot()
