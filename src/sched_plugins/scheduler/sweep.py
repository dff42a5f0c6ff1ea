"""Once a minute, find what was left: by those who died, by events that never came, by answers that were lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import islice
from typing import TypeVar

from sched_plugins.core import limits, message, names, submission, worker
from sched_plugins.core.job import JobSpec
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import SlotState, Status
from sched_plugins.core.submission import Decision, Outcome, Submission
from sched_plugins.errors import InvalidJob, SchedulerError
from sched_plugins.ports import ConditionFailed, InstanceState, Message, Unreadable, World
from sched_plugins.ports import Worker as Instance
from sched_plugins.scheduler.attempt import reap
from sched_plugins.scheduler.dispatch import reject
from sched_plugins.scheduler.outbox import publish, wake
from sched_plugins.scheduler.submit import submit
from sched_plugins.scheduler.workers import attach, terminate

T = TypeVar("T")

LISTING_LAG = timedelta(seconds=60)
"""How long Step Functions may fail to list what has just begun (own, generous)."""
COMMAND_LAG = timedelta(seconds=5)
"""The same for Systems Manager (own). Short, because a look too early costs one read and changes nothing, while a
look too late adds a minute to every job whose event was lost."""
BATCH = 100
"""Records published at a time, and dead letters read in one sweep, times ten."""
REQUEUED_A_SWEEP = 1000
"""Messages sent again in one sweep (own): 60,000 an hour, and each sweep ends in seconds however many jobs wait."""

_ALIVE = frozenset({InstanceState.PENDING, InstanceState.RUNNING})
_LEAVING = frozenset({InstanceState.SHUTTING_DOWN, InstanceState.TERMINATED, InstanceState.GONE})


@dataclass
class Report:
    """What one sweep found."""

    published: int = 0
    requeued: int = 0
    dead_letters: int = 0
    attached: int = 0
    reaped: int = 0
    restarted: int = 0
    dropped: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Fleet:
    """What the services say about all workers at once."""

    states: Mapping[str, Instance]
    executions: frozenset[str]
    commands: frozenset[str]
    now: datetime


def sweep(world: World, requeue_after: int = limits.REQUEUE_AFTER) -> Report:
    """Do every duty once. One that fails is reported and does not keep the others from being done."""
    report = Report()
    duties: list[Callable[[], None]] = [
        # Workers first: the other duties grow with the jobs that wait. What is overdue comes last, because writing
        # manifests may take all the time there is.
        partial(_tend_workers, world, report),
        partial(_read_dead_letters, world, report),
        partial(_requeue_stale, world, report, requeue_after),
        partial(_publish_overdue, world, report),
    ]
    for duty in duties:
        _guarded(report, duty)
    return report


def _guarded(report: Report, duty: Callable[[], None]) -> None:
    try:
        duty()
    except SchedulerError as error:
        report.errors.append(f"{type(error).__name__}: {error}")


def _readable(report: Report, found: Iterable[T | Unreadable]) -> Iterator[T]:
    """What can be read of what was found; the rest is reported, and keeps nobody from being looked after."""
    for one in found:
        if isinstance(one, Unreadable):
            report.errors.append(f"{type(one).__name__}: {one}")
        else:
            yield one


def _publish_overdue(world: World, report: Report) -> None:
    before = world.clock.now() - timedelta(seconds=limits.PENDING_PATIENCE)
    batch: list[JobRecord] = []
    for record in _readable(report, world.tables.pending(before)):
        batch.append(record)
        if len(batch) == BATCH:
            _publish(world, report, batch)
            batch = []
    _publish(world, report, batch)


def _publish(world: World, report: Report, batch: list[JobRecord]) -> None:
    failed = publish(world, batch)
    report.published += len(batch) - len(failed)
    report.errors += [f"publish {job_id!r}: {error}" for job_id, error in failed.items()]


def _requeue_stale(world: World, report: Report, requeue_after: int) -> None:
    before = world.clock.now() - timedelta(seconds=requeue_after)
    stale = islice(_readable(report, world.tables.queued(before)), REQUEUED_A_SWEEP)
    while some := list(islice(stale, BATCH)):
        due = [submission.send_again(record, world.clock.now()) for record in some]
        outcomes = world.tables.write_each([write for _, write in due])
        sent = [record for (record, _), error in zip(due, outcomes, strict=True) if error is None]
        # Claimed or cancelled meanwhile is no error.
        failed = [error for error in outcomes if error is not None and not isinstance(error, ConditionFailed)]
        report.errors += [f"{type(error).__name__}: {error}" for error in failed]
        _publish(world, report, sent)
        report.requeued += len(sent)


def _read_dead_letters(world: World, report: Report) -> None:
    """A message that was received too often goes back to its queue, unless its job needs it no more."""
    for _ in range(BATCH):
        letters = world.queues.receive(world.dead_letters, 0, 10)
        if not letters:
            return
        for letter in letters:
            _guarded(report, partial(_return_letter, world, letter))
            report.dead_letters += 1


def _return_letter(world: World, letter: Message) -> None:
    try:
        understood = message.parse(letter.body)
    except InvalidJob as error:
        _reject_letter(world, letter, str(error))
        return
    if not letter.source:
        _reject_letter(world, letter, "a dead letter that names no queue it came from")
        return
    record = world.tables.job(understood.spec.job_id)
    if record is None or not understood.run_id or not record.knows(understood.run_id):
        _submit_letter(world, letter, understood.spec)
        return
    if (record.run_id, record.attempt, record.status) == (understood.run_id, understood.attempt, Status.QUEUED):
        [refused] = world.queues.send(letter.source, [letter.body])
        if refused is not None:
            raise refused
    world.queues.delete(world.dead_letters, letter.receipt)


def _submit_letter(world: World, letter: Message, spec: JobSpec) -> None:
    """A raw message gets its record here. Sent back to its queue it would have a new id, which is its run's, and
    might then be taken for a second one."""
    [answer] = submit(world, [Submission(spec, letter.message_id, letter.source, raw=True)])
    if answer.error is not None:
        raise answer.error
    match answer.decision:
        case Decision(outcome=Outcome.CONFLICT, reason=reason):
            _reject_letter(world, letter, reason)
        case Decision(outcome=Outcome.BUSY) | None:
            return
        case _:
            world.queues.delete(world.dead_letters, letter.receipt)


def _reject_letter(world: World, letter: Message, reason: str) -> None:
    origin = letter.source or names.job_queue(world.scheduler)
    at_home = Message(letter.message_id, letter.body, letter.receipt, letter.sent_at, world.dead_letters)
    reject(world, origin, at_home, reason)


def _tend_workers(world: World, report: Report) -> None:
    tagged = list(world.workers.tagged())
    listed = list(world.tables.slots())
    slots = list(_readable(report, listed))
    states = world.workers.described([slot.worker_id for slot in slots]) if slots else {}
    fleet = _Fleet(
        states=states,
        executions=frozenset(world.executions.running()) if slots else frozenset(),
        commands=frozenset(world.commands.in_progress()) if slots else frozenset(),
        now=world.clock.now(),
    )
    known = {found.key if isinstance(found, Unreadable) else found.slot_id for found in listed}
    for instance in tagged:
        if names.slot_id(instance.worker_id) not in known and instance.state in _ALIVE:
            _guarded(report, partial(_attach, world, report, instance))
    for slot in slots:
        _guarded(report, partial(_tend, world, report, fleet, slot))


def _attach(world: World, report: Report, instance: Instance) -> None:
    attach(world, instance.worker_id, instance.queue)
    report.attached += 1


def _tend(world: World, report: Report, fleet: _Fleet, slot: Slot) -> None:
    wake(world, slot)
    instance = fleet.states.get(slot.worker_id)
    state = instance.state if instance is not None else InstanceState.GONE
    if not _is_believed(world, fleet, slot, state):
        return
    if slot.state is SlotState.HELD:
        if state not in _ALIVE or _due(slot, fleet):
            report.reaped += reap(world, slot, state)
        if state not in _LEAVING:
            _keep_execution(world, report, fleet, slot)
    elif state in _LEAVING or state in (InstanceState.STOPPING, InstanceState.STOPPED):
        _retire_or_drop(world, report, slot, state)
    elif slot.state is SlotState.RETIRING:
        terminate(world, slot)
    else:
        _keep_execution(world, report, fleet, slot)


def _is_believed(world: World, fleet: _Fleet, slot: Slot, state: InstanceState) -> bool:
    """Whether EC2's answer about the worker proves anything. That it knows no such instance must be said twice, a
    minute apart, and not of one that was just launched: EC2's answers are eventually consistent."""
    if state is not InstanceState.GONE:
        if slot.missing_since is not None:
            _note_missing(world, slot, None)
        return True
    if fleet.now - slot.execution_at < timedelta(seconds=limits.UNSEEN_INSTANCE_PATIENCE):
        return False
    if slot.missing_since is None:
        _note_missing(world, slot, fleet.now)
        return False
    return fleet.now - slot.missing_since >= timedelta(seconds=limits.MISSING_PATIENCE)


def _note_missing(world: World, slot: Slot, since: datetime | None) -> None:
    try:
        world.tables.write(worker.missing(slot, since))
    except ConditionFailed:
        pass  # The slot is gone, or another sweep has noted it.


def _due(slot: Slot, fleet: _Fleet) -> bool:
    """Whether a held slot is to be looked at: somebody asked for it, its lease is over, or its command is not
    among those in progress although it was sent long enough ago to be listed."""
    if slot.look_at is not None and slot.look_at <= fleet.now:
        return True
    if slot.lease_until is not None and slot.lease_until <= fleet.now:
        return True
    comment = names.comment(slot.job_id, slot.run_id, slot.attempt)
    settled = slot.claimed_at is not None and fleet.now - slot.claimed_at >= COMMAND_LAG
    return settled and comment not in fleet.commands


def _keep_execution(world: World, report: Report, fleet: _Fleet, slot: Slot) -> None:
    """A worker whose execution has ended gets its next one; so does a free one whose execution
    gives no sign, because its function has died unheard. Of two the older is turned away by its ticket."""
    is_listed = names.execution(slot.slot_id, slot.execution) in fleet.executions
    if is_listed and not worker.is_silent(slot, fleet.now):
        return
    if not is_listed and fleet.now - slot.execution_at < LISTING_LAG:
        world.executions.start(slot)
        return
    current = world.tables.slot(slot.slot_id)
    if current is None or current.execution != slot.execution or current.state is SlotState.RETIRING:
        return
    if is_listed and not worker.is_silent(current, fleet.now):
        return  # It has given a sign meanwhile.
    renewed, write = worker.next_execution(current, world.clock.now())
    try:
        world.tables.write(write)
    except ConditionFailed:
        return  # It moved on by itself.
    world.executions.start(renewed)
    report.restarted += 1


def _retire_or_drop(world: World, report: Report, slot: Slot, state: InstanceState) -> None:
    if slot.state is SlotState.FREE:
        retiring, write = worker.retire(slot, worker.LATEST)
        try:
            world.tables.write(write)
        except ConditionFailed:
            return  # It claimed a job meanwhile; the next sweep finds it held.
        slot = retiring
    if state in (InstanceState.STOPPING, InstanceState.STOPPED):
        terminate(world, slot)
    elif state in (InstanceState.TERMINATED, InstanceState.GONE):
        current = world.tables.slot(slot.slot_id)
        if current is not None and current.wake is None:
            try:
                world.tables.write(worker.drop(current))
            except ConditionFailed:
                return  # Its execution is still to be woken.
            report.dropped += 1
