"""What a backend of the ports is, for the tests that each of them must pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from sched_plugins.core.slot import Slot
from sched_plugins.ports import World

NAME = "conform"
BUCKET = f"{NAME}-output"
NEW = count(1)


@dataclass
class Backend:
    """One way to carry out the ports."""

    name: str
    world: World
    wait: Callable[[float], None]
    """Let so many seconds pass, or as many as this backend needs for what they stand for."""
    token: Callable[[Slot], str]
    """Start the slot's execution and return the task token that it waits for."""
    bucket: str = BUCKET
    queue: str = field(default_factory=lambda: f"queue-{next(NEW)}")
    """A queue of the test's own, without siblings."""
