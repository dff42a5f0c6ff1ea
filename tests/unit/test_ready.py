"""When a worker's execution need wait no longer for its worker's agent."""

from __future__ import annotations

from sched_plugins import scheduler
from sched_plugins.ports import InstanceState
from sched_plugins.testing import Simulation


def worker_without_agent(simulation: Simulation) -> str:
    worker_id = simulation.workers.launch(simulation.queue, has_agent=False).worker_id
    simulation.run_for(60)
    return worker_id


def test_a_worker_whose_agent_does_not_answer_is_waited_for() -> None:
    simulation = Simulation()
    worker_id = worker_without_agent(simulation)
    assert scheduler.ready(simulation.world, f"{worker_id}-0") is False
    assert not simulation.workers.instances[worker_id].protected


def test_a_worker_whose_agent_answers_is_protected() -> None:
    simulation = Simulation()
    worker_id = worker_without_agent(simulation)
    instance = simulation.workers.instances[worker_id]
    instance.agent_answers, instance.group = True, simulation.group
    assert scheduler.ready(simulation.world, f"{worker_id}-0") is True
    assert instance.protected


def test_the_execution_of_a_worker_that_went_before_its_agent_answered_ends_with_it() -> None:
    simulation = Simulation()
    worker_id = worker_without_agent(simulation)
    [execution] = simulation.executions.active()
    simulation.workers.interrupt(worker_id, notice=0)
    simulation.run_for(180)
    assert simulation.workers.instances[worker_id].state is InstanceState.TERMINATED
    assert not execution.is_running
    assert simulation.is_quiet()
