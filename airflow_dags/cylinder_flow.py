"""The cylinder-flow pipeline as a DAG: four stages, each a job on the scheduler, and a report.

Copy it for a pipeline of your own: PIPELINE is the folder of your ``pipeline.yaml``, and only the report knows what is
computed. The connection ``aws_default`` says which scheduler (docs/airflow.md).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, task

from sched_plugins.airflow.task_groups.pipeline import PipelineTaskGroup

PIPELINE = Path(__file__).parents[1] / "pipelines" / "cylinder_flow"


@dag(
    schedule=None,
    params={"reynolds": Param(20, type="number", minimum=0.01, maximum=45, description="20 has published values")},
    render_template_as_native_obj=True,  # the number stays a number
    # A retry never starts a second job: it waits for a live one, and takes the result of one that has succeeded.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["cylinder-flow"],
)
def cylinder_flow() -> None:
    """Steady flow around a cylinder (DFG benchmark 2D-1): drag, lift and pressure difference."""

    @task
    def report(results_uri: str) -> dict[str, Any]:
        """Show the computed values beside the published ones."""
        import json

        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        results: dict[str, Any] = json.loads(S3Hook().read_key(f"{results_uri}results.json"))
        print(f"Reynolds number {results['reynolds']:g}; pictures: {results_uri}")
        for name in ("drag_coefficient", "lift_coefficient", "pressure_difference"):
            line = f"{name.replace('_', ' '):20} {results[name]:.9f}"
            if results["reference"]:
                error = 100 * results["relative_error"][name]
                line += f"   published {results['reference'][name]:.9f}   error {error:.6f} %"
            print(line)
        return results

    stages = PipelineTaskGroup.from_yaml(
        PIPELINE,
        group_id="stages",
        parameters={"preprocess": {"reynolds": "{{ params.reynolds }}"}},
        emit_asset=False,  # cylinder_flow_by_assets.py is what listens
    ).stages
    report(stages["postprocess"].output)


cylinder_flow()
