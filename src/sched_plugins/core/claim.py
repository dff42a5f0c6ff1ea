"""A message meets a free worker: who claims what, and what becomes of messages that start nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sched_plugins.core import limits, names, submission, write
from sched_plugins.core.job import JobSpec
from sched_plugins.core.message import JobMessage
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import SlotState, Status, Verdict
from sched_plugins.core.submission import Outcome, Submission
from sched_plugins.core.write import Write


@dataclass(frozen=True, slots=True)
class Round:
    """One NextJob invocation of a worker's execution."""

    slot_id: str
    token: str
    execution: int
    round: int = 0
    retry: int = 0
    events: int = 0
    """History events counted so far by the execution, an upper bound."""

    @property
    def ticket(self) -> str:
        """Grows from one invocation of a worker to the next."""
        return names.ticket(self.execution, self.round, self.retry)


@dataclass(frozen=True, slots=True)
class Start:
    """The message starts its job here: both records change in one transaction."""

    job: JobRecord
    slot: Slot
    writes: tuple[Write, Write]


@dataclass(frozen=True, slots=True)
class Discard:
    """The message is proven to be a duplicate, or of a run that has ended: delete it."""

    first: Write | None = None
    """A write that must succeed before the message may go."""


@dataclass(frozen=True, slots=True)
class Reject:
    """The message is no valid job here: store the reason, then delete it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing may be concluded yet: let the message come again."""

    reason: str


Claim = Start | Discard | Reject | Leave


def turn_away(round_: Round, slot: Slot | None) -> Verdict | None:
    """The verdict for an invocation that may not claim, whatever the queue holds; None if it may."""
    if slot is None:
        return Verdict.RETIRE
    if slot.ticket > round_.ticket or slot.execution > round_.execution:
        return Verdict.STOP
    if slot.state is SlotState.RETIRING or (slot.draining and slot.state is SlotState.FREE):
        return Verdict.RETIRE
    if slot.state is SlotState.FREE and round_.events >= limits.RENEW_AT_EVENTS:
        return Verdict.RENEW
    return None


def take_over(round_: Round, slot: Slot) -> Write:
    """A claim on a held slot replaces only ticket and token: the running job's end will complete this one."""
    return write.slot(
        "claim.take-over", slot, slot.changed(ticket=round_.ticket, token=round_.token),
        write.equals("state", SlotState.HELD),
        write.equals("job_id", slot.job_id),
        write.at_most("ticket", round_.ticket),
    )  # fmt: skip


def decide(
    message: JobMessage, message_id: str, record: JobRecord | None, slot: Slot, round_: Round, now: datetime
) -> Claim:
    """What a received message comes to, given its job's record as it was read."""
    ours = bool(message.run_id) and record is not None and record.knows(message.run_id)
    if ours and record is not None:
        return _own_message(message, record, slot, round_, now)
    return _raw_message(message.spec, message_id, record, slot, round_, now)


def _own_message(message: JobMessage, record: JobRecord, slot: Slot, round_: Round, now: datetime) -> Claim:
    """A message that the outbox sent."""
    if record.queue != names.queue_name(slot.queue):
        return Reject(_wrong_queue(record, slot))
    if message.run_id != record.run_id or message.attempt < record.attempt or record.status is not Status.QUEUED:
        return Discard()
    if message.attempt > record.attempt:
        return Reject(f"the message names attempt {message.attempt} of a run that is at attempt {record.attempt}")
    claimed = _starting(record, slot, now)
    return _start(
        record, claimed, slot, round_, now,
        *write.fence(record),
        write.equals("status", Status.QUEUED),
    )  # fmt: skip


def _raw_message(
    spec: JobSpec, message_id: str, record: JobRecord | None, slot: Slot, round_: Round, now: datetime
) -> Claim:
    """A message that a client sent with plain SQS: its run id is the message's own id."""
    request = Submission(spec, message_id, slot.queue, raw=True)
    decision = submission.decide(request, record, now)
    match decision.outcome:
        case Outcome.ACCEPTED:
            fresh = submission.new_run(request, record, now)
            claimed = _starting(fresh, slot, now).changed(pending="", queued_at=None)
            if record is None:
                return _start(None, claimed, slot, round_, now, write.absent("job_id"))
            return _start(record, claimed, slot, round_, now, *write.fence(record), write.absent("pending"))
        case Outcome.EXISTING:
            return Discard(decision.write)
        case Outcome.DUPLICATE:
            return Discard()
        case Outcome.BUSY:
            return Leave(decision.reason)
        case _:
            return Reject(decision.reason)


def _wrong_queue(record: JobRecord, slot: Slot) -> str:
    came_to = names.queue_name(slot.queue)
    return f"job {record.job_id!r} belongs to queue {record.queue!r}, but its message came to {came_to!r}"


def _starting(record: JobRecord, slot: Slot, now: datetime) -> JobRecord:
    return record.changed(
        status=Status.STARTING,
        worker_id=slot.worker_id,
        command_id="",
        status_reason="",
        started_at=now,
        updated_at=now,
        # The message that was just received is the effect that was pending.
        pending="",
    )


def _start(
    before: JobRecord | None, claimed: JobRecord, slot: Slot, round_: Round, now: datetime,
    *conditions: write.Condition,
) -> Start:  # fmt: skip
    unseen = timedelta(seconds=limits.DELIVERY_TIMEOUT + limits.DELIVERY_MARGIN)
    lease = timedelta(seconds=limits.DELIVERY_TIMEOUT + claimed.spec.execution_timeout + limits.LEASE_MARGIN)
    held = slot.changed(
        state=SlotState.HELD,
        ticket=round_.ticket,
        token=round_.token,
        # That this invocation came proves that the one before it was woken.
        wake=None,
        job_id=claimed.job_id,
        run_id=claimed.run_id,
        attempt=claimed.attempt,
        claimed_at=now,
        start_by=now + unseen,
        lease_until=now + lease,
        # Should this invocation die before its command is known, the sweep comes and looks.
        look_at=now + unseen,
    )
    return Start(
        claimed,
        held,
        (
            write.job("claim.job", before, claimed, *conditions),
            write.slot(
                "claim.slot", slot, held,
                write.equals("state", SlotState.FREE),
                write.equals("execution", slot.execution),
                write.at_most("ticket", round_.ticket),
                write.absent("draining"),
            ),
        ),
    )  # fmt: skip


def running(job: JobRecord, command_id: str, now: datetime) -> Write:
    """Systems Manager has accepted the command. The end may have been written already: then this is refused."""
    accepted = job.changed(status=Status.RUNNING, command_id=command_id, updated_at=now)
    return write.job(
        "claim.running", job, accepted,
        *write.fence(job),
        write.equals("status", Status.STARTING),
        # A cancellation that came meanwhile must be heard: its command is the one just accepted.
        write.equals("cancel_requested", job.cancel_requested),
    )  # fmt: skip


def look_later(slot: Slot, moment: datetime | None, absent_since: datetime | None = None) -> Write:
    """When the sweep is to look at a held slot (None: only at its lease's end)."""
    changed = slot.changed(look_at=moment, absent_since=absent_since or slot.absent_since)
    return write.slot(
        "slot.look", slot, changed,
        write.equals("job_id", slot.job_id),
        write.equals("run_id", slot.run_id),
        write.equals("attempt", slot.attempt),
    )  # fmt: skip
