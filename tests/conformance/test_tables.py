"""What every backend's tables must do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from backends import Backend

from sched_plugins.core import claim, submission, worker, write
from sched_plugins.core.job import parse_spec
from sched_plugins.core.message import JobMessage
from sched_plugins.core.record import AttemptEntry, JobRecord, NextRun
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import SlotState, Status
from sched_plugins.core.submission import Submission
from sched_plugins.core.write import Condition, Table, Write
from sched_plugins.ports import ConditionFailed, TransactionFailed, Unreadable

NOW = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
NEW = count(1)


def new_job(**changes: Any) -> JobRecord:
    """A job just submitted, under an id of its own."""
    spec = parse_spec({"job_id": f"job-{next(NEW)}", "retry": 2, "ssm_document": "AWS-RunShellScript",
                       "commands": ["true"]})  # fmt: skip
    return submission.new_run(Submission(spec, "run-1", "conform-job-queue"), None, NOW).changed(**changes)


def new_slot(queue: str = "conform-job-queue") -> Slot:
    """The slot of a new worker."""
    return worker.new_slot(f"i-{next(NEW):017x}", queue, NOW)[0]


def store(backend: Backend, *things: JobRecord | Slot) -> None:
    """Write them as they are."""
    for thing in things:
        made = write.slot("store", None, thing) if isinstance(thing, Slot) else write.job("store", None, thing)
        backend.world.tables.write(made)


def test_what_was_never_written_is_none(backend: Backend) -> None:
    assert backend.world.tables.job("nobody") is None
    assert backend.world.tables.slot("nobody-0") is None
    assert backend.world.tables.jobs(["nobody"]) == {}


def test_a_record_is_read_as_it_was_written(backend: Backend) -> None:
    job = new_job(
        attempt=3, losses=1, exit_code=0, output="é\n" * 10, metrics={"cells": 10, "drag": "5.57"}, finished_at=LATER,
        attempts=(AttemptEntry(1, "exit code 3", exit_code=3), AttemptEntry(2, "lost")), status=Status.SUCCEEDED,
        next_run=NextRun("upload-2", new_job().spec), cancel_requested="now",
    )  # fmt: skip
    store(backend, job)
    assert backend.world.tables.job(job.job_id) == job


def test_a_slot_is_read_as_it_was_written(backend: Backend) -> None:
    slot = new_slot()
    store(backend, slot)
    assert backend.world.tables.slot(slot.slot_id) == slot


def test_records_are_read_many_at_a_time(backend: Backend) -> None:
    jobs = [new_job() for _ in range(120)]
    assert list(backend.world.tables.write_each([write.job("store", None, job) for job in jobs])) == [None] * 120
    found = backend.world.tables.jobs([job.job_id for job in jobs] + ["nobody"])
    assert found == {job.job_id: job for job in jobs}


CONDITIONS: list[tuple[Condition, bool]] = [
    (write.equals("run_id", "run-1"), True),
    (write.equals("run_id", "run-2"), False),
    (write.equals("attempt", 1), True),
    (write.equals("attempt", 2), False),
    (write.equals("run_ids", ["run-1"]), True),
    (write.equals("run_ids", ["run-1", "run-2"]), False),
    (write.equals("cancel_requested", ""), True),
    (write.equals("pending", ""), False),
    (write.absent("next_run"), True),
    (write.absent("job_id"), False),
    (write.one_of("status", ["QUEUED", "RUNNING"]), True),
    (write.one_of("status", ["RUNNING"]), False),
    (write.at_most("updated_at", "2026-01-05T08:00:00.000Z"), True),
    (write.at_most("updated_at", "2026-01-05T07:59:59.999Z"), False),
    (write.at_most("finished_at", "2026"), True),
]


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS, ids=lambda one: str(one).removeprefix("Condition"))
def test_a_write_needs_its_condition(backend: Backend, condition: Condition, holds: bool) -> None:
    job = new_job()
    store(backend, job)
    changed = job.changed(status_reason="why")
    made = write.job("test", job, changed, condition)
    if holds:
        backend.world.tables.write(made)
    else:
        with pytest.raises(ConditionFailed):
            backend.world.tables.write(made)
    assert backend.world.tables.job(job.job_id) == (changed if holds else job)


def test_a_first_write_is_refused_to_the_second(backend: Backend) -> None:
    job = new_job()
    made = submission.decide(Submission(job.spec, "run-1", job.queue), None, NOW).write
    assert made is not None
    backend.world.tables.write(made)
    with pytest.raises(ConditionFailed):
        backend.world.tables.write(made)


def test_a_write_leaves_alone_what_its_decision_left_alone(backend: Backend) -> None:
    job = new_job()
    store(backend, job)
    backend.world.tables.write(write.job("one", job, job.changed(cancel_requested="now")))
    backend.world.tables.write(write.job("two", job, job.changed(pending="")))
    assert backend.world.tables.job(job.job_id) == job.changed(cancel_requested="now", pending="")


def test_independent_writes_have_their_own_outcomes(backend: Backend) -> None:
    old, new = new_job(), new_job()
    store(backend, old)
    writes = [write.job("test", None, job, write.absent("job_id")) for job in (old, new)]
    first, second = backend.world.tables.write_each(writes)
    assert isinstance(first, ConditionFailed)
    assert second is None
    assert backend.world.tables.job(new.job_id) == new


def test_a_slot_is_dropped_under_its_conditions(backend: Backend) -> None:
    slot = new_slot()
    store(backend, slot)
    with pytest.raises(ConditionFailed):
        backend.world.tables.write(worker.drop(slot))
    retiring, made = worker.retire(slot, worker.LATEST)
    backend.world.tables.write(made)
    backend.world.tables.write(worker.drop(retiring))
    assert backend.world.tables.slot(slot.slot_id) is None


def claimed(job: JobRecord, slot: Slot) -> claim.Start:
    """The decision to start that job on that slot."""
    decision = claim.decide(
        JobMessage(job.spec, job.run_id, 1), "message", job, slot, claim.Round(slot.slot_id, "token", 1), NOW
    )
    assert isinstance(decision, claim.Start)
    return decision


def test_a_transaction_changes_both(backend: Backend) -> None:
    job, slot = new_job(), new_slot()
    store(backend, job, slot)
    start = claimed(job, slot)
    backend.world.tables.transact(start.writes)
    assert backend.world.tables.job(job.job_id) == start.job
    assert backend.world.tables.slot(slot.slot_id) == start.slot


def test_a_transaction_changes_neither_and_says_whose_condition_failed(backend: Backend) -> None:
    job, slot, other = new_job(), new_slot(), new_slot()
    store(backend, job, slot, other)
    backend.world.tables.transact(claimed(job, slot).writes)
    with pytest.raises(TransactionFailed) as caught:
        backend.world.tables.transact(claimed(job, other).writes)
    assert caught.value.failed == ("claim.job",)
    assert backend.world.tables.slot(other.slot_id) == other


def test_listings_hold_what_is_old_enough(backend: Backend) -> None:
    due, settled, live = new_job(), new_job(pending=""), new_job(pending="", status=Status.RUNNING, started_at=NOW)
    late = new_job(updated_at=LATER, queued_at=LATER)
    store(backend, due, settled, live, late)
    backend.wait(10)
    mine = {job.job_id for job in (due, settled, live, late)}
    before = NOW + timedelta(seconds=1)
    pending = {job.job_id: job for job in backend.world.tables.pending(before) if job.job_id in mine}
    queued = {job.job_id: job for job in backend.world.tables.queued(before) if job.job_id in mine}
    assert pending == {due.job_id: due}
    assert queued == {due.job_id: due, settled.job_id: settled}
    assert not [job for job in backend.world.tables.queued(NOW) if job.job_id in mine]


def test_slots_are_listed_and_counted_by_queue(backend: Backend) -> None:
    queue = f"counted-{next(NEW)}-job-queue"
    free, other, retiring = new_slot(queue), new_slot("other-job-queue"), new_slot(queue)
    store(backend, free, other, retiring.changed(state=SlotState.RETIRING))
    backend.wait(10)
    assert {free.slot_id, other.slot_id, retiring.slot_id} <= {slot.slot_id for slot in backend.world.tables.slots()}
    counts = backend.world.tables.slots_of(queue)
    assert {state: number for state, number in counts.items() if number} == {SlotState.FREE: 1, SlotState.RETIRING: 1}


def test_what_cannot_be_read_stands_among_the_others_as_that(backend: Backend) -> None:
    tables, queue = backend.world.tables, f"odd-{next(NEW)}-job-queue"
    good, odd, slot, nap = new_job(), new_job(), new_slot(queue), new_slot(queue)
    store(backend, good, odd, slot, nap)
    spoilt = {Table.JOBS: (odd.job_id, {"status": "PAUSED"}), Table.SLOTS: (nap.slot_id, {"state": "NAPPING"})}
    for table, (key, changes) in spoilt.items():
        tables.write(Write("newer", table, key, changes, (), ()))
    backend.wait(10)
    try:
        found = tables.jobs([good.job_id, odd.job_id])
        assert found[good.job_id] == good
        assert isinstance(found[odd.job_id], Unreadable)
        for listing in (tables.pending, tables.queued):
            listed = list(listing(NOW + timedelta(seconds=1)))
            assert good in listed
            assert [one.key for one in listed if isinstance(one, Unreadable)] == [odd.job_id]
        assert slot in (slots := list(tables.slots()))
        assert [one.key for one in slots if isinstance(one, Unreadable)] == [nap.slot_id]
        assert tables.slots_of(queue) == {SlotState.FREE: 1}
        with pytest.raises(Unreadable, match=odd.job_id):
            tables.job(odd.job_id)
        with pytest.raises(Unreadable, match=nap.slot_id):
            tables.slot(nap.slot_id)
    finally:
        for table, (key, _) in spoilt.items():
            tables.write(Write("gone", table, key, {}, (), (), delete=True))
