"""What happens to jobs and their messages. Each story must end well whatever single call goes wrong in it."""

from __future__ import annotations

import json

from story import CANCELLED, FAILED, SUCCEEDED, stories, story, until_ended, until_running

from sched_plugins import scheduler as use_cases
from sched_plugins.core.environment import Environment, Upload
from sched_plugins.core.submission import Submission, upload_run_id
from sched_plugins.testing import Behaviour, Simulation
from sched_plugins.testing.commands import Attempt

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


@story({"a": SUCCEEDED})
def a_job_succeeds(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(stdout="all is well"))
    simulation.submit("a", job_success_string="well")


@story({"a": SUCCEEDED, "b": FAILED}, maximum=2)
def two_jobs_on_two_workers(simulation: Simulation) -> None:
    simulation.behave("b", Behaviour(stdout="no such word"))
    simulation.submit("a")
    simulation.submit("b", job_success_string="well")


@story({"a": FAILED})
def a_job_fails_and_is_tried_again(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(exit_code=3))
    simulation.submit("a", retry=1)


@story({"a": SUCCEEDED})
def a_raw_message_comes_twice(simulation: Simulation) -> None:
    simulation.send_raw(simulation.spec("a").to_plain())
    until_running(simulation, "a")
    simulation.queues.deliver_again(simulation.queues.sent[0])
    until_ended(simulation, "a")
    simulation.queues.deliver_again(simulation.queues.sent[0])


@story({"a": SUCCEEDED})
def a_raw_message_meets_a_live_job(simulation: Simulation) -> None:
    simulation.submit("a")
    simulation.send_raw(simulation.spec("a").to_plain())
    simulation.send_raw(simulation.spec("a", retry=2).to_plain())


@story({"a": SUCCEEDED})
def bad_messages_come_first(simulation: Simulation) -> None:
    simulation.send_raw("no JSON")
    simulation.send_raw("x" * 900_000)
    simulation.submit("a")


@story({"a": SUCCEEDED})
def a_job_is_submitted_again(simulation: Simulation) -> None:
    simulation.submit("a")
    simulation.submit("a", run_id="run-2")
    until_ended(simulation, "a")
    simulation.submit("a", run_id="run-3", retry=1)
    simulation.submit("a", run_id="run-1")


@story({"a": SUCCEEDED, "b": FAILED})
def the_success_string_comes_last(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(stdout="." * 30_000 + "well", output_delay=100))
    simulation.behave("b", Behaviour(stdout="." * 30_000, stderr="." * 9_000, metrics={"cells": 5}))
    simulation.submit("a", job_success_string="well")
    simulation.submit("b", job_success_string="well")


@story({"a": FAILED})
def stdout_never_reaches_s3(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(stdout="." * 30_000 + "well", output_delay=1e6))
    simulation.submit("a", job_success_string="well")


@story({"a": CANCELLED})
def a_queued_job_is_cancelled(simulation: Simulation) -> None:
    simulation.submit("a")
    simulation.cancel("a")


@story({"a": CANCELLED})
def a_running_job_is_cancelled(simulation: Simulation) -> None:
    simulation.behave("a", Behaviour(seconds=300))
    simulation.submit("a")
    until_running(simulation, "a")
    simulation.cancel("a")


@story({"a": CANCELLED})
def a_job_is_cancelled_as_it_starts(simulation: Simulation) -> None:
    def cancelled(_: Attempt) -> Behaviour:
        simulation.cancel("a")
        return Behaviour(seconds=300)

    simulation.behave("a", cancelled)
    simulation.submit("a")


@story({"a": SUCCEEDED}, stream_tries=0)
def the_stream_is_silent(simulation: Simulation) -> None:
    simulation.submit("a")


@story({"a": SUCCEEDED})
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


@story({"a": SUCCEEDED})
def messages_become_dead_letters(simulation: Simulation) -> None:
    simulation.queues.max_receives = 1
    simulation.queues.visibility = 5.0
    simulation.submit("a")
    simulation.send_raw("no JSON")
    simulation.send_raw(simulation.spec("a").to_plain())
    simulation.run_for(1)
    simulation.queues.receive(simulation.queue, 0, 10)


@story({UPLOADED: SUCCEEDED})
def a_folder_is_uploaded(simulation: Simulation) -> None:
    upload(simulation, "0A")
    upload(simulation, "0A")


@story({UPLOADED: SUCCEEDED})
def a_newer_upload_comes_during_the_run(simulation: Simulation) -> None:
    upload(simulation, "0A")
    until_running(simulation, UPLOADED)
    upload(simulation, "0C")
    upload(simulation, "0B")


@story({UPLOADED: SUCCEEDED})
def an_upload_comes_as_the_run_ends(simulation: Simulation) -> None:
    simulation.habits.stream_delay = 20.0
    upload(simulation, "0A")
    until_ended(simulation, UPLOADED)
    upload(simulation, "0B")


@story({"a": SUCCEEDED})
def a_spec_changes_hands_in_a_batch(simulation: Simulation) -> None:
    batch = [Submission(simulation.spec("a"), f"run-{number}", simulation.queue) for number in (1, 1, 2)]
    for _ in range(3):
        simulation.invoke("submit", lambda: use_cases.submit(simulation.world, batch))
        simulation.run_for(1)
    simulation.send_raw(json.dumps(simulation.spec("a").to_plain() | {"run_id": "nobody's", "attempt": 1}))


STORIES = stories(globals())
