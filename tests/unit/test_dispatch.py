"""A worker's execution asks for a job, and there is none that it could start at once."""

from __future__ import annotations

import pytest

from sched_plugins import scheduler
from sched_plugins.core import worker
from sched_plugins.core.claim import Round
from sched_plugins.core.state import Status, Verdict
from sched_plugins.scheduler.dispatch import MESSAGES_A_ROUND, RETRY_DELAY
from sched_plugins.testing import Habits, Simulation, violations


def told_late(delay: float = 18.0) -> Simulation:
    """A simulation in which a job has just ended, which is told of only a while later."""
    simulation = Simulation(maximum=2, habits=Habits(stream_delay=delay))
    simulation.submit("a")
    simulation.clock.wait_for(lambda: simulation.job("a").is_terminal, 600)
    assert simulation.job("a").pending
    return simulation


@pytest.mark.parametrize("wait", [0, 1, 5])
def test_a_worker_waits_for_the_message_that_it_has_put_off(wait: int) -> None:
    simulation = told_late()
    simulation.empty_queue_wait = wait
    simulation.send_raw(simulation.spec("a", retry=1).to_plain())
    assert simulation.run_until_quiet()
    assert simulation.job("a").status is Status.SUCCEEDED
    assert simulation.job("a").run_id.startswith("message-")
    assert len(simulation.workers.instances) == 1
    assert violations(simulation, at_rest=True) == []


def test_a_worker_ends_as_soon_when_it_has_put_nothing_off() -> None:
    simulation = Simulation()
    simulation.empty_queue_wait = 0
    simulation.submit("a")
    simulation.clock.wait_for(lambda: simulation.job("a").is_terminal, 600)
    ended = simulation.clock.now()
    simulation.clock.wait_for(lambda: not simulation.workers.alive(), 600)
    assert (simulation.clock.now() - ended).total_seconds() < RETRY_DELAY


def test_what_was_put_off_last_is_there_again_when_the_next_invocation_looks() -> None:
    simulation = told_late()
    simulation.clock.wait_for(lambda: not simulation.workers.alive(), 60)
    slot, made = worker.new_slot("i-9", simulation.queue, simulation.clock.now())
    simulation.tables.write(made)
    # One more than an invocation looks at: the last is put off as it ends.
    for number in range(MESSAGES_A_ROUND - 1):
        simulation.send_raw(f"no JSON {number}")
    simulation.send_raw(simulation.spec("a", retry=1).to_plain())
    assert scheduler.claim(simulation.world, Round(slot.slot_id, "token", slot.execution), wait=0) is Verdict.NEXT
    assert simulation.queues.waiting(simulation.queue) == 1
