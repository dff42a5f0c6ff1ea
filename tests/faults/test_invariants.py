"""Each invariant's check notices when it is broken: here somebody breaks it behind the rules' back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from sched_plugins.core import names, worker
from sched_plugins.core.state import SlotState, Status
from sched_plugins.core.submission import Outcome
from sched_plugins.core.write import Table, Write, equals
from sched_plugins.ports import Command
from sched_plugins.testing import Behaviour, Simulation, violations
from sched_plugins.testing.commands import Process
from sched_plugins.testing.invariants import ALWAYS, AT_REST
from sched_plugins.testing.tables import Change


def finished(**fields: Any) -> Simulation:
    """A simulation in which one job has come and gone."""
    simulation = Simulation()
    simulation.behave("a", Behaviour(stdout="well"))
    simulation.submit("a", **fields)
    assert simulation.run_until_quiet()
    return simulation


def under_way() -> Simulation:
    """A simulation in which one job runs."""
    simulation = Simulation()
    simulation.behave("a", Behaviour(seconds=500))
    simulation.submit("a")
    simulation.run_for(60)
    assert simulation.job("a").status is Status.RUNNING
    return simulation


def write(simulation: Simulation, **changes: Any) -> None:
    """Somebody writes into the job's record what no rule would."""
    simulation.tables.write(Write("sabotage", Table.JOBS, "a", changes, (), ()))


def write_slot(simulation: Simulation, **changes: Any) -> None:
    """Somebody writes into the worker's slot what no rule would."""
    [slot_id] = simulation.tables.items(Table.SLOTS)
    simulation.tables.write(Write("sabotage", Table.SLOTS, slot_id, changes, (), ()))


def lose_the_message() -> Simulation:
    simulation = Simulation(maximum=0)
    simulation.submit("a")
    simulation.run_for(5)
    [received] = simulation.queues.receive(simulation.queue)
    simulation.queues.delete(simulation.queue, received.receipt)
    return simulation


def forget_a_submission() -> Simulation:
    simulation = finished()
    simulation.accepted.append(("a", "run-9", Outcome.ACCEPTED))
    return simulation


def forget_an_upload() -> Simulation:
    simulation = finished()
    simulation.accepted.append(("a", "upload-9", Outcome.KEPT))
    return simulation


def start_a_second_attempt() -> Simulation:
    simulation = under_way()
    [first] = simulation.commands.processes
    second = replace(first.attempt, attempt=2)
    simulation.commands.processes.append(Process(second, "i-2", simulation.clock.now()))
    return simulation


def go_back_to_an_old_attempt() -> Simulation:
    simulation = under_way()
    write(simulation, attempt=3)
    return simulation


def retry_too_often() -> Simulation:
    simulation = under_way()
    write(simulation, attempt=2, status="QUEUED", losses=0)
    return simulation


def end_as_a_zombie() -> Simulation:
    simulation = under_way()
    before = simulation.tables.item(Table.JOBS, "a")
    zombie = Write("sabotage", Table.JOBS, "a", {}, (), (equals("attempt", 0),))
    simulation.tables.history.append(Change(simulation.clock.now(), zombie, before, before, 10**6))
    return simulation


def change_an_end() -> Simulation:
    simulation = finished()
    write(simulation, status="FAILED")
    return simulation


def replace_a_live_run() -> Simulation:
    simulation = under_way()
    write(simulation, run_id="run-2", status="QUEUED")
    return simulation


def free_a_held_slot() -> Simulation:
    simulation = under_way()
    write_slot(simulation, state="FREE")
    return simulation


def hold_two_jobs() -> Simulation:
    simulation = under_way()
    write_slot(simulation, job_id="b")
    return simulation


def drop_a_held_slot() -> Simulation:
    simulation = under_way()
    [slot_id] = simulation.tables.items(Table.SLOTS)
    slot = simulation.tables.slot(slot_id)
    assert slot is not None
    simulation.tables.write(replace(worker.drop(slot), conditions=()))
    return simulation


def send_twice() -> Simulation:
    simulation = under_way()
    [run] = simulation.commands.runs.values()
    simulation.commands.send(run.command)
    return simulation


def start_twice() -> Simulation:
    simulation = under_way()
    simulation.commands.processes *= 2
    return simulation


def send_what_would_be_expanded() -> Simulation:
    simulation = under_way()
    [run] = simulation.commands.runs.values()
    bad = Command(run.command.worker_id, "AWS-RunShellScript", {"commands": ["{{ssm:x}}"]}, "other", 60)
    simulation.commands.send(bad)
    return simulation


def succeed_without_the_word() -> Simulation:
    simulation = finished(job_success_string="well")
    [run] = simulation.commands.runs.values()
    run.stdout = "bad"
    return simulation


def succeed_with_a_code() -> Simulation:
    simulation = finished()
    [run] = simulation.commands.runs.values()
    run.exit_code = 1
    return simulation


def tell_of_what_never_happened() -> Simulation:
    simulation = under_way()
    simulation.queues.put(names.finished_queue(simulation.queue), '{"event_id": "a:run-1:1:SUCCEEDED", "run_id": "x"}')
    return simulation


def tell_on_the_wrong_queue() -> Simulation:
    simulation = finished()
    [told] = simulation.queues.stored(names.finished_queue(simulation.queue))
    simulation.queues.put(names.failed_queue(simulation.queue), told.body)
    return simulation


def write_a_manifest_of_a_failure() -> Simulation:
    simulation = finished()
    simulation.objects.put("s3://bucket/case/_sched/SUCCEEDED.json", b"{}", {"sched-run-id": "run-9"})
    return simulation


def tell_nobody() -> Simulation:
    simulation = finished()
    simulation.queues.sent[:] = [one for one in simulation.queues.sent if not one.queue.endswith("-finished")]
    return simulation


def publish_nothing() -> Simulation:
    simulation = finished()
    simulation.events.published.clear()
    return simulation


def swallow_a_message() -> Simulation:
    simulation = finished()
    simulation.send_raw("no JSON")
    [received] = simulation.queues.receive(simulation.queue)
    simulation.queues.delete(simulation.queue, received.receipt)
    return simulation


def wait_for_long() -> Simulation:
    simulation = finished()
    over = simulation.clock.now() - timedelta(minutes=30)
    for run in simulation.commands.runs.values():
        run.finished_at = over
    for instance in simulation.workers.instances.values():
        instance.terminated_at = None
    simulation.sweeps[:] = [over + timedelta(minutes=number) for number in range(1, 9)]
    return simulation


def launch_too_many() -> Simulation:
    simulation = finished()
    for _ in range(3):
        simulation.workers.launch(simulation.queue, simulation.group)
    return simulation


def ask_for_too_much() -> Simulation:
    simulation = finished()
    simulation.invocations_failed.append("claim: Refused: too large")
    return simulation


def leave_a_worker() -> Simulation:
    simulation = finished()
    simulation.workers.launch("").protected = True
    return simulation


def leave_a_slot() -> Simulation:
    simulation = finished()
    slot, made = worker.new_slot("i-9", simulation.queue, simulation.clock.now())
    simulation.tables.write(made)
    assert slot.state is SlotState.FREE
    return simulation


SABOTAGE: dict[str, list[Callable[[], Simulation]]] = {
    "nothing_is_lost": [lose_the_message, forget_a_submission, forget_an_upload],
    "one_live_attempt": [start_a_second_attempt],
    "attempts_only_grow": [go_back_to_an_old_attempt, retry_too_often],
    "fences_hold": [end_as_a_zombie],
    "moves_are_permitted": [change_an_end, replace_a_live_run],
    "slots_and_jobs_agree": [free_a_held_slot, hold_two_jobs, drop_a_held_slot],
    "commands_start_once": [send_twice, start_twice, send_what_would_be_expanded],
    "success_is_proven": [succeed_without_the_word, succeed_with_a_code],
    "ends_are_told": [tell_of_what_never_happened, tell_on_the_wrong_queue, write_a_manifest_of_a_failure],
    "every_end_was_told": [tell_nobody, publish_nothing],
    "every_message_ends": [swallow_a_message],
    "attempts_move_on": [wait_for_long],
    "workers_stay_within_bounds": [launch_too_many],
    "sizes_stay_within_limits": [ask_for_too_much],
    "nothing_is_left": [leave_a_worker, leave_a_slot],
}


@pytest.mark.parametrize(
    ("invariant", "sabotage"),
    [(invariant, sabotage) for invariant, found in SABOTAGE.items() for sabotage in found],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_the_check_notices(invariant: str, sabotage: Callable[[], Simulation]) -> None:
    found = violations(sabotage(), at_rest=True)
    assert any(one.startswith(f"{invariant}:") for one in found), found


def test_every_check_is_tried() -> None:
    assert set(SABOTAGE) == {check.__name__ for check in (*ALWAYS, *AT_REST)}


def test_a_good_day_breaks_nothing() -> None:
    assert violations(finished(), at_rest=True) == []
    assert violations(under_way()) == []
