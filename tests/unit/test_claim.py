"""A message meets a free worker."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rule_records import LATER, NOW, QUEUE, WORKER, free_slot, held_slot, queued, round_, running, spec, started

from sched_plugins.core import claim, limits, submission
from sched_plugins.core.claim import Discard, Leave, Reject, Start
from sched_plugins.core.message import JobMessage
from sched_plugins.core.record import JobRecord, from_item, to_item
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState, Status, Verdict
from sched_plugins.core.submission import Outcome, Submission
from sched_plugins.ports import TransactionFailed
from sched_plugins.testing import VirtualClock
from sched_plugins.testing.tables import MemoryTables

OWN, RAW = JobMessage(spec(), "run-1", 1), JobMessage(spec())
ENDED = running(status=Status.SUCCEEDED, finished_at=LATER)
TICKET = "000001.0000003.0000"


@pytest.mark.parametrize(
    ("slot", "events", "verdict"),
    [
        (None, 0, Verdict.RETIRE),
        (free_slot(), 0, None),
        (held_slot(), 0, None),
        (free_slot(ticket=TICKET), 0, None),
        (free_slot(ticket="000001.0000004.0000"), 0, Verdict.STOP),
        (free_slot(execution=2), 0, Verdict.STOP),
        (free_slot(state=SlotState.RETIRING), 0, Verdict.RETIRE),
        (free_slot(draining="Spot"), 0, Verdict.RETIRE),
        (held_slot(draining="Spot"), 0, None),
        (free_slot(), limits.RENEW_AT_EVENTS, Verdict.RENEW),
        (held_slot(), limits.RENEW_AT_EVENTS, None),
    ],
)
def test_who_may_claim(slot: Slot | None, events: int, verdict: Verdict | None) -> None:
    assert claim.turn_away(round_(3, events=events), slot) is verdict


@pytest.mark.parametrize(
    ("message", "record", "expected"),
    [
        (OWN, queued(), Start),
        (OWN, queued(pending=""), Start),
        (OWN, running(), Discard),
        (OWN, ENDED, Discard),
        (OWN, queued(attempt=2), Discard),
        (OWN, queued(run_id="run-2", run_ids=("run-1", "run-2")), Discard),
        (JobMessage(spec(), "run-1", 2), queued(), Reject),
        (OWN, queued(queue="other-job-queue"), Reject),
        (JobMessage(spec(), "nobody's", 1), None, Start),
        (RAW, None, Start),
        (RAW, ENDED, Start),
        (RAW, ENDED.changed(pending="x"), Leave),
        (RAW, running(), Discard),
        (JobMessage(spec(retry=0)), running(), Reject),
        (RAW, queued(run_ids=("message-1", "run-1")), Discard),
        (RAW, ENDED.changed(queue="other-job-queue"), Reject),
    ],
)
def test_what_a_message_comes_to(message: JobMessage, record: JobRecord | None, expected: type) -> None:
    assert isinstance(claim.decide(message, "message-1", record, free_slot(), round_(), NOW), expected)


def test_job_and_slot_point_at_each_other() -> None:
    start = started(number=4)
    assert (start.job.status, start.job.worker_id, start.job.pending) == (Status.STARTING, WORKER, "")
    assert start.slot.holds("job", "run-1", 1)
    assert (start.slot.token, start.slot.ticket) == ("token-4", "000001.0000004.0000")


def test_a_raw_message_gives_its_id_to_the_run() -> None:
    start = claim.decide(RAW, "message-7", ENDED, free_slot(), round_(), NOW)
    assert isinstance(start, Start)
    assert (start.job.run_id, start.job.run_ids, start.job.attempt) == ("message-7", ("run-1", "message-7"), 1)


def test_a_raw_message_for_a_live_job_is_remembered_before_it_goes() -> None:
    decision = claim.decide(RAW, "message-7", running(), free_slot(), round_(), NOW)
    assert isinstance(decision, Discard)
    assert decision.first is not None
    assert decision.first.changes["run_ids"] == ["run-1", "message-7"]


@pytest.mark.parametrize(
    "tag", [QUEUE, f"arn:aws:sqs:eu-west-1:1:{QUEUE}", f"https://sqs.eu-west-1.amazonaws.com/1/{QUEUE}"]
)
def test_a_tag_may_name_its_queue_in_full(tag: str) -> None:
    assert isinstance(claim.decide(OWN, "message-1", queued(), free_slot(queue=tag), round_(), NOW), Start)


def test_the_lease_outlasts_delivery_and_execution() -> None:
    slot = started().slot
    job_takes = limits.DELIVERY_TIMEOUT + 60 + limits.STAGING_ALLOWANCE
    assert slot.lease_until == NOW + timedelta(seconds=job_takes + limits.LEASE_MARGIN)
    assert slot.look_at == slot.start_by == NOW + timedelta(seconds=limits.DELIVERY_TIMEOUT + limits.DELIVERY_MARGIN)


def test_a_claim_clears_the_wake_that_led_to_it() -> None:
    start = started(slot=free_slot(wake=Wake("token-0", Verdict.NEXT)), number=1)
    assert start.slot.wake is None
    assert {"wake", "wake_verdict"} <= set(start.writes[1].removals)


def test_both_records_change_or_neither() -> None:
    tables = MemoryTables(VirtualClock())
    start = started()
    with pytest.raises(TransactionFailed) as caught:
        tables.transact(start.writes)
    assert set(caught.value.failed) == {"claim.job", "claim.slot"}
    assert tables.history == []


def test_taking_over_changes_ticket_and_token_alone() -> None:
    write = claim.take_over(round_(9), held_slot())
    assert dict(write.changes) == {"ticket": "000001.0000009.0000", "token": "token-9"}
    assert write.removals == ()


def test_an_accepted_command_is_written_without_touching_anything_else() -> None:
    write = claim.running(started().job, "command-1", LATER)
    assert set(write.changes) == {"status", "command_id", "updated_at"}


def test_a_look_keeps_since_when_output_is_awaited() -> None:
    write = claim.look_later(held_slot(absent_since=NOW), LATER)
    assert set(write.changes) == {"look_at"}
    assert write.removals == ()


def test_a_look_may_say_since_when_output_is_awaited() -> None:
    assert set(claim.look_later(held_slot(), LATER, LATER).changes) == {"look_at", "absent_since"}


def test_a_settled_slot_is_looked_at_only_when_its_lease_ends() -> None:
    write = claim.look_later(held_slot(), None)
    assert write.removals == ("look_at",)
    assert not write.changes


ELSEWHERE = "arn:aws:sqs:eu-west-1:123456789012:far-queue"


def test_a_job_of_a_queue_elsewhere_keeps_the_queues_address() -> None:
    """Its retry's message goes back to that queue; by its name alone it is not found from this region."""
    raw = claim.decide(RAW, "m-1", None, free_slot(queue=ELSEWHERE), round_(), NOW)
    assert isinstance(raw, Start)
    assert (raw.job.queue, raw.job.address) == ("far-queue", ELSEWHERE)
    assert from_item(to_item(raw.job)).address == ELSEWHERE


@pytest.mark.parametrize("given", [ELSEWHERE, "https://sqs.eu-west-1.amazonaws.com/123456789012/far-queue"])
@pytest.mark.parametrize("tag", [ELSEWHERE, "far-queue"])
def test_a_job_submitted_to_a_queues_address_is_claimed_by_its_workers(given: str, tag: str) -> None:
    record = submission.new_run(Submission(spec(), "run-1", given), None, NOW)
    assert record.address == given
    assert isinstance(claim.decide(OWN, "m-1", record, free_slot(queue=tag), round_(), NOW), Start)
    assert submission.decide(Submission(spec(), "run-2", "far-queue"), record, NOW).outcome is Outcome.EXISTING


def test_a_queues_name_is_all_of_its_address() -> None:
    assert "queue_address" not in to_item(queued())
    assert queued().address == QUEUE
