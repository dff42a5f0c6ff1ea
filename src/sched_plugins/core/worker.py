"""The life of a worker's slot: created, renewed, drained, retired, dropped; and how many workers to want."""

from __future__ import annotations

from datetime import datetime, timedelta

from sched_plugins.core import limits, names, write
from sched_plugins.core.record import to_text
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState
from sched_plugins.core.write import Write

LATEST = names.ticket(999_999, 9_999_999, 9_999)
"""A ticket that no invocation exceeds, for those who retire a slot over its execution's head."""


def new_slot(worker_id: str, queue: str, now: datetime) -> tuple[Slot, Write]:
    """The slot of a worker that just started, written before its first execution is."""
    slot = Slot(
        slot_id=names.slot_id(worker_id),
        worker_id=worker_id,
        queue=queue,
        state=SlotState.FREE,
        execution=1,
        execution_at=now,
    )
    return slot, write.slot("worker.new", None, slot, write.absent("slot_id"))


def next_execution(slot: Slot, now: datetime) -> tuple[Slot, Write]:
    """The slot that waits for the worker's next execution; the older one's invocations are turned away."""
    renewed = slot.changed(execution=slot.execution + 1, execution_at=now)
    return renewed, write.slot(
        "worker.next", slot, renewed,
        write.equals("execution", slot.execution),
        write.equals("state", slot.state),
    )  # fmt: skip


def retire(slot: Slot, ticket: str) -> tuple[Slot, Write]:
    """The slot that claims no more; only a free one may retire, and only by its newest execution.

    With its own execution's ticket, its last wake is known to have come.
    """
    retiring = slot.changed(state=SlotState.RETIRING, wake=slot.wake if ticket == LATEST else None)
    return retiring, write.slot(
        "worker.retire", slot, retiring,
        write.equals("state", SlotState.FREE),
        write.equals("execution", slot.execution),
        write.at_most("ticket", ticket),
    )  # fmt: skip


def is_silent(slot: Slot, now: datetime) -> bool:
    """Whether a free slot's execution has given no sign for longer than it may take to claim or to retire.

    Its function died, and Step Functions has not heard of it: the execution would wait for its task's timeout.
    """
    if slot.state is not SlotState.FREE:
        return False
    quiet = timedelta(seconds=limits.CLAIM_PATIENCE)
    if slot.asked_at is not None and slot.asked_at > slot.execution_at:
        return now - slot.asked_at > quiet
    return now - slot.execution_at > quiet + timedelta(seconds=limits.READY_PATIENCE)


def asked(slot: Slot, now: datetime) -> Write | None:
    """The slot whose execution has asked in vain and goes on; None if a sign of it is fresh enough."""
    if slot.asked_at is not None and now - slot.asked_at < timedelta(seconds=limits.SIGN_INTERVAL):
        return None
    return write.slot("worker.asked", slot, slot.changed(asked_at=now), write.equals("execution", slot.execution))


def missing(slot: Slot, since: datetime | None) -> Write:
    """The slot whose worker EC2's answers have lacked since then (None: they know it again)."""
    return write.slot(
        "worker.missing", slot, slot.changed(missing_since=since),
        write.equals("worker_id", slot.worker_id),
        write.equals("missing_since", to_text(slot.missing_since) if slot.missing_since else ""),
    )  # fmt: skip


def drain(slot: Slot, reason: str) -> Write:
    """The slot that claims no more once its present job has ended."""
    return write.slot(
        "worker.drain", slot, slot.changed(draining=reason[:200]), write.equals("worker_id", slot.worker_id)
    )


def woken(slot: Slot, wake: Wake) -> Write:
    """The slot whose execution has been woken with this very token, or can no longer be."""
    return write.slot("worker.woken", slot, slot.changed(wake=None), write.equals("wake", wake.token))


def drop(slot: Slot) -> Write:
    """The end of the slot of a worker that EC2 has terminated."""
    return write.drop_slot(
        "worker.drop", slot, write.equals("state", SlotState.RETIRING), write.absent("wake"), write.absent("job_id")
    )


def wanted(maximum: int, busy: int, waiting: int, desired: int) -> int:
    """The number of workers to ask for: enough for every job held or waiting, at most ``maximum``.

    A worker that retires is wanted no more: its termination lowers the group's capacity by one at once, although
    its slot stays until EC2 has ended it. Counting it here would ask for another worker that finds nothing
    to do, retires, and is counted again, without end.
    The answer is never below ``desired``: a worker leaves by itself, and lowering the capacity under
    workers that are booting would take away those that were just asked for.
    """
    return max(desired, min(maximum, busy + waiting))
