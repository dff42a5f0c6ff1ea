"""Sensors, and the triggers of finished queues, on the laptop stack."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import TaskDeferred
from airflow.triggers.shared_stream import SharedStreamManager
from airflow_runs import run_of, xcom
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from test_operators import TaskInstance
from workers import ENVIRONMENT

from sched_plugins.airflow import exceptions
from sched_plugins.airflow.sensors.finished_queue import FinishedQueueSensor
from sched_plugins.airflow.sensors.job import JobSensor
from sched_plugins.airflow.sensors.queue_drained import QueueDrainedSensor
from sched_plugins.airflow.triggers import finished_job
from sched_plugins.airflow.triggers.finished_job import FinishedJobTrigger
from sched_plugins.client import SchedulerClient

FINISHED = f"{SCHEDULER}-job-queue-finished"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__SCHED__SETTLE_SECONDS", "0")


def run_jobs(stack: DeployedStack, *job_ids: str) -> None:
    """Run jobs to their ends."""
    client = SchedulerClient(SCHEDULER)
    client.wait_all(client.submit_many({"job_id": job_id, "commands": ["true"]} for job_id in job_ids), timeout=60)


def test_a_dag_of_sensors(stack: DeployedStack) -> None:
    stack.messages(FINISHED)
    run_jobs(stack, "sensed-1", "sensed-2")
    with DAG("sensors", schedule=None) as dag:
        for deferrable, job_id in ((False, "sensed-1"), (True, "sensed-2")):
            way = "deferred" if deferrable else "poked"
            JobSensor(task_id=f"job_{way}", job_ids=["sensed-1", "sensed-2"], deferrable=deferrable)
            FinishedQueueSensor(task_id=f"finished_{way}", job_ids=job_id, deferrable=deferrable, poke_interval=1)
            QueueDrainedSensor(task_id=f"drained_{way}", deferrable=deferrable, poke_interval=1)
    run = run_of(dag)
    assert run.state == "success"
    assert xcom(run, "job_poked") == {"sensed-1": "SUCCEEDED", "sensed-2": "SUCCEEDED"}
    assert xcom(run, "finished_poked")["job_id"] == xcom(run, "finished_poked", "message")["job_id"] == "sensed-1"
    assert xcom(run, "finished_deferred")["job_id"] == "sensed-2"
    assert stack.messages(FINISHED) == [], "both messages were deleted when their tasks had them"


def test_a_sensor_tells_a_job_that_failed_and_waits_for_one_that_is_still_to_come(stack: DeployedStack) -> None:
    client = SchedulerClient(SCHEDULER)
    client.wait(client.submit({"job_id": "sensed-bad", "commands": ["exit 4"]}), timeout=60)
    with pytest.raises(exceptions.JobFailedException, match="'sensed-bad' ended FAILED: exit code 4"):
        JobSensor(task_id="s", job_ids="sensed-bad").poke({})
    with pytest.raises(exceptions.NotFoundException, match="'to-come'"):
        JobSensor(task_id="s", job_ids="to-come", must_exist=True).poke({})
    sensor = JobSensor(task_id="s", job_ids="to-come", deferrable=True, mode="reschedule")
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute({"ti": TaskInstance("s", 0)})

    async def scene() -> Any:
        waiting = asyncio.ensure_future(anext(deferred.value.trigger.run()))
        await asyncio.sleep(1)
        assert not waiting.done()
        await client.asubmit({"job_id": "to-come", "commands": ["true"]})
        return (await asyncio.wait_for(waiting, 60)).payload

    assert asyncio.run(scene()) == {"status": "ended", "ended": 1, "succeeded": 1}
    assert sensor.execute_complete({}, {"status": "ended"}) == {"to-come": "SUCCEEDED"}
    client.cancel("to-come")


class Triggerer:
    """What the triggerer does with triggers that share streams: events are stored, and their storing confirmed."""

    def __init__(self) -> None:
        self.manager = SharedStreamManager()
        self.events: dict[int, list[Any]] = {}
        self.tasks: list[asyncio.Task[None]] = []

    def start(self, number: int, trigger: FinishedJobTrigger) -> None:
        self.tasks.append(asyncio.create_task(self._run(number, trigger)))

    async def _run(self, number: int, trigger: FinishedJobTrigger) -> None:
        key = trigger.shared_stream_key()
        stream = self.manager.subscribe(trigger_id=number, trigger=trigger, key=key)
        try:
            async for event in trigger.filter_shared_stream(stream):
                seq = self.manager.bind_pending_event(trigger_id=number, key=key)
                self.events.setdefault(number, []).append(event.payload)
                if seq is not None:
                    self.manager.confirm_persisted([seq])
        finally:
            await self.manager.unsubscribe(number, key)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


def test_those_who_wait_at_one_queue_take_nothing_from_each_other(
    stack: DeployedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished_job, "BACK_AFTER", 1)
    stack.messages(FINISHED)

    async def until(true: Any) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.05)

    async def scene() -> Triggerer:
        triggerer = Triggerer()
        for number, job_ids in enumerate((["own-1"], ["own-2"], [], [])):
            triggerer.start(number, FinishedJobTrigger(scheduler=SCHEDULER, job_ids=job_ids, claim=True))
        triggerer.start(9, FinishedJobTrigger(scheduler=SCHEDULER, job_ids=["own-1", "own-3"]))
        await asyncio.sleep(1)
        await asyncio.to_thread(run_jobs, stack, *(f"own-{number}" for number in range(1, 6)))
        await until(lambda: {0, 1, 2, 3} <= triggerer.events.keys() and len(triggerer.events.get(9, ())) == 2)
        await triggerer.stop()
        return triggerer

    events = asyncio.run(scene()).events
    had = {number: [event["message"]["job_id"] for event in events[number]] for number in range(4)}
    assert (had[0], had[1]) == (["own-1"], ["own-2"])
    assert len(set(itertools.chain(*had.values()))) == 4, "one message serves one sensor"
    assert {event["job_id"] for event in events[9]} == {"own-1", "own-3"}, "and a watcher sees every one that it wants"


def test_a_watcher_and_a_sensor_of_an_environment_both_have_its_message(
    stack: DeployedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = stack.queue_url(f"{ENVIRONMENT}-job-queue-finished")
    sensor = FinishedQueueSensor(task_id="s", environment=ENVIRONMENT, job_ids="shared", deferrable=True)
    body = {"job_id": "shared", "status": "SUCCEEDED"}

    def left() -> int:
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        told = stack.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=counts)["Attributes"]
        return sum(map(int, told.values()))

    others = left()

    async def scene() -> dict[int, list[Any]]:
        triggerer = Triggerer()
        triggerer.start(1, FinishedJobTrigger(environment=ENVIRONMENT, job_ids=["shared"]))
        await asyncio.sleep(1)
        triggerer.start(2, await asyncio.to_thread(sensor.trigger))
        await asyncio.sleep(1)
        await asyncio.to_thread(stack.sqs.send_message, QueueUrl=queue, MessageBody=json.dumps(body))
        async with asyncio.timeout(60):
            while triggerer.events.keys() != {1, 2}:
                await asyncio.sleep(0.05)
        await triggerer.stop()
        return triggerer.events

    events = asyncio.run(scene())
    assert (events[1], [event["message"] for event in events[2]]) == ([body], [body])
    assert left() == others + 1, "the sensor's task does not have it yet"
    assert sensor.execute_complete({"ti": TaskInstance("s", 0)}, events[2][0]) == body
    assert left() == others


def test_a_message_of_a_task_that_is_gone_before_it_is_resumed_goes_to_another(
    stack: DeployedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SCHED__SETTLE_SECONDS", "600")
    stack.messages(FINISHED)

    async def scene() -> Any:
        first, second = Triggerer(), Triggerer()
        asked = FinishedJobTrigger(scheduler=SCHEDULER, job_ids=["settling"], claim=True)
        claimed = asyncio.Event()
        settle = asked.settle

        async def told(began: float) -> None:
            claimed.set()
            await settle(began)

        monkeypatch.setattr(asked, "settle", told)
        first.start(1, asked)
        await asyncio.to_thread(run_jobs, stack, "settling")
        await asyncio.wait_for(claimed.wait(), 60)
        await first.stop()
        monkeypatch.setenv("AIRFLOW__SCHED__SETTLE_SECONDS", "0")
        second.start(2, FinishedJobTrigger(scheduler=SCHEDULER, job_ids=["settling"], claim=True))
        async with asyncio.timeout(60):
            while not second.events:
                await asyncio.sleep(0.05)
        await second.stop()
        return first.events, second.events

    before, after = asyncio.run(scene())
    assert before == {}
    assert [event["message"]["job_id"] for event in after[2]] == ["settling"]


def test_a_message_that_a_watcher_has_is_deleted_and_one_that_nobody_wants_comes_back(
    stack: DeployedStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.providers.common.messaging.triggers import msg_queue

    from sched_plugins.airflow.queues.finished_job import SchedulerMessageQueueProvider

    monkeypatch.setattr(msg_queue, "MESSAGE_QUEUE_PROVIDERS", [SchedulerMessageQueueProvider()])
    monkeypatch.setattr(finished_job, "BACK_AFTER", 1)
    # The receive that the end breaks off takes the message once more, and nobody hears of it.
    monkeypatch.setattr(finished_job, "UNCERTAIN_SECONDS", 2)
    stack.messages(FINISHED)
    asked = msg_queue.MessageQueueTrigger(scheme="sched", scheduler=SCHEDULER, job_ids=["kept"])
    path, kwargs = asked.serialize()
    assert path.endswith("finished_job.FinishedJobTrigger")

    async def scene() -> list[Any]:
        triggerer = Triggerer()
        triggerer.start(1, FinishedJobTrigger(**kwargs))
        await asyncio.to_thread(run_jobs, stack, "kept", "unwanted")
        async with asyncio.timeout(60):
            while not triggerer.events:
                await asyncio.sleep(0.05)
            await asyncio.sleep(1)
        await triggerer.stop()
        return triggerer.events[1]

    [event] = asyncio.run(scene())
    assert (event["job_id"], event["status"]) == ("kept", "SUCCEEDED")
    left: list[str] = []

    def look() -> bool:
        # What an earlier test has not taken may come back as well: it is of other jobs.
        left.extend(message["job_id"] for message in stack.messages(FINISHED))
        return "unwanted" in left

    eventually(look, 90)
    assert left.count("unwanted") == 1
    assert "kept" not in left
