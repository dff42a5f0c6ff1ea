"""A real ``airflow standalone``: the DAGs of ``airflow_dags/``, and what becomes of jobs when something is killed.

Both are in one file, because a file is what pytest-xdist hands to a worker, and each worker would start an Airflow.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from held_jobs import DAGS, HeldJob, alive
from standalone import Standalone, eventually, standalone

from sched_plugins.local import processes

PUBLISHED_DRAG = 5.57953523384
"""G. Nabh, 1998, for Re = 20."""
STAGES = ("preprocess", "mesh", "simulate", "postprocess")
KILL_SECONDS = 10.0
"""Within which a job's processes are gone once its task is marked or cleared."""
computes = pytest.mark.skipif(find_spec("ngsolve") is None, reason="the demo extra is not installed")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """One Airflow for all tests of this file; nothing of it is left afterwards."""
    folder = tmp_path_factory.mktemp("airflow-standalone")
    with standalone(folder) as found:
        (found.airflow.dags / "held.py").write_text(DAGS)
        yield found
    assert processes.marked(processes.STACK_MARK, f"{folder.resolve()}#", prefix=True) == []


@computes
def test_the_pipeline_as_a_dag_comes_to_the_published_drag(airflow: Standalone) -> None:
    run_id = airflow.trigger("cylinder_flow")
    assert airflow.ended("cylinder_flow", run_id) == "success"
    assert airflow.tasks("cylinder_flow", run_id) == {
        **{(f"stages.{stage}", -1): "success" for stage in STAGES},
        ("report", -1): "success",
    }
    report = airflow.xcom("cylinder_flow", run_id, "report")
    assert report["drag_coefficient"] == pytest.approx(PUBLISHED_DRAG, rel=1e-5)
    assert f"published {PUBLISHED_DRAG:.9f}" in airflow.log("cylinder_flow", run_id, "report")
    assert "FLOW CONVERGED" in airflow.log("cylinder_flow", run_id, "stages.simulate")
    # The end of the last stage's job starts a run of the DAG that watches the finished queue.
    job_id = airflow.xcom("cylinder_flow", run_id, "stages.postprocess", "record")["job_id"]
    assert eventually(lambda: finished(airflow).get(job_id)) == "SUCCEEDED"


@computes
def test_a_dag_a_stage_is_chained_by_the_assets_of_the_stages(airflow: Standalone) -> None:
    for stage in STAGES:
        airflow.knows(f"cylinder_flow_{stage}")
    first = airflow.trigger("cylinder_flow_preprocess", reynolds=15)
    assert airflow.ended("cylinder_flow_preprocess", first) == "success"
    for stage in STAGES[1:]:
        dag_id = f"cylinder_flow_{stage}"
        [run] = eventually(lambda dag_id=dag_id: airflow.runs(dag_id))
        assert run["run_type"] == "asset_triggered"
        assert airflow.ended(dag_id, run["dag_run_id"]) == "success"
    metrics = airflow.xcom("cylinder_flow_postprocess", run["dag_run_id"], "postprocess", "metrics")
    assert 6 < metrics["drag_coefficient"] < 8  # between those of Re = 20 and Re = 10


@computes
def test_a_failed_case_of_the_nightly_sweep_stops_no_other(airflow: Standalone) -> None:
    run_id = airflow.trigger("nightly_sweep", reynolds=[60, 20])
    assert airflow.ended("nightly_sweep", run_id) == "success"
    states = airflow.tasks("nightly_sweep", run_id)
    assert [states["case.stages.preprocess", index] for index in (0, 1)] == ["failed", "success"]
    assert [states["case.stages.postprocess", index] for index in (0, 1)] == ["upstream_failed", "success"]
    report = airflow.xcom("nightly_sweep", run_id, "report")
    assert (list(report["drag"]), report["failed"]) == (["20"], [60])
    assert report["drag"]["20"] == pytest.approx(PUBLISHED_DRAG, rel=1e-5)
    assert airflow.s3(report["plot"]).startswith(b"\x89PNG")


def finished(airflow: Standalone) -> dict[str, str]:
    """The jobs that on_finished_job has told of so far, and their statuses."""
    ended = [run["dag_run_id"] for run in airflow.runs("on_finished_job") if run["state"] == "success"]
    told = [one for run_id in ended for one in airflow.xcom("on_finished_job", run_id, "tell")]
    return {one["job_id"]: one["status"] for one in told}


@computes
def test_the_dag_runs_by_airflow_dags_test(airflow: Standalone, airflow_database: None) -> None:
    # In a database of its own: the scheduler that runs would take tasks of the run from it, as it would anybody's.
    name = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
    told = airflow.command("dags", "test", "cylinder_flow", "--conf", '{"reynolds": 10}', **{name: os.environ[name]})
    assert "state=success" in told
    assert "Reynolds number 10" in told


@pytest.fixture
def held(airflow: Standalone, tmp_path: Path) -> Iterator[Callable[[str], HeldJob]]:
    """Starts a run of a DAG whose job runs until it is let go; in the end it is."""
    started: list[HeldJob] = []

    def start(dag_id: str) -> HeldJob:
        started.append(HeldJob(airflow, dag_id, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.let_go()


def succeeds_once(job: HeldJob) -> None:
    """Let the job go, and see that it was one job with one attempt."""
    job.let_go()
    assert job.ended() == "success"
    [record] = job.records()
    assert (record["status"], record["attempt"], len(record["run_ids"])) == ("SUCCEEDED", 1, 1)
    assert job.times_run() == 1


def gone(found: set[tuple[int, str]]) -> None:
    """Wait until these processes are gone, for as long as that may take."""
    began = time.monotonic()
    eventually(lambda: not alive(found), KILL_SECONDS)
    print(f"the job's {len(found)} processes were gone {time.monotonic() - began:.1f} s later")


def test_a_retry_after_a_killed_task_process_waits_for_the_same_job(held: Callable[[str], HeldJob]) -> None:
    job = held("held_on_worker")
    running = job.runs("running")
    first = job.task()
    assert psutil.Process(first["pid"]).cmdline()[0] == f"airflow worker -- {first['id']}"
    os.kill(first["pid"], signal.SIGKILL)
    eventually(lambda: job.task()["try_number"] == 2 and "is live: waiting for run" in job.log())
    assert job.processes() == running
    succeeds_once(job)


def test_a_deferred_task_that_is_marked_failed_takes_its_job_with_it(held: Callable[[str], HeldJob]) -> None:
    job = held("held_deferred")
    marked_failed(job, job.followed())


def test_a_task_that_is_marked_failed_on_its_worker_takes_its_job_with_it(held: Callable[[str], HeldJob]) -> None:
    job = held("held_on_worker")
    marked_failed(job, job.runs("running"))


def marked_failed(job: HeldJob, running: set[tuple[int, str]]) -> None:
    """Mark the task, and see its job go."""
    job.mark("failed")
    gone(running)
    eventually(lambda: [one["status"] for one in job.records()] == ["CANCELLED"])
    assert job.ended() == "failed"
    assert job.times_run() == 1


def test_a_deferred_task_that_is_cleared_ends_its_job_and_runs_another(held: Callable[[str], HeldJob]) -> None:
    job = held("held_deferred")
    cleared(job, job.runs("deferred"))  # perhaps before a triggerer follows the job


def test_a_task_that_is_cleared_on_its_worker_ends_its_job_and_runs_another(held: Callable[[str], HeldJob]) -> None:
    job = held("held_on_worker")
    cleared(job, job.runs("running"))


def cleared(job: HeldJob, running: set[tuple[int, str]]) -> None:
    """Clear the task, see its job go, and let the next one end."""
    job.clear()
    gone(running)
    eventually(lambda: job.records()[0]["status"] == "CANCELLED")
    job.let_go()
    assert job.ended() == "success"
    assert [one["status"] for one in job.records()] == ["CANCELLED", "SUCCEEDED"]
    assert job.times_run() == 2


def test_a_succeeded_task_that_is_cleared_runs_anew(held: Callable[[str], HeldJob]) -> None:
    job = held("held_deferred")
    job.let_go()
    assert job.ended() == "success"
    job.clear()
    eventually(lambda: job.times_run() == 2)
    assert job.ended() == "success"
    first, second = job.records()
    assert first["run_id"] != second["run_id"]
    assert [first["status"], second["status"]] == ["SUCCEEDED", "SUCCEEDED"]
    assert job.times_run() == 2


def test_a_killed_triggerer_neither_ends_nor_repeats_a_job(airflow: Standalone, held: Callable[[str], HeldJob]) -> None:
    job = held("held_deferred")
    running = job.followed()
    airflow.kill_triggerer()
    assert job.task()["state"] == "deferred"
    assert job.processes() == running
    succeeds_once(job)
    assert job.task()["try_number"] == 1
