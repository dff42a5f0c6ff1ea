"""A batch of simulations every night: the pipeline mapped over Reynolds numbers, then one report with a plot.

A case that fails does not stop the others: each waits only for its own stages, and the report takes what there is.
Trigger it with other ``reynolds`` for a sweep of your own.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, TriggerRule, dag, get_current_context, task, task_group

from sched_plugins.airflow.task_groups.pipeline import PipelineTaskGroup

PIPELINE = Path(__file__).parents[1] / "pipelines" / "cylinder_flow"


@dag(
    schedule="0 2 * * *",
    catchup=False,
    max_active_runs=1,
    params={"reynolds": Param([5, 10, 20, 30, 40], type="array", items={"type": "number"})},
    # A retry never starts a second job: it waits for a live one, and takes the result of one that has succeeded.
    default_args={"retries": 2, "retry_delay": timedelta(seconds=10)},
    tags=["cylinder-flow"],
)
def nightly_sweep() -> None:
    """Drag of the cylinder against the Reynolds number."""

    @task
    def cases() -> list[float]:
        """Tell the Reynolds numbers of this run."""
        chosen: list[float] = get_current_context()["params"]["reynolds"]
        return chosen

    @task_group
    def case(reynolds: float) -> Any:
        """Run the pipeline for one Reynolds number; many at once, as far as there are workers."""
        stages = PipelineTaskGroup.from_yaml(
            PIPELINE, group_id="stages", parameters={"preprocess": {"reynolds": reynolds}}, emit_asset=False
        ).stages
        return stages["postprocess"].output

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def report(wanted: list[float], results: Any) -> dict[str, Any]:
        """Read the results that there are, and store a table and a plot of them beside the first."""
        import io
        import json

        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from matplotlib.figure import Figure

        # One result alone comes as itself, several as a sequence.
        s3, folders = S3Hook(), [results] if isinstance(results, str) else [uri for uri in results or () if uri]
        if not folders:
            raise RuntimeError(f"none of the {len(wanted)} cases succeeded; the logs of their stages say why")
        computed = [json.loads(s3.read_key(f"{folder}results.json")) for folder in folders]
        drag = {one["reynolds"]: one["drag_coefficient"] for one in sorted(computed, key=lambda one: one["reynolds"])}
        failed = [reynolds for reynolds in wanted if reynolds not in drag]

        figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
        axes = figure.subplots()
        axes.loglog(list(drag), list(drag.values()), "o-")
        axes.set(xlabel="Reynolds number", ylabel="drag coefficient", title="Flow around a cylinder")
        axes.grid(visible=True, which="both", alpha=0.3)
        picture = io.BytesIO()
        figure.savefig(picture, format="png")

        bucket = folders[0].removeprefix("s3://").partition("/")[0]
        folder = f"s3://{bucket}/nightly_sweep/{get_current_context()['run_id']}"
        s3.load_bytes(picture.getvalue(), f"{folder}/drag.png", replace=True)
        summary = {"drag": {f"{reynolds:g}": value for reynolds, value in drag.items()}, "failed": failed}
        s3.load_string(json.dumps(summary, indent=2), f"{folder}/drag.json", replace=True)
        for reynolds, value in drag.items():
            print(f"Re = {reynolds:g}: drag coefficient {value:.6f}")
        print(f"failed: {failed or 'none'}; plot: {folder}/drag.png")
        return {**summary, "plot": f"{folder}/drag.png"}

    wanted = cases()
    report(wanted, case.expand(reynolds=wanted))


nightly_sweep()
