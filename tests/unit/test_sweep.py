"""What the sweep believes, and what it leaves alone."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from sched_plugins import scheduler as use_cases
from sched_plugins.core import limits
from sched_plugins.core.state import SlotState, Status
from sched_plugins.core.submission import Submission
from sched_plugins.core.write import Table, Write
from sched_plugins.ports import Unreadable
from sched_plugins.testing import Behaviour, Habits, Simulation, violations
from sched_plugins.testing.executions import State
from sched_plugins.testing.faults import Crash


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


def dies_unheard(simulation: Simulation, call: str = "queues.receive") -> None:
    """Let the function that makes this call next die, and its execution wait on."""

    def die(_: int, name: str) -> None:
        if name == call:
            simulation.faults.before = None
            raise Crash(name)

    simulation.faults.before = die
    simulation.executions.hears_of_deaths = False


def test_a_worker_whose_first_claim_died_unheard_gets_another_execution() -> None:
    simulation = Simulation(maximum=1)
    dies_unheard(simulation)
    simulation.submit("a")
    simulation.run_for(limits.READY_PATIENCE + limits.CLAIM_PATIENCE)
    assert simulation.job("a").status is Status.QUEUED
    simulation.run_for(180)
    assert simulation.job("a").status is Status.SUCCEEDED
    [first, second] = simulation.executions.executions.values()
    assert first.is_running
    # The older one ends at its task's own timeout, turned away by its ticket.
    assert simulation.run_until_quiet(hours=50)
    assert (first.state, second.state, len(simulation.workers.instances)) == (State.ENDED, State.ENDED, 1)
    assert violations(simulation, at_rest=True) == []


def test_a_worker_whose_later_claim_died_unheard_waits_only_as_long_as_a_claim_may_take() -> None:
    simulation = Simulation(maximum=1)
    simulation.submit("a")
    simulation.clock.wait_for(lambda: simulation.job("a").is_terminal, 600)
    dies_unheard(simulation)
    simulation.submit("b")
    simulation.run_for(limits.CLAIM_PATIENCE - 60)
    assert len(simulation.executions.executions) == 1
    simulation.run_for(240)
    assert simulation.job("b").status is Status.SUCCEEDED
    assert simulation.run_until_quiet(hours=50)
    assert violations(simulation, at_rest=True) == []


def test_a_worker_that_finds_nothing_to_start_for_an_hour_is_left_alone() -> None:
    simulation = Simulation(maximum=1)
    simulation.submit("a")
    simulation.clock.wait_for(lambda: simulation.job("a").is_terminal, 600)
    calls, began = simulation.faults.calls, simulation.clock.now()
    before = len(calls)
    while (passed := simulation.clock.now() - began) < timedelta(hours=1):
        simulation.send_raw("no JSON")
        simulation.run_for(3)
    assert len(simulation.workers.instances) == 1
    assert calls[before:].count("executions.start") == 0
    signs = [change for change in simulation.tables.history if change.write.name == "worker.asked"]
    assert 20 <= len(signs) <= passed / timedelta(minutes=1)
    # A sweep asks the same of an idle worker as of one that works, and nothing else.
    begin = len(calls)
    simulation.sweep()
    assert sorted(calls[begin:]) == sorted([
        "workers.tagged", "tables.slots", "workers.described", "executions.running", "commands.in_progress",
        "tables.pending", "queues.receive", "tables.queued",
    ])  # fmt: skip


def spoil(simulation: Simulation, table: Table, key: str, **changes: Any) -> None:
    """A newer version of the scheduler writes an item that this one cannot read."""
    simulation.tables.write(Write("newer", table, key, changes, (), ()))


def test_a_record_that_cannot_be_read_keeps_no_other_from_being_published() -> None:
    simulation = Simulation(maximum=1, habits=Habits(stream_copies=0))
    for job_id in ("a", "b", "c"):
        simulation.submit(job_id)
    spoil(simulation, Table.JOBS, "b", status="PAUSED")
    simulation.run_for(600)
    assert [simulation.job(job_id).status for job_id in ("a", "c")] == [Status.SUCCEEDED] * 2
    assert any("sweep: Unreadable: the item 'b'" in failure for failure in simulation.invocations_failed)
    with pytest.raises(Unreadable, match="'b'"):
        simulation.tables.job("b")


def test_a_record_that_cannot_be_read_keeps_no_other_from_being_sent_again() -> None:
    simulation = Simulation(maximum=0)
    for job_id in ("a", "b", "c"):
        simulation.submit(job_id)
    simulation.run_for(30)
    spoil(simulation, Table.JOBS, "b", submitted_at="yesterday")
    simulation.requeue_after = 600
    simulation.run_for(700)
    sent = [json.loads(one.body)["job_id"] for one in simulation.queues.sent if one.queue == simulation.queue]
    assert sorted(sent) == ["a", "a", "b", "c", "c"]


def test_a_slot_that_cannot_be_read_keeps_no_other_from_being_tended() -> None:
    simulation = Simulation(maximum=2, habits=Habits(command_events=0))
    simulation.submit("a")
    odd = simulation.workers.launch(simulation.queue, has_agent=False).worker_id
    simulation.run_for(50)
    spoil(simulation, Table.SLOTS, f"{odd}-0", state="NAPPING")
    simulation.run_for(200)
    assert simulation.job("a").status is Status.SUCCEEDED
    told = {failure for failure in simulation.invocations_failed if failure.startswith("sweep")}
    assert len(told) == 1
    assert f"the item '{odd}-0'" in told.pop()


def test_what_cannot_be_read_fails_its_own_submission_and_its_own_effect_alone() -> None:
    simulation = Simulation(maximum=0)
    simulation.submit("b")
    waiting = simulation.job("b")
    spoil(simulation, Table.JOBS, "b", attempt="many")
    batch = [Submission(simulation.spec(job_id), "run-9", simulation.queue) for job_id in ("a", "b")]
    fine, bad = use_cases.submit(simulation.world, batch)
    assert fine.error is None
    assert isinstance(bad.error, Unreadable)
    failed = use_cases.publish(simulation.world, [simulation.job("a"), waiting])
    assert list(failed) == ["b"]
    assert isinstance(failed["b"], Unreadable)


def test_workers_are_counted_although_one_is_in_an_unknown_state() -> None:
    simulation = Simulation()
    for _ in range(2):
        simulation.workers.launch(simulation.queue, has_agent=False)
    simulation.run_for(50)
    spoil(simulation, Table.SLOTS, next(iter(simulation.tables.items(Table.SLOTS))), state="NAPPING")
    simulation.run_for(5)
    assert simulation.tables.slots_of(simulation.queue) == {SlotState.FREE: 1}


def test_a_sweep_that_dies_over_what_is_overdue_has_done_all_else() -> None:
    simulation = Simulation(maximum=0, habits=Habits(stream_copies=0))
    simulation.submit("a")
    simulation.queues.put(simulation.world.dead_letters, "no JSON")
    simulation.clock.jump(limits.PENDING_PATIENCE + 60)
    dies_unheard(simulation, "queues.send")
    simulation.sweep()
    assert simulation.invocations_failed[-1] == "sweep: Crash: queues.send"
    assert simulation.tables.item(Table.JOBS, "rejected/message-1") is not None
