"""A crash at every boundary: each call through a port, in every story, in every way it can go wrong.

After it the rest of the system goes on: sweeps, redelivery, repeated requests. Then everything must be at rest, every
job at a right end, and every invariant true.
"""

from __future__ import annotations

import pytest

from sched_plugins.testing import Faults, Simulation, Way, violations
from tests.faults.scenarios import SCENARIOS, Scenario

TOLD = pytest.StashKey[list[tuple[str, int, int]]]()


def broken(scenario: Scenario, simulation: Simulation) -> list[str]:
    """What is wrong with the end of a story."""
    found = violations(simulation, at_rest=True)
    for job_id, allowed in scenario.ends.items():
        record = simulation.tables.job(job_id)
        status = None if record is None else record.status
        if status not in allowed:
            found.append(f"{job_id!r} ended as {status}, not as {sorted(allowed)}")
    return found


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_a_story_without_faults_ends_well(scenario: Scenario) -> None:
    assert broken(scenario, scenario.simulate(Faults())) == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_one_fault_anywhere_breaks_nothing(scenario: Scenario, request: pytest.FixtureRequest) -> None:
    clean = Faults()
    scenario.simulate(clean)
    found = []
    for number, call in enumerate(clean.calls):
        for way in Way:
            simulation = scenario.simulate(Faults({number: way}))
            found += [f"call {number}, {call}, {way}: {one}" for one in broken(scenario, simulation)]
    size = len(clean.calls)
    request.node.user_properties.append(("crash matrix", (size, len(Way), len(found))))
    assert not found, "\n".join(found[:20])
