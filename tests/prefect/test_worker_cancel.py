"""Cancellation in Prefect ends the job, and whatever the flow has started, within ten seconds in each phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import Pending, Scheduled
from worker_stack import Pool, WorkerProcess, alive, working

from sched_plugins.client import SchedulerClient

BOUND = 10.0
NO_WORKERS = f"{SCHEDULER}-job-queue"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, prefect_and_stack: DeployedStack) -> Pool:
    return Pool(tmp_path_factory.mktemp("cancel"), prefect_and_stack)


@pytest.fixture(scope="module")
def worker(pool: Pool) -> Iterator[WorkerProcess]:
    with working(pool) as found:
        yield found


def cancelled_in_time(pool: Pool, run: FlowRun) -> float:
    began = time.monotonic()
    pool.cancel(run)
    pool.becomes(run, "CANCELLED", seconds=60)
    took = time.monotonic() - began
    print(f"cancelled after {took:.1f} s")
    assert took < BOUND
    return began


def test_one_that_waits_for_a_worker(pool: Pool, worker: WorkerProcess) -> None:
    [run] = pool.start(pool.standin(600, queue=NO_WORKERS))
    eventually(lambda: pool.record(run).get("status") == "QUEUED", 60)
    cancelled_in_time(pool, run)
    assert pool.record(run)["status"] == "CANCELLED"
    assert str(run.id) not in [one for one, _ in pool.ran_runs()]


def test_one_that_is_claimed_and_not_submitted(pool: Pool, worker: WorkerProcess) -> None:
    # As a worker leaves it that dies between claim and submission.
    [run] = [pool.client.create_flow_run_from_deployment(pool.standin(600), state=Pending())]
    cancelled_in_time(pool, run)
    assert pool.record(run) == {}


def test_one_that_runs_with_the_jobs_of_its_flow(pool: Pool, worker: WorkerProcess) -> None:
    [run] = pool.start(pool.standin(600))
    pool.becomes(run, "RUNNING", seconds=90)
    [(_, pid)] = [one for one in pool.ran_runs() if one[0] == str(run.id)]
    child = f"child-of-{run.id}"
    SchedulerClient(SCHEDULER).submit({"job_id": child, "commands": ["sleep 600"], "group_id": f"prefect-{run.id}"})
    assert alive(pid)
    began = cancelled_in_time(pool, run)
    eventually(lambda: not alive(pid), 10)
    assert time.monotonic() - began < BOUND
    assert pool.stack.ended(child)["status"] == "CANCELLED"
    assert pool.stack.ended(f"prefect-{run.id}")["status"] == "CANCELLED"


def test_one_that_runs_with_the_flow_runs_that_it_has_started(pool: Pool, worker: WorkerProcess) -> None:
    deployment = pool.standin(600)
    [parent] = pool.start(deployment)
    pool.becomes(parent, "RUNNING", seconds=90)
    # One of its own, one of a flow within its process, one that is not due, and one that it did not start.
    [child] = pool.start(deployment, parent_task_run_id=pool.within(parent))
    [grandchild] = pool.start(deployment, parent_task_run_id=pool.within(pool.subflow(parent)))
    hour: State[None] = Scheduled(scheduled_time=datetime.now(UTC) + timedelta(hours=1))
    later = pool.client.create_flow_run_from_deployment(deployment, state=hour, parent_task_run_id=pool.within(parent))
    [other] = pool.start(pool.standin(600, queue=NO_WORKERS))
    started = (child, grandchild)
    for run in started:
        pool.becomes(run, "RUNNING", seconds=90)
    pids = [pid for id_, pid in pool.ran_runs() if id_ in {str(run.id) for run in (parent, *started)}]
    assert len(pids) == 3
    began = cancelled_in_time(pool, parent)
    for run in (*started, later):
        pool.becomes(run, "CANCELLED", seconds=60)
    eventually(lambda: not any(alive(pid) for pid in pids), 30)
    took = time.monotonic() - began
    print(f"all cancelled after {took:.1f} s")
    assert took < BOUND
    assert [pool.record(run)["status"] for run in started] == ["CANCELLED"] * 2
    assert pool.state(other) in ("SCHEDULED", "PENDING")
    pool.cancel(other)
    pool.becomes(other, "CANCELLED", seconds=60)


def test_a_real_flow_that_runs(pool: Pool, worker: WorkerProcess) -> None:
    seen = pool.folder / "seen"
    deployment = pool.deployment(env={"SEEN": str(seen), "COLOUR": "red"})
    [run] = pool.start(deployment, parameters={"seconds": 600})
    pool.becomes(run, "RUNNING", seconds=90)
    eventually(seen.exists, 60)
    pid = int(seen.read_text().split()[0])
    began = cancelled_in_time(pool, run)
    eventually(lambda: not alive(pid), 10)
    assert time.monotonic() - began < BOUND
    pool.stack.ended(f"prefect-{run.id}")
    assert pool.state(run) == "CANCELLED"
    eventually(lambda: not pool.secrets(run), 60)
