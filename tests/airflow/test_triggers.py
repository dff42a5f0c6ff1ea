"""Triggers that share a stream, in Airflow's own manager of shared streams."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.messaging.triggers import msg_queue
from airflow.triggers.shared_stream import AdvanceItem, AdvanceOutcome, SharedStreamManager
from test_client_watch import Table

from sched_plugins.airflow.queues.finished_job import SchedulerMessageQueueProvider
from sched_plugins.airflow.sensors.finished_queue import FinishedQueueSensor
from sched_plugins.airflow.triggers import troubles, watcher
from sched_plugins.airflow.triggers.base import SchedulerTrigger
from sched_plugins.airflow.triggers.finished_job import FinishedJobTrigger, FinishedMessage, FinishedQueueProducer
from sched_plugins.airflow.triggers.job import JobsTrigger, JobTrigger, SharedWatchTrigger
from sched_plugins.core.state import Status
from sched_plugins.errors import NotPermitted, SchedulerError, SchedulerNotFound, Throttled, Unknown

NOW = datetime.now(UTC)


class AsyncTable:
    """The job table in memory, awaited, with troubles; it counts the calls."""

    def __init__(self) -> None:
        self.table = Table()
        self.calls = 0
        self.opened = 0
        self.troubles: list[SchedulerError] = []

    def _call(self) -> None:
        self.calls += 1
        if self.troubles:
            raise self.troubles.pop(0)

    async def get_many(self, job_ids: Any) -> Any:
        self._call()
        return self.table.get_many(job_ids)

    async def newest_end(self, shard: int) -> str:
        self._call()
        return self.table.newest_end(shard)

    async def ended_since(self, shard: int, since: str) -> Any:
        self._call()
        return self.table.ended_since(shard, since)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> AsyncTable:
    made = AsyncTable()

    @asynccontextmanager
    async def opened(self: Any) -> Any:
        made.opened += 1
        yield made

    monkeypatch.setattr(SharedWatchTrigger, "_open_reader", opened)
    for name, seconds in (("SHORTEST", 0.02), ("GATHER", 0.01)):
        monkeypatch.setattr(watcher, name, seconds)
    monkeypatch.setattr(troubles, "LONGEST_BACKOFF", 0.02)
    monkeypatch.setattr(troubles, "REFUSAL_PATIENCE", 0.1)
    monkeypatch.setenv("AIRFLOW__SCHED__SETTLE_SECONDS", "0")
    monkeypatch.setattr("sched_plugins.airflow.triggers.job.LONGEST", 0.05)
    return made


async def fired(manager: SharedStreamManager, number: int, trigger: SchedulerTrigger) -> Any:
    """What the triggerer does with a trigger: the payload of its first event."""
    key = trigger.shared_stream_key()
    assert key is not None
    stream = manager.subscribe(trigger_id=number, trigger=trigger, key=key)
    try:
        async for event in trigger.filter_shared_stream(stream):
            return event.payload
    finally:
        await manager.unsubscribe(number, key)


def waiting(number: int, run_id: str = "r") -> JobTrigger:
    return JobTrigger(job_id=f"j{number}", run_id=run_id, scheduler="sim")


async def until(true: Any) -> None:
    while not true():
        await asyncio.sleep(0.01)


def test_a_thousand_triggers_share_one_poller(jobs: AsyncTable) -> None:
    async def scene() -> list[Any]:
        manager = SharedStreamManager()
        for number in range(1000):
            jobs.table.submit(f"j{number}", "r")
        tasks = [asyncio.create_task(fired(manager, number, waiting(number))) for number in range(1000)]
        await until(lambda: sum(jobs.table.read) >= 1000)
        before, looks = jobs.calls, 4 * 5
        await until(lambda: jobs.calls >= before + looks)
        assert sum(jobs.table.read) == 1000, "each job was read itself once, and not again while it waits"
        for number in range(1000):
            jobs.table.end(f"j{number}", number, status=Status.FAILED if number == 7 else Status.SUCCEEDED)
        return await asyncio.gather(*tasks)

    payloads = asyncio.run(scene())
    assert jobs.opened == 1
    assert [one["job_status"] for one in payloads].count("SUCCEEDED") == 999
    assert payloads[7] == {
        "status": "ended", "job_id": "j7", "run_id": "r", "standing": "ended", "job_status": "FAILED",
    }  # fmt: skip


def test_who_comes_late_misses_nothing_and_a_restart_goes_on(jobs: AsyncTable) -> None:
    async def scene() -> None:
        manager = SharedStreamManager()
        for number in range(30):
            jobs.table.submit(f"j{number}", "r")
        first = [asyncio.create_task(fired(manager, number, waiting(number))) for number in range(20)]
        await until(lambda: jobs.calls > 8)
        jobs.table.end("j25", 1.0, indexed=False)
        late = await asyncio.wait_for(fired(manager, 25, waiting(25)), 5)
        assert late["job_status"] == "SUCCEEDED", "it had ended before anybody waited for it"
        # The triggerer stops: nothing is cancelled, and nothing is left. Another one goes on.
        for task in first:
            task.cancel()
        await asyncio.gather(*first, return_exceptions=True)
        jobs.table.end("j3", 2.0)
        again = SharedStreamManager()
        tasks = [asyncio.create_task(fired(again, number, waiting(number))) for number in range(20)]
        assert (await asyncio.wait_for(tasks[3], 5))["job_status"] == "SUCCEEDED"
        jobs.table.end("j4", 3.0)
        assert (await asyncio.wait_for(tasks[4], 5))["job_status"] == "SUCCEEDED"
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scene())


def test_a_throttle_fails_nobody_and_a_refusal_tells_everybody(jobs: AsyncTable) -> None:
    async def scene() -> None:
        manager = SharedStreamManager()
        for number in range(3):
            jobs.table.submit(f"j{number}", "r")
        jobs.troubles = [Throttled("slow down")] * 5
        tasks = [asyncio.create_task(fired(manager, number, waiting(number))) for number in range(3)]
        await until(lambda: not jobs.troubles and jobs.calls > 7)
        jobs.table.end("j0", 1.0)
        assert (await asyncio.wait_for(tasks[0], 5))["job_status"] == "SUCCEEDED"
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        jobs.troubles = [NotPermitted("cannot follow jobs: ask for the reader policy")] * 1000
        refused = SharedStreamManager()
        told = await asyncio.gather(*(fired(refused, number, waiting(number)) for number in (1, 2)))
        message = "cannot follow jobs: ask for the reader policy"
        assert told == [{"status": "error", "kind": "NotPermittedException", "message": message}] * 2

    async def bounded() -> None:
        await asyncio.wait_for(scene(), 20)

    asyncio.run(bounded())


def test_many_jobs_are_one_trigger(jobs: AsyncTable) -> None:
    trigger = JobsTrigger(base="t", numbers={"d-1": "0-2,5", "d-2": "3"}, scheduler="sim")
    assert [(run.job_id, run.run_id) for run in trigger.runs()] == [
        *((f"t/00000{number}", "d-1") for number in (0, 1, 2, 5)), ("t/000003", "d-2"),
    ]  # fmt: skip
    for run in trigger.runs():
        jobs.table.submit(run.job_id, run.run_id)
        jobs.table.end(run.job_id, 1.0)

    async def alone() -> Any:
        return [event.payload async for event in trigger.run()]

    assert asyncio.run(alone()) == [{"status": "ended", "ended": 5, "succeeded": 5}]


SETTINGS = {
    "scheduler": "sim", "environment": "e", "aws_conn_id": "c", "region_name": "eu-west-1", "verify": "/ca.pem",
    "botocore_config": {"retries": {"mode": "standard"}},
}  # fmt: skip


@pytest.mark.parametrize("trigger", [JobTrigger(job_id="j", run_id="r", cancel_on_kill=False, **SETTINGS)])
def test_every_setting_is_kept_and_decides_who_shares(trigger: JobTrigger) -> None:
    path, kwargs = trigger.serialize()
    assert path == "sched_plugins.airflow.triggers.job.JobTrigger"
    assert kwargs == {**SETTINGS, "job_id": "j", "run_id": "r", "cancel_on_kill": False}
    same = JobsTrigger(job_ids=["other"], **{**SETTINGS, "environment": None})
    assert trigger.shared_stream_key() == same.shared_stream_key()
    for name, value in (("aws_conn_id", "d"), ("region_name", "x"), ("verify", False), ("scheduler", "y"),
                        ("botocore_config", None)):  # fmt: skip
        assert JobTrigger(**{**kwargs, name: value}).shared_stream_key() != trigger.shared_stream_key()


def test_those_who_name_the_same_finished_queue_share_it_whatever_they_name_it_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(msg_queue, "MESSAGE_QUEUE_PROVIDERS", [SchedulerMessageQueueProvider()])
    asked = msg_queue.MessageQueueTrigger(scheme="sched", environment="solver", job_ids=["a"])
    path, kwargs = asked.serialize()
    assert path.endswith("finished_job.FinishedJobTrigger")
    watcher = FinishedJobTrigger(**kwargs)
    sensor = FinishedQueueSensor(task_id="s", environment="solver", job_ids="b", deferrable=True)
    sensor.hook = SimpleNamespace(client=SimpleNamespace(scheduler="sim"))  # type: ignore[assignment]
    named = {"finished_queue": "https://sqs/1/solver-job-queue-finished", "scheduler": "sim"}
    key = watcher.shared_stream_key()
    assert sensor.trigger().shared_stream_key() == FinishedJobTrigger(**named).shared_stream_key() == key

    others = [
        FinishedJobTrigger(**given)
        for given in (
            {"environment": "mesher"}, {"scheduler": "solver-2"}, {"finished_queue": "solver-job-queue-failed"},
            {"environment": "solver", "region_name": "x"}, {}, {"aws_conn_id": "c"},
        )
    ]  # fmt: skip
    keys = [key, *(other.shared_stream_key() for other in others)]
    assert len(set(keys)) == len(keys), "and nobody else shares it"
    monkeypatch.setenv("AIRFLOW__SCHED__DEFAULT_SCHEDULER", "sim")
    unnamed = FinishedJobTrigger(aws_conn_id=None)
    assert unnamed.shared_stream_key() == FinishedJobTrigger(aws_conn_id=None, scheduler="sim").shared_stream_key()
    assert FinishedJobTrigger().shared_stream_key() == keys[-2], "a connection may name another"


def test_signing_in_that_fails_for_a_while_fails_nobody(jobs: AsyncTable, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, refusals = SharedWatchTrigger._open_reader, [Throttled("STS is slow"), Unknown("STS does not answer")]

    @asynccontextmanager
    async def unsure(self: Any) -> Any:
        if refusals:
            raise refusals.pop()
        async with opened(self) as reader:
            yield reader

    monkeypatch.setattr(SharedWatchTrigger, "_open_reader", unsure)
    jobs.table.submit("j0", "r")
    jobs.table.end("j0", 1.0)
    told = asyncio.run(asyncio.wait_for(fired(SharedStreamManager(), 0, waiting(0)), 20))
    assert (told["job_status"], refusals) == ("SUCCEEDED", [])


def test_a_run_that_is_waited_for_twice_leaves_nothing_behind(jobs: AsyncTable) -> None:
    async def scene() -> Any:
        trigger = JobsTrigger(job_ids=["a", "a"], scheduler="sim")
        seen = trigger._watcher()
        told = await asyncio.wait_for(fired(SharedStreamManager(), 0, trigger), 20)
        return told, seen._waiting

    jobs.table.submit("a", "r")
    jobs.table.end("a", 1.0)
    assert asyncio.run(scene()) == ({"status": "ended", "ended": 1, "succeeded": 1}, {})


def test_a_task_is_not_resumed_before_airflow_has_heard_of_its_deferral(
    jobs: AsyncTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SCHED__SETTLE_SECONDS", "0.5")
    jobs.table.submit("j0", "r")
    jobs.table.end("j0", 1.0)

    async def scene() -> tuple[list[Any], list[float]]:
        begun, told, times = asyncio.get_running_loop().time(), [], []
        told.append(await fired(SharedStreamManager(), 0, waiting(0)))
        times.append(asyncio.get_running_loop().time() - begun)
        jobs.troubles = [SchedulerNotFound("no")]
        told.append(await fired(SharedStreamManager(), 0, waiting(0)))
        times.append(asyncio.get_running_loop().time() - begun)
        told += [event.payload async for event in waiting(0).run()]
        return told, times

    told, times = asyncio.run(asyncio.wait_for(scene(), 20))
    assert [one["status"] for one in told] == ["ended", "error", "ended"]
    assert times[0] >= 0.5
    assert times[1] >= 1.0


class Queue:
    """A finished queue in memory, with the methods of SQS's client that are awaited."""

    def __init__(self) -> None:
        self.visible: list[str] = []
        self.deleted: list[str] = []
        self.meta = SimpleNamespace(region_name="eu-west-1")

    async def get_queue_url(self, **asked: Any) -> dict[str, Any]:
        return {"QueueUrl": "https://sqs/1/q"}

    async def receive_message(self, **asked: Any) -> dict[str, Any]:
        await asyncio.sleep(0.01)
        taken, self.visible = self.visible, []
        return {
            "Messages": [{"MessageId": job, "ReceiptHandle": job, "Body": f'{{"job_id": "{job}"}}'} for job in taken]
        }

    async def change_message_visibility_batch(self, **asked: Any) -> dict[str, Any]:
        return {}

    async def change_message_visibility(self, **asked: Any) -> None:
        if asked["VisibilityTimeout"] == 0:
            self.visible.append(asked["ReceiptHandle"])

    async def delete_message(self, **asked: Any) -> None:
        self.deleted.append(asked["ReceiptHandle"])


def test_a_sensor_that_leaves_a_queue_does_not_let_its_watcher_see_messages_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What came while it waited to be resumed it has not looked at. The watcher has, and Airflow has stored that."""
    queue = Queue()

    @asynccontextmanager
    async def aws(self: Any, service: str) -> Any:
        yield SimpleNamespace(scheduler="sim"), queue

    monkeypatch.setattr(SchedulerTrigger, "aws", aws)
    monkeypatch.setenv("AIRFLOW__SCHED__SETTLE_SECONDS", "0.3")
    started: list[str] = []

    async def watch(manager: SharedStreamManager, trigger: FinishedJobTrigger) -> None:
        key = trigger.shared_stream_key()
        async for event in trigger.filter_shared_stream(manager.subscribe(trigger_id=0, trigger=trigger, key=key)):
            started.append(event.payload["job_id"])
            seq = manager.bind_pending_event(trigger_id=0, key=key)
            assert seq is not None
            asyncio.get_running_loop().call_later(0.02, manager.confirm_persisted, [seq])

    async def scene() -> Any:
        manager = SharedStreamManager()
        watching = asyncio.ensure_future(watch(manager, FinishedJobTrigger(scheduler="sim")))
        sensor = FinishedJobTrigger(scheduler="sim", job_ids=["a"], claim=True)
        sensing = asyncio.ensure_future(fired(manager, 1, sensor))
        await asyncio.sleep(0)
        queue.visible = ["early", "a"]
        await until(lambda: "a" in started)
        queue.visible = ["b", "c"]
        told = await sensing
        await until(lambda: len(queue.deleted) >= 3)
        await asyncio.sleep(0.1)
        watching.cancel()
        return told

    assert asyncio.run(asyncio.wait_for(scene(), 20))["message"] == {"job_id": "a"}
    assert started == ["early", "a", "b", "c"]
    assert sorted(queue.deleted) == ["b", "c", "early"], "and that of the sensor is deleted by its task"


@pytest.mark.parametrize(
    ("takers", "passed", "outcome", "deleted"),
    [
        (1, 0, AdvanceOutcome(acked=1, failed=1), True),
        (1, 1, AdvanceOutcome(acked=2, failed=1), True),
        (1, 1, AdvanceOutcome(acked=1, failed=1), False),
        (2, 0, AdvanceOutcome(acked=1, failed=1), False),
        (0, 1, AdvanceOutcome(acked=1, failed=1), False),
    ],
)
def test_a_message_is_deleted_only_once_every_watcher_that_took_it_has_it_stored(
    takers: int, passed: int, outcome: AdvanceOutcome, deleted: bool
) -> None:
    queue, producer = Queue(), FinishedQueueProducer(FinishedJobTrigger(scheduler="sim"))
    producer._sqs = queue
    message = FinishedMessage("a", "a", {}, takers=takers, passed=passed)
    asyncio.run(producer.advance([AdvanceItem(message, outcome)]))
    assert (queue.deleted, queue.visible) == ((["a"], []) if deleted else ([], ["a"]))


def test_a_trigger_without_a_scheduler_follows_that_of_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def aws(self: Any, service: str) -> Any:
        hook = SimpleNamespace(scheduler="sim", conn_config=SimpleNamespace(endpoint_url=None))
        yield hook, SimpleNamespace(meta=SimpleNamespace(region_name="eu-west-1"))

    monkeypatch.setattr(SchedulerTrigger, "aws", aws)

    async def table() -> str:
        async with JobTrigger(job_id="j")._open_reader() as reader:
            return reader.table

    assert asyncio.run(table()) == "sim-job-monitoring"
