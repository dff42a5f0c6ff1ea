"""What the sweep believes, and what it leaves alone."""

from __future__ import annotations

import pytest

from sched_plugins.core.state import SlotState, Status
from sched_plugins.core.write import Table
from sched_plugins.testing import Behaviour, Simulation, violations


def under_way(seconds: float = 1_000) -> tuple[Simulation, str]:
    """A simulation in which a job runs whose worker EC2 has known for long; and the worker."""
    simulation = Simulation(maximum=1)
    simulation.behave("a", Behaviour(seconds=seconds))
    simulation.submit("a")
    simulation.run_for(730)
    [instance] = simulation.workers.alive()
    assert simulation.job("a").status is Status.RUNNING
    return simulation, instance.worker_id


def test_a_worker_that_one_answer_of_ec2_lacks_keeps_its_job() -> None:
    simulation, worker_id = under_way()
    simulation.workers.left_out.add(worker_id)
    simulation.sweep()
    simulation.sweep()  # Another within the minute is no second proof.
    simulation.workers.left_out.clear()
    assert simulation.job("a").worker_id == worker_id
    assert simulation.run_until_quiet()
    assert (simulation.job("a").status, simulation.job("a").losses) == (Status.SUCCEEDED, 0)
    assert violations(simulation, at_rest=True) == []


def test_a_worker_that_is_seen_again_must_be_missed_twice_anew() -> None:
    simulation, worker_id = under_way(seconds=10_000)
    for _ in range(3):
        simulation.workers.left_out.add(worker_id)
        simulation.run_for(60)
        simulation.workers.left_out.clear()
        simulation.run_for(60)
    assert simulation.job("a").losses == 0
    slot = simulation.tables.slot(f"{worker_id}-0")
    assert slot is not None
    assert slot.missing_since is None


def test_a_free_slot_outlives_one_answer_that_lacks_its_worker() -> None:
    simulation = Simulation()
    worker_id = simulation.workers.launch(simulation.queue, has_agent=False).worker_id
    simulation.run_for(700)
    simulation.workers.left_out.add(worker_id)
    simulation.sweep()
    simulation.workers.left_out.clear()
    [item] = simulation.tables.items(Table.SLOTS).values()
    assert item["state"] == SlotState.FREE


def test_a_worker_that_ec2_does_not_know_for_a_minute_is_gone() -> None:
    simulation, worker_id = under_way(seconds=10_000)
    simulation.workers.left_out.add(worker_id)
    simulation.run_for(125)
    assert simulation.job("a").losses == 1
    assert simulation.job("a").attempts[0].status_reason == f"worker {worker_id} was terminated"


@pytest.mark.parametrize("missing", [True, False])
def test_what_is_missed_costs_a_write_and_no_call_of_ec2(missing: bool) -> None:
    simulation, worker_id = under_way()
    if missing:
        simulation.workers.left_out.add(worker_id)
    before = len(simulation.faults.calls)
    simulation.sweep()
    made = simulation.faults.calls[before:]
    assert made.count("workers.described") == 1
    assert made.count("tables.write") == int(missing)
