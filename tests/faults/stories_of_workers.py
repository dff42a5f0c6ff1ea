"""What happens to workers, their agents and executions. Each story must end well whatever single call goes wrong."""

from __future__ import annotations

from story import CANCELLED, FAILED, SUCCEEDED, attempts, stories, story, until_running

from sched_plugins import scheduler as use_cases
from sched_plugins.core import limits, names, write
from sched_plugins.core.submission import Submission, new_run
from sched_plugins.ports import RefusedForWorker
from sched_plugins.testing import Behaviour, Simulation
from sched_plugins.testing.commands import Attempt


@story({"a": FAILED, "b": SUCCEEDED})
def a_document_is_unknown(simulation: Simulation) -> None:
    simulation.submit("a", ssm_document="No-Such-Document", retry=3)
    simulation.submit("b")


@story({"a": SUCCEEDED})
def a_worker_is_refused(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(refused=RefusedForWorker), Behaviour()))
    simulation.submit("a")


@story({"a": SUCCEEDED})
def an_agent_goes_deaf(simulation: Simulation) -> None:
    def deaf(attempt: Attempt) -> Behaviour:
        if attempt.attempt == 1:
            for instance in simulation.workers.alive():
                instance.agent_answers = False
        return Behaviour()

    simulation.behave("a", deaf)
    simulation.submit("a", retry=1)


@story({"a": SUCCEEDED})
def an_agent_never_answers(simulation: Simulation) -> None:
    simulation.workers.groups[simulation.group].has_agent = False
    simulation.submit("a")
    simulation.run_for(600)
    simulation.workers.groups[simulation.group].has_agent = True


@story({"a": CANCELLED | SUCCEEDED})
def a_job_that_heeds_no_cancel_is_cancelled(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=150, heeds_cancel=False))
    simulation.submit("a", retry=2)
    until_running(simulation, "a")
    simulation.cancel("a")


@story({"a": SUCCEEDED})
def a_worker_is_interrupted(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(seconds=600), Behaviour()))
    simulation.submit("a")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.workers.interrupt(instance.worker_id)


@story({"a": SUCCEEDED, "b": SUCCEEDED})
def a_job_ends_within_the_notice(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=60))
    simulation.submit("a")
    simulation.submit("b")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.workers.interrupt(instance.worker_id)


@story({"a": SUCCEEDED}, instance_events=0, warnings=0)
def a_worker_vanishes_unheard(simulation: Simulation) -> None:
    simulation.commands.documents.add("Own-Document")
    simulation.behave("a", attempts(Behaviour(seconds=600), Behaviour()))
    simulation.submit("a", ssm_document="Own-Document", commands=[])
    until_running(simulation, "a")
    simulation.run_for(100)
    for instance in simulation.workers.alive():
        simulation.workers.interrupt(instance.worker_id, notice=0)


@story({"a": FAILED}, instance_events=0)
def a_worker_is_lost_for_the_sixth_time(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(refused=RefusedForWorker))
    simulation.workers.boot = 5.0
    first = Submission(simulation.spec("a", retry=1), "run-1", simulation.queue)
    lost = new_run(first, None, simulation.clock.now()).changed(attempt=6, losses=limits.MAX_LOSSES)
    simulation.tables.write(write.job("submit.first", None, lost.changed(pending=lost.event_id)))


@story({"a": SUCCEEDED, "b": FAILED}, command_events=0)
def command_events_are_lost(simulation: Simulation) -> None:
    simulation.behave("b", Behaviour(exit_code=1))
    simulation.submit("a")
    simulation.submit("b")


@story({"a": SUCCEEDED}, command_events=2)
def command_events_come_twice(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(exit_code=1, seconds=0), Behaviour()))
    simulation.submit("a", retry=1)


@story({"a": SUCCEEDED})
def an_agent_is_restarted(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(seconds=300), Behaviour()))
    simulation.submit("a")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.commands.restart_agent(instance.worker_id)


@story({"a": SUCCEEDED, "b": SUCCEEDED})
def a_history_is_full(simulation: Simulation) -> None:
    simulation.executions.events_a_round = 10_000
    simulation.submit("a")
    simulation.submit("b")


@story({"a": SUCCEEDED})
def an_execution_is_aborted(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=200))
    simulation.submit("a")
    until_running(simulation, "a")
    for execution in simulation.executions.active():
        simulation.executions.abort(execution.name)


@story({"a": FAILED, "b": FAILED, "c": FAILED, "d": SUCCEEDED})
def a_machine_is_bad(simulation: Simulation) -> None:
    simulation.workers.boot = 5.0
    for job_id in "abc":
        simulation.behave(job_id, Behaviour(seconds=0.2, exit_code=1))
    for job_id in "abcd":
        simulation.submit(job_id)


@story({"a": SUCCEEDED})
def a_worker_is_stopped(simulation: Simulation) -> None:
    simulation.behave("a", attempts(Behaviour(seconds=600), Behaviour()))
    simulation.submit("a")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.workers.stop(instance.worker_id)


@story({"a": SUCCEEDED})
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


@story({"a": FAILED})
def systems_manager_contradicts_itself(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=60))
    simulation.submit("a")
    until_running(simulation, "a")
    for instance in simulation.workers.alive():
        simulation.commands.contradict(instance.worker_id)
    simulation.run_for(100)
    simulation.clock.jump(4_000)


STORIES = stories(globals())
