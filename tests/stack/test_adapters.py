"""The adapters against a laptop stack: real requests, real replies, and replies that are lost on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.httpsession import URLLib3Session
from fleet_client import FleetClient, eventually, fleet

from sched_plugins.aws.clients import Clients
from sched_plugins.aws.items import WRITE_ID, from_attributes
from sched_plugins.aws.settings import Settings
from sched_plugins.aws.tables import PENDING_INDEX, QUEUE_INDEX, STATE_INDEX, STATE_PROJECTION
from sched_plugins.aws.world import world as make_world
from sched_plugins.core import claim, conclude, limits, names, submission, worker, write
from sched_plugins.core.job import parse_spec
from sched_plugins.core.judge import Succeeded
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Wake
from sched_plugins.core.state import SlotState, Status, Verdict
from sched_plugins.core.submission import Submission
from sched_plugins.core.write import Condition, Table, Write
from sched_plugins.errors import QueueNotFound, Refused, Throttled, Unknown
from sched_plugins.ports import (
    Command,
    ConditionFailed,
    InstanceState,
    RefusedForJob,
    RefusedForWorker,
    TransactionFailed,
    Worker,
    World,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAME = "adapters"
BUCKET = f"{NAME}-output"
NEW = count()


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetClient]:
    with fleet(tmp_path_factory.mktemp("adapters")) as client:
        yield client


@pytest.fixture(scope="module")
def settings(aws: FleetClient) -> Settings:
    """A scheduler's resources, made by hand: the adapters are on trial here, not the templates."""
    dynamodb: Any = aws.client("dynamodb")
    _create_table(dynamodb, names.job_table(NAME), "job_id", {
        PENDING_INDEX: ("pending_shard", "pending_at", {"ProjectionType": "KEYS_ONLY"}),
        STATE_INDEX: ("state_shard", "state_at", {
            "ProjectionType": "INCLUDE", "NonKeyAttributes": list(STATE_PROJECTION),
        }),
    })  # fmt: skip
    _create_table(dynamodb, names.slot_table(NAME), "slot_id", {
        QUEUE_INDEX: ("queue", "state", {"ProjectionType": "KEYS_ONLY"}),
    })  # fmt: skip
    aws.s3.create_bucket(Bucket=BUCKET)
    tokens = aws.sqs.create_queue(QueueName="tokens")["QueueUrl"]
    wait = {
        "StartAt": "Wait",
        "States": {
            "Wait": {
                "Type": "Task",
                "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
                "Parameters": {"QueueUrl": tokens, "MessageBody.$": "$$.Task.Token"},
                "End": True,
            }
        },
    }
    machine = aws.client("stepfunctions").create_state_machine(
        name=f"{NAME}-worker", definition=json.dumps(wait), roleArn=f"arn:aws:iam::{aws.info.account}:role/any"
    )
    return Settings(
        NAME, names.job_table(NAME), names.slot_table(NAME), machine["stateMachineArn"], BUCKET, f"{NAME}-dead-letters"
    )


def _create_table(dynamodb: Any, table: str, key: str, indexes: dict[str, Any]) -> None:
    keys = {key, *(name for hash_key, range_key, _ in indexes.values() for name in (hash_key, range_key))}
    dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in sorted(keys)],
        BillingMode="PAY_PER_REQUEST",
        GlobalSecondaryIndexes=[
            {
                "IndexName": name,
                "KeySchema": [
                    {"AttributeName": hash_key, "KeyType": "HASH"},
                    {"AttributeName": range_key, "KeyType": "RANGE"},
                ],
                "Projection": projection,
            }
            for name, (hash_key, range_key, projection) in indexes.items()
        ],
    )


def make_clients(aws: FleetClient) -> Clients:
    """Clients of the stack, by explicit settings only."""
    session = boto3.Session(region_name=aws.info.region, aws_access_key_id="test", aws_secret_access_key="test")
    return Clients(session, aws.info.endpoint)


@pytest.fixture
def clients(aws: FleetClient) -> Clients:
    return make_clients(aws)


@pytest.fixture
def world(settings: Settings, clients: Clients) -> World:
    return make_world(settings, clients)


@contextmanager
def losing_replies(client: Any, times: int = 1, meanwhile: Any = None) -> Iterator[list[bytes]]:
    """The next requests of a client are carried out, but their replies never come; yields what was sent.

    ``meanwhile`` is called between a lost reply and the client's next try.
    """
    sent: list[bytes] = []
    carrier = URLLib3Session()

    def lose(request: Any, **_: Any) -> None:
        sent.append(request.body)
        if len(sent) <= times:
            carrier.send(request)
            if meanwhile is not None:
                meanwhile()
            raise ReadTimeoutError(endpoint_url=request.url)

    client.meta.events.register("before-send", lose)
    yield sent
    client.meta.events.unregister("before-send", lose)
    carrier.close()


def new_job(queue: str = "q", now: datetime = NOW) -> tuple[JobRecord, Write]:
    """A fresh record and the write that stores it."""
    fields = {
        "job_id": f"s3://bucket/jöb {next(NEW)}.sh", "retry": "1", "ssm_document": "AWS-RunShellScript",
        "commands": ["true"],
    }  # fmt: skip
    decision = submission.decide(Submission(parse_spec(fields), "run", queue), None, now)
    assert decision.record is not None
    assert decision.write is not None
    return decision.record, decision.write


# Tables


def test_an_attempt_goes_from_submission_to_its_end(world: World) -> None:
    job, created = new_job()
    slot, slotted = worker.new_slot(f"i-{next(NEW)}", "q", NOW)
    world.tables.write(created)
    world.tables.write(slotted)
    with pytest.raises(ConditionFailed):
        world.tables.write(created)
    round_ = claim.Round(slot.slot_id, "token", 1)
    started = claim.decide(claim.JobMessage(job.spec, job.run_id, 1), "m", job, slot, round_, NOW)
    assert isinstance(started, claim.Start)
    world.tables.transact(started.writes)
    with pytest.raises(TransactionFailed) as caught:
        world.tables.transact(started.writes)
    assert caught.value.failed == ("claim.job", "claim.slot")
    assert (world.tables.job(job.job_id), world.tables.slot(slot.slot_id)) == (started.job, started.slot)
    ended = conclude.conclude(started.job, started.slot, Succeeded(metrics={"drag": 5.579, "n": 3}), NOW)
    world.tables.transact(ended.writes)
    assert world.tables.job(job.job_id) == ended.job
    assert world.tables.jobs([job.job_id, "absent", job.job_id]) == {job.job_id: ended.job}


STORED: list[dict[str, Any]] = [
    {},
    {"state": "FREE"},
    {"state": "HELD", "ticket": "2", "attempt": 2, "run_ids": ["a", "b"]},
    {"state": "RETIRING", "ticket": "3", "attempt": 3, "run_ids": ["b", "a"]},
]
CONDITIONS = [
    write.absent("job_id"),
    write.absent("ticket"),
    write.equals("state", "HELD"),
    write.equals("attempt", 2),
    write.equals("ticket", ""),
    write.equals("run_ids", ["a", "b"]),
    write.one_of("state", ["FREE", "HELD"]),
    write.at_most("ticket", "2"),
    write.at_most("attempt", 2),
]


@pytest.mark.parametrize("delete", [False, True])
@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda one: f"{one.field} {one.operator} {one.value}")
def test_dynamodb_agrees_with_the_rules_on_every_condition(
    world: World, clients: Clients, settings: Settings, condition: Condition, delete: bool
) -> None:
    for item in [None, *STORED]:
        key = f"condition-{next(NEW)}"
        if item is not None:
            world.tables.write(Write("before", Table.JOBS, key, item, (), ()))
            item = {"job_id": key, **item}
        changes, removals = ({}, ()) if delete else ({"execution": 7}, ("ticket", "never-there"))
        plan = Write("plan", Table.JOBS, key, changes, removals, (condition,), delete=delete)
        [outcome] = world.tables.write_each([plan])
        assert (outcome is None) == plan.permitted(item)
        assert outcome is None or isinstance(outcome, ConditionFailed)
        found = clients.dynamodb.get_item(TableName=settings.job_table, Key={"job_id": {"S": key}}).get("Item")
        expected = plan.applied(item) if outcome is None else item
        assert (None if found is None else without_id(found)) == expected


def without_id(found: dict[str, Any]) -> dict[str, Any]:
    """A stored item in plain types, without the id of the write that it came from."""
    return {name: value for name, value in from_attributes(found).items() if name != WRITE_ID}


def test_a_write_whose_reply_was_lost_was_made(world: World, clients: Clients) -> None:
    job, created = new_job()
    with losing_replies(clients.dynamodb) as sent:
        world.tables.write(created)
    assert len(sent) == 2
    assert world.tables.job(job.job_id) == job


def test_a_write_that_was_lost_and_overwritten_is_unknown(
    aws: FleetClient, settings: Settings, world: World, clients: Clients
) -> None:
    job, created = new_job()
    _, again = conclude.cancel_queued(job, NOW)
    other = make_world(settings, make_clients(aws))
    with losing_replies(clients.dynamodb, meanwhile=lambda: other.tables.write(again)), pytest.raises(Unknown):
        world.tables.write(created)
    found = world.tables.job(job.job_id)
    assert found is not None
    assert found.status is Status.CANCELLED


def test_a_write_of_which_every_reply_was_lost_is_unknown(world: World, clients: Clients) -> None:
    job, created = new_job()
    with losing_replies(clients.dynamodb, times=99), pytest.raises(Unknown):
        world.tables.write(created)
    assert world.tables.job(job.job_id) == job


def test_a_transaction_whose_reply_was_lost_was_made_once(world: World, clients: Clients) -> None:
    job, created = new_job()
    slot, slotted = worker.new_slot(f"i-{next(NEW)}", "q", NOW)
    with losing_replies(clients.dynamodb) as sent:
        world.tables.transact([created, slotted])
    assert sent[0] == sent[1]
    assert (world.tables.job(job.job_id), world.tables.slot(slot.slot_id)) == (job, slot)
    with pytest.raises(TransactionFailed):
        world.tables.transact([created, slotted])


def test_a_deletion_whose_reply_was_lost_was_made(world: World, clients: Clients) -> None:
    slot, slotted = worker.new_slot(f"i-{next(NEW)}", "q", NOW)
    retiring, retired = worker.retire(slot, "9")
    world.tables.write(slotted)
    world.tables.write(retired)
    with losing_replies(clients.dynamodb) as sent:
        world.tables.write(worker.drop(retiring))
    assert len(sent) == 2
    assert world.tables.slot(slot.slot_id) is None
    with pytest.raises(ConditionFailed):
        world.tables.write(worker.drop(retiring))


def test_what_dynamodb_cannot_hold_is_refused_or_kept_as_text(world: World) -> None:
    job, created = new_job()
    big = Write("big", Table.JOBS, job.job_id, {"output": "x" * 400 * limits.KIB}, (), ())
    with pytest.raises(Refused):
        world.tables.write(big)
    world.tables.write(created)
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    odd = job.changed(metrics={"deep": deep, "huge": 1e300, "whole": 2.0, "part": 0.1})
    world.tables.write(write.job("odd", job, odd))
    found = world.tables.job(job.job_id)
    assert found is not None
    assert (found.metrics["huge"], found.metrics["whole"], found.metrics["part"]) == ("1e+300", 2, 0.1)


def test_listings_follow_the_tables(world: World) -> None:
    queue = f"q-{next(NEW)}"
    old = [new_job(queue, NOW - timedelta(days=2)) for _ in range(9)]
    slots = [worker.new_slot(f"i-{next(NEW)}", queue, NOW) for _ in range(4)]
    outcomes = world.tables.write_each([made for _, made in [*old, *slots, new_job(queue)]])
    assert outcomes == [None] * 14
    done, settled = submission.settle(old[0][0], NOW)
    world.tables.write(settled)
    world.tables.write(worker.retire(slots[0][0], "9")[1])
    before = NOW - timedelta(days=1)
    ids = {job.job_id for job, _ in old}
    assert {job.job_id for job in world.tables.queued(before)} == ids
    assert {job.job_id for job in world.tables.pending(before)} == ids - {done.job_id}
    assert {slot.slot_id for slot in world.tables.slots()} >= {slot.slot_id for slot, _ in slots}
    assert world.tables.slots_of(queue) == {SlotState.FREE: 3, SlotState.RETIRING: 1}


# Queues


def test_messages_go_through_their_queue(aws: FleetClient, world: World) -> None:
    url = aws.sqs.create_queue(QueueName="messages")["QueueUrl"]
    arn = f"arn:aws:sqs:{aws.info.region}:{aws.info.account}:messages"
    bodies = [f"ü {number} " + "x" * 150_000 for number in range(12)]
    assert world.queues.send("messages", bodies) == [None] * 12
    assert world.queues.waiting(arn) == 12
    received = [*world.queues.receive(url, 1, 10), *world.queues.receive("messages", 1, 10)]
    assert sorted(one.body for one in received) == sorted(bodies)
    assert all(abs(one.sent_at - datetime.now(UTC)) < timedelta(minutes=5) for one in received)
    world.queues.release(arn, received[0].receipt)
    for one in received[1:]:
        world.queues.delete(url, one.receipt)
    [again] = world.queues.receive("messages", 1, 10)
    assert again.message_id == received[0].message_id


def test_a_dead_letter_names_where_it_came_from(aws: FleetClient, world: World) -> None:
    aws.sqs.create_queue(QueueName="dead")
    arn = f"arn:aws:sqs:{aws.info.region}:{aws.info.account}:"
    redrive = json.dumps({"deadLetterTargetArn": f"{arn}dead", "maxReceiveCount": "1"})
    aws.sqs.create_queue(QueueName="alive", Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "0"})
    assert world.queues.send("alive", ["letter"]) == [None]
    letters = eventually(lambda: (world.queues.receive("alive") and []) or world.queues.receive("dead"))
    assert (letters[0].body, letters[0].source) == ("letter", f"{arn}alive")
    assert world.queues.send(letters[0].source, ["back"]) == [None]


def test_siblings_and_missing_queues(aws: FleetClient, world: World) -> None:
    own = (f"{NAME}-job-queue-finished", f"{NAME}-job-queue-failed")
    assert world.queues.siblings("lonely") == own
    for name in ("trio", "trio-finished", "trio-failed"):
        aws.sqs.create_queue(QueueName=name)
    assert world.queues.siblings("trio") == ("trio-finished", "trio-failed")
    with pytest.raises(QueueNotFound, match="lonely"):
        world.queues.receive("lonely")
    aws.sqs.create_queue(QueueName="other")
    world.queues.send("other", ["x"])
    with pytest.raises(Refused):
        world.queues.delete("other", "no receipt")


def test_a_message_whose_reply_was_lost_is_there(aws: FleetClient, world: World, clients: Clients) -> None:
    aws.sqs.create_queue(QueueName="lost")
    world.queues.waiting("lost")
    with losing_replies(clients.sqs(), times=99):
        outcomes = world.queues.send("lost", ["x"])
    assert [type(outcome) for outcome in outcomes] == [Unknown]
    assert world.queues.waiting("lost") >= 1


# Objects


def test_objects_are_stored_searched_and_listed(world: World) -> None:
    folder = f"s3://{BUCKET}/a b/ü+c/"
    needle = "Grüße an alle"
    body = b"." * (limits.OUTPUT_CHUNK - 5) + needle.encode() + b"." * 100
    world.objects.put(f"{folder}stdout", body, {"sched-run-id": "rün"})
    world.objects.put(f"{folder}empty", b"", {})
    assert world.objects.contains(f"{folder}stdout", needle) is True
    assert world.objects.contains(f"{folder}stdout", "Grüsse") is False
    assert world.objects.contains(f"{folder}empty", needle) is False
    assert world.objects.contains(f"{folder}absent", needle) is None
    assert world.objects.tail(f"{folder}stdout", 4) == "...."
    assert world.objects.tail(f"{folder}empty", 4) == ""
    assert world.objects.tail(f"{folder}absent", 4) is None
    found = world.objects.listing(folder, 10)
    assert [(one.key, one.size) for one in found] == [("empty", 0), ("stdout", len(body))]
    assert world.objects.metadata(f"{folder}stdout") == {"sched-run-id": "r%C3%BCn", "etag": found[1].etag}
    assert world.objects.metadata(f"{folder}absent") is None
    assert world.objects.tail(world.objects.store_rejected("m-1", needle), 99) == needle


# Executions and events


def test_an_execution_starts_once_and_is_woken_once(aws: FleetClient, world: World) -> None:
    slot, _ = worker.new_slot(f"i-{next(NEW)}", "q", NOW)
    world.executions.start(slot)
    world.executions.start(slot.changed(state=SlotState.HELD, job_id="j"))
    name = names.execution(slot.slot_id, 1)
    [token] = eventually(lambda: world.queues.receive("tokens", 1, 10))
    assert name in world.executions.running()
    assert world.executions.wake(Wake(token.body, Verdict.NEXT)) is True
    eventually(lambda: name not in world.executions.running())
    assert world.executions.wake(Wake(token.body, Verdict.NEXT)) is False
    world.executions.start(slot)
    assert name not in world.executions.running()
    stepfunctions = aws.client("stepfunctions")
    listed = stepfunctions.list_executions(
        stateMachineArn=next(iter(stepfunctions.list_state_machines()["stateMachines"]))["stateMachineArn"]
    )["executions"]
    [ended] = [one for one in listed if one["name"] == name]
    described = stepfunctions.describe_execution(executionArn=ended["executionArn"])
    assert json.loads(described["output"]) == {"verdict": "next"}
    assert json.loads(described["input"]) == {"slot_id": slot.slot_id, "worker_id": slot.worker_id, "execution": 1}


def test_events_reach_those_who_listen(aws: FleetClient, world: World) -> None:
    details = [{"job_id": f"jöb-{number}", "status": "SUCCEEDED"} for number in range(12)]
    pattern = {"source": ["sched-plugins"], "detail-type": ["Scheduler Job State Change"]}
    with aws.watching(pattern) as seen:
        assert world.events.publish([*details, {"x": "y" * limits.MAX_EVENT_BYTES}])[:-1] == [None] * 12
        eventually(lambda: len(seen()) == 12)
        assert sorted(event["detail"]["job_id"] for event in seen()) == sorted(one["job_id"] for one in details)


# Workers and commands


def test_a_worker_runs_a_command(aws: FleetClient, world: World) -> None:
    worker_id = aws.launch(**{NAME: "q"})
    aws.launch(other="q")
    assert list(world.workers.tagged()) == [Worker(worker_id, "q", InstanceState.RUNNING)]
    eventually(lambda: world.commands.is_online(worker_id))
    comment = names.comment("job", "run", next(NEW))
    parameters = {"commands": ["sleep 1", "echo to stdout", "echo to stderr >&2", "exit 3"]}
    command_id = world.commands.send(Command(worker_id, "AWS-RunShellScript", parameters, comment, 60))
    eventually(lambda: comment in world.commands.in_progress())
    assert world.commands.find(worker_id, comment) == command_id
    assert world.commands.find(worker_id, names.comment("job", "run", -1)) is None
    answer = eventually(lambda: (found := world.commands.invocation(command_id, worker_id)) and found.is_over and found)
    assert (answer.comment, answer.status, answer.exit_code) == (comment, "Failed", 3)
    assert answer.stdout.strip() == "to stdout"
    assert answer.started_at <= answer.finished_at
    assert eventually(lambda: world.objects.tail(answer.stdout_uri, 100)).strip() == "to stdout"
    assert eventually(lambda: world.objects.tail(answer.stderr_uri, 100)).splitlines()[0] == "to stderr"
    assert comment not in world.commands.in_progress()
    world.workers.protect(worker_id, protected=True)
    world.workers.terminate(worker_id)
    world.workers.terminate(worker_id)
    eventually(lambda: world.workers.described([worker_id])[worker_id].state is InstanceState.TERMINATED)
    assert list(world.workers.tagged()) == []


def test_what_systems_manager_refuses(aws: FleetClient, world: World) -> None:
    worker_id = aws.launch()
    comment = names.comment("job", "run", 0)
    shell, gone = "AWS-RunShellScript", "i-00000000000000001"
    for kind, command in [
        (RefusedForJob, Command(worker_id, "No-Such-Document", {"a": ["b"]}, comment, 60)),
        (RefusedForJob, Command(worker_id, shell, {"commands": ["{{ssm:absent}}"]}, comment, 60)),
        (RefusedForWorker, Command(gone, shell, {"commands": ["true"]}, comment, 60)),
    ]:
        with pytest.raises(kind):
            world.commands.send(command)
    assert world.commands.invocation("00000000-0000-4000-8000-000000000000", worker_id) is None
    assert not world.commands.is_online(gone)


def test_a_command_whose_reply_was_lost_is_sent_once_and_found(
    aws: FleetClient, world: World, clients: Clients
) -> None:
    worker_id = aws.launch()
    comment = names.comment("job", "lost", next(NEW))
    command = Command(worker_id, "AWS-RunShellScript", {"commands": ["true"]}, comment, 60)
    with losing_replies(clients.ssm_once) as sent, pytest.raises(Unknown):
        world.commands.send(command)
    assert len(sent) == 1
    found = eventually(lambda: world.commands.find(worker_id, comment))
    answer = eventually(lambda: (one := world.commands.invocation(found, worker_id)) and one.is_over and one)
    assert (answer.status, answer.exit_code) == ("Success", 0)


def test_a_running_command_is_cancelled(aws: FleetClient, world: World) -> None:
    worker_id = aws.launch()
    command = Command(worker_id, "AWS-RunShellScript", {"commands": ["sleep 600"]}, names.comment("c", "r", 1), 60)
    command_id = world.commands.send(command)
    eventually(lambda: (one := world.commands.invocation(command_id, worker_id)) and one.status == "InProgress")
    world.commands.cancel(command_id, worker_id)
    answer = eventually(lambda: (one := world.commands.invocation(command_id, worker_id)) and one.is_over and one)
    assert answer.status == "Cancelled"


def test_a_group_grows_and_loses_a_worker(aws: FleetClient, world: World) -> None:
    group = "env-autoscaling-group"
    template = aws.ec2.create_launch_template(
        LaunchTemplateName="env", LaunchTemplateData={"ImageId": "ami-1", "InstanceType": "c5.large"}
    )["LaunchTemplate"]["LaunchTemplateId"]
    aws.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=group, MinSize=0, MaxSize=3, AvailabilityZones=["us-east-1a"],
        LaunchTemplate={"LaunchTemplateId": template, "Version": "1"},
    )  # fmt: skip
    assert world.workers.capacity(group) == (0, 3)
    world.workers.set_capacity(group, 2)

    def members() -> dict[str, bool]:
        [found] = aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
        live = [one for one in found["Instances"] if one["LifecycleState"] == "InService"]
        return {one["InstanceId"]: one["ProtectedFromScaleIn"] for one in live}

    first, second = eventually(lambda: found if len(found := members()) == 2 else None)
    world.workers.protect(first, protected=True)
    assert members() == {first: True, second: False}
    world.workers.protect(first, protected=False)
    world.workers.terminate(first)
    world.workers.terminate(first)
    world.workers.protect(first, protected=False)
    assert world.workers.capacity(group) == (1, 3)
    eventually(lambda: set(members()) == {second})
    with pytest.raises(Refused):
        world.workers.set_capacity(group, 9)


# The wire


def test_a_stack_that_is_not_there_was_told_nothing() -> None:
    session = boto3.Session(region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
    nowhere = make_world(Settings.of(NAME), Clients(session, "http://127.0.0.1:9"))
    with pytest.raises(Throttled):
        nowhere.workers.terminate("i-1")
