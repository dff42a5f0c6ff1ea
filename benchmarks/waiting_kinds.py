"""What waits in waiting.py: each kind starts one wait for a job, and notes when it is over."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from waiting_endpoint import job

BATCH_DELAY = 30
Starter = Callable[[int, dict[int, float]], Any]
"""Starts a wait for a job of that number; what can be cancelled."""


def starter_of(kind: str) -> Starter:
    """What starts the waits of a kind."""
    if kind == "await_for_job":
        return _in_coroutines()
    if kind == "wait_for_job":
        return _in_threads()
    if kind == "wait_for_jobs":
        return _Together().start
    return _in_a_triggerer(kind)


def trigger_of(kind: str, number: int) -> Any:
    """A trigger that waits for a job."""
    if kind == "BatchJobTrigger":
        from airflow.providers.amazon.aws.triggers.batch import BatchJobTrigger

        return BatchJobTrigger(job_id=job(number), aws_conn_id=None, waiter_delay=BATCH_DELAY)
    if kind == "SqsSensorTrigger":
        from airflow.providers.amazon.aws.triggers.sqs import SqsSensorTrigger

        queue = f"{os.environ['AWS_ENDPOINT_URL']}/000000000000/{number}"
        return SqsSensorTrigger(sqs_queue=queue, aws_conn_id=None)
    from sched_plugins.airflow.triggers.job import JobTrigger

    return JobTrigger(job_id=job(number), run_id="r", scheduler="bench", aws_conn_id=None)


def _in_a_triggerer(kind: str) -> Starter:
    from airflow.triggers.shared_stream import SharedStreamManager

    manager = SharedStreamManager()

    async def one(number: int, fired: dict[int, float]) -> None:
        trigger = trigger_of(kind, number)
        key = getattr(trigger, "shared_stream_key", lambda: None)()
        events = trigger.run()
        if key is not None:
            stream = manager.subscribe(trigger_id=number, trigger=trigger, key=key)
            events = trigger.filter_shared_stream(stream)
        async for _ in events:
            fired[number] = time.time()
            break

    return lambda number, fired: asyncio.create_task(one(number, fired))


def _in_coroutines() -> Starter:
    from sched_plugins.client import SchedulerClient
    from sched_plugins.prefect.records import JobHandle
    from sched_plugins.prefect.waiting import await_each

    client = SchedulerClient("bench")

    async def one(number: int, fired: dict[int, float]) -> None:
        await await_each(client, [JobHandle(job_id=job(number), run_id="r")], cancel=False)
        fired[number] = time.time()

    return lambda number, fired: asyncio.create_task(one(number, fired))


class _Thread:
    """A wait in a thread, which ends with the process."""

    def __init__(self, wait: Callable[[], None]) -> None:
        threading.Thread(target=wait, daemon=True).start()

    def cancel(self) -> None:
        """Nothing: it goes with the process."""


def _in_threads() -> Starter:
    from sched_plugins.client import SchedulerClient
    from sched_plugins.prefect.records import JobHandle
    from sched_plugins.prefect.waiting import wait_each

    threading.stack_size(256 * 1024)
    client = SchedulerClient("bench")

    def one(number: int, fired: dict[int, float]) -> None:
        wait_each(client, [JobHandle(job_id=job(number), run_id="r")], cancel=False)
        fired[number] = time.time()

    return lambda number, fired: _Thread(lambda: one(number, fired))


class _Together:
    """All jobs in one wait, which begins when no more come."""

    GATHER = 0.5

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._last = time.monotonic()

    def start(self, number: int, fired: dict[int, float]) -> _Thread | _Together:
        """One more job."""
        self._numbers.append(number)
        self._last = time.monotonic()
        return self if number else _Thread(lambda: self._wait(fired))

    def cancel(self) -> None:
        """Nothing: it goes with the process."""

    def _wait(self, fired: dict[int, float]) -> None:
        from sched_plugins.client import SchedulerClient
        from sched_plugins.prefect.records import JobHandle
        from sched_plugins.prefect.waiting import wait_each

        while time.monotonic() < self._last + self.GATHER:
            time.sleep(0.1)
        handles = [JobHandle(job_id=job(number), run_id="r") for number in self._numbers]
        wait_each(
            SchedulerClient("bench"),
            handles,
            cancel=False,
            on_end=lambda ended: fired.__setitem__(int(ended.job_id.rpartition("/")[2]), time.time()),
        )
