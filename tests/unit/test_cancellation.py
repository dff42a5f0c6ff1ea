"""Jobs are cancelled while other things happen to them."""

from __future__ import annotations

from sched_plugins.core.state import Status
from sched_plugins.testing import Behaviour, Faults, Simulation, Way, violations
from sched_plugins.testing.faults import LATE


def test_a_job_that_starts_while_it_is_being_cancelled_is_stopped_at_once() -> None:
    faults = Faults()
    simulation = Simulation(faults=faults)
    simulation.behave("a", Behaviour(seconds=300))

    def write_late(number: int, call: str) -> None:
        if call == "tables.write" and faults.calls[number - 1] == "commands.send":
            faults.before, faults.plan = None, {number: Way.COMES_LATE}

    faults.before = write_late
    simulation.submit("a")
    simulation.clock.wait_for(lambda: bool(faults.plan), 60)
    assert simulation.job("a").status is Status.STARTING

    def start_now(number: int, call: str) -> None:
        if call == "tables.write":
            faults.before = None
            simulation.clock.wait_for(lambda: simulation.job("a").status is Status.RUNNING, LATE)

    faults.before = start_now
    simulation.cancel("a")
    assert faults.calls.count("commands.cancel") == 1, "the sweep has not come yet"
    assert simulation.run_until_quiet()
    assert simulation.job("a").status is Status.CANCELLED
    assert violations(simulation, at_rest=True) == []
