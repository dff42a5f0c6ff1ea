"""A flow's timeout ends the jobs for which the flow waits; a failure leaves those that run to their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from threading import Timer
from typing import Any

import pytest
from deployed import SCHEDULER
from fleet_client import eventually
from prefect import flow, task, unmapped
from prefect.client.schemas.objects import State
from prefect.flow_engine import FlowRunTimeoutError
from prefect.states import Completed
from prefect_stack import ENVIRONMENT
from task_runner_fakes import FakeEnvironment, double, fake_environment, finish

from sched_plugins.client import SchedulerClient, Status
from sched_plugins.prefect import JobWaitTimeout, SchedulerTaskRunner, ServerlessScheduler, arun_job, run_job
from sched_plugins.prefect.task_runner.futures import SchedulerFuture

__all__ = ["fake_environment"]
HERE = ServerlessScheduler(scheduler=SCHEDULER, environment=ENVIRONMENT)
TIMEOUT = 8
"""Seconds of a flow: enough for the submission of its jobs."""
SLEEP = 120
FAR_LESS = 60.0


@task
def naps(seconds: int) -> None:
    time.sleep(seconds)


@task
def solves(command: str) -> str:
    return run_job(command, scheduler=HERE).status


@flow
def called(command: str) -> str:
    return run_job(command, scheduler=HERE).status


@task
def calls_a_flow(command: str) -> str:
    return called(command)


def waits_in_threads() -> None:
    command = f"sleep {SLEEP}"
    futures = [
        run_job.submit(command, scheduler=HERE),
        arun_job.submit(command, scheduler=HERE),
        solves.submit(command),
        calls_a_flow.submit(command),
    ]
    futures[0].wait()


def waits_for_mapped_jobs() -> None:
    run_job.map([f"sleep {SLEEP}"] * 2, scheduler=unmapped(HERE)).wait()


async def waits_beside_an_event_loop() -> None:
    run_job.map([f"sleep {SLEEP}"] * 2, scheduler=unmapped(HERE))
    await asyncio.sleep(SLEEP)


def waits_for_tasks() -> None:
    naps.map([SLEEP] * 2).wait()


def ended_by_timeout(body: Callable[..., Any], **options: Any) -> list[str]:
    """Run a flow into its timeout; how its jobs ended."""
    client = SchedulerClient(SCHEDULER)
    before = {job.job_id for job in client.list(limit=1000)}
    timed = flow(name=body.__name__, timeout_seconds=TIMEOUT, **options)(body)
    began = time.monotonic()
    with pytest.raises(FlowRunTimeoutError):
        asyncio.run(timed()) if timed.isasync else timed()
    assert time.monotonic() - began < FAR_LESS, "it waited for the jobs' own end"

    def own() -> list[str]:
        ids = [job.job_id for job in client.list(limit=1000) if job.job_id not in before]
        jobs = client.get_many(ids).values()
        return [str(job.status) for job in jobs] if all(job.is_terminal for job in jobs) else []

    found: list[str] = eventually(own, 30)
    return found


@pytest.mark.parametrize(
    ("body", "options"),
    [
        (waits_in_threads, {}),
        (waits_for_mapped_jobs, {"retries": 1, "retry_delay_seconds": 1}),
        (waits_beside_an_event_loop, {}),
        (waits_for_tasks, {"task_runner": SchedulerTaskRunner(HERE)}),
    ],
    ids=["threads", "threads, tried again", "threads of an async flow", "SchedulerTaskRunner"],
)
@pytest.mark.usefixtures("prefect_and_stack")
def test_a_flow_that_times_out_ends_the_jobs_for_which_it_waits(
    body: Callable[..., Any], options: dict[str, Any]
) -> None:
    jobs = 4 if body is waits_in_threads else 2
    assert ended_by_timeout(body, **options) == ["CANCELLED"] * jobs


@flow(timeout_seconds=1)
def inner() -> None:
    time.sleep(30)


def wait_in_vain() -> None:
    raise JobWaitTimeout("the job goes on")


@pytest.mark.parametrize(("timeout", "fails"), [(None, inner), (60, wait_in_vain)])
@pytest.mark.usefixtures("prefect_and_stack")
def test_another_timeout_than_the_flows_own_leaves_the_jobs_that_run(
    timeout: int | None, fails: Callable[[], None]
) -> None:
    futures: list[Any] = []

    @flow(timeout_seconds=timeout)
    def fails_meanwhile() -> None:
        futures.append(run_job.submit("sleep 8", scheduler=HERE))
        time.sleep(3)
        fails()

    state = fails_meanwhile(return_state=True)
    assert state.name == "TimedOut", "as Prefect calls it"
    assert futures[0].result().status == "SUCCEEDED"


@pytest.mark.parametrize(("own", "ends"), [(True, "Cancelled"), (False, "Completed")])
def test_the_task_runner_cancels_running_jobs_at_the_flows_own_timeout_alone(
    fake: FakeEnvironment, own: bool, ends: str
) -> None:
    futures: list[SchedulerFuture[Any]] = []

    @flow(task_runner=SchedulerTaskRunner("sched", "fake"), timeout_seconds=3)
    def ending() -> None:
        futures.append(double.submit(1))  # type: ignore[arg-type]
        eventually(lambda: futures[0].job_id)
        fake.change(futures[0].job_id, Status.RUNNING)
        # One that is not cancelled is waited for, and completes.
        later = Timer(8, lambda: finish(fake, futures, [Completed(data=2)]))
        later.daemon = True
        later.start()
        if not own:
            raise JobWaitTimeout("the job goes on")
        time.sleep(30)

    state: State[Any] = ending(return_state=True)
    assert state.name == "TimedOut"
    assert futures[0].state.name == ends
