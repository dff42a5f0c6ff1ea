"""Workers come and go: a first execution when one starts, the next when a history is full, an end when idle."""

from __future__ import annotations

from sched_plugins.core import names, worker
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import SlotState, Verdict
from sched_plugins.errors import Conflict, QueueNotFound, ServiceError
from sched_plugins.ports import ConditionFailed, World

_ROUNDS = 5


def attach(world: World, worker_id: str, queue: str) -> Slot:
    """Give a worker its slot and its first execution. Repeating it, or a repeated event, changes nothing.

    Raises:
        Conflict: the worker has a slot for another queue, or is being retired.
    """
    slot, write = worker.new_slot(worker_id, queue, world.clock.now())
    try:
        world.tables.write(write)
    except ConditionFailed:
        existing = world.tables.slot(slot.slot_id)
        if existing is None:
            raise
        if existing.state is SlotState.RETIRING:
            raise Conflict(f"worker {worker_id} is being retired; attach another one") from None
        if existing.queue != queue:
            raise Conflict(
                f"worker {worker_id} already takes jobs from {existing.queue!r}; it cannot also take them from "
                f"{queue!r}"
            ) from None
        slot = existing
    world.executions.start(slot)
    return slot


def ready(world: World, slot_id: str) -> bool:
    """Whether the worker's execution need wait no longer: its agent answers, and it is now protected from scale-in;
    or the worker has gone, and NextJob turns its execution away."""
    slot = world.tables.slot(slot_id)
    if slot is None or slot.state is SlotState.RETIRING:
        return True
    if not world.commands.is_online(slot.worker_id):
        return False
    world.workers.protect(slot.worker_id, protected=True)
    return True


def renew(world: World, slot_id: str, execution: int) -> Verdict:
    """Hand a free worker over to its next execution, by the same name and input however often it is tried."""
    for _ in range(_ROUNDS):
        slot = world.tables.slot(slot_id)
        if slot is None or slot.execution > execution + 1:
            return Verdict.STOP
        if slot.execution == execution + 1:
            world.executions.start(slot)
            return Verdict.STOP
        if slot.state is not SlotState.FREE:
            return Verdict.NEXT if slot.state is SlotState.HELD else Verdict.RETIRE
        renewed, write = worker.next_execution(slot, world.clock.now())
        try:
            world.tables.write(write)
        except ConditionFailed:
            continue
        world.executions.start(renewed)
        return Verdict.STOP
    return Verdict.NEXT


def retire(world: World, slot_id: str, execution: int, wait: int = 1, *, unready: bool = False) -> Verdict:
    """End a worker that has nothing to do, after one last look into its queue.

    Args:
        world: the ports.
        slot_id: the worker's slot.
        execution: number of the execution that asks.
        wait: seconds for which the last look waits for a message.
        unready: the worker's agent does not answer: it is ended whatever waits, because a job sent to it
            would only be lost.

    Returns:
        NEXT if there is work after all, otherwise STOP: the worker is being terminated, or is another
        execution's.
    """
    for _ in range(_ROUNDS):
        slot = world.tables.slot(slot_id)
        if slot is None or slot.execution > execution:
            return Verdict.STOP
        if slot.state is SlotState.HELD:
            return Verdict.NEXT
        if slot.state is SlotState.RETIRING:
            terminate(world, slot)
            return Verdict.STOP
        if not slot.draining and not unready and _work_waits(world, slot, wait):
            note_asked(world, slot)
            return Verdict.NEXT
        retiring, write = worker.retire(slot, names.ticket(execution, 9_999_999, 9_999))
        try:
            world.tables.write(write)
        except ConditionFailed:
            continue
        terminate(world, retiring)
        return Verdict.STOP
    return Verdict.NEXT


def note_asked(world: World, slot: Slot) -> None:
    """Show the sweep, now and then, that the execution of a slot that stays free is alive."""
    sign = worker.asked(slot, world.clock.now())
    try:
        if sign is not None:
            world.tables.write(sign)
    except (ServiceError, ConditionFailed):
        pass  # At worst the sweep starts the next execution, which takes over.


def _work_waits(world: World, slot: Slot, wait: int) -> bool:
    try:
        received = world.queues.receive(slot.queue, wait)
    except QueueNotFound:
        return False
    for message in received:
        world.queues.release(slot.queue, message.receipt)
    return bool(received)


def terminate(world: World, slot: Slot) -> None:
    """Unprotect and terminate a retiring worker; its slot goes when EC2 says that it is terminated."""
    world.workers.protect(slot.worker_id, protected=False)
    world.workers.terminate(slot.worker_id)


def warn(world: World, worker_id: str, reason: str) -> bool:
    """A worker is about to be taken away: let it finish what it holds, and claim no more."""
    slot = world.tables.slot(names.slot_id(worker_id))
    if slot is None or slot.state is SlotState.RETIRING or slot.draining:
        return False
    try:
        world.tables.write(worker.drain(slot, reason))
    except ConditionFailed:
        return False
    return True
