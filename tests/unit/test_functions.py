"""The handlers on the fakes: events as AWS sends them, and what comes of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from sched_plugins import scheduler as use_cases
from sched_plugins.aws import world as worlds
from sched_plugins.aws.items import to_attribute
from sched_plugins.core import names, write
from sched_plugins.core import slot as slots
from sched_plugins.core.environment import MANIFEST
from sched_plugins.core.record import to_item
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState, Status, Verdict
from sched_plugins.core.write import Table
from sched_plugins.errors import NotFound, SchedulerError
from sched_plugins.functions import (
    cancel,
    claim,
    observe,
    outbox,
    process,
    ready,
    reap,
    retire,
    scale,
    start,
    submit,
    sweep,
    trigger,
)
from sched_plugins.ports import InstanceState
from sched_plugins.scheduler.outbox import publish
from sched_plugins.testing import Behaviour, Habits, Simulation, Way

CONTEXT: Any = SimpleNamespace(
    function_name="f", memory_limit_in_mb=128, invoked_function_arn="arn:f", aws_request_id="1", tenant_id=None
)
BUCKET = "demo-123456789012-drop-job-files"
STATE_CHANGE = "EC2 Instance State-change Notification"


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    """A scheduler in memory, to which the handlers belong; no event comes by itself."""
    made = Simulation(habits=Habits(command_events=0, instance_events=0, warnings=0))
    made.workers.boot = 2.0
    monkeypatch.setattr(worlds, "world_from_environment", lambda: made.world)
    monkeypatch.setenv("SCHED_NAME", "sched")
    process.world.cache_clear()
    yield made
    process.world.cache_clear()


@pytest.fixture
def environment(simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> Simulation:
    """The same, as the functions of its environment see it."""
    monkeypatch.setenv("SCHED_QUEUE", simulation.queue)
    monkeypatch.setenv("ENVIRONMENT_NAME", "demo")
    monkeypatch.setenv("ENVIRONMENT_BUCKET", BUCKET)
    monkeypatch.setenv("RETRY", "2")
    simulation.queues.create(names.upload_queue("demo"))
    return simulation


def instance_event(worker_id: str, state: str) -> dict[str, Any]:
    detail = {"instance-id": worker_id, "state": state}
    return {"source": "aws.ec2", "detail-type": STATE_CHANGE, "detail": detail}


def launched(simulation: Simulation, tag: str | None = None) -> str:
    """A running worker with a tag, by default of the environment's queue."""
    instance = simulation.workers.launch(simulation.queue if tag is None else tag)
    simulation.run_for(10)
    return instance.worker_id


def job(job_id: str = "job-1", **fields: Any) -> dict[str, Any]:
    spec = {
        "job_id": job_id,
        "run_id": "run-1",
        "retry": "0",
        "job_success_string": "",
        "ssm_document": "AWS-RunShellScript",
        "commands": ["true"],
    }
    return spec | fields


def running(simulation: Simulation, **behaviour: Any) -> tuple[str, str]:
    """A worker and the command of a job that it has begun."""
    simulation.behave("job-1", Behaviour(**behaviour))
    assert simulation.submit("job-1") == "accepted"
    worker_id = launched(simulation)
    start.handler(instance_event(worker_id, "running"), CONTEXT)
    simulation.run_for(10)
    record = simulation.job("job-1")
    assert record.status is Status.RUNNING
    return worker_id, record.command_id


class TestStart:
    def test_a_tagged_worker_gets_its_execution_and_a_repeated_event_changes_nothing(
        self, simulation: Simulation
    ) -> None:
        worker_id = launched(simulation)
        for _ in range(2):
            answer = start.handler(instance_event(worker_id, "running"), CONTEXT)
            assert answer == {"slot_id": names.slot_id(worker_id)}
        assert [execution.name for execution in simulation.executions.active()] == [f"{worker_id}-0-1"]

    def test_an_instance_without_the_tag_is_left_alone(self, simulation: Simulation) -> None:
        worker_id = launched(simulation, tag="")
        assert start.handler(instance_event(worker_id, "running"), CONTEXT) == {}
        assert not simulation.tables.items(Table.SLOTS)

    def test_an_instance_that_ec2_does_not_know_yet_is_asked_for_again(self, simulation: Simulation) -> None:
        with pytest.raises(NotFound, match="i-0unknown"):
            start.handler(instance_event("i-0unknown", "running"), CONTEXT)

    def test_a_worker_that_is_being_retired_is_not_attached_again(self, simulation: Simulation) -> None:
        worker_id = launched(simulation)
        start.handler(instance_event(worker_id, "running"), CONTEXT)
        slot = simulation.world.tables.slot(names.slot_id(worker_id))
        assert slot is not None
        retire.handler({"action": "retire", "slot_id": slot.slot_id, "execution": 1}, CONTEXT)
        assert start.handler(instance_event(worker_id, "running"), CONTEXT) == {}

    def test_a_spot_warning_keeps_the_worker_from_claiming(self, simulation: Simulation) -> None:
        worker_id, _ = running(simulation, seconds=600)
        warning = {
            "source": "aws.ec2",
            "detail-type": "EC2 Spot Instance Interruption Warning",
            "detail": {"instance-id": worker_id, "instance-action": "terminate"},
        }
        assert start.handler(warning, CONTEXT) == {"draining": True}
        slot = simulation.world.tables.slot(names.slot_id(worker_id))
        assert slot is not None
        assert "Spot will terminate it" in slot.draining

    def test_a_hand_attaches_an_untagged_instance(self, simulation: Simulation) -> None:
        worker_id = launched(simulation, tag="")
        answer = start.handler({"worker_id": worker_id, "queue": simulation.queue}, CONTEXT)
        assert answer == {"slot_id": names.slot_id(worker_id)}
        assert simulation.executions.active()

    def test_a_hand_is_told_what_is_wrong(self, simulation: Simulation) -> None:
        worker_id = launched(simulation, tag="")
        unknown = start.handler({"worker_id": "i-0unknown", "queue": simulation.queue}, CONTEXT)
        assert unknown["error"] == {"type": "NotFound", "message": "EC2 knows no instance i-0unknown; check the id"}
        no_queue = start.handler({"worker_id": worker_id, "queue": "no-such-queue"}, CONTEXT)
        assert no_queue["error"]["type"] == "QueueNotFound"
        simulation.queues.create_trio("other-job-queue")
        start.handler({"worker_id": worker_id, "queue": simulation.queue}, CONTEXT)
        other = start.handler({"worker_id": worker_id, "queue": "other-job-queue"}, CONTEXT)
        assert other["error"]["type"] == "Conflict"
        assert "other-job-queue" in other["error"]["message"]


class TestExecution:
    def test_ready_raises_until_the_agent_answers_and_then_protects(self, simulation: Simulation) -> None:
        instance = simulation.workers.launch(simulation.queue, simulation.group)
        simulation.run_for(simulation.workers.unseen)
        start_event = {"worker_id": instance.worker_id, "queue": simulation.queue}
        assert "slot_id" in start.handler(start_event, CONTEXT)
        with pytest.raises(ready.NotReady):
            ready.handler({"slot_id": names.slot_id(instance.worker_id)}, CONTEXT)
        simulation.run_for(10)
        assert ready.handler({"slot_id": names.slot_id(instance.worker_id)}, CONTEXT) == {"ready": True}
        assert instance.protected

    def test_not_ready_is_the_error_that_the_state_machine_waits_for(self) -> None:
        # Step Functions gets the name of the class.
        assert ready.NotReady.__name__ == "NotReady"

    def test_claim_passes_the_whole_round_on(self, simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[Any] = []
        monkeypatch.setattr(claim.scheduler, "claim", lambda _world, round_, wait: seen.append((round_, wait)))
        monkeypatch.setenv("EMPTY_QUEUE_WAIT_SECONDS", "7")
        event = {"slot_id": "i-1-0", "token": "t", "execution": 2, "round": 3, "retry": 4, "events": 5}
        assert claim.handler(event, CONTEXT)["verdict"] is None
        [(round_, wait)] = seen
        assert (round_.slot_id, round_.token, round_.ticket) == ("i-1-0", "t", names.ticket(2, 3, 4))
        assert (round_.events, wait) == (5, 7)

    def test_retire_ends_a_worker_with_nothing_to_do(self, simulation: Simulation) -> None:
        worker_id = launched(simulation)
        slot_id = start.handler(instance_event(worker_id, "running"), CONTEXT)["slot_id"]
        event = {"action": "retire", "slot_id": slot_id, "execution": 1, "unready": False}
        simulation.send_raw(job())
        assert retire.handler(event, CONTEXT) == {"verdict": "next"}
        # Its agent never answered: whatever waits.
        assert retire.handler(event | {"unready": True}, CONTEXT) == {"verdict": "stop"}
        slot = simulation.world.tables.slot(slot_id)
        assert slot is not None
        assert slot.state is SlotState.RETIRING

    def test_renew_starts_the_next_execution(self, simulation: Simulation) -> None:
        worker_id = launched(simulation)
        slot_id = start.handler(instance_event(worker_id, "running"), CONTEXT)["slot_id"]
        event = {"action": str(Verdict.RENEW), "slot_id": slot_id, "execution": 1}
        assert retire.handler(event, CONTEXT) == {"verdict": "stop"}
        slot = simulation.world.tables.slot(slot_id)
        assert slot is not None
        assert slot.execution == 2


class TestEnds:
    def test_the_event_of_a_commands_end_concludes_the_attempt(self, simulation: Simulation) -> None:
        worker_id, command_id = running(simulation, seconds=30, stdout="done")
        detail = {"command-id": command_id, "instance-id": worker_id, "status": "Success"}
        event = {
            "source": "aws.ssm",
            "detail-type": "EC2 Command Invocation Status-change Notification",
            "detail": detail,
        }
        assert observe.handler(event, CONTEXT) == {"concluded": False}, "it still runs"
        simulation.run_for(25)
        assert observe.handler(event, CONTEXT) == {"concluded": True}
        assert simulation.job("job-1").status is Status.SUCCEEDED
        detail["command-id"] = "of-somebody-else"
        assert observe.handler(event, CONTEXT) == {"concluded": False}

    def test_a_worker_that_is_gone_gives_its_job_back(self, simulation: Simulation) -> None:
        worker_id, _ = running(simulation, seconds=3600)
        simulation.workers.interrupt(worker_id, notice=0)
        simulation.run_for(20)
        reap.handler(instance_event(worker_id, "shutting-down"), CONTEXT)
        simulation.run_for(5)
        record = simulation.job("job-1")
        if record.status is not Status.QUEUED:
            reap.handler(instance_event(worker_id, "terminated"), CONTEXT)
        record = simulation.job("job-1")
        assert (record.status, record.losses) == (Status.QUEUED, 1)

    @pytest.mark.parametrize("state", [state for state in InstanceState if state is not InstanceState.GONE])
    def test_an_instance_that_holds_nothing_is_left_to_the_sweep(
        self, simulation: Simulation, state: InstanceState
    ) -> None:
        before = len(simulation.faults.calls)
        assert reap.handler(instance_event("i-0other", str(state)), CONTEXT) == {"concluded": False}
        assert simulation.faults.calls[before:] == ["tables.slot"]


class TestSweep:
    def test_what_was_found_is_told(self, simulation: Simulation) -> None:
        worker_id = launched(simulation)
        for slot_id in list(simulation.tables.items(Table.SLOTS)):
            slot = simulation.world.tables.slot(slot_id)
            assert slot is not None
        assert sweep.handler({}, CONTEXT)["errors"] == []
        assert names.slot_id(worker_id) in simulation.tables.items(Table.SLOTS)

    def test_a_duty_that_failed_makes_the_invocation_an_error(self, simulation: Simulation) -> None:
        simulation.faults.plan = {len(simulation.faults.calls): Way.FAILS}
        with pytest.raises(sweep.SweepIncomplete, match="1 duties failed"):
            sweep.handler({}, CONTEXT)

    def test_jobs_that_wait_in_masses_keep_no_worker_from_being_tended(
        self, simulation: Simulation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.modules["sched_plugins.scheduler.sweep"], "REQUEUED_A_SWEEP", 150)
        simulation.workers.groups[simulation.group].maximum = 0
        for number in range(160):
            simulation.submit(f"job-{number}")
        simulation.run_for(30)
        simulation.clock.jump(700)
        simulation.faults.calls.clear()
        found = []
        for _ in range(3):
            found.append(use_cases.sweep(simulation.world, 600).requeued)
            simulation.clock.jump(10)  # The index follows the table.
        assert found == [150, 10, 0]
        calls = simulation.faults.calls
        assert calls.index("workers.tagged") < calls.index("tables.queued")
        assert calls.count("tables.write_each") == 3, "a hundred at a time"

    def test_the_age_of_a_message_that_is_sent_again_is_a_setting(
        self, simulation: Simulation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[int] = []
        report = sweep.scheduler.sweep(simulation.world)
        monkeypatch.setattr(sweep.scheduler, "sweep", lambda _world, after: (seen.append(after), report)[1])
        monkeypatch.setenv("REQUEUE_AFTER_SECONDS", "600")
        sweep.handler({}, CONTEXT)
        assert seen == [600]


def stream_record(number: int, image: dict[str, Any]) -> dict[str, Any]:
    return {
        "eventName": "MODIFY",
        "dynamodb": {
            "SequenceNumber": str(number),
            "NewImage": {name: to_attribute(value) for name, value in image.items()},
        },
    }


class TestOutbox:
    def queued(self, simulation: Simulation, *job_ids: str) -> list[dict[str, Any]]:
        simulation.habits.stream_copies = 0
        for job_id in job_ids:
            assert simulation.submit(job_id) == "accepted"
        return [stream_record(n, to_item(simulation.job(job_id))) for n, job_id in enumerate(job_ids)]

    def test_pending_records_are_published_together(self, simulation: Simulation) -> None:
        records = self.queued(simulation, "a", "b", "c")
        assert outbox.handler({"Records": records}, CONTEXT) == {"batchItemFailures": []}
        assert len(simulation.queues.stored(simulation.queue)) == 3
        assert not simulation.job("a").pending
        assert simulation.faults.calls.count("queues.send") == 1

    def test_only_what_failed_is_delivered_again(self, simulation: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
        records = self.queued(simulation, "a", "b")
        send = simulation.queues.send
        monkeypatch.setattr(
            simulation.queues,
            "send",
            lambda queue, bodies: [
                SchedulerError("no") if json.loads(body)["job_id"] == "b" else send(queue, [body])[0] for body in bodies
            ],
        )
        assert outbox.handler({"Records": records}, CONTEXT) == {"batchItemFailures": [{"itemIdentifier": "1"}]}
        assert not simulation.job("a").pending
        assert simulation.job("b").pending

    def test_a_message_goes_to_the_address_of_its_queue(
        self, simulation: Simulation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        address = f"arn:aws:sqs:eu-west-1:123456789012:{simulation.queue}"
        simulation.habits.stream_copies = 0
        simulation.submit("a", queue=address)
        addresses: list[str] = []
        send = simulation.queues.send
        monkeypatch.setattr(
            simulation.queues, "send", lambda queue, bodies: addresses.append(queue) or send(queue, bodies)
        )
        assert publish(simulation.world, [simulation.job("a")]) == {}
        assert addresses == [address]

    def test_what_was_sent_meanwhile_is_not_sent_again(self, simulation: Simulation) -> None:
        """As when one record of a batch failed: the stream then delivers all that came after it again."""
        records = self.queued(simulation, "a", "b")
        for _ in range(2):
            assert outbox.handler({"Records": records}, CONTEXT) == {"batchItemFailures": []}
        assert len(simulation.queues.stored(simulation.queue)) == 2

    def test_a_record_with_nothing_pending_is_passed_over(self, simulation: Simulation) -> None:
        [record] = self.queued(simulation, "a")
        del record["dynamodb"]["NewImage"]["pending"]
        assert outbox.handler({"Records": [record]}, CONTEXT) == {"batchItemFailures": []}
        assert not simulation.queues.stored(simulation.queue)

    def test_only_a_slot_that_is_still_to_be_woken_is(
        self, simulation: Simulation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        woken: list[Wake] = []
        monkeypatch.setattr(simulation.executions, "wake", lambda wake: woken.append(wake) or True)
        images = []
        for worker_id, stored in (("i-1", Wake("one", Verdict.NEXT)), ("i-2", None)):
            slot = Slot(
                slot_id=f"{worker_id}-0", worker_id=worker_id, queue="q", state=SlotState.FREE, execution=1,
                execution_at=simulation.clock.now(), wake=Wake("one", Verdict.NEXT),
            )  # fmt: skip
            images.append(slots.to_item(slot))
            simulation.world.tables.write(write.slot("test", None, slot.changed(wake=stored)))
        records = [stream_record(number, image) for number, image in enumerate(images)]
        assert outbox.handler({"Records": records}, CONTEXT) == {"batchItemFailures": []}
        assert woken == [Wake("one", Verdict.NEXT)]


class TestSubmit:
    def test_each_job_of_a_batch_is_answered_in_its_place(self, simulation: Simulation) -> None:
        jobs = [job("a"), job("b", retry="-1"), job("a"), job("c", colour="red")]
        results = submit.handler({"jobs": jobs}, CONTEXT)["results"]
        assert [result.get("outcome") for result in results] == ["accepted", None, "duplicate", None]
        assert results[0] == {
            "outcome": "accepted", "job_id": "a", "run_id": "run-1", "queue": "sched-job-queue", "status": "QUEUED",
            "reason": "",
        }  # fmt: skip
        assert results[1]["error"]["type"] == "InvalidJob"
        assert "retry" in results[1]["error"]["message"]
        assert results[3]["error"]["message"].startswith("colour:")
        assert simulation.job("a").queue == "sched-job-queue"

    def test_a_job_may_name_a_queue(self, simulation: Simulation) -> None:
        [result] = submit.handler({"jobs": [job(queue=simulation.queue)]}, CONTEXT)["results"]
        assert result["outcome"] == "accepted"
        assert simulation.job("job-1").queue == simulation.queue

    def test_a_conflict_says_why(self, simulation: Simulation) -> None:
        submit.handler({"jobs": [job()]}, CONTEXT)
        [result] = submit.handler({"jobs": [job(run_id="run-2", commands=["false"])]}, CONTEXT)["results"]
        assert (result["outcome"], result["run_id"], result["status"]) == ("conflict", "run-1", "QUEUED")
        assert result["queue"] == "sched-job-queue"
        assert "another spec" in result["reason"]

    def test_an_environments_function_asks_for_workers_at_once(self, environment: Simulation) -> None:
        jobs = [job(f"job-{n}") for n in range(5)]
        submit.handler({"jobs": jobs}, CONTEXT)
        assert environment.workers.capacity(environment.group) == (2, 2)

    def test_workers_that_cannot_be_asked_for_do_not_undo_the_submission(
        self, environment: Simulation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise SchedulerError("no")

        monkeypatch.setattr(scale.scheduler, "scale", refuse)
        [result] = submit.handler({"jobs": [job()]}, CONTEXT)["results"]
        assert result["outcome"] == "accepted"

    def test_an_environments_function_serves_its_queue_alone(self, environment: Simulation) -> None:
        jobs = [job("a", queue="sched-job-queue"), job("b"), job("c", queue=environment.queue)]
        results = submit.handler({"jobs": jobs}, CONTEXT)["results"]
        assert results[0]["error"]["type"] == "NotPermitted"
        assert [result.get("outcome") for result in results[1:]] == ["accepted", "accepted"]
        assert environment.job("b").queue == environment.queue

    def test_a_stages_job_gets_the_environments_settings(self, environment: Simulation) -> None:
        asked = {
            "executable": f"s3://{BUCKET}/run.sh",
            "inputs": [f"s3://{BUCKET}/in/"],
            "outputs": [f"s3://{BUCKET}/out/"],
            "parameters": {"n": 3},
            "settings": {"timeout_seconds": 60},
        }
        entry = {"job_id": "stage-1", "run_id": "r", "stage_job": asked}
        [result] = submit.handler({"jobs": [entry]}, CONTEXT)["results"]
        assert result["outcome"] == "accepted"
        spec = environment.job("stage-1").spec
        assert (spec.retry, spec.timeout_seconds) == (2, 60)
        assert spec.stage is not None
        assert (spec.stage.writer, spec.stage.stage_parameters) == ("demo", {"n": 3})

    def test_a_submitter_cannot_write_what_starts_another_environments_stage(self, environment: Simulation) -> None:
        theirs = "s3://victim-123456789012-drop-job-files/run/x/"
        asked = {"executable": "/bin/true", "outputs": [theirs]}
        stage = {"executable": "/bin/true", "output": theirs, "writer": "someone"}
        entries = [
            {"job_id": "one", "run_id": "r", "stage_job": asked},
            {"job_id": "two", "run_id": "r", "retry": 0, "ssm_document": "AWS-RunShellScript", "commands": [],
             "stage": stage},
        ]  # fmt: skip
        results = submit.handler({"jobs": entries}, CONTEXT)["results"]
        assert [result["error"]["type"] for result in results] == ["NotPermitted", "NotPermitted"]

    def test_a_raw_message_starts_no_chained_stage(self, simulation: Simulation) -> None:
        folder = f"s3://{BUCKET}/x/"
        body = job("raw") | {"commands": [], "stage": {"executable": "/bin/true", "output": folder}}
        simulation.send_raw(json.dumps({name: value for name, value in body.items() if name != "run_id"}))
        launched(simulation)
        simulation.run_until_quiet()
        assert simulation.job("raw").status is Status.SUCCEEDED
        assert simulation.objects.metadata(f"{folder}_sched/SUCCEEDED.json") is None


class TestCancel:
    def test_each_job_is_answered_in_its_place(self, simulation: Simulation) -> None:
        simulation.submit("a")
        results = cancel.handler({"job_ids": ["a", "none", "a"]}, CONTEXT)["results"]
        assert results[0] == {"job_id": "a", "outcome": "cancelled", "status": "CANCELLED"}
        assert results[1]["error"]["type"] == "JobNotFound"
        assert results[2] == {"job_id": "a", "outcome": "ended already", "status": "CANCELLED"}

    def test_an_environments_function_cannot_cancel_anothers_job(self, environment: Simulation) -> None:
        environment.queues.create_trio("other-job-queue")
        environment.submit("a", queue="other-job-queue")
        [result] = cancel.handler({"job_ids": ["a"]}, CONTEXT)["results"]
        assert "error" in result
        assert environment.job("a").status is Status.QUEUED


def upload(key: str, sequencer: str = "0A", message_id: str = "m1") -> dict[str, Any]:
    detail = {"bucket": {"name": BUCKET}, "object": {"key": key, "etag": "e", "sequencer": sequencer, "size": 1}}
    return {"messageId": message_id, "body": json.dumps({"detail-type": "Object Created", "detail": detail})}


class TestTrigger:
    def put(self, environment: Simulation, key: str) -> None:
        environment.objects.put(f"s3://{BUCKET}/{key}", b"#!/bin/sh\n", {})

    def test_an_upload_becomes_a_job_with_a_worker(self, environment: Simulation) -> None:
        key = "a folder/ü+'$(x)/run.sh"
        self.put(environment, key)
        assert trigger.handler({"Records": [upload(key)]}, CONTEXT) == {"batchItemFailures": []}
        record = environment.job(f"s3://{BUCKET}/{key}")
        assert (record.queue, record.spec.retry) == (environment.queue, 2)
        assert environment.workers.capacity(environment.group)[0] == 1

    def test_some_seconds_later_somebody_looks_again_for_what_other_calls_have_accepted(
        self, environment: Simulation
    ) -> None:
        """Between two batches of uploads, neither knows of the other's jobs: no message is in the queue yet."""
        queue = names.upload_queue("demo")
        self.put(environment, "a/run.sh")
        trigger.handler({"Records": [upload("a/run.sh")]}, CONTEXT)
        assert environment.workers.capacity(environment.group) == (1, 2)
        assert environment.queues.receive(queue, 0, 10) == []
        environment.send_raw(job("of another call"), environment.queue)
        environment.send_raw(job("and another"), environment.queue)
        environment.clock.sleep(scale.LOOK_AGAIN_AFTER)
        [again] = environment.queues.receive(queue, 0, 10)
        record = {"messageId": again.message_id, "body": again.body}
        assert trigger.handler({"Records": [record]}, CONTEXT) == {"batchItemFailures": []}
        assert environment.workers.capacity(environment.group) == (2, 2)
        environment.clock.sleep(scale.LOOK_AGAIN_AFTER)
        assert [one.body for one in environment.queues.receive(queue, 0, 10)] == [], "once, not for ever"

    def test_a_repeated_event_changes_nothing_and_other_files_start_nothing(self, environment: Simulation) -> None:
        self.put(environment, "x/run.sh")
        records = [upload("x/run.sh"), upload("x/run.sh", message_id="m2"), upload("x/data.txt", message_id="m3")]
        assert trigger.handler({"Records": records}, CONTEXT) == {"batchItemFailures": []}
        assert len(environment.tables.items(Table.JOBS)) == 1

    def test_a_manifest_that_is_written_twice_starts_its_successor_once(
        self, environment: Simulation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its first writer may have died at once; each writing is an upload with a sequencer of its own."""
        monkeypatch.setenv("STAGE_EXECUTABLE", "/opt/mesh")
        monkeypatch.setenv("TRIGGER_SUFFIX", MANIFEST)
        folder = f"s3://{BUCKET}/run-1/before/"
        stage = {"executable": "/opt/before", "output": folder, "writer": "before"}
        environment.submit("before", stage=stage, commands=[])
        for sequencer in ("0A", "0B"):
            ended = environment.job("before").changed(status=Status.SUCCEEDED, run_id="run-1")
            ended = ended.changed(pending=ended.event_id)
            environment.world.tables.write(write.job("test", environment.job("before"), ended))
            assert publish(environment.world, [ended]) == {}
            event = upload(f"run-1/before/{MANIFEST}", sequencer)
            assert trigger.handler({"Records": [event]}, CONTEXT) == {"batchItemFailures": []}
        record = environment.job(folder + MANIFEST)
        assert (len(record.run_ids), record.next_run) == (1, None)

    def test_only_what_could_not_be_decided_comes_again(self, environment: Simulation) -> None:
        self.put(environment, "x/run.sh")
        self.put(environment, "y\x01/run.sh")
        records = [upload("y\x01/run.sh", message_id="bad"), upload("x/run.sh", message_id="good")]
        assert trigger.handler({"Records": records}, CONTEXT) == {"batchItemFailures": [{"itemIdentifier": "bad"}]}
        assert environment.job(f"s3://{BUCKET}/x/run.sh")

    def test_an_upload_whose_job_id_another_queue_has_is_not_dropped(self, environment: Simulation) -> None:
        self.put(environment, "x/run.sh")
        environment.queues.create_trio("other-job-queue")
        environment.submit(f"s3://{BUCKET}/x/run.sh", queue="other-job-queue")
        answer = trigger.handler({"Records": [upload("x/run.sh")]}, CONTEXT)
        assert answer == {"batchItemFailures": [{"itemIdentifier": "m1"}]}

    def test_the_schedule_asks_for_workers_too(self, environment: Simulation) -> None:
        environment.send_raw(job(), environment.queue)
        assert scale.handler({}, CONTEXT) == {"capacity": 1}


def test_a_worker_whose_queue_does_not_exist_leaves(simulation: Simulation) -> None:
    worker_id = launched(simulation, "no-such-queue")
    simulation.run_until_quiet()
    assert simulation.workers.described([worker_id])[worker_id].state in (InstanceState.TERMINATED, InstanceState.GONE)
    assert list(simulation.world.tables.slots()) == []
