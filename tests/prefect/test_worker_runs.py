"""The worker, from a flow run in Prefect to a job on a machine and back."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from prefect.states import Scheduled
from prefect_aws import AwsCredentials
from prefect_stack import ENVIRONMENT
from worker_stack import Pool, WorkerProcess, alive, working

from sched_plugins.local import control
from sched_plugins.prefect import ServerlessScheduler


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, prefect_and_stack: DeployedStack) -> Pool:
    return Pool(tmp_path_factory.mktemp("worker"), prefect_and_stack)


@pytest.fixture(scope="module")
def worker(pool: Pool) -> Iterator[WorkerProcess]:
    with working(pool) as found:
        yield found


def test_a_flow_runs_as_a_job_and_reaches_its_own_state(pool: Pool, worker: WorkerProcess) -> None:
    seen = pool.folder / "seen"
    deployment = pool.deployment(env={"SEEN": str(seen), "COLOUR": "blue"}, tags={"team": "flow"})
    [run] = pool.start(deployment, parameters={"name": "Ada"})
    done = pool.becomes(run, "COMPLETED", "FAILED", "CRASHED", seconds=120)
    assert done.state.is_completed(), done.state
    record = pool.stack.ended(f"prefect-{run.id}")
    pid, colour, name = seen.read_text().split()
    assert (colour, name) == ("blue", "Ada")
    assert int(pid) != os.getpid()
    assert not alive(int(pid))
    assert (record["status"], record["attempt"]) == ("SUCCEEDED", 1)
    assert record["queue"] == "pf-box-job-queue"
    assert record["tags"]["team"] == "flow"
    assert record["tags"]["prefect_flow_run_id"] == str(run.id)
    assert "blue" not in str(record)
    assert pool.read(run).infrastructure_pid == f"prefect-{run.id}"
    eventually(lambda: not pool.secrets(run), 60)


def test_a_block_names_scheduler_and_environment(pool: Pool, worker: WorkerProcess) -> None:
    block = ServerlessScheduler(scheduler=SCHEDULER, environment=ENVIRONMENT, credentials=AwsCredentials())
    reference = {"$ref": {"block_document_id": str(block.save("of-a-pool", overwrite=True))}}
    [run] = pool.start(pool.standin(scheduler=None, environment=None, scheduler_block=reference))
    done = pool.becomes(run, "COMPLETED", "FAILED", "CRASHED", seconds=120)
    assert done.state.is_completed(), done.state
    assert pool.stack.ended(f"prefect-{run.id}")["queue"] == f"{ENVIRONMENT}-job-queue"


def test_what_the_end_of_a_job_means(pool: Pool, worker: WorkerProcess) -> None:
    ways = {
        "its own": pool.standin(way="failed"),
        "silent": pool.standin(way="0"),
        "exit code": pool.standin(way="7"),
        "timeout": pool.standin(300, timeout_seconds=2),
    }
    runs = {name: pool.start(deployment)[0] for name, deployment in ways.items()}
    done = {name: pool.becomes(run, "FAILED", "CRASHED", "COMPLETED", seconds=120) for name, run in runs.items()}
    told = {name: (str(run.state.type.value), str(run.state.message)) for name, run in done.items()}
    assert told["its own"] == ("FAILED", "None")
    assert told["silent"][0] == "CRASHED"
    assert "did not tell Prefect" in told["silent"][1]
    assert told["exit code"][0] == "CRASHED"
    assert "(exit code 7)" in told["exit code"][1]
    assert "It ran on i-" in told["exit code"][1]
    assert told["timeout"][0] == "CRASHED"
    assert "timeout" in told["timeout"][1] or "timed out" in told["timeout"][1], told["timeout"]
    eventually(lambda: not pool.secrets(*runs.values()), 60)


def test_a_flow_run_that_is_run_again_is_another_run_of_its_job(pool: Pool, worker: WorkerProcess) -> None:
    [run] = pool.start(pool.standin(way="failed"))
    pool.becomes(run, "FAILED")
    first = pool.stack.ended(f"prefect-{run.id}")
    pool.client.set_flow_run_state(run.id, Scheduled(), force=True)
    eventually(lambda: len([one for one, _ in pool.ran_runs() if one == str(run.id)]) == 2, 60)
    pool.becomes(run, "FAILED")
    second = pool.stack.ended(f"prefect-{run.id}")
    assert first["run_id"] in second["run_ids"]
    assert first["run_id"] != second["run_id"]


def test_what_a_spot_interruption_takes_runs_again_with_its_secret(pool: Pool, worker: WorkerProcess) -> None:
    [run] = pool.start(pool.standin(4))
    eventually(lambda: [one for one, _ in pool.ran_runs() if one == str(run.id)], 60)
    before = pool.stack.running(f"prefect-{run.id}")
    control.interrupt(pool.stack.info, before["worker_id"])
    pool.becomes(run, "COMPLETED", "CRASHED", seconds=150)
    record = pool.stack.ended(f"prefect-{run.id}")
    assert pool.state(run) == "COMPLETED"
    assert (record["attempt"], record["losses"], record["status"]) == (2, 1, "SUCCEEDED")
    assert len([one for one, _ in pool.ran_runs() if one == str(run.id)]) == 2
