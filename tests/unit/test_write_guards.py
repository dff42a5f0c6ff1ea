"""Each condition of each conditional write guards something: change just that, and the write changes nothing.

Every row names a write, one field that it is conditional on, a stored item in which only that condition fails, and
what would happen without it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rule_records import LATER, NOW, QUEUE, WORKER, free_slot, held_slot, queued, round_, running, spec, started

from sched_plugins.core import claim, conclude, message, submission, worker, write
from sched_plugins.core import record as records
from sched_plugins.core import slot as slots
from sched_plugins.core.job import JobSpec
from sched_plugins.core.judge import Succeeded
from sched_plugins.core.record import JobRecord, NextRun
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState, Status, Verdict
from sched_plugins.core.submission import Submission
from sched_plugins.core.write import Write
from sched_plugins.ports import ConditionFailed
from sched_plugins.scheduler import dispatch
from sched_plugins.testing import VirtualClock
from sched_plugins.testing.tables import MemoryTables

ENDED = running(status=Status.SUCCEEDED, finished_at=LATER)
TOLD = ENDED.changed(pending="")
TELLING = ENDED.changed(pending=ENDED.event_id)
WAITING = NextRun("upload-2", spec(retry=0))
WAKING = free_slot(wake=Wake("token-0", Verdict.NEXT), ticket="000001.0000000.0000")
RETIRING = free_slot(state=SlotState.RETIRING)


def _again(record: JobRecord, other: JobSpec | None = None, *, keep: bool = False) -> Write:
    request = Submission(other or spec(retry=0), "upload-3" if keep else "run-2", QUEUE, keep)
    decision = submission.decide(request, record, LATER)
    assert decision.write is not None, decision
    return decision.write


@dataclass(frozen=True)
class Guarded:
    """One write, the record or slot it was decided on, and what each of its conditions is for."""

    write: Write
    stored: JobRecord | Slot | None
    guards: Mapping[str, tuple[Mapping[str, Any], str]]
    """By field: what others changed meanwhile, and what the condition prevents."""

    @property
    def item(self) -> dict[str, Any] | None:
        """The stored item."""
        if self.stored is None:
            return None
        return slots.to_item(self.stored) if isinstance(self.stored, Slot) else records.to_item(self.stored)


NEW_RUN = {"run_id": "run-9"}
NEW_ATTEMPT = {"attempt": 9}
FRESH = queued(pending="")
RAW = claim.decide(
    message.JobMessage(spec()), "message-7", None, free_slot(), round_(), NOW
)  # fmt: skip
RAW_AGAIN = claim.decide(message.JobMessage(spec()), "message-7", TOLD, free_slot(), round_(), NOW)
assert isinstance(RAW, claim.Start)
assert isinstance(RAW_AGAIN, claim.Start)
END = conclude.conclude(running(), held_slot(), Succeeded(), LATER)
REJECTION = message.rejection("message-7", "{", QUEUE, "no JSON", NOW, NOW)

GUARDED: tuple[Guarded, ...] = (
    Guarded(_again(TOLD), TOLD, {
        "run_id": (NEW_RUN, "two submitters both begin a new run, and the first one's is lost"),
        "attempt": (NEW_ATTEMPT, "a run that was requeued meanwhile is replaced while it is live"),
        "pending": ({"pending": "event"}, "a new run begins before the end of the last one was told"),
    }),
    Guarded(submission.decide(Submission(spec(), "run-1", QUEUE), None, NOW).write or END.writes[0], None, {
        "job_id": (records.to_item(running()), "a first submission replaces a job that runs already"),
    }),
    Guarded(_again(queued(), spec()), queued(), {
        "run_ids": ({"run_ids": ["run-1", "run-5"]}, "of two submissions recognised at once one is forgotten"),
    }),
    Guarded(_again(running(), keep=True), running(), {
        "run_id": (NEW_RUN, "an upload is kept for a run that is over, and nobody looks at it"),
        "attempt": (NEW_ATTEMPT, "a decision on an old attempt changes a newer one"),
        "status": ({"status": "FAILED"}, "an upload is kept by a run that has ended, and starts never"),
        "next_run": ({"next_run": "upload-9"}, "an older upload replaces a newer one"),
    }),
    Guarded(_again(TELLING, keep=True), TELLING, {
        "run_id": (NEW_RUN, "an upload is kept by a run that was replaced as its end was told"),
        "attempt": (NEW_ATTEMPT, "an upload is kept on a decision about an older attempt"),
        "status": ({"status": "CANCELLED"}, "an upload is kept on a decision about another state"),
        "next_run": ({"next_run": "upload-9"}, "an older upload replaces the one that is about to start"),
        "pending": ({"pending": None}, "the end was told meanwhile: nobody starts the upload that is kept now"),
    }),
    Guarded(submission.settle(TELLING.changed(next_run=WAITING), LATER)[1], TELLING.changed(next_run=WAITING), {
        "run_id": (NEW_RUN, "a slow outbox replaces a newer run by the upload that waited for an older one"),
        "attempt": (NEW_ATTEMPT, "a slow outbox replaces a newer attempt"),
        "pending": ({"pending": None}, "two outboxes both start the upload that waited"),
        "next_run": ({"next_run": "upload-9"}, "a newer upload, kept meanwhile, is dropped"),
    }),
    Guarded(submission.settle(TELLING, LATER)[1], TELLING, {
        "pending": ({"pending": "event"}, "a slow outbox settles the effect of a newer state, which is never sent"),
        "next_run": ({"next_run": "upload-9"}, "an upload that was kept meanwhile is never started"),
    }),
    Guarded(submission.send_again(FRESH, LATER)[1], FRESH, {
        "run_id": (NEW_RUN, "the message of an old run is sent for a newer one"),
        "attempt": (NEW_ATTEMPT, "the message of an old attempt is sent for a newer one"),
        "status": ({"status": "RUNNING"}, "a running job is said to be due again"),
    }),
    Guarded(started().writes[0], FRESH, {
        "run_id": (NEW_RUN, "the message of an old run starts, and replaces, a newer one"),
        "attempt": (NEW_ATTEMPT, "a repeated message starts an attempt that was replaced"),
        "status": ({"status": "STARTING"}, "two workers that got the same message both start it"),
    }),
    Guarded(RAW.writes[0], None, {
        "job_id": (records.to_item(running()), "a raw message replaces a job that runs already"),
    }),
    Guarded(RAW_AGAIN.writes[0], TOLD, {
        "run_id": (NEW_RUN, "a raw message replaces a run that was submitted meanwhile"),
        "attempt": (NEW_ATTEMPT, "a raw message replaces a newer attempt"),
        "pending": ({"pending": "event"}, "a raw message starts a new run before the end of the last was told"),
    }),
    Guarded(started().writes[1], free_slot(), {
        "state": ({"state": "RETIRING"}, "a worker that is being terminated takes a job"),
        "execution": ({"execution": 2}, "two executions of one worker both take jobs for it"),
        "ticket": ({"ticket": "000001.0000005.0000"}, "an invocation that was given up takes a second job"),
        "draining": ({"draining": "Spot"}, "a worker that is about to be interrupted takes a job"),
    }),
    Guarded(claim.take_over(round_(1), held_slot()), held_slot(), {
        "state": ({"state": "FREE"}, "a worker waits for the end of a job that has ended"),
        "job_id": ({"job_id": "other"}, "a token is left for another job than the one that was seen"),
        "ticket": ({"ticket": "000001.0000005.0000"}, "a token nobody waits for replaces the one somebody waits for"),
    }),
    Guarded(claim.running(started().job, "command-1", LATER), started().job, {
        "run_id": (NEW_RUN, "the command of an old run is taken for that of a newer one"),
        "attempt": (NEW_ATTEMPT, "the command of an old attempt is taken for that of a newer one"),
        "status": ({"status": "SUCCEEDED"}, "a job that ended before its sender knew its command runs again for ever"),
        "cancel_requested": ({"cancel_requested": "now"}, "a cancellation that came meanwhile is never carried out"),
    }),
    Guarded(claim.look_later(held_slot(), LATER), held_slot(), {
        "job_id": ({"job_id": "other"}, "a look at one job is remembered for another"),
        "run_id": (NEW_RUN, "since when output is awaited is remembered for a newer run"),
        "attempt": (NEW_ATTEMPT, "since when output is awaited is remembered for a newer attempt"),
    }),
    Guarded(END.writes[0], running(), {
        "run_id": (NEW_RUN, "a zombie ends a newer run"),
        "attempt": (NEW_ATTEMPT, "a zombie ends a newer attempt"),
        "status": ({"status": "FAILED"}, "an attempt ends twice, and the first end is replaced"),
        "cancel_requested": ({"cancel_requested": "now"}, "a job that was to be cancelled is requeued"),
    }),
    Guarded(END.writes[1], held_slot(), {
        "job_id": ({"job_id": "other"}, "a slot is freed that holds another job"),
        "run_id": (NEW_RUN, "a slot is freed that holds a newer run"),
        "attempt": (NEW_ATTEMPT, "a slot is freed that holds a newer attempt"),
        "token": ({"token": "token-9"}, "a dead token is completed and the waiting execution never woken"),
    }),
    Guarded(conclude.cancel_queued(FRESH, LATER)[1], FRESH, {
        "run_id": (NEW_RUN, "a request to cancel one run cancels the next"),
        "attempt": (NEW_ATTEMPT, "a decision on an old attempt ends a newer one"),
        "status": ({"status": "RUNNING"}, "a running job is called cancelled while its command runs"),
    }),
    Guarded(conclude.request_cancel(running(), LATER)[1], running(), {
        "run_id": (NEW_RUN, "a request to cancel one run cancels the next"),
        "attempt": (NEW_ATTEMPT, "a request that was decided on an old attempt cancels a newer one"),
        "status": ({"status": "SUCCEEDED"}, "a job that has ended is marked as to be cancelled"),
        "command_id": ({"command_id": "command-9"}, "a command that was just accepted runs on until the next sweep"),
    }),
    Guarded(write.job("reject", None, REJECTION, write.absent("job_id")), None, {
        "job_id": (records.to_item(REJECTION.changed(pending="")), "a repeated bad message is told of twice"),
    }),
    Guarded(worker.new_slot(WORKER, QUEUE, NOW)[1], None, {
        "slot_id": (slots.to_item(held_slot()), "a repeated start event frees a slot that holds a job"),
    }),
    Guarded(worker.next_execution(WAKING, LATER)[1], WAKING, {
        "execution": ({"execution": 2}, "an execution number is given twice, and a worker has no execution"),
        "state": ({"state": "RETIRING"}, "a worker that is being terminated gets a new execution"),
    }),
    Guarded(worker.retire(WAKING, "000001.0000003.0000")[1], WAKING, {
        "state": ({"state": "HELD"}, "a worker is terminated under the job that it has just taken"),
        "execution": ({"execution": 2}, "an execution that was replaced ends the worker of its successor"),
        "ticket": ({"ticket": "000001.0000004.0000"}, "an old invocation ends a worker that a newer one gives work"),
    }),
    Guarded(worker.asked(WAKING, LATER) or END.writes[1], WAKING, {
        "execution": ({"execution": 2}, "a sign of an older execution hides that the newer one has died"),
    }),
    Guarded(worker.missing(WAKING, LATER), WAKING, {
        "worker_id": ({"worker_id": None}, "a slot that was dropped comes back as a stump"),
        "missing_since": ({"missing_since": "2026"}, "an older look makes a worker seem to be missing for shorter"),
    }),
    Guarded(worker.drain(WAKING, "Spot"), WAKING, {
        "worker_id": ({"worker_id": None}, "a slot that was dropped comes back as a stump"),
    }),
    Guarded(worker.woken(WAKING, WAKING.wake or Wake("", Verdict.NEXT)), WAKING, {
        "wake": ({"wake": "token-1"}, "the wake of the next job is removed, and its execution waits for ever"),
    }),
    Guarded(worker.drop(RETIRING), RETIRING, {
        "state": ({"state": "HELD"}, "the slot of a live job is dropped, and nobody looks for it again"),
        "wake": ({"wake": "token-1"}, "an execution that was to be woken waits for ever"),
        "job_id": ({"job_id": "job"}, "a slot is dropped with the job that it holds"),
    }),
)  # fmt: skip

ROWS = [(one, field) for one in GUARDED for field in one.guards]


def _row_name(row: object) -> str:
    if isinstance(row, Guarded):
        return row.write.name
    return str(row)


def _tables(one: Guarded, changes: Mapping[str, Any]) -> MemoryTables:
    """Tables that hold the item with these changes; None stands for a field that is gone."""
    item = dict(one.item or {}) | dict(changes)
    item = {field: value for field, value in item.items() if value is not None}
    tables = MemoryTables(VirtualClock())
    if item:
        tables.write(Write("stored", one.write.table, one.write.key, item, (), ()))
    return tables


@pytest.mark.parametrize(("one", "field"), ROWS, ids=[f"{row.write.name}:{f}: {row.guards[f][1]}" for row, f in ROWS])
def test_without_this_condition(one: Guarded, field: str) -> None:
    changes, harm = one.guards[field]
    tables = _tables(one, changes)
    before = tables.item(one.write.table, one.write.key)
    with pytest.raises(ConditionFailed):
        tables.write(one.write)
    assert tables.item(one.write.table, one.write.key) == before, harm


@pytest.mark.parametrize("one", GUARDED, ids=_row_name)
def test_a_write_whose_conditions_hold_is_carried_out(one: Guarded) -> None:
    tables = _tables(one, {})
    tables.write(one.write)
    assert len(tables.history) == (1 if one.item is None else 2)


@pytest.mark.parametrize("one", GUARDED, ids=_row_name)
def test_every_condition_has_its_row(one: Guarded) -> None:
    assert sorted(one.guards) == sorted(condition.field for condition in one.write.conditions)


@pytest.mark.parametrize(("one", "field"), ROWS, ids=[f"{row.write.name}:{f}" for row, f in ROWS])
def test_a_row_breaks_one_condition_only(one: Guarded, field: str) -> None:
    item = _tables(one, one.guards[field][0]).item(one.write.table, one.write.key)
    assert [condition.field for condition in one.write.conditions if not condition.holds(item)] == [field]


def test_every_conditional_write_is_here() -> None:
    sources = [*Path(write.__file__).parent.glob("*.py"), *Path(dispatch.__file__).parent.glob("*.py")]
    pattern = re.compile(r'write\.(?:job|slot|drop_slot)\(\s*"([a-z.-]+)"')
    written = {name for source in sources for name in pattern.findall(source.read_text())}
    assert written == {one.write.name for one in GUARDED}
