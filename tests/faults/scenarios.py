"""Short stories of what happens to jobs and workers. Each must end well whatever single call goes wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sched_plugins import scheduler as use_cases
from sched_plugins.core import names
from sched_plugins.core.environment import Environment, Upload
from sched_plugins.core.state import Status
from sched_plugins.core.submission import Submission, upload_run_id
from sched_plugins.ports import RefusedForWorker
from sched_plugins.testing import Behaviour, Faults, Habits, Simulation
from sched_plugins.testing.commands import Attempt

SUCCEEDED, FAILED, CANCELLED, REJECTED = (
    frozenset({Status.SUCCEEDED}), frozenset({Status.FAILED}), frozenset({Status.CANCELLED}),
    frozenset({Status.REJECTED}),
)  # fmt: skip
READS = frozenset(
    f"tables.{method}" for method in ("job", "jobs", "slot", "slots", "slots_of", "pending", "queued")
) | {
    "queues.waiting", "queues.siblings", "commands.invocation", "commands.find", "commands.in_progress",
    "commands.is_online", "objects.contains", "objects.tail", "objects.listing", "objects.metadata", "workers.tagged",
    "workers.described", "workers.capacity", "executions.running",
}  # fmt: skip
"""Calls that change nothing."""
PATIENCE = 900.0
"""Seconds for which a story waits for what it needs before it goes on without."""


@dataclass(frozen=True)
class Scenario:
    """A story: what is done, and which ends are right for its jobs."""

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


SCENARIOS: list[Scenario] = []


def scenario(
    ends: Mapping[str, frozenset[Status]], maximum: int = 1, **habits: float
) -> Callable[[Callable[[Simulation], None]], None]:
    """Register a story."""

    def register(play: Callable[[Simulation], None]) -> None:
        name = play.__name__.replace("_", " ")
        SCENARIOS.append(Scenario(name, play, ends, maximum, lambda: Habits(**habits)))  # type: ignore[arg-type]

    return register


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


@scenario({"a": SUCCEEDED})
def a_job_succeeds(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(stdout="all is well"))
    simulation.submit("a", job_success_string="well")


@scenario({"a": SUCCEEDED, "b": FAILED}, maximum=2)
def two_jobs_on_two_workers(simulation: Simulation) -> None:
    simulation.behave("b", Behaviour(stdout="no such word"))
    simulation.submit("a")
    simulation.submit("b", job_success_string="well")


@scenario({"a": FAILED})
def a_job_fails_and_is_tried_again(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(exit_code=3))
    simulation.submit("a", retry=1)


@scenario({"a": SUCCEEDED})
def a_raw_message_comes_twice(simulation: Simulation) -> None:
    simulation.send_raw(simulation.spec("a").to_plain())
    until_running(simulation, "a")
    simulation.queues.deliver_again(simulation.queues.sent[0])
    until_ended(simulation, "a")
    simulation.queues.deliver_again(simulation.queues.sent[0])


@scenario({"a": SUCCEEDED})
def a_raw_message_meets_a_live_job(simulation: Simulation) -> None:
    simulation.submit("a")
    simulation.send_raw(simulation.spec("a").to_plain())
    simulation.send_raw(simulation.spec("a", retry=2).to_plain())


@scenario({"a": SUCCEEDED})
def bad_messages_come_first(simulation: Simulation) -> None:
    simulation.send_raw("no JSON")
    simulation.send_raw("x" * 900_000)
    simulation.submit("a")


@scenario({"a": SUCCEEDED})
def a_job_is_submitted_again(simulation: Simulation) -> None:
    simulation.submit("a")
    simulation.submit("a", run_id="run-2")
    until_ended(simulation, "a")
    simulation.submit("a", run_id="run-3", retry=1)
    simulation.submit("a", run_id="run-1")


@scenario({"a": FAILED, "b": SUCCEEDED})
def a_document_is_unknown(simulation: Simulation) -> None:
    simulation.submit("a", ssm_document="No-Such-Document", retry=3)
    simulation.submit("b")


@scenario({"a": SUCCEEDED})
def a_worker_is_refused(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(refused=RefusedForWorker), Behaviour()))
    simulation.submit("a")


@scenario({"a": SUCCEEDED})
def an_agent_goes_deaf(simulation: Simulation) -> None:
    def deaf(attempt: Attempt) -> Behaviour:
        if attempt.attempt == 1:
            for instance in simulation.workers.alive():
                instance.agent_answers = False
        return Behaviour()

    simulation.behave("a", deaf)
    simulation.submit("a", retry=1)


@scenario({"a": SUCCEEDED})
def an_agent_never_answers(simulation: Simulation) -> None:
    simulation.workers.groups[simulation.group].has_agent = False
    simulation.submit("a")
    simulation.run_for(600)
    simulation.workers.groups[simulation.group].has_agent = True


@scenario({"a": SUCCEEDED, "b": FAILED})
def the_success_string_comes_last(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(stdout="." * 30_000 + "well", output_delay=100))
    simulation.behave("b", Behaviour(stdout="." * 30_000, stderr="." * 9_000, metrics={"cells": 5}))
    simulation.submit("a", job_success_string="well")
    simulation.submit("b", job_success_string="well")


@scenario({"a": FAILED})
def stdout_never_reaches_s3(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(stdout="." * 30_000 + "well", output_delay=1e6))
    simulation.submit("a", job_success_string="well")


@scenario({"a": CANCELLED})
def a_queued_job_is_cancelled(simulation: Simulation) -> None:
    simulation.submit("a")
    simulation.cancel("a")


@scenario({"a": CANCELLED})
def a_running_job_is_cancelled(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=300))
    simulation.submit("a")
    until_running(simulation, "a")
    simulation.cancel("a")


@scenario({"a": CANCELLED | SUCCEEDED})
def a_job_that_heeds_no_cancel_is_cancelled(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=150, heeds_cancel=False))
    simulation.submit("a", retry=2)
    until_running(simulation, "a")
    simulation.cancel("a")


@scenario({"a": CANCELLED})
def a_job_is_cancelled_as_it_starts(simulation: Simulation) -> None:
    def cancelled(_: Attempt) -> Behaviour:
        simulation.cancel("a")
        return Behaviour(seconds=300)

    simulation.behave("a", cancelled)
    simulation.submit("a")


@scenario({"a": SUCCEEDED})
def a_worker_is_interrupted(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(seconds=600), Behaviour()))
    simulation.submit("a")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.workers.interrupt(instance.worker_id)


@scenario({"a": SUCCEEDED, "b": SUCCEEDED})
def a_job_ends_within_the_notice(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=60))
    simulation.submit("a")
    simulation.submit("b")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.workers.interrupt(instance.worker_id)


@scenario({"a": SUCCEEDED}, instance_events=0, warnings=0)
def a_worker_vanishes_unheard(simulation: Simulation) -> None:
    simulation.commands.documents.add("Own-Document")
    simulation.behave("a", attempts(Behaviour(seconds=600), Behaviour()))
    simulation.submit("a", ssm_document="Own-Document", commands=[])
    until_running(simulation, "a")
    simulation.run_for(100)
    for instance in simulation.workers.alive():
        simulation.workers.interrupt(instance.worker_id, notice=0)


@scenario({"a": FAILED}, instance_events=0)
def workers_are_lost_six_times(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(refused=RefusedForWorker))
    simulation.workers.boot = 5.0
    simulation.submit("a", retry=1)


@scenario({"a": SUCCEEDED, "b": FAILED}, command_events=0)
def command_events_are_lost(simulation: Simulation) -> None:
    simulation.behave("b", Behaviour(exit_code=1))
    simulation.submit("a")
    simulation.submit("b")


@scenario({"a": SUCCEEDED}, command_events=2)
def command_events_come_twice(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(exit_code=1, seconds=0), Behaviour()))
    simulation.submit("a", retry=1)


@scenario({"a": SUCCEEDED}, stream_tries=0)
def the_stream_is_silent(simulation: Simulation) -> None:
    simulation.submit("a")


@scenario({"a": SUCCEEDED})
def an_agent_is_restarted(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(seconds=300), Behaviour()))
    simulation.submit("a")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.commands.restart_agent(instance.worker_id)


@scenario({"a": SUCCEEDED, "b": SUCCEEDED})
def a_history_is_full(simulation: Simulation) -> None:
    simulation.executions.events_a_round = 10_000
    simulation.submit("a")
    simulation.submit("b")


@scenario({"a": SUCCEEDED})
def an_execution_is_aborted(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=200))
    simulation.submit("a")
    until_running(simulation, "a")
    for execution in simulation.executions.active():
        simulation.executions.abort(execution.name)


@scenario({"a": SUCCEEDED})
def a_message_is_lost_by_the_queue(simulation: Simulation) -> None:
    simulation.queues.max_receives = 1
    simulation.workers.groups[simulation.group].maximum = 0
    simulation.submit("a")
    simulation.run_for(5)
    for message in simulation.queues.receive(simulation.queue):
        simulation.queues.delete(simulation.queue, message.receipt)
    simulation.requeue_after = 600
    simulation.run_for(500)
    simulation.workers.groups[simulation.group].maximum = 1


@scenario({"a": SUCCEEDED})
def messages_become_dead_letters(simulation: Simulation) -> None:
    simulation.queues.max_receives = 1
    simulation.queues.visibility = 5.0
    simulation.submit("a")
    simulation.send_raw("no JSON")
    simulation.send_raw(simulation.spec("a").to_plain())
    simulation.run_for(1)
    simulation.queues.receive(simulation.queue, 0, 10)


STAGE = Environment(name="demo", bucket="demo-bucket", retry=1, timeout_seconds=60)


def upload(simulation: Simulation, sequencer: str, key: str = "case/run.sh") -> None:
    """An object is created in the environment's bucket, and its event is handled until it has an answer."""
    uri = f"s3://{STAGE.bucket}/{key}"
    simulation.objects.put(uri, f"version {sequencer}".encode(), {})
    event = Upload(STAGE.bucket, key, simulation.objects.stored[uri].etag, sequencer)
    for _ in range(6):
        answers = simulation.invoke("trigger", lambda: use_cases.trigger(simulation.world, STAGE, [event]))
        if answers is not None and all(answer is None or answer.error is None for answer in answers):
            for answer in answers:
                if answer is not None and answer.decision is not None:
                    simulation.accepted.append((uri, upload_run_id(sequencer), answer.decision.outcome))
            return
        simulation.run_for(2)


UPLOADED = "s3://demo-bucket/case/run.sh"


@scenario({UPLOADED: SUCCEEDED})
def a_folder_is_uploaded(simulation: Simulation) -> None:
    upload(simulation, "0A")
    upload(simulation, "0A")


@scenario({UPLOADED: SUCCEEDED})
def a_newer_upload_comes_during_the_run(simulation: Simulation) -> None:
    upload(simulation, "0A")
    until_running(simulation, UPLOADED)
    upload(simulation, "0C")
    upload(simulation, "0B")


@scenario({UPLOADED: SUCCEEDED})
def an_upload_comes_as_the_run_ends(simulation: Simulation) -> None:
    simulation.habits.stream_delay = 20.0
    upload(simulation, "0A")
    until_ended(simulation, UPLOADED)
    upload(simulation, "0B")


@scenario({"a": FAILED, "b": FAILED, "c": FAILED, "d": SUCCEEDED})
def a_machine_is_bad(simulation: Simulation) -> None:
    for job_id in "abc":
        simulation.behave(job_id, Behaviour(seconds=0.2, exit_code=1))
    for job_id in "abcd":
        simulation.submit(job_id)


@scenario({"a": SUCCEEDED})
def a_worker_is_stopped(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(seconds=600), Behaviour()))
    simulation.submit("a")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.workers.stop(instance.worker_id)


@scenario({"a": SUCCEEDED})
def an_own_worker_joins(simulation: Simulation) -> None:
    """A worker without the tag, and one without a group."""
    simulation.workers.groups[simulation.group].maximum = 0
    untagged, tagged = simulation.workers.launch(""), simulation.workers.launch(simulation.queue)
    simulation.submit("a")
    simulation.run_for(40)
    simulation.invoke("attach", lambda: use_cases.attach(simulation.world, untagged.worker_id, simulation.queue))
    simulation.run_for(200)
    simulation.workers.groups[simulation.group].maximum = 1
    # Whoever attached it and saw that fail does it again, or ends it.
    if simulation.tables.slot(names.slot_id(untagged.worker_id)) is None:
        simulation.workers.terminate(untagged.worker_id)
    assert tagged.tag


@scenario({"a": FAILED})
def systems_manager_contradicts_itself(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=60))
    simulation.submit("a")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.commands.contradict(instance.worker_id)
    simulation.run_for(100)
    simulation.clock.jump(4_000)


@scenario({"a": SUCCEEDED})
def a_spec_changes_hands_in_a_batch(simulation: Simulation) -> None:
    batch = [Submission(simulation.spec("a"), f"run-{number}", simulation.queue) for number in (1, 1, 2)]
    for _ in range(3):
        simulation.invoke("submit", lambda: use_cases.submit(simulation.world, batch))
        simulation.run_for(1)
    simulation.send_raw(json.dumps(simulation.spec("a").to_plain() | {"run_id": "nobody's", "attempt": 1}))
