"""SubmitJobOperator on the laptop stack, run by Airflow."""

from __future__ import annotations

from airflow.sdk import DAG
from airflow_runs import registered, xcom
from deployed import DeployedStack

from sched_plugins.airflow.operators.submit_job import SubmitJobOperator


def test_jobs_run_deferred_and_on_the_worker_and_tell_what_came_out(stack: DeployedStack) -> None:
    with DAG("walk", schedule=None) as dag:
        metrics = """echo '{"drag": 5.5}' > "$SCHED_METRICS"; echo "Hello {{ dag.dag_id }}" """
        SubmitJobOperator(
            task_id="deferred",
            commands=[metrics],
            success_string="Hello walk",
            results_uri="s3://bucket/x/",
            deferrable=True,
        )
        SubmitJobOperator.partial(task_id="mapped", deferrable=False).expand(commands=["echo a", "echo b"])
    run = registered(dag).test()
    assert run.state == "success"
    job_id = xcom(run, "deferred")
    assert job_id == f"airflow/walk/{run.run_id}/deferred"
    assert xcom(run, "deferred", "record")["job_success_string"] == "Hello walk"
    assert (xcom(run, "deferred", "metrics"), xcom(run, "deferred", "results_uri")) == ({"drag": 5.5}, "s3://bucket/x/")
    assert xcom(run, "deferred", "_link_OutputLink").startswith(f"{stack.info.endpoint}/")
    assert [stack.record(f"airflow/walk/{run.run_id}/mapped/{index}")["output"] for index in (0, 1)] == ["a\n", "b\n"]
