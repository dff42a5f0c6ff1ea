"""Ask for workers: at once when work arrives, and once a minute."""

from __future__ import annotations

from typing import NamedTuple

from sched_plugins.core import worker
from sched_plugins.core.state import SlotState
from sched_plugins.ports import World


class Capacity(NamedTuple):
    """What was asked for, and what may be."""

    desired: int
    maximum: int


def scale(world: World, queue: str, group: str, at_least: int = 0) -> Capacity:
    """Raise the capacity of an environment's group to what its jobs need, up to the group's maximum.

    Args:
        world: the ports.
        queue: the environment's job queue.
        group: its Auto Scaling group.
        at_least: jobs known to wait whose messages may not be in the queue yet.

    Returns:
        The capacity now asked for, which is never lowered here: a worker without work leaves by itself.
    """
    desired, maximum = world.workers.capacity(group)
    if desired >= maximum:
        return Capacity(desired, maximum)
    slots = world.tables.slots_of(queue)
    waiting = max(world.queues.waiting(queue), at_least)
    want = worker.wanted(maximum, slots.get(SlotState.HELD, 0), waiting, desired)
    if want > desired:
        world.workers.set_capacity(group, want)
    return Capacity(want, maximum)
