"""Short stories of what happens to jobs and workers: how they are told, and what they are told with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sched_plugins.core.state import Status
from sched_plugins.testing import Behaviour, Faults, Habits, Simulation
from sched_plugins.testing.commands import Attempt

SUCCEEDED, FAILED, CANCELLED, REJECTED = (
    frozenset({Status.SUCCEEDED}), frozenset({Status.FAILED}), frozenset({Status.CANCELLED}),
    frozenset({Status.REJECTED}),
)  # fmt: skip
PATIENCE = 900.0
"""Seconds for which a story waits for what it needs before it goes on without."""


@dataclass(frozen=True)
class Story:
    """What is done, and which ends are right for its jobs."""

    name: str
    play: Callable[[Simulation], None]
    ends: Mapping[str, frozenset[Status]]
    maximum: int = 1
    habits: Callable[[], Habits] = field(default=Habits)

    def begin(self, faults: Faults) -> Simulation:
        """The simulation in which the story is to happen."""
        return Simulation(maximum=self.maximum, faults=faults, habits=self.habits())

    def finish(self, simulation: Simulation) -> Simulation:
        """Play the story to its end."""
        self.play(simulation)
        simulation.run_until_quiet()
        return simulation

    def simulate(self, faults: Faults) -> Simulation:
        """Play the story to its end with these faults."""
        return self.finish(self.begin(faults))


def story(
    ends: Mapping[str, frozenset[Status]], maximum: int = 1, **habits: Any
) -> Callable[[Callable[[Simulation], None]], Story]:
    """Make a story of a function that plays it."""

    def tell(play: Callable[[Simulation], None]) -> Story:
        return Story(play.__name__.replace("_", " "), play, ends, maximum, lambda: Habits(**habits))

    return tell


def stories(module: Mapping[str, object]) -> tuple[Story, ...]:
    """The stories that a module tells."""
    return tuple(one for one in module.values() if isinstance(one, Story))


def until_running(simulation: Simulation, job_id: str) -> None:
    """Let time pass until the job's commands have started."""

    def started() -> bool:
        return any(one.attempt.job_id == job_id and one.ended_at is None for one in simulation.commands.processes)

    simulation.clock.wait_for(started, PATIENCE)


def until_ended(simulation: Simulation, job_id: str) -> None:
    """Let time pass until the job has ended."""

    def ended() -> bool:
        record = simulation.tables.job(job_id)
        return record is not None and record.is_terminal

    simulation.clock.wait_for(ended, PATIENCE)


def attempts(*behaviours: Behaviour) -> Callable[[Attempt], Behaviour]:
    """Behave so at the first attempt, so at the second, …; and as at the last from then on."""
    return lambda attempt: behaviours[min(attempt.attempt, len(behaviours)) - 1]
