"""Reading jobs, workers and queues; the twins for event loops; the calls that each method makes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from client_stack import NAME, ClientStack, client_stack, service, session

from sched_plugins.client import Run, Status, plain, records
from sched_plugins.core import write
from sched_plugins.core.job import LINUX_DOCUMENT, Stage
from sched_plugins.core.state import SlotState
from sched_plugins.core.worker import new_slot
from sched_plugins.errors import (
    InvalidInput,
    JobFailed,
    JobNotFound,
    QueueNotFound,
    SchedulerNotFound,
    WaitTimeout,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    with client_stack(monkeypatch) as found:
        yield found


def submit(stack: ClientStack, *job_ids: str, **fields: Any) -> None:
    stack.client.submit_many({"job_id": job_id, "commands": ["x"], **fields} for job_id in job_ids)


class Calls(Counter[str]):
    """Counts the calls of a client's boto3 clients."""

    def __init__(self, stack: ClientStack) -> None:
        super().__init__()
        for name in ("dynamodb", "ec2", "sqs", "cloudformation", "s3", "ssm"):
            stack.client.connection.client(name).meta.events.register("before-call", self._count)

    def _count(self, model: Any, **_: Any) -> None:
        self[model.name] += 1

    def of(self, what: Any) -> dict[str, int]:
        self.clear()
        what()
        return dict(self)


def test_the_newest_jobs_come_first_whatever_their_shard_and_state(stack: ClientStack) -> None:
    submit(stack, "a", "b", "c", "d")
    stack.end("b", at=NOON + timedelta(hours=2))
    stack.end("a", Status.FAILED, at=NOON + timedelta(hours=1))
    stack.end("c", at=NOON)
    listed = [job.job_id for job in stack.client.list()]
    assert listed[0] == "d"
    assert listed[1:] == ["b", "a", "c"]
    assert [job.job_id for job in stack.client.list(limit=2)] == ["d", "b"]


def test_a_list_is_narrowed_by_status_group_queue_and_time(stack: ClientStack) -> None:
    submit(stack, "a", "b", group_id="g")
    submit(stack, "c", "d")
    stack.client.submit({"job_id": "q", "commands": ["x"]}, queue="other-job-queue")
    stack.end("a", Status.FAILED, at=NOON)
    stack.end("c", at=NOON + timedelta(hours=1))

    def ids(**narrowed: Any) -> set[str]:
        return {job.job_id for job in stack.client.list(**narrowed)}

    assert ids(statuses={Status.FAILED}) == {"a"}
    assert ids(statuses={Status.FAILED, Status.QUEUED}) == {"a", "b", "d", "q"}
    assert ids(group="g") == {"a", "b"}
    assert ids(queue="https://sqs/1/other-job-queue") == {"q"}
    assert ids(statuses={Status.SUCCEEDED, Status.FAILED}, since=NOON + timedelta(minutes=1)) == {"c"}


def test_a_long_list_takes_pages(stack: ClientStack, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.client.submit({"job_id": "one", "commands": ["x"], "group_id": "one"})
    submit(stack, *(f"j{number}" for number in range(30)), group_id="rare")
    monkeypatch.setattr(records, "_PAGE", 3)
    assert [job.job_id for job in stack.client.list(group="one", limit=1)] == ["one"]
    assert len(stack.client.list(limit=25)) == 25
    assert len({job.job_id for job in stack.client.list(limit=500)}) == 31


def test_a_narrow_list_takes_large_pages(stack: ClientStack) -> None:
    submit(stack, "one", group_id="one")
    submit(stack, *(f"j{number}" for number in range(20)))
    calls = Calls(stack)
    assert calls.of(lambda: stack.client.list(statuses={Status.QUEUED}, group="one", limit=1))["Query"] == 4


def test_reading_many_takes_one_call_for_a_hundred(stack: ClientStack) -> None:
    submit(stack, "j0", "j99", "j149")
    calls = Calls(stack)
    wanted = [*(f"j{number}" for number in range(150)), "j0"]
    assert calls.of(lambda: stack.client.get_many(wanted)) == {"BatchGetItem": 2}
    assert set(stack.client.get_many(wanted)) == {"j0", "j99", "j149"}


def test_what_dynamodb_leaves_unread_is_asked_for_again(stack: ClientStack) -> None:
    submit(stack, "a", "b")
    dynamodb = stack.client.connection.client("dynamodb")
    real, left = dynamodb.batch_get_item, []

    def half(RequestItems: dict[str, Any]) -> Any:  # noqa: N803 - boto3's names
        [(table, asked)] = RequestItems.items()
        left.append(len(asked["Keys"]))
        found = real(RequestItems={table: {**asked, "Keys": asked["Keys"][:1]}})
        rest = {table: {**asked, "Keys": asked["Keys"][1:]}} if asked["Keys"][1:] else {}
        return {**found, "UnprocessedKeys": rest}

    dynamodb.batch_get_item = half
    assert set(stack.client.get_many(["a", "b"])) == {"a", "b"}
    assert left == [2, 1]


def test_the_calls_of_each_method(stack: ClientStack) -> None:
    """docs/client.md states these numbers."""
    submit(stack, *(f"j{number}" for number in range(12)))
    client, calls = stack.client, Calls(stack)
    for number in range(12):
        stack.end(f"j{number}")
    assert calls.of(lambda: client.get("j1")) == {"GetItem": 1}
    assert calls.of(lambda: client.wait("j1")) == {"BatchGetItem": 1}
    assert calls.of(lambda: client.wait_all([f"j{number}" for number in range(12)])) == {"Query": 8, "BatchGetItem": 1}
    assert calls.of(lambda: client.list(statuses={Status.SUCCEEDED})) == {"Query": 4, "BatchGetItem": 1}
    assert calls.of(client.list) == {"Query": 12, "BatchGetItem": 1}
    assert calls.of(client.workers) == {"Scan": 1, "DescribeInstances": 1}
    requests = len(stack.functions.requests)
    client.cancel("j1")
    client.submit({"commands": ["x"]})
    assert len(stack.functions.requests) == requests + 2


@pytest.mark.parametrize(
    ("job_id", "said"), [("", "cannot be empty"), ("x" * 1201, "longer than"), ("\udcff", "Unicode")]
)
def test_an_id_that_no_job_can_have_is_refused(stack: ClientStack, job_id: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        stack.client.get(job_id)


def test_a_scheduler_that_is_not_there_is_named_with_its_place(stack: ClientStack) -> None:
    from sched_plugins.client import SchedulerClient

    other = SchedulerClient("other", session=session())
    for ask in (lambda: other.get("a"), other.list, other.workers, lambda: other.wait("a")):
        with pytest.raises(
            SchedulerNotFound, match=r"no scheduler 'other' in region eu-west-1 .*sched deploy scheduler"
        ):
            ask()
    with pytest.raises(JobNotFound, match="'a'"):
        stack.client.get("a")


def test_a_wait_may_check(stack: ClientStack) -> None:
    submit(stack, "a", "b")
    stack.end("a", Status.FAILED)
    assert stack.client.wait("a").status is Status.FAILED
    with pytest.raises(JobFailed, match="'a' ended FAILED"):
        stack.client.wait("a", check=True)
    with pytest.raises(WaitTimeout, match="'b'"):
        stack.client.wait("b", timeout=3)


def test_a_later_run_is_not_taken_for_the_one_that_was_submitted(stack: ClientStack) -> None:
    first = stack.client.submit({"job_id": "a", "commands": ["x"]})
    stack.end("a", Status.FAILED)
    second = stack.client.submit({"job_id": "a", "commands": ["x"]})
    with pytest.raises(WaitTimeout):
        stack.client.wait(second, timeout=1)
    stack.end("a")
    assert stack.client.wait(second).run_id == second.run_id != first.run_id


def test_the_twins_do_the_same(stack: ClientStack) -> None:
    client = stack.client

    async def scenario() -> None:
        one = await client.asubmit({"job_id": "a", "commands": ["x"]})
        many = await client.asubmit_many([{"job_id": "b", "commands": ["x"]}, {"job_id": "c", "commands": ["x"]}])
        assert (await client.acancel("c")).outcome == "cancelled"
        assert (await client.aget("a")).job_id == "a"
        stack.end("a")
        stack.end("b", Status.FAILED)
        jobs = await client.await_many([one, *many], timeout=20)
        assert [str(job.status) for job in jobs] == ["SUCCEEDED", "FAILED", "CANCELLED"]
        assert (await client.await_one(one, timeout=20)).status is Status.SUCCEEDED
        with pytest.raises(JobFailed):
            await client.await_one("b", timeout=20, check=True)
        assert [ended.run.job_id async for ended in client.awatch(["a"], timeout=20)] == ["a"]
        assert set(await client.aget_many(["a", "b", "x"])) == {"a", "b"}

    asyncio.run(scenario())


def test_a_job_as_plain_data_is_complete_and_in_order(stack: ClientStack) -> None:
    stage = Stage(executable="/opt/run", output="s3://bucket/out/", stage_parameters={"a": 1.5})
    stack.client.submit(
        {"job_id": "a", "ssm_document": LINUX_DOCUMENT, "stage": stage.model_dump(mode="json"), "results_uri": "s3://bucket/out/"}
    )  # fmt: skip
    told = plain(stack.client.get("a"))
    assert list(told)[:3] == ["job_id", "run_id", "status"]
    assert told["stage"]["stage_parameters"] == {"a": 1.5}
    assert not {"state_shard", "state_at", "pending_shard", "pending_at"} & told.keys()


def hold(stack: ClientStack, worker_id: str, queue: str, **fields: Any) -> None:
    made, first = new_slot(worker_id, queue, NOON)
    stack.world.tables.write(first)
    if fields:
        stack.world.tables.write(write.slot("test", made, made.changed(**fields)))


def test_workers_are_slots_and_instances_together(stack: ClientStack) -> None:
    ec2 = service("ec2")
    image = "ami-12c6146b"
    tags: Any = [{"ResourceType": "instance", "Tags": [{"Key": NAME, "Value": f"{NAME}-job-queue"}]}]
    started = ec2.run_instances(ImageId=image, MinCount=2, MaxCount=2, TagSpecifications=tags)["Instances"]
    busy, booting = sorted(instance["InstanceId"] for instance in started)
    hold(stack, busy, f"{NAME}-job-queue", state=SlotState.HELD, job_id="a", run_id="r", attempt=2, claimed_at=NOON)
    hold(stack, "i-elsewhere", "arn:aws:sqs:eu-west-1:1:other-job-queue", draining="Spot")
    found = {worker.worker_id: worker for worker in stack.client.workers()}
    assert (found[busy].state, found[busy].job_id, found[busy].attempt) == ("HELD", "a", 2)
    assert found[busy].instance_state == "running"
    assert (found[booting].state, found[booting].queue) == ("STARTING", f"{NAME}-job-queue")
    assert (found["i-elsewhere"].queue, found["i-elsewhere"].draining) == ("other-job-queue", "Spot")
    assert [worker.worker_id for worker in stack.client.workers("other-job-queue")] == ["i-elsewhere"]


def test_queues_are_the_schedulers_its_environments_and_what_workers_name(stack: ClientStack) -> None:
    sqs = service("sqs")
    for name in (f"{NAME}-job-queue", f"{NAME}-job-queue-finished", f"{NAME}-job-queue-failed", "env-job-queue"):
        sqs.create_queue(QueueName=name)
    url = sqs.get_queue_url(QueueName=f"{NAME}-job-queue-failed")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="x")
    stack.stacks.add("env", {"EnvironmentName": "env", "SchedulerName": NAME}, {})
    stack.stacks.add("others", {"EnvironmentName": "others", "SchedulerName": "another"}, {})
    hold(stack, "i-1", f"{NAME}-job-queue", state=SlotState.HELD, job_id="a", run_id="r", attempt=1)
    hold(stack, "i-2", "mine")
    first, second, third = stack.client.queues()
    assert (first.name, first.owner, first.failed, first.workers_busy) == (f"{NAME}-job-queue", NAME, 1, 1)
    assert (second.name, second.owner) == ("env-job-queue", "env")
    assert (third.name, third.owner, third.workers_free) == ("mine", "", 1)


def test_a_queue_of_a_destroyed_environment_is_not_shown(stack: ClientStack) -> None:
    hold(stack, "i-1", "destroyed-job-queue")
    assert "destroyed-job-queue" not in {queue.name for queue in stack.client.queues()}


def test_a_queue_that_nothing_serves_is_told_with_the_next_step(stack: ClientStack) -> None:
    told = stack.client.unserved(f"{NAME}-job-queue")
    assert told.startswith(f"queue '{NAME}-job-queue' has no workers, and no environment")
    assert f"sched attach INSTANCE --scheduler {NAME}" in told
    assert f"sched deploy environment NAME --scheduler {NAME}" in told
    assert f"sched attach INSTANCE --queue env-job-queue --scheduler {NAME}" in stack.client.unserved("env-job-queue")
    stack.stacks.add("env", {"EnvironmentName": "env", "SchedulerName": NAME}, {})
    assert stack.client.unserved("env-job-queue") == "", "its environment starts workers"
    hold(stack, "i-1", f"{NAME}-job-queue", draining="Spot")
    assert stack.client.unserved(f"{NAME}-job-queue"), "a draining worker takes no more"
    hold(stack, "i-2", f"{NAME}-job-queue")
    assert stack.client.unserved(f"{NAME}-job-queue") == ""


@pytest.mark.parametrize("queue", ["none", "arn:aws:sqs:eu-west-1:123456789012:none", "https://sqs/123456789012/none"])
def test_an_unknown_queue_is_refused_before_anything_is_submitted(stack: ClientStack, queue: str) -> None:
    before = len(stack.functions.requests)
    for ask in (
        lambda: stack.client.submit({"commands": ["x"]}, queue=queue),
        lambda: stack.client.submit_many([{"commands": ["x"]}, {"commands": ["x"], "queue": queue}]),
        lambda: stack.client.list(queue=queue),
        lambda: stack.client.workers(queue),
    ):
        with pytest.raises(QueueNotFound, match="no queue 'none' in region eu-west-1"):
            ask()
    assert len(stack.functions.requests) == before


def test_a_watch_of_ones_own_looks_when_it_is_told_to(stack: ClientStack) -> None:
    submit(stack, "a", "b")
    seen: list[str] = []
    watch = stack.client.new_watch(lambda job: seen.append(job.job_id))
    calls = Calls(stack)
    assert calls.of(lambda: watch.add([Run("a"), Run("b")])) == {}
    assert watch.look() == []
    stack.end("a")
    [ended] = watch.look()
    assert (ended.run.job_id, ended.job and ended.job.status) == ("a", Status.SUCCEEDED)
    assert sorted(seen) == ["a", "a", "b"]
    assert calls.of(watch.look) == {"BatchGetItem": 1}
