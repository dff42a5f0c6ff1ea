"""What becomes of a submission, given the record as it was read."""

from __future__ import annotations

import pytest
from rule_records import LATER, QUEUE, queued, running, spec

from sched_plugins.core import submission
from sched_plugins.core.record import JobRecord, NextRun
from sched_plugins.core.state import Status
from sched_plugins.core.submission import Outcome, Submission

ENDED = running(status=Status.FAILED, finished_at=LATER, exit_code=3, attempt=3, losses=1)
TELLING = ENDED.changed(pending=ENDED.event_id)
SAME, OTHER = Submission(spec(), "run-2", QUEUE), Submission(spec(retry=0), "run-2", QUEUE)
UPLOAD = Submission(spec(retry=0), submission.upload_run_id("0B"), QUEUE, keep=True)


@pytest.mark.parametrize(
    ("request_", "record", "outcome", "writes"),
    [
        (SAME, None, Outcome.ACCEPTED, "submit.first"),
        (Submission(spec(), "run-1", QUEUE), running(), Outcome.DUPLICATE, None),
        (Submission(spec(retry=0), "run-1", QUEUE), ENDED, Outcome.DUPLICATE, None),
        (SAME, queued(), Outcome.EXISTING, "submit.absorb"),
        (SAME, running(), Outcome.EXISTING, "submit.absorb"),
        (OTHER, queued(), Outcome.CONFLICT, None),
        (OTHER, running(), Outcome.CONFLICT, None),
        (OTHER, TELLING, Outcome.BUSY, None),
        (SAME, TELLING, Outcome.BUSY, None),
        (OTHER, ENDED, Outcome.ACCEPTED, "submit.again"),
        (Submission(spec(), "run-2", "other-job-queue"), ENDED, Outcome.CONFLICT, None),
        (UPLOAD, running(), Outcome.KEPT, "submit.keep"),
        (UPLOAD, TELLING, Outcome.KEPT, "submit.keep"),
        (UPLOAD, ENDED, Outcome.ACCEPTED, "submit.again"),
        (UPLOAD, running(run_ids=(submission.upload_run_id("0C"),)), Outcome.STALE, None),
        (UPLOAD, running(next_run=NextRun(submission.upload_run_id("0C"), spec())), Outcome.STALE, None),
        (UPLOAD, running(next_run=NextRun(submission.upload_run_id("0A"), spec())), Outcome.KEPT, "submit.keep"),
        (UPLOAD, running(next_run=NextRun(submission.upload_run_id("0B"), spec())), Outcome.DUPLICATE, None),
    ],
)
def test_the_outcome(request_: Submission, record: JobRecord | None, outcome: Outcome, writes: str | None) -> None:
    decision = submission.decide(request_, record, LATER)
    assert decision.outcome is outcome
    assert (decision.write.name if decision.write else None) == writes
    assert bool(decision.reason) == (outcome in (Outcome.CONFLICT, Outcome.BUSY))


def test_a_first_run_begins_in_the_queue_with_its_message_pending() -> None:
    record = submission.decide(SAME, None, LATER).record
    assert record is not None
    assert (record.status, record.attempt, record.run_ids) == (Status.QUEUED, 1, ("run-2",))
    assert record.pending == record.event_id


def test_a_new_run_keeps_nothing_of_the_last_but_its_run_ids() -> None:
    record = submission.decide(OTHER, ENDED, LATER).record
    assert record is not None
    assert (record.attempt, record.losses, record.exit_code, record.finished_at, record.attempts) == (
        1,
        0,
        None,
        None,
        (),
    )
    assert record.run_ids == ("run-1", "run-2")


def test_what_a_new_run_lacks_is_removed_from_the_item() -> None:
    write = submission.decide(OTHER, ENDED, LATER).write
    assert write is not None
    assert {"exit_code", "finished_at", "worker_id", "command_id"} <= set(write.removals)


def test_a_live_job_keeps_its_run_when_another_submission_is_absorbed() -> None:
    record = submission.decide(SAME, running(), LATER).record
    assert record is not None
    assert (record.run_id, record.run_ids) == ("run-1", ("run-1", "run-2"))


def test_a_conflict_says_what_to_do() -> None:
    assert "choose another job id" in submission.decide(OTHER, running(), LATER).reason


def test_uploads_sort_as_their_sequencers_do() -> None:
    # A shorter sequencer is padded on the right with zeros; the digits are hexadecimal in either case.
    order = ["00", "0055AED6DCD90281E5", "0055aed6dcd90281e6", "0055AED6DCD90281E61", "01"]
    runs = [submission.upload_run_id(sequencer) for sequencer in order]
    assert runs == sorted(runs)


def test_settling_removes_what_was_pending_and_nothing_else() -> None:
    settled, write = submission.settle(TELLING, LATER)
    assert settled == TELLING.changed(pending="")
    assert (dict(write.changes), set(write.removals)) == ({}, {"pending", "pending_at", "pending_shard"})


def test_settling_an_end_starts_the_upload_that_waited() -> None:
    waiting = TELLING.changed(next_run=NextRun("upload-2", spec(retry=0)))
    fresh, write = submission.settle(waiting, LATER)
    assert (fresh.run_id, fresh.status, fresh.next_run, fresh.spec) == ("upload-2", Status.QUEUED, None, spec(retry=0))
    assert {"next_run", "next_spec"} <= set(write.removals)


def test_settling_a_queued_job_leaves_the_upload_waiting() -> None:
    waiting = queued(next_run=NextRun("upload-2", spec(retry=0)))
    settled, _ = submission.settle(waiting, LATER)
    assert settled == waiting.changed(pending="")


def test_a_stale_job_is_due_again_with_the_same_event() -> None:
    due, write = submission.send_again(queued(pending=""), LATER)
    assert (due.pending, due.queued_at, due.attempt) == (queued().event_id, LATER, 1)
    assert write.changes["state_at"] > "2026-03-01T12:00"
