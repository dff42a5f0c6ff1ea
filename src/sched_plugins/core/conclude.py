"""The end of an attempt: what becomes of its job, and of the slot that held it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sched_plugins.core import limits, names, write
from sched_plugins.core.judge import End, Failed, Invocation, Lost, Succeeded
from sched_plugins.core.record import AttemptEntry, JobRecord, to_text
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import LIVE, SlotState, Status, Verdict
from sched_plugins.core.write import Write


@dataclass(frozen=True, slots=True)
class Conclusion:
    """The records after an attempt's end, and the one transaction that writes both."""

    job: JobRecord
    slot: Slot
    writes: tuple[Write, ...]


def conclude(job: JobRecord, slot: Slot, end: End, now: datetime, answer: Invocation | None = None) -> Conclusion:
    """Decide what follows from the end of the attempt that ``slot`` holds.

    Args:
        job: the live record.
        slot: the slot that holds it.
        end: how the attempt ended.
        now: the present time.
        answer: Systems Manager's answer, if there was one; its output goes into the record.
    """
    ended = _ended_job(job, end, now, answer)
    freed = _freed_slot(job, slot, end, now, answer)
    writes = (
        write.job(
            "conclude.job", job, ended,
            *write.fence(job),
            write.one_of("status", sorted(LIVE)),
            # The decision read the flag: a cancellation that came since must be heard first.
            write.equals("cancel_requested", job.cancel_requested),
        ),
        # The token that is to be completed must still be the one the execution waits for.
        write.slot("conclude.slot", slot, freed, *_held(slot)),
    )  # fmt: skip
    return Conclusion(ended, freed, writes)


def _held(slot: Slot) -> tuple[write.Condition, ...]:
    return (
        write.equals("job_id", slot.job_id),
        write.equals("run_id", slot.run_id),
        write.equals("attempt", slot.attempt),
        write.equals("token", slot.token),
    )


def _ended_job(job: JobRecord, end: End, now: datetime, answer: Invocation | None) -> JobRecord:
    job = job.changed(updated_at=now, **_evidence(job, end, answer))
    if job.cancel_requested:
        return _terminal(job, Status.CANCELLED, "cancelled on request", now)
    match end:
        case Succeeded():
            return _terminal(job, Status.SUCCEEDED, "", now)
        case Lost(reason=reason, unsent=True):
            return _requeued(job.changed(unsent=job.unsent + 1), reason, now, losses=job.losses + 1)
        case Lost(reason=reason):
            if job.losses - job.unsent >= limits.MAX_LOSSES:
                lost = job.changed(losses=job.losses + 1)
                return _terminal(lost, Status.FAILED, f"WorkerLost: {lost.losses} times, last: {reason}", now)
            return _requeued(job, reason, now, losses=job.losses + 1)
        case Failed(reason=reason, final=final):
            if final or job.retries >= job.spec.retry:
                return _terminal(job, Status.FAILED, reason, now)
            return _requeued(job, reason, now, losses=job.losses)


def _evidence(job: JobRecord, end: End, answer: Invocation | None) -> dict[str, Any]:
    """What is known of the attempt's run, in the record's fields."""
    code = None if isinstance(end, Lost) else end.exit_code
    fields: dict[str, Any] = {"exit_code": code}
    if answer is None:
        return fields
    fields |= {
        "command_id": answer.command_id,
        "output": names.tail(answer.stdout, limits.MAX_OUTPUT_TAIL),
        "stdout_uri": answer.stdout_uri or job.stdout_uri,
        "stderr_uri": answer.stderr_uri or job.stderr_uri,
        "metrics": {} if isinstance(end, Lost) else end.metrics,
    }
    return fields


def _entry(job: JobRecord, reason: str, now: datetime) -> AttemptEntry:
    return AttemptEntry(
        attempt=job.attempt,
        status_reason=names.clip(reason, limits.MAX_REASON_BYTES),
        worker_id=job.worker_id,
        command_id=job.command_id,
        started_at=to_text(job.started_at) if job.started_at else "",
        finished_at=to_text(now),
        exit_code=job.exit_code,
        stdout_uri=job.stdout_uri,
    )


def _terminal(job: JobRecord, status: Status, reason: str, now: datetime) -> JobRecord:
    reason = names.clip(reason, limits.MAX_REASON_BYTES)
    ended = job.changed(
        status=status,
        status_reason=reason,
        finished_at=now,
        attempts=job.with_attempt(_entry(job, reason or "succeeded", now)),
    )
    return ended.changed(pending=ended.event_id)


def _requeued(job: JobRecord, reason: str, now: datetime, losses: int) -> JobRecord:
    queued = job.changed(
        status=Status.QUEUED,
        status_reason=names.clip(reason, limits.MAX_REASON_BYTES),
        attempts=job.with_attempt(_entry(job, reason, now)),
        attempt=job.attempt + 1,
        losses=losses,
        worker_id="",
        command_id="",
        queued_at=now,
        started_at=None,
        # Uncharged losses must not leave an older attempt's code standing for a newer one.
        exit_code=None,
    )
    return queued.changed(pending=queued.event_id)


def _freed_slot(job: JobRecord, slot: Slot, end: End, now: datetime, answer: Invocation | None) -> Slot:
    streak = _streak(job, slot, end, answer)
    retire = bool(slot.draining) or len(streak) >= limits.BAD_STREAK or (isinstance(end, Lost) and end.retire)
    if retire:
        return slot.released(SlotState.RETIRING, Verdict.RETIRE, streak, now)
    return slot.released(SlotState.FREE, Verdict.NEXT, streak, now)


def _streak(job: JobRecord, slot: Slot, end: End, answer: Invocation | None) -> tuple[str, ...]:
    """The different jobs in a row that this worker lost, or failed within a second: a sign of a bad machine."""
    if isinstance(end, Lost) and end.unsent:
        return slot.streak
    suspicious = isinstance(end, Lost) or (isinstance(end, Failed) and not end.final and _was_fast(answer))
    if not suspicious or job.cancel_requested:
        return ()
    return (*(known for known in slot.streak if known != job.job_id), job.job_id)[-limits.BAD_STREAK :]


def _was_fast(answer: Invocation | None) -> bool:
    if answer is None or answer.started_at is None or answer.finished_at is None:
        return False
    return (answer.finished_at - answer.started_at).total_seconds() < limits.FAST_FAILURE


def cancel_queued(job: JobRecord, now: datetime) -> tuple[JobRecord, Write]:
    """A QUEUED job ends at once: nothing of it runs, and its message will be recognised as done."""
    ended = job.changed(
        status=Status.CANCELLED,
        status_reason="cancelled on request before it started",
        updated_at=now,
        finished_at=now,
    )
    ended = ended.changed(pending=ended.event_id)
    return ended, write.job("cancel.queued", job, ended, *write.fence(job), write.equals("status", Status.QUEUED))


def request_cancel(job: JobRecord, now: datetime) -> tuple[JobRecord, Write]:
    """A live job is asked to end; it stays held until its command is over."""
    asked = job.changed(cancel_requested=job.cancel_requested or to_text(now), updated_at=now)
    return asked, write.job(
        "cancel.live", job, asked,
        *write.fence(job),
        write.one_of("status", sorted(LIVE)),
        # Its command was accepted since: that is what must be ended.
        write.equals("command_id", job.command_id),
    )  # fmt: skip
