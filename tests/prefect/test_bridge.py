"""The bridge from finished queues to Prefect's events."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from job_results import events_of, message, stored
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed

from sched_plugins.client import Connection, SchedulerClient
from sched_plugins.errors import InvalidInput, QueueNotFound
from sched_plugins.prefect import bridge
from sched_plugins.prefect.bridge import ASIDE_SECONDS, QueueBridge, abridge_finished_queue, bridge_finished_queue
from sched_plugins.prefect.events import Recent, event_uuid
from sched_plugins.prefect.finished_message import around_flow_run, job_message

FINISHED = f"{SCHEDULER}-job-queue-finished"
QUEUE = "bridged"


def test_a_message_is_read_as_the_outbox_sends_it_and_in_eventbridges_envelope() -> None:
    plain = message()
    assert job_message(json.dumps(plain)) == plain
    assert job_message(json.dumps({"detail-type": "Scheduler Job State Change", "detail": plain})) == plain
    staged = message(stage={"outputs": ["s3://bucket/out/", "s3://other/"]})
    assert job_message(json.dumps(staged))["results_uri"] == "s3://bucket/out/"


MALFORMED = {
    "{": "Expecting property name",
    '"text"': "no object: str",
    '{"detail": 1}': "no object: int",
    "{}": "no job_id",
    json.dumps(message() | {"status": None}): "no status",
    json.dumps(message() | {"status": ["FAILED"]}): "no status",
    json.dumps(message() | {"status": "RUNNING"}): "its status is 'RUNNING', not one of",
    json.dumps(message() | {"event_id": ""}): "no event_id",
    "[" * 100_000: "nested too deeply",
}


@pytest.mark.parametrize(("body", "words"), MALFORMED.items(), ids=list(MALFORMED.values()))
def test_what_tells_of_no_job_is_told_from_what_does(body: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        job_message(body)


def test_what_is_around_a_flow_run_is_named_as_prefect_names_it() -> None:
    run = FlowRun(
        flow_id=uuid4(), name="quick-fox", deployment_id=uuid4(), work_pool_id=uuid4(), work_pool_name="laptop",
        tags=["b", "a"],
    )  # fmt: skip
    assert [(one["prefect.resource.role"], one["prefect.resource.id"]) for one in around_flow_run(run)] == [
        ("flow-run", f"prefect.flow-run.{run.id}"), ("flow", f"prefect.flow.{run.flow_id}"),
        ("deployment", f"prefect.deployment.{run.deployment_id}"),
        ("work-pool", f"prefect.work-pool.{run.work_pool_id}"), ("tag", "prefect.tag.a"), ("tag", "prefect.tag.b"),
    ]  # fmt: skip
    assert around_flow_run(run)[3]["prefect.resource.name"] == "laptop"


class World:
    """A queue and Prefect's API in memory, with faults to come."""

    def __init__(self) -> None:
        self.messages: dict[str, str] = {}
        self.hidden: dict[str, int] = {}
        self.events: list[dict[str, Any]] = []
        self.faults: Counter[str] = Counter()
        self.refused: set[str] = set()
        self.reads = 0
        self.looks = 0

    def put(self, *bodies: Any) -> None:
        for body in bodies:
            self.messages[f"m{len(self.messages)}"] = body if isinstance(body, str) else json.dumps(body)

    # What the bridge calls of SQS

    def get_queue_url(self, **_: Any) -> dict[str, Any]:
        self._fault("find")
        return {"QueueUrl": "https://queue"}

    def receive_message(self, **_: Any) -> dict[str, Any]:
        self.looks += 1
        self._fault("receive")
        shown = [name for name in self.messages if not self.hidden.get(name)][:10]
        self.hidden.update(dict.fromkeys(shown, 60))
        return {"Messages": [{"MessageId": one, "ReceiptHandle": one, "Body": self.messages[one]} for one in shown]}

    def delete_message_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        if self.faults["delete"]:
            self.faults["delete"] -= 1
            self.hidden.update({one["ReceiptHandle"]: 0 for one in Entries})
            return {"Failed": [{"Id": one["Id"], "Code": "InternalError"} for one in Entries]}
        for one in Entries:
            del self.messages[one["ReceiptHandle"]]
        return {}

    def change_message_visibility_batch(self, *, Entries: list[dict[str, Any]], **_: Any) -> dict[str, Any]:  # noqa: N803
        self.hidden.update({one["ReceiptHandle"]: one["VisibilityTimeout"] for one in Entries})
        return {}

    # What it calls of Prefect

    def request(self, method: str, path: str, json: list[dict[str, Any]]) -> None:
        assert (method, path) == ("POST", "/events")
        self._fault("emit")
        if self.refused & {event["payload"]["job_id"] for event in json}:
            answer = httpx.Response(422, text="no such thing", request=httpx.Request("POST", "http://prefect"))
            raise httpx.HTTPStatusError("refused", request=answer.request, response=answer)
        self.events += json

    def read_flow_run(self, run: UUID) -> FlowRun:
        self.reads += 1
        self._fault("read")
        if run.int == 0:
            raise ObjectNotFound(http_exc=Exception("404"))
        return FlowRun(id=run, flow_id=uuid4(), name="known")

    def _fault(self, name: str) -> None:
        if not self.faults[name]:
            return
        self.faults[name] -= 1
        if name in ("emit", "read"):
            raise httpx.ConnectError("Prefect is not there")
        if self.faults[name] % 2:
            raise EndpointConnectionError(endpoint_url="https://sqs")
        raise ClientError({"Error": {"Code": "InternalError"}, "ResponseMetadata": {"HTTPStatusCode": 500}}, name)

    @property
    def told(self) -> list[str]:
        return [event["payload"]["job_id"] for event in self.events]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A queue and Prefect's API in memory; nothing waits."""
    found = World()

    @contextmanager
    def client(sync_client: bool) -> Iterator[World]:
        assert sync_client
        yield found

    monkeypatch.setattr(bridge, "get_client", client)
    monkeypatch.setattr(bridge, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(Connection, "client", lambda *_: found)
    return found


def reader(world: World, told: Recent | None = None) -> QueueBridge:
    """A bridge for one queue, which ends when it has looked fifty times."""
    connection = Connection(region="eu-west-1")
    return QueueBridge(connection, QUEUE, "sim", told or Recent(), lambda: world.looks >= 50, 0)


def bridged(world: World, told: Recent | None = None) -> bridge.Bridged:
    """What a bridge does with the queue until it is empty."""
    one = reader(world, told)
    one.find()
    return one.run(until_empty=True)


def test_each_end_is_told_and_its_message_deleted_then(world: World) -> None:
    world.put(*(message(f"job-{number}") for number in range(25)))
    assert bridged(world) == bridge.Bridged(emitted=25)
    assert sorted(world.told) == sorted(f"job-{number}" for number in range(25))
    assert world.messages == {}
    assert {event["id"] for event in world.events} == {
        str(event_uuid(f"job-{number}:run-1:1:SUCCEEDED")) for number in range(25)
    }


def test_what_tells_of_no_job_is_left_aside_and_holds_nothing_up(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.put("{", message("good"), {**message("bad-tags"), "tags": {"a": ["b"]}}, message("good-too"))
    assert bridged(world) == bridge.Bridged(emitted=2, malformed=2)
    assert world.told == ["good", "good-too"]
    assert {world.hidden[name] for name in world.messages} == {ASIDE_SECONDS}
    assert caplog.text.count("is left aside") == 2


def test_a_rejected_message_is_told_whatever_was_in_it(world: World) -> None:
    world.put(message("rejected/1", status="REJECTED", tags="what?", metrics=3))
    assert bridged(world).emitted == 1
    assert world.events[0]["event"] == "sched.job.rejected"


@pytest.mark.parametrize("fault", ["find", "receive", "emit", "read"])
def test_the_bridge_outlives_a_passing_error(world: World, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    world.faults[fault] = 3
    world.put(message("of-a-flow", group_id=f"prefect-{uuid4()}"), message("plain"))
    assert bridged(world) == bridge.Bridged(emitted=2)
    assert world.messages == {}
    assert caplog.messages


def test_what_cannot_be_deleted_comes_again_and_is_not_told_again(world: World) -> None:
    world.faults["delete"] = 2
    world.put(message("once"))
    assert bridged(world) == bridge.Bridged(emitted=1, repeated=2)
    assert (world.told, world.messages) == (["once"], {})


def test_an_end_that_two_messages_tell_of_is_told_once(world: World) -> None:
    world.put(message("twice"), message("twice"))
    assert bridged(world) == bridge.Bridged(emitted=1, repeated=1)
    assert (world.told, world.messages) == (["twice"], {})


def test_an_event_that_prefect_refuses_keeps_no_other_back(world: World) -> None:
    world.refused = {"refused"}
    world.put(message("first"), message("refused"), message("last"))
    assert bridged(world) == bridge.Bridged(emitted=2, malformed=1)
    assert world.told == ["first", "last"]
    assert [world.hidden[name] for name in world.messages] == [ASIDE_SECONDS]


def test_a_flow_run_is_read_once_for_all_of_its_jobs(world: World) -> None:
    group = f"prefect-{uuid4()}"
    world.put(*(message(f"job-{number}", group_id=group) for number in range(12)))
    world.put(message("of-a-deleted-run", group_id=f"prefect-{UUID(int=0)}"))
    bridged(world)
    assert world.reads == 2
    around = [{one["prefect.resource.role"]: one for one in event["related"]} for event in world.events]
    assert {one["flow-run"]["prefect.resource.id"] for one in around[:12]} == {
        f"prefect.flow-run.{group.removeprefix('prefect-')}"
    }
    assert around[0]["flow-run"]["prefect.resource.name"] == "known"
    assert around[-1]["flow-run"]["prefect.resource.id"] == f"prefect.flow-run.{UUID(int=0)}"


def test_a_bridge_ends_when_it_is_told_to_also_while_nothing_answers(world: World) -> None:
    world.faults["receive"] = 1_000
    one = reader(world)
    one.find()
    assert one.run(until_empty=False) == bridge.Bridged()
    assert world.looks == 50


def test_values_that_cannot_be_are_refused(world: World) -> None:
    client = SchedulerClient("sim", region="eu-west-1")
    with pytest.raises(InvalidInput, match="wait_seconds is 21"):
        bridge_finished_queue(client, wait_seconds=21)
    with pytest.raises(InvalidInput, match="give a list"):
        bridge_finished_queue(client, queues="one")
    assert world.looks == 0


@pytest.fixture
def own_signals() -> Iterator[None]:
    """The handlers of signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_queue_that_is_not_there_is_told_at_once(prefect_and_stack: DeployedStack) -> None:
    with pytest.raises(QueueNotFound, match="no queue 'not-there'"):
        bridge_finished_queue(SCHEDULER, queues=["not-there"])


@pytest.mark.usefixtures("own_signals")
def test_the_end_of_a_job_becomes_an_event_of_its_flow_run(prefect_and_stack: DeployedStack) -> None:
    stack = prefect_and_stack

    @flow(name="of-a-bridged-job")
    def empty() -> None: ...

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(empty, state=Completed())
    job_id = f"bridged-{uuid4()}"
    stack.send_job(job_id, "echo planted-in-the-job", group_id=f"prefect-{run.id}", tags={"case": "7"})
    stack.worker()
    job = stack.ended(job_id)

    def emitted() -> bool:
        assert bridge.main(["--scheduler", SCHEDULER, "--until-empty"]) == 0
        return bool(events_of(f"{job_id}:{job['run_id']}:1:SUCCEEDED"))

    assert eventually(emitted, 60)
    event = stored(f"{job_id}:{job['run_id']}:1:SUCCEEDED")
    around = {one.role: one for one in event.related}
    assert (event.event, event.resource.id) == ("sched.job.succeeded", f"sched.job.{job_id}")
    assert event.resource["sched.tag.case"] == "7"
    assert around["flow-run"].id == f"prefect.flow-run.{run.id}"
    assert around["flow"].id == f"prefect.flow.{run.flow_id}"
    assert around["scheduler"].id == f"sched.scheduler.{SCHEDULER}"
    assert "planted-in-the-job" not in event.model_dump_json()
    assert job_id not in [one["job_id"] for one in stack.messages(FINISHED)]


def test_in_an_event_loop_it_reads_a_queue_of_its_own(prefect_and_stack: DeployedStack) -> None:
    stack, name, job_id = prefect_and_stack, f"own-{uuid4()}", f"enveloped-{uuid4()}"
    url = stack.sqs.create_queue(QueueName=name)["QueueUrl"]
    plain = message(job_id)
    stack.send_text(json.dumps({"detail-type": "Scheduler Job State Change", "detail": plain}), name)
    stack.send_text("no job", name)
    try:
        done = asyncio.run(abridge_finished_queue(SCHEDULER, queues=[name], until_empty=True, wait_seconds=1))
        assert done == bridge.Bridged(emitted=1, malformed=1)
        assert stored(plain["event_id"]).resource.id == f"sched.job.{job_id}"
        counts = stack.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        left = (counts["ApproximateNumberOfMessages"], counts["ApproximateNumberOfMessagesNotVisible"])
        assert left == ("0", "1")
    finally:
        stack.sqs.delete_queue(QueueUrl=url)
