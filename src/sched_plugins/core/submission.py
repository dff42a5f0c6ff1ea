"""A submission: accepted, recognised, kept for later, or in conflict."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sched_plugins.core import limits, names, write
from sched_plugins.core.job import JobSpec
from sched_plugins.core.record import JobRecord, NextRun
from sched_plugins.core.state import Status
from sched_plugins.core.write import Write


class Outcome(StrEnum):
    """What a submission came to."""

    ACCEPTED = "accepted"
    """A new run was queued."""
    EXISTING = "existing"
    """The job is live with the same spec; that run serves."""
    DUPLICATE = "duplicate"
    """This run id was submitted before."""
    KEPT = "kept"
    """A live run goes on; this newer upload starts when it has ended."""
    STALE = "stale"
    """A newer upload of the same object is already known."""
    CONFLICT = "conflict"
    """The job is live with another spec, or belongs to another queue."""
    BUSY = "busy"
    """The end of the last run is still being published."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One request to run a job."""

    spec: JobSpec
    run_id: str
    queue: str
    """Name, ARN or URL of the job queue."""
    keep: bool = False
    """During a live run, keep this one for later instead of refusing it: so do uploads."""
    raw: bool = False
    """It came by plain SQS, unchecked by a submit function."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to answer, and what to write first (None: nothing)."""

    outcome: Outcome
    record: JobRecord | None
    write: Write | None = None
    reason: str = ""


UPLOAD_RUN = "upload-"


def upload_run_id(sequencer: str) -> str:
    """The run id of an upload, which sorts as the events of one object do.

    Source: Amazon S3, "Event message structure": right-pad the shorter sequencer with zeros, then compare
    as text.
    """
    return f"{UPLOAD_RUN}{sequencer.upper().ljust(32, '0')}"


def new_run(submission: Submission, before: JobRecord | None, now: datetime) -> JobRecord:
    """The record of a run that begins in the queue; what the job knew of earlier run ids stays."""
    record = JobRecord(
        spec=submission.spec,
        run_id=submission.run_id,
        run_ids=before.with_run_id(submission.run_id) if before else (submission.run_id,),
        status=Status.QUEUED,
        queue=names.queue_name(submission.queue),
        queue_address=names.address(submission.queue),
        submitted_at=now,
        updated_at=now,
        queued_at=now,
        raw=submission.raw,
    )
    return record.changed(pending=record.event_id)


def decide(submission: Submission, record: JobRecord | None, now: datetime) -> Decision:
    """What a submission comes to, given the record as it was read."""
    if record is None:
        fresh = new_run(submission, None, now)
        return Decision(Outcome.ACCEPTED, fresh, write.job("submit.first", None, fresh, write.absent("job_id")))
    queue = names.queue_name(submission.queue)
    if record.queue != queue:
        reason = f"job {record.job_id!r} belongs to queue {record.queue!r}, not {queue!r}; choose another job id"
        return Decision(Outcome.CONFLICT, record, reason=reason)
    if record.knows(submission.run_id):
        return Decision(Outcome.DUPLICATE, record)
    if _is_stale(submission, record):
        return Decision(Outcome.STALE, record)
    if record.is_terminal and not record.pending:
        return Decision(Outcome.ACCEPTED, *_again(submission, record, now))
    if submission.keep:
        return _keep(submission, record)
    if record.is_terminal:
        return Decision(Outcome.BUSY, record, reason=f"the end of run {record.run_id!r} is still being published")
    if record.spec == submission.spec:
        return _absorb(submission, record)
    reason = (
        f"job {record.job_id!r} is {record.status} with another spec; wait for its end, cancel it, or choose "
        "another job id"
    )
    return Decision(Outcome.CONFLICT, record, reason=reason)


def _is_stale(submission: Submission, record: JobRecord) -> bool:
    if not submission.run_id.startswith(UPLOAD_RUN):
        return False
    known = [*record.run_ids, record.next_run.run_id if record.next_run else ""]
    return any(run_id > submission.run_id for run_id in known if run_id.startswith(UPLOAD_RUN))


def _again(submission: Submission, record: JobRecord, now: datetime) -> tuple[JobRecord, Write]:
    fresh = new_run(submission, record, now)
    return fresh, write.job("submit.again", record, fresh, *write.fence(record), write.absent("pending"))


def _absorb(submission: Submission, record: JobRecord) -> Decision:
    """The live run serves; its record remembers this run id too, so that a later repeat starts nothing."""
    newest = (*record.run_ids, submission.run_id)[-limits.KEPT_RUN_IDS :]
    if record.run_id not in newest:
        newest = (record.run_id, *newest[1:])
    known = record.changed(run_ids=newest)
    unchanged = write.equals("run_ids", list(record.run_ids))
    return Decision(Outcome.EXISTING, known, write.job("submit.absorb", record, known, unchanged))


def _keep(submission: Submission, record: JobRecord) -> Decision:
    kept = record.changed(next_run=NextRun(submission.run_id, submission.spec))
    guards: tuple[write.Condition, ...] = (
        *write.fence(record),
        write.equals("status", record.status),
        write.equals("next_run", record.next_run.run_id if record.next_run else ""),
    )
    if record.is_terminal:
        # Once its end is published nobody looks at next_run any more.
        guards = (*guards, write.equals("pending", record.pending))
    return Decision(Outcome.KEPT, kept, write.job("submit.keep", record, kept, *guards))


def settle(record: JobRecord, now: datetime) -> tuple[JobRecord, Write]:
    """The record after the outbox has sent its effect: nothing pending, or the run that waited begins."""
    if record.is_terminal and record.next_run is not None:
        waiting = Submission(record.next_run.spec, record.next_run.run_id, record.address)
        fresh = new_run(waiting, record, now)
        return fresh, write.job(
            "settle.next", record, fresh,
            *write.fence(record),
            write.equals("pending", record.pending),
            write.equals("next_run", record.next_run.run_id),
        )  # fmt: skip
    settled = record.changed(pending="")
    guards = [write.equals("pending", record.pending)]
    if record.is_terminal:
        guards.append(write.absent("next_run"))
    return settled, write.job("settle.done", record, settled, *guards)


def send_again(record: JobRecord, now: datetime) -> tuple[JobRecord, Write]:
    """A job QUEUED for so long that its message may have left the queue: its effect is due again."""
    due = record.changed(queued_at=now, updated_at=now, pending=record.event_id)
    return due, write.job("requeue.stale", record, due, *write.fence(record), write.equals("status", Status.QUEUED))
