"""A crash at every boundary: each call through a port, in every story, in every way it can go wrong.

After it the rest of the system goes on: sweeps, redelivery, repeated requests. Then everything must be at rest, every
job at a right end, and every invariant true.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from story import Story

from sched_plugins.testing import Faults, Simulation, Way, violations

READS = frozenset(
    f"tables.{method}" for method in ("job", "jobs", "slot", "slots", "slots_of", "pending", "queued")
) | {
    "queues.waiting", "queues.siblings", "commands.invocation", "commands.find", "commands.in_progress",
    "commands.is_online", "objects.contains", "objects.tail", "objects.listing", "objects.metadata", "workers.tagged",
    "workers.described", "workers.capacity", "executions.running",
}  # fmt: skip
"""Calls that change nothing."""


EVERYTHING = os.environ.get("SCHED_FAULTS") == "all"


def ways(number: int, call: str) -> list[Way]:
    """How a call can go wrong.

    A read changes nothing, so whether it fails, its reply is lost or it comes late is the same but for the error that
    its caller gets. Reads take turns with the two errors, unless ``SCHED_FAULTS=all``.
    """
    if call not in READS:
        return list(Way)
    errors = [Way.FAILS, Way.LOSES_REPLY]
    return [*(errors if EVERYTHING else [errors[number % 2]]), Way.CALLER_DIES]


def broken(story: Story, simulation: Simulation) -> list[str]:
    """What is wrong with the end of a story."""
    found = violations(simulation, at_rest=True)
    for job_id, allowed in story.ends.items():
        record = simulation.tables.job(job_id)
        status = None if record is None else record.status
        if status not in allowed:
            found.append(f"{job_id!r} ended as {status}, not as {sorted(allowed)}")
    return found


def boundaries(story: Story) -> tuple[int, list[tuple[int, Way]]]:
    """How many calls a story makes, and which of them to disturb in which way.

    A call that is made for the third time while nothing has changed is disturbed only if ``SCHED_FAULTS=all``: so
    look the sweeps of an hour in which a story merely waits.
    """
    seen: Counter[object] = Counter()
    chosen: list[tuple[int, Way]] = []

    def look(number: int, call: str) -> None:
        instances = tuple(one.state for one in simulation.workers.instances.values())
        over = sum(run.is_over for run in simulation.commands.runs.values())
        state = (call, len(simulation.tables.history), len(simulation.queues.sent), instances, over)
        seen[state] += 1
        if seen[state] <= 2 or EVERYTHING:
            chosen.extend((number, way) for way in ways(number, call))

    faults = Faults(before=look)
    simulation = story.begin(faults)
    story.finish(simulation)
    return len(faults.calls), chosen


@dataclass(frozen=True)
class Found:
    """What trying every fault of a story came to."""

    calls: int
    faults: int
    broken: list[str]


def try_every_fault(story: Story) -> Found:
    """Play a story again and again, each time with another single fault."""
    size, chosen = boundaries(story)
    found = []
    for number, way in chosen:
        faults = Faults({number: way})
        simulation = story.simulate(faults)
        found += [f"call {number}, {faults.calls[number]}, {way}: {one}" for one in broken(story, simulation)]
    return Found(size, len(chosen), found)
