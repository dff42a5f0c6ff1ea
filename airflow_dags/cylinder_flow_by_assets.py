"""The cylinder-flow pipeline as one DAG a stage, chained by S3 assets instead of by tasks.

Each stage tells of its results by an asset event of its environment's bucket, and the next stage's DAG is scheduled on
these. So each may belong to another team, with a file, a schedule and an Airflow team of its own: all they share is
the name of an environment. Trigger ``cylinder_flow_preprocess``; the others follow.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, AssetAlias, Param

from sched_plugins.airflow.operators.run_stage import RunStageOperator
from sched_plugins.pipeline import load

PIPELINE = load(Path(__file__).parents[1] / "pipelines" / "cylinder_flow")
REYNOLDS = Param(20, type="number", minimum=0.01, maximum=45, description="20 has published values")


def results_of(stage: str) -> AssetAlias:
    """What the results of a stage are told by: the alias that RunStageOperator has for an environment."""
    return AssetAlias(f"sched:{PIPELINE.environment(stage)}")


for stage in PIPELINE.in_order():
    with DAG(
        f"cylinder_flow_{stage.name}",
        description=f"The stage {stage.name}, when there are new results of {' and '.join(stage.after) or 'nothing'}",
        schedule=[results_of(name) for name in stage.after] or None,
        params={} if stage.after else {"reynolds": REYNOLDS},
        render_template_as_native_obj=True,  # the number stays a number
        # A retry never starts a second job: it waits for a live one, and takes the result of one that has succeeded.
        default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
        tags=["cylinder-flow"],
    ) as dag:
        RunStageOperator(
            task_id=stage.name,
            environment=PIPELINE.environment(stage.name),
            executable=str(PIPELINE.executable_path(stage)),
            # No inputs: those that the asset events tell of which started this run.
            parameters=None if stage.after else {"reynolds": "{{ params.reynolds }}"},
        )
    globals()[dag.dag_id] = dag
