"""Follow attempts to their end: on a command's event, and when the sweep looks.

A look that proves nothing changes nothing but the time of the next look.
"""

from __future__ import annotations

from datetime import timedelta

from sched_plugins.core import claim as claiming
from sched_plugins.core import limits, names
from sched_plugins.core.conclude import conclude
from sched_plugins.core.judge import (
    Contradiction,
    End,
    Failed,
    Invocation,
    Lost,
    NotOver,
    SeekInOutput,
    SeekTrailer,
    judge,
)
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import Status
from sched_plugins.errors import NotPermitted, Refused, ServiceError
from sched_plugins.ports import ConditionFailed, InstanceState, TransactionFailed, World
from sched_plugins.scheduler.outbox import wake

_ROUNDS = 5
_TRAILER_ROOM = 4 * limits.MAX_METRICS_BYTES
_ENDED = frozenset({InstanceState.TERMINATED, InstanceState.GONE})


def observe(world: World, command_id: str, worker_id: str) -> bool:
    """A command of the worker may have ended: if it is the one its slot waits for, conclude the attempt.

    Returns:
        Whether an attempt was concluded. Events are best effort, may be early, late or repeated, and may be of
        commands that are not ours; the sweep makes up for those that never come.
    """
    slot = world.tables.slot(names.slot_id(worker_id))
    if slot is None or not slot.job_id:
        return False
    job = world.tables.job(slot.job_id)
    if job is None or not job.is_live or not slot.holds(job.job_id, job.run_id, job.attempt):
        return False
    if job.command_id and job.command_id != command_id:
        return False
    answer = world.commands.invocation(command_id, worker_id)
    if answer is None:
        _look_later(world, slot)
        return False
    if not job.command_id and answer.comment != names.comment(job.job_id, job.run_id, job.attempt):
        return False
    return _conclude_if_proven(world, job, slot, answer)


def reap(world: World, slot: Slot, state: InstanceState) -> bool:
    """Look at a held slot whose command or worker may be gone.

    The attempt is over only if its command is terminal in Systems Manager or its instance is terminated. Until
    then this cancels, terminates and waits.

    Returns:
        Whether an attempt was concluded.
    """
    job = world.tables.job(slot.job_id)
    if job is None or not job.is_live or not slot.holds(job.job_id, job.run_id, job.attempt):
        return False
    comment = names.comment(job.job_id, job.run_id, job.attempt)
    command_id = job.command_id or world.commands.find(slot.worker_id, comment)
    answer = world.commands.invocation(command_id, slot.worker_id) if command_id else None
    if answer is not None and answer.is_over and _conclude_if_proven(world, job, slot, answer):
        return True
    if state in _ENDED:
        awaited = answer is not None and isinstance(judge(answer, job.spec), SeekInOutput | SeekTrailer)
        if awaited and not _overdue(slot, world):
            return False  # Its end is known but for its output. An answer that proves nothing never will.
        return finish(world, job, slot, Lost(f"worker {slot.worker_id} was terminated"), answer)
    if command_id and job.status is Status.STARTING:
        _adopt(world, job, command_id)
    if _give_up(slot, state, command_id, world):
        if command_id:
            _cancel(world, command_id, slot)
        world.workers.terminate(slot.worker_id)
        return False
    if command_id and job.cancel_requested:
        _cancel(world, command_id, slot)
    elif answer is not None and not answer.is_over and slot.look_at is not None:
        _write_look(world, slot, settled=True)
    return False


def _give_up(slot: Slot, state: InstanceState, command_id: str | None, world: World) -> bool:
    """Whether the worker must go so that the attempt can be over."""
    stopped = state in (InstanceState.STOPPING, InstanceState.STOPPED)
    never_came = command_id is None and slot.start_by is not None and world.clock.now() > slot.start_by
    return stopped or never_came or _overdue(slot, world)


def _overdue(slot: Slot, world: World) -> bool:
    return slot.lease_until is not None and world.clock.now() > slot.lease_until


def _cancel(world: World, command_id: str, slot: Slot) -> None:
    try:
        world.commands.cancel(command_id, slot.worker_id)
    except ServiceError:
        pass  # Asked again at the next look.


def _adopt(world: World, job: JobRecord, command_id: str) -> None:
    """The command's reply was lost, or its sender died: it is ours all the same."""
    try:
        world.tables.write(claiming.running(job, command_id, world.clock.now()))
    except ConditionFailed:
        pass  # The record moved on; the next look sees where to.


def _conclude_if_proven(world: World, job: JobRecord, slot: Slot, answer: Invocation) -> bool:
    """Judge an answer, reading stdout or stderr where the judgement needs them, and conclude."""
    verdict = judge(answer, job.spec)
    if isinstance(verdict, SeekTrailer):
        tail = world.objects.tail(answer.stderr_uri, _TRAILER_ROOM) if answer.stderr_uri else ""
        if tail is None and not _patience_ended(world, slot):
            _write_look(world, slot)
            return False
        verdict = judge(answer, job.spec, stderr_tail=tail or "")
    if isinstance(verdict, SeekInOutput):
        verdict = _seek(world, job, slot, answer)
    if isinstance(verdict, Contradiction):
        if not _overdue(slot, world):
            _look_later(world, slot)
            return False
        verdict = Failed(f"Systems Manager contradicts itself: {verdict.reason}", answer.exit_code)
    if isinstance(verdict, NotOver | SeekInOutput | SeekTrailer):
        return False
    return finish(world, job, slot, verdict, answer)


def _seek(world: World, job: JobRecord, slot: Slot, answer: Invocation) -> End | NotOver:
    """Seek the success string in the whole of stdout."""
    try:
        found = world.objects.contains(answer.stdout_uri, job.spec.success_string) if answer.stdout_uri else None
    except NotPermitted:
        found = None  # Our own permission is missing: that says nothing about the job.
    except Refused as error:
        return Failed(f"the success string could not be sought: {error}", answer.exit_code)
    if found is None:
        if _patience_ended(world, slot):
            minutes = limits.OUTPUT_ABSENT_PATIENCE // 60
            return Failed(f"stdout was not in S3 within {minutes} minutes of the command's end", answer.exit_code)
        _write_look(world, slot)
        return NotOver()
    tail = world.objects.tail(answer.stderr_uri, _TRAILER_ROOM) if not answer.stderr_is_whole else None
    verdict = judge(answer, job.spec, found=found, stderr_tail=tail or ("" if not answer.stderr_is_whole else None))
    return verdict if isinstance(verdict, End) else NotOver()


def _patience_ended(world: World, slot: Slot) -> bool:
    patience = timedelta(seconds=limits.OUTPUT_ABSENT_PATIENCE)
    return slot.absent_since is not None and world.clock.now() - slot.absent_since >= patience


def _write_look(world: World, slot: Slot, *, settled: bool = False) -> None:
    now = world.clock.now()
    write = claiming.look_later(slot, None) if settled else claiming.look_later(slot, now, slot.absent_since or now)
    try:
        world.tables.write(write)
    except ConditionFailed:
        pass  # Another look has concluded the attempt.


def _look_later(world: World, slot: Slot) -> None:
    try:
        world.tables.write(claiming.look_later(slot, world.clock.now()))
    except ConditionFailed:
        pass  # Another look has concluded the attempt.


def finish(world: World, job: JobRecord, slot: Slot, end: End, answer: Invocation | None = None) -> bool:
    """Write the end of an attempt, job and slot in one transaction, and wake the worker's execution.

    Returns:
        Whether this call concluded it. If another did, or the write was refused, nothing is lost: the slot is
        still held and the sweep looks again.

    Raises:
        TransactionFailed: refused several times for no reason of the records' own (a conflict, a throttle).
    """
    current, held = job, slot
    for last in (False,) * (_ROUNDS - 1) + (True,):
        conclusion = conclude(current, held, end, world.clock.now(), answer)
        try:
            world.tables.transact(conclusion.writes)
        except TransactionFailed:
            if last:
                raise
            fresh_job, fresh_slot = world.tables.job(job.job_id), world.tables.slot(slot.slot_id)
            if fresh_job is None or fresh_slot is None or not fresh_job.is_live:
                return False
            if not fresh_slot.holds(job.job_id, job.run_id, job.attempt):
                return False
            current, held = fresh_job, fresh_slot
            world.clock.sleep(0.05)
            continue
        wake(world, conclusion.slot)
        return True
    return False
