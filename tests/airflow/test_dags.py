"""The DAGs of ``airflow_dags/`` in a real ``airflow standalone``, as their users run them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("ngsolve", reason="the demo extra is not installed")

from standalone import Standalone, eventually, standalone

from sched_plugins.local import processes

PUBLISHED_DRAG = 5.57953523384
"""G. Nabh, 1998, for Re = 20."""
STAGES = ("preprocess", "mesh", "simulate", "postprocess")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """One Airflow for all tests of this file; nothing of it is left afterwards."""
    folder = tmp_path_factory.mktemp("airflow-standalone")
    with standalone(folder) as found:
        yield found
    assert processes.marked(processes.STACK_MARK, f"{folder.resolve()}#", prefix=True) == []


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


def test_the_dag_runs_by_airflow_dags_test(airflow: Standalone) -> None:
    told = airflow.command("dags", "test", "cylinder_flow", "--conf", '{"reynolds": 10}')
    assert "state=success" in told
    assert "Reynolds number 10" in told
