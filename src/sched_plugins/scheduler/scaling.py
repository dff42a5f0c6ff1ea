"""Ask for workers: at once when work arrives, and once a minute."""

from __future__ import annotations

from sched_plugins.core import worker
from sched_plugins.core.state import SlotState
from sched_plugins.ports import World


def scale(world: World, queue: str, group: str, at_least: int = 0) -> int:
    """Raise the capacity of an environment's group to what its jobs need, up to the group's maximum.

    Args:
        world: the ports.
        queue: the environment's job queue.
        group: its Auto Scaling group.
        at_least: jobs known to wait whose messages may not be in the queue yet.

    Returns:
        The capacity now asked for. It is never lowered here: a worker without work leaves by itself.
    """
    desired, maximum = world.workers.capacity(group)
    if desired >= maximum:
        return desired
    slots = world.tables.slots_of(queue)
    waiting = max(world.queues.waiting(queue), at_least)
    want = worker.wanted(maximum, slots.get(SlotState.HELD, 0), waiting, desired)
    if want > desired:
        world.workers.set_capacity(group, want)
    return want
