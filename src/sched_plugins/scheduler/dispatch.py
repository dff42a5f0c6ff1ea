"""Claim one job for a free worker and send its command once.

The order is what makes a crash harmless: the claim commits job and slot together; then the message goes; then
the command is sent, in this invocation only. Dying after the commit leaves a held slot that the sweep finds
and looks at; dying before it leaves the message, which comes again.
"""

from __future__ import annotations

from sched_plugins.core import claim as claiming
from sched_plugins.core import limits, message, names, write
from sched_plugins.core.claim import Discard, Leave, Reject, Round, Start
from sched_plugins.core.judge import Failed, Lost
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState, Status, Verdict
from sched_plugins.core.wrapper import AttemptContext, command_parameters
from sched_plugins.errors import InvalidJob, QueueNotFound, Refused, SchedulerError, Throttled, Unknown
from sched_plugins.ports import (
    Command,
    ConditionFailed,
    Message,
    RefusedForJob,
    RefusedForWorker,
    TransactionFailed,
    World,
)
from sched_plugins.scheduler.attempt import finish
from sched_plugins.scheduler.cancellation import stop_command
from sched_plugins.scheduler.workers import note_asked

MESSAGES_A_ROUND = 25
"""Messages looked at by one invocation before the execution goes round again."""
RETRY_DELAY = 5
"""Seconds after which a message that could not be decided is received again."""


def claim(world: World, round_: Round, wait: int = 5) -> Verdict | None:
    """Give the waiting execution a job, or a verdict.

    Args:
        world: the ports.
        round_: the invocation: its slot, token and ticket.
        wait: seconds to wait for a message, at most 20.

    Returns:
        The verdict that was sent, or None when the execution now waits for a job's end.
    """
    patience, taken, slot = wait, None, None
    for _ in range(MESSAGES_A_ROUND):
        slot = world.tables.slot(round_.slot_id)
        verdict = claiming.turn_away(round_, slot)
        if verdict is not None or slot is None:
            return _answer(world, round_, verdict or Verdict.RETIRE)
        if slot.state is SlotState.HELD:
            if _take_over(world, round_, slot):
                return None
            continue
        try:
            received = world.queues.receive(slot.queue, patience)
        except QueueNotFound:
            return _answer(world, round_, Verdict.RETIRE)  # A tag may name a queue that is gone, or never was.
        if not received:
            return _answer(world, round_, Verdict.RETIRE)
        taken = _take(world, round_, slot, received[0])
        if isinstance(taken, Start):
            _dispatch(world, taken)
            return None
        if taken is not None:
            # The queue only looks empty until that message is there again.
            patience = max(wait, RETRY_DELAY + 1)
    if taken is not None:
        world.clock.sleep(RETRY_DELAY)  # For the next invocation, which does not know of it.
    if slot is not None:
        note_asked(world, slot)
    return _answer(world, round_, Verdict.NEXT)


def _answer(world: World, round_: Round, verdict: Verdict) -> Verdict:
    # No wake is stored for these: should this invocation fail, Step Functions makes another one.
    world.executions.wake(Wake(round_.token, verdict))
    return verdict


def _take_over(world: World, round_: Round, slot: Slot) -> bool:
    try:
        world.tables.write(claiming.take_over(round_, slot))
    except ConditionFailed:
        return False  # The job has just ended: claim the next one.
    return True


def _take(world: World, round_: Round, slot: Slot, received: Message) -> Start | Leave | None:
    """Decide one message and carry it out; the attempt that it starts, or that it was put off, or None."""
    try:
        understood = message.parse(received.body)
    except InvalidJob as error:
        reject(world, slot.queue, received, str(error))
        return None
    record = world.tables.job(understood.spec.job_id)
    decision = claiming.decide(understood, received.message_id, record, slot, round_, world.clock.now())
    match decision:
        case Start():
            return _commit(world, slot, received, decision)
        case Discard(first=first):
            try:
                if first is not None:
                    world.tables.write(first)
            except ConditionFailed:
                _release(world, slot.queue, received)
            else:
                world.queues.delete(slot.queue, received.receipt)
        case Reject(reason=reason):
            reject(world, slot.queue, received, reason)
        case Leave():
            _release(world, slot.queue, received, RETRY_DELAY)
            return decision
    return None


def _commit(world: World, slot: Slot, received: Message, start: Start) -> Start | None:
    try:
        world.tables.transact(start.writes)
    except TransactionFailed:
        # Somebody else was first, or nothing is proven: the message comes again and is decided anew.
        _release(world, slot.queue, received)
        return None
    try:
        world.queues.delete(slot.queue, received.receipt)
    except SchedulerError:
        pass  # It comes again, and is recognised as a duplicate.
    return start


def _release(world: World, queue: str, received: Message, delay: int = 0) -> None:
    try:
        world.queues.release(queue, received.receipt, delay)
    except SchedulerError:
        pass  # Its visibility ends by itself.


def reject(world: World, queue: str, received: Message, reason: str) -> None:
    """Store why a message is no valid job, then delete it; the outbox sends it to the failed queue."""
    record = message.rejection(received.message_id, received.body, queue, reason, received.sent_at, world.clock.now())
    if record.body_sha256:
        record = record.changed(body_uri=world.objects.store_rejected(received.message_id, received.body))
    try:
        world.tables.write(write.job("reject", None, record, write.absent("job_id")))
    except ConditionFailed:
        pass  # An earlier delivery of the same message was stored already.
    world.queues.delete(received.source or queue, received.receipt)


def _dispatch(world: World, start: Start) -> None:
    job, slot = start.job, start.slot
    try:
        command_id = _send(world, _command(job, slot))
    except (InvalidJob, RefusedForJob) as error:
        finish(world, job, slot, Failed(f"Systems Manager refused the job: {error}", final=True))
    except RefusedForWorker as error:
        finish(world, job, slot, Lost(f"Systems Manager refused the worker: {error}", retire=True))
    except Throttled as error:
        finish(world, job, slot, Lost(f"the command could not be sent: {error}", unsent=True))
    except Refused as error:
        finish(world, job, slot, Lost(f"the command could not be sent: {error}", retire=True))
    except Unknown:
        return  # Perhaps sent. The sweep finds it by its comment, or finds that it never came.
    else:
        _write_running(world, job, command_id)


def _command(job: JobRecord, slot: Slot) -> Command:
    start_by = slot.start_by or job.updated_at
    context = AttemptContext(
        job_id=job.job_id,
        run_id=job.run_id,
        attempt=job.attempt,
        queue=job.queue,
        start_by=int(start_by.timestamp()),
    )
    return Command(
        worker_id=slot.worker_id,
        document=job.spec.ssm_document,
        parameters=command_parameters(job.spec, context),
        comment=names.comment(job.job_id, job.run_id, job.attempt),
        delivery_timeout=limits.DELIVERY_TIMEOUT,
    )


def _send(world: World, command: Command) -> str:
    """Send once. A throttle is a definite "not sent", so only it is followed by another try."""
    delay = 0.5
    while True:
        try:
            return world.commands.send(command)
        except Throttled:
            if delay > limits.DELIVERY_MARGIN / 2:
                raise
            world.clock.sleep(delay)
            delay *= 2


def _write_running(world: World, job: JobRecord, command_id: str) -> None:
    """Record the accepted command, and end it at once if cancellation was asked for meanwhile."""
    current: JobRecord | None = job
    while current is not None and current.status is Status.STARTING and current.event_id == job.event_id:
        try:
            world.tables.write(claiming.running(current, command_id, world.clock.now()))
        except ConditionFailed:
            current = world.tables.job(job.job_id)
            continue
        if current.cancel_requested:
            stop_command(world, current.changed(command_id=command_id))
        return
