"""Workers that are killed: whoever comes next follows what runs, and submits what was claimed."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.states import Pending
from worker_stack import Pool, WorkerProcess, alive, working

MANY = 20
REAL = pytest.mark.skipif(
    "SCHED_TEST_REAL_FLOWS" not in os.environ, reason="twenty flows take minutes; set SCHED_TEST_REAL_FLOWS=1"
)


@pytest.fixture
def pool(tmp_path_factory: pytest.TempPathFactory, prefect_and_stack: DeployedStack) -> Pool:
    return Pool(tmp_path_factory.mktemp("restart"), prefect_and_stack)


@pytest.mark.parametrize("kind", ["standin", pytest.param("counted", marks=REAL)])
def test_each_run_ends_in_its_true_state_though_the_worker_is_killed(pool: Pool, kind: str) -> None:
    ways = {"completed": "COMPLETED", "failed": "FAILED", "9": "CRASHED"}
    deployments = {way: getattr(pool, kind)(1.0, way) for way in ways}
    order = [list(ways)[number % len(ways)] for number in range(MANY)]
    runs = {pool.start(deployments[way])[0].id: way for way in order}
    first = WorkerProcess(pool, name="same")
    try:
        # In flight: some run, some wait for a machine, some may not be submitted yet.
        eventually(lambda: len(pool.ran_runs()) >= 4, 120)
    finally:
        first.kill()
    assert len(pool.ran_runs()) < MANY, "the worker was killed too late for this test to show anything"
    with working(pool, "--limit", str(MANY)):
        for run_id, way in runs.items():
            pool.becomes(pool.client.read_flow_run(run_id), ways[way], seconds=400)
        for run_id in runs:
            pool.stack.ended(f"prefect-{run_id}")
        assert Counter(run for run, _ in pool.ran_runs()) == Counter(str(run_id) for run_id in runs)
        assert {pool.stack.record(f"prefect-{run_id}")["attempt"] for run_id in runs} == {1}
        found = [pool.client.read_flow_run(run_id) for run_id in runs]
        assert {str(run.state.type.value) for run in found} == set(ways.values())
        # One that the killed worker had submitted and not told of, and that ended before the next came, has none.
        assert all(run.infrastructure_pid in (None, f"prefect-{run.id}") for run in found)


def test_a_claim_of_a_dead_worker_and_two_that_live(pool: Pool) -> None:
    # Claimed by a worker that died before it submitted.
    run = pool.client.create_flow_run_from_deployment(pool.standin(0.5))
    pool.client.set_flow_run_state(run.id, Pending(), force=False)
    assert pool.state(run) == "PENDING"
    with working(pool), working(pool):
        others = pool.start(pool.standin(0.5), 6)
        for one in (run, *others):
            pool.becomes(one, "COMPLETED", seconds=180)
        assert Counter(id_ for id_, _ in pool.ran_runs()) == Counter(str(one.id) for one in (run, *others))


def test_what_is_cancelled_while_no_worker_is_there(pool: Pool) -> None:
    [run] = pool.start(pool.standin(600, queue=f"{SCHEDULER}-job-queue"))
    first = WorkerProcess(pool)
    try:
        eventually(lambda: pool.record(run).get("status") == "QUEUED", 90)
    finally:
        first.kill()
    pool.cancel(run)
    with working(pool):
        pool.becomes(run, "CANCELLED", seconds=60)
    assert pool.record(run)["status"] == "CANCELLED"


def test_what_is_cancelled_when_its_deployment_names_what_does_not_exist(pool: Pool) -> None:
    deployment = pool.standin(600)
    [run] = pool.start(deployment)
    first = WorkerProcess(pool)
    try:
        pool.becomes(run, "RUNNING", seconds=120)
    finally:
        first.kill()
    [(_, pid)] = [one for one in pool.ran_runs() if one[0] == str(run.id)]
    assert alive(pid)
    pool.client.update_deployment(deployment, DeploymentUpdate(job_variables={"environment": "removed-one"}))
    # Claimed and not submitted, as its worker leaves it that dies between the two.
    claimed = pool.client.create_flow_run_from_deployment(deployment)
    pool.client.set_flow_run_state(claimed.id, Pending(), force=False)
    pool.cancel(run)
    with working(pool):
        pool.becomes(run, "CANCELLED", seconds=60)
        eventually(lambda: not alive(pid), 10)
        assert pool.stack.ended(f"prefect-{run.id}")["status"] == "CANCELLED"
        found = pool.becomes(claimed, "CRASHED", seconds=60)
        assert found.state is not None
        assert "removed-one" in str(found.state.message)
