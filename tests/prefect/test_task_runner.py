"""The task runner against a real server and a real stack: tasks of flows as jobs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from deployed import SCHEDULER, DeployedStack, plain
from fleet_client import eventually
from prefect import allow_failure, flow, get_client, tags, task, unmapped
from prefect.client.schemas.filters import LogFilter, LogFilterTaskRunId
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, get_run_context
from prefect.exceptions import CrashedRun, UnfinishedRun
from prefect.futures import as_completed, wait
from prefect.logging import get_run_logger
from prefect.runtime import flow_run as runtime
from prefect.states import Completed
from prefect.utilities.annotations import quote
from prefect_stack import ENVIRONMENT

from sched_plugins.client import Job, SchedulerClient, Status
from sched_plugins.core import names
from sched_plugins.prefect import SchedulerTaskRunner, ServerlessScheduler
from sched_plugins.prefect.task_runner.settings import KIND

pytestmark = pytest.mark.usefixtures("prefect_and_stack")
HERE = ServerlessScheduler(scheduler=SCHEDULER, environment=ENVIRONMENT)
PLANTED = "a-secret-that-only-this-test-knows"
PATIENCE = 90.0


@dataclass(frozen=True)
class Drag:
    """Defined here alone: it travels by value, and comes back as this very class."""

    case: int
    value: float


class DragError(Exception):
    """The same for an exception, whose constructor wants other arguments than it hands on."""

    def __init__(self, what: str, text: str = "") -> None:
        super().__init__(f"{what} in {text!r}")
        self.text = text


@task
def drag(case: int, factor: float = 2.0) -> Drag:
    return Drag(case, case * factor)


@task
async def adrag(case: int) -> Drag:
    return Drag(case, 0.5)


@task
def total(parts: list[Drag], offset: float) -> float:
    return sum(part.value for part in parts) + offset


@task
def where() -> dict[str, Any]:
    get_run_logger().info("a line of the task's log")
    context: Any = get_run_context()
    return {
        "job_id": os.environ["SCHED_JOB_ID"],
        "flow": runtime.get_flow_name(),
        "task_run_id": str(context.task_run.id),
        "tags": set(context.task_run.tags),
        "planted": os.environ.get("PLANTED"),
    }


@task
def fails(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise DragError("no drag", text) from error


@task
def dies(case: int) -> int:
    if case == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return case


@task
def sleeps(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    time.sleep(300)


@task
def is_state(value: Any) -> bool:
    return isinstance(value, State)


@task
def kind_of(value: Any) -> str:
    return type(value).__name__


def jobs_of(flow_run_id: Any) -> list[Job]:
    """The jobs of a flow run."""
    return SchedulerClient(SCHEDULER).list(group=f"prefect-{flow_run_id}", limit=100)


def run_of(task_run_id: Any, state: str) -> TaskRun:
    """What Prefect's API tells of a task run, once it has that state."""

    def look() -> TaskRun | None:
        with get_client(sync_client=True) as client:
            run = client.read_task_run(task_run_id)
        assert run is not None
        return run if run.state_name == state else None

    found: TaskRun = eventually(look, PATIENCE)
    return found


def secrets_left(stack: DeployedStack) -> list[str]:
    """The task runners' parameters."""
    pages = stack.ssm.get_paginator("describe_parameters").paginate()
    return [one["Name"] for page in pages for one in page["Parameters"] if f"/{KIND}/" in one["Name"]]


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_tasks_run_as_jobs_and_their_results_come_back_exactly() -> None:
    seen: dict[str, Any] = {}

    @flow(name="sweep of drags", task_runner=SchedulerTaskRunner(HERE, bundle=2, tags={"case": "sweep"}))
    def sweep() -> float:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        seen["flow_run_id"] = context.flow_run.id
        parts = drag.map([1, 2, 3], factor=unmapped(1.5))
        other = adrag.submit(7)
        later = total.submit(parts, offset=10, wait_for=[other])
        seen["parts"] = parts.result()
        seen["done"] = {future.task_run_id for future in as_completed([*parts, other, later])}
        seen["futures"] = [*parts, later]
        assert other.result() == Drag(7, 0.5)
        return later.result()

    assert sweep() == 1.5 + 3 + 4.5 + 10
    assert seen["parts"] == [Drag(1, 1.5), Drag(2, 3.0), Drag(3, 4.5)]
    assert all(type(part) is Drag for part in seen["parts"])
    assert len(seen["done"]) == 5
    assert wait(seen["futures"]).not_done == set()
    assert [future.job_id == seen["futures"][0].job_id for future in seen["futures"]] == [True, True, False, False]
    jobs = jobs_of(seen["flow_run_id"])
    assert len(jobs) == 4, "three drags in two jobs, the asynchronous one and the total"
    assert {job.status for job in jobs} == {Status.SUCCEEDED}
    assert all(job.spec.tags["case"] == "sweep" for job in jobs)
    assert all(job.spec.tags["prefect_flow_name"] == "sweep of drags" for job in jobs)
    run = run_of(seen["futures"][-1].task_run_id, "Completed")
    assert run.flow_run_id == seen["flow_run_id"]
    assert {one.id for one in run.task_inputs["parts"]} == {one.task_run_id for one in seen["futures"][:3]}  # type: ignore[union-attr]
    assert run.start_time is not None


def test_a_task_knows_its_flow_and_its_secrets_are_nowhere(
    prefect_and_stack: DeployedStack, caplog: pytest.LogCaptureFixture
) -> None:
    stack = prefect_and_stack
    caplog.set_level("DEBUG")
    caplog.set_level("INFO", logger="botocore")

    @flow(name="whereabouts", task_runner=SchedulerTaskRunner(HERE, env={"PLANTED": PLANTED}))
    def whereabouts() -> tuple[dict[str, Any], list[str]]:
        with tags("blue"):
            future = where.submit()
        found = future.result()
        assert found["task_run_id"] == str(future.task_run_id)
        return found, secrets_left(stack)

    found, during = whereabouts()
    assert found["planted"] == PLANTED
    assert found["flow"] == "whereabouts"
    assert found["tags"] == {"blue"}
    assert len(during) == 1
    assert secrets_left(stack) == [], "the secret goes with the flow"
    record = stack.dynamodb.get_item(TableName=names.job_table(SCHEDULER), Key={"job_id": {"S": found["job_id"]}})
    assert PLANTED not in str(plain(record["Item"]))
    bucket = HERE.environment_client().bucket
    keys = [one["Key"] for one in stack.s3.list_objects_v2(Bucket=bucket)["Contents"]]
    holding = [key for key in keys if PLANTED.encode() in stack.s3.get_object(Bucket=bucket, Key=key)["Body"].read()]
    assert [key for key in holding if "/results/" not in key] == [], "only what the task itself returned has it"
    assert PLANTED not in caplog.text

    def logged() -> bool:
        with get_client(sync_client=True) as client:
            own = LogFilter(task_run_id=LogFilterTaskRunId(any_=[UUID(found["task_run_id"])]))
            return any("a line of the task's log" in log.message for log in client.read_logs(own))

    eventually(logged, PATIENCE)


def test_an_exception_comes_back_as_itself_with_where_it_was_raised() -> None:
    seen: dict[str, Any] = {}

    @flow(task_runner=SchedulerTaskRunner(HERE))
    def failing() -> None:
        future = fails.submit("{")
        never = total.submit([future], offset=1)
        seen["allowed"] = kind_of.submit(allow_failure(future)).result()
        seen["quoted"] = is_state.submit(quote(Completed())).result()
        with pytest.raises(UnfinishedRun):
            never.result()
        seen["returned"] = future.result(raise_on_failure=False)
        with pytest.raises(DragError, match="no drag in") as told:
            future.result()
        seen.update(raised=told.value, state=future.state, never=never.state)

    failing()
    raised, state, never = seen["raised"], seen["state"], seen["never"]
    assert type(raised) is DragError
    assert raised.text == "{"
    assert raised is seen["returned"]
    assert isinstance(raised.__cause__, json.JSONDecodeError)
    shown = "".join(traceback.format_exception(raised))
    assert 'test_task_runner.py", line' in shown
    assert "in fails" in shown
    assert "JSONDecodeError" in shown
    assert state.is_failed()
    assert (never.type.value, never.name) == ("PENDING", "NotReady")
    assert seen["allowed"] == "DragError"
    assert seen["quoted"] is True
    assert run_of(state.state_details.task_run_id, "Failed").run_count == 1
    run_of(never.state_details.task_run_id, "NotReady")


def test_a_job_that_dies_silently_crashes_its_task_and_no_other() -> None:
    states: list[State[Any]] = []

    @flow(task_runner=SchedulerTaskRunner(HERE, bundle=4))
    def dying() -> None:
        futures = dies.map([1, 2, 3])
        wait(futures)  # type: ignore[arg-type]
        with pytest.raises(CrashedRun, match=r"ended FAILED \(exit code 137\) without an outcome of the task"):
            futures[1].result()
        states.extend(future.state for future in futures)

    dying()
    first, second, third = states
    assert first.is_completed(), "it ended before the process died"
    assert (second.name, third.name) == ("Crashed", "Crashed")
    assert run_of(first.state_details.task_run_id, "Completed").end_time is not None
    run_of(second.state_details.task_run_id, "Crashed")


@pytest.mark.parametrize("interrupt", [True, False])
def test_cancelling_ends_the_processes_and_the_task_runs(interrupt: bool, tmp_path: Path) -> None:
    runner, file = SchedulerTaskRunner(HERE), tmp_path / "pid"
    futures: list[Any] = []

    def body(duplicate: SchedulerTaskRunner) -> None:
        futures.append(duplicate.submit(sleeps, {"path": str(file)}))
        futures.append(duplicate.submit(total, {"parts": [futures[0]], "offset": 1}))
        eventually(lambda: file.exists() and file.read_text(), PATIENCE)
        if interrupt:
            raise KeyboardInterrupt
        runner.cancel_all()
        began = time.monotonic()
        wait(futures, timeout=10)
        assert time.monotonic() - began < 10

    began = time.monotonic()
    if interrupt:
        with pytest.raises(KeyboardInterrupt), runner.duplicate() as duplicate:
            body(duplicate)
    else:
        with runner.duplicate() as duplicate:
            body(duplicate)
    assert [future.state.name for future in futures] == ["Cancelled", "Cancelled"]
    eventually(lambda: is_gone(int(file.read_text())), 10)
    assert time.monotonic() - began < PATIENCE
    assert SchedulerClient(SCHEDULER).wait(futures[0].job_id, timeout=30).status is Status.CANCELLED
    run_of(futures[0].task_run_id, "Cancelled")


def test_the_same_try_finds_its_job_again_and_a_new_try_makes_a_new_one(tmp_path: Path) -> None:
    go, began = tmp_path / "go", tmp_path / "began"
    ids: list[str] = []

    @task
    def once(go: str, began: str) -> int:
        with Path(began).open("a") as file:
            file.write("x")
        while not Path(go).exists():
            time.sleep(0.05)
        return 7

    @flow(retries=1)
    def twice() -> int:
        context = FlowRunContext.get()
        assert context is not None
        arguments = {"go": str(go), "began": str(began)}
        first = SchedulerTaskRunner(HERE)
        first.__enter__()
        lost = first.submit(once, arguments)
        tries = len(ids) + 1
        eventually(lambda: began.exists() and len(began.read_text()) == tries, PATIENCE)
        if not ids:
            context.task_run_dynamic_keys.clear()  # As in a process that begins this try anew.
            with SchedulerTaskRunner(HERE) as second:
                again = second.submit(once, arguments)
                eventually(lambda: again.job_id, PATIENCE)
                go.touch()
                assert again.result() == 7
            assert (again.job_id, again.task_run_id) == (lost.job_id, lost.task_run_id)
        assert lost.result() == 7
        first.__exit__(None, None, None)
        ids.append(lost.job_id)
        if len(ids) == 1:
            raise DragError("try again")
        return len(ids)

    assert twice() == 2
    assert len(set(ids)) == 2
    assert began.read_text() == "xx", "one process in each try"
    assert [SchedulerClient(SCHEDULER).get(one).attempt for one in ids] == [1, 1]


def test_what_cannot_be_carried_crashes_its_task_with_the_reason() -> None:
    @task
    def gives_lock() -> Any:
        return threading.Lock()

    @task
    def takes(value: Any) -> None:
        pass

    states: list[State[Any]] = []

    @flow(task_runner=SchedulerTaskRunner(HERE))
    async def carrying() -> None:
        out = takes.submit(threading.Lock())
        back = gives_lock.submit()
        wait([out, back])
        states.extend([out.state, back.state])

    asyncio.run(carrying())
    assert "could not be run as a job: TypeError" in str(states[0].message)
    assert states[1].name == "Failed"
    assert "cannot be carried back" in str(states[1].message)
