"""A scheduler in memory and virtual time, for tests of what is built on it.

:class:`Simulation` runs the real rules against fakes of every AWS service they use. The fakes behave as badly as
the services may: messages come twice and out of order, events are lost, listings lag, replies get lost,
agents run documents again, instances are taken away. Hours pass in milliseconds.
"""

from __future__ import annotations

from sched_plugins.testing.clock import VirtualClock
from sched_plugins.testing.commands import Behaviour
from sched_plugins.testing.faults import Crash, Faults, Way
from sched_plugins.testing.invariants import violations
from sched_plugins.testing.simulation import Habits, Simulation

__all__ = ["Behaviour", "Crash", "Faults", "Habits", "Simulation", "VirtualClock", "Way", "violations"]
