"""The cylinder-flow pipeline as a flow: four stages, each a task run and a job on the scheduler, and a report.

Copy it for a pipeline of your own: PIPELINE is the folder of your ``pipeline.yaml``, and only the report knows what is
computed. ``make demo`` runs it, ``make prefect`` deploys it; it runs wherever Prefect and AWS can be reached.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact

from sched_plugins import pipeline as pipelines
from sched_plugins.client import EnvironmentClient
from sched_plugins.prefect import JobResult, create_image_artifacts, create_job_table, run_pipeline

PIPELINE = Path(__file__).resolve().parents[1] / "pipelines" / "cylinder_flow"


@flow(name="cylinder-flow")
def cylinder_flow(
    reynolds: float = 20, mode: Literal["orchestrated", "chained"] = "orchestrated", folder: str = ""
) -> dict[str, Any]:
    """Steady flow around a cylinder (DFG benchmark 2D-1): drag, lift and pressure difference, and pictures.

    Args:
        reynolds: the Reynolds number; 20 has published values.
        mode: ``orchestrated`` (this flow starts each stage) or ``chained`` (one upload starts all).
        folder: a local folder for the pictures and results.json; empty for none.
    """
    parameters = {"preprocess": {"reynolds": reynolds}}
    stages = run_chained(parameters) if mode == "chained" else run_pipeline(PIPELINE, parameters=parameters)
    create_job_table(stages.values(), key="stages")
    return report(stages, mode, folder)


@task
def run_chained(parameters: dict[str, dict[str, Any]]) -> dict[str, JobResult]:
    """Start the pipeline by one upload and watch it. Nothing here starts a stage: the manifests do."""
    logger = get_run_logger()
    deployment = pipelines.find_deployment(pipelines.load(PIPELINE))
    run = pipelines.run_chained(deployment, run=f"flow-{runtime.flow_run.id}", parameters=parameters)
    logger.info("one upload: %s", run.job_id("preprocess"))
    followed = pipelines.follow_chained(
        run, on_change=lambda stage, job: logger.info("%-12s %s on worker %s", stage, job.status, job.worker_id or "–")
    )
    return {result.stage: JobResult.of(result.job) for result in followed}


@task
def report(stages: dict[str, JobResult], mode: str, folder: str) -> dict[str, Any]:
    """Read what the last stage computed, and show its pictures and its values beside the published ones."""
    last = list(stages)[-1]
    client = EnvironmentClient(pipelines.load(PIPELINE).environment(last))
    create_image_artifacts(client, stages[last], key="cylinder-flow")
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(folder or scratch)
        client.results(stages[last].job_id, target)
        found: dict[str, Any] = json.loads((target / "results.json").read_text())
        found |= {"mode": mode, "stages": [times_of(name, stage) for name, stage in stages.items()]}
        (target / "results.json").write_text(json.dumps(found, indent=2) + "\n")
    rows = ["| quantity | computed | published | relative error |", "|---|---|---|---|"]
    for name in ("drag_coefficient", "lift_coefficient", "pressure_difference"):
        published = f"{found['reference'][name]:.9f}" if found["reference"] else "–"
        error = f"{100 * found['relative_error'][name]:.6f} %" if found["reference"] else "–"
        rows.append(f"| {name.replace('_', ' ')} | {found[name]:.9f} | {published} | {error} |")
    create_markdown_artifact("\n".join(rows), key="values", description=f"Reynolds number {found['reynolds']:g}")
    return found


def times_of(name: str, stage: JobResult) -> dict[str, Any]:
    """What a stage's job took, in seconds."""
    plain: dict[str, Any] = {"name": name, **stage.model_dump(mode="json", include={"status", "attempt", "worker_id"})}
    if stage.submitted_at and stage.started_at and stage.finished_at:
        plain["waited_seconds"] = round((stage.started_at - stage.submitted_at).total_seconds(), 3)
        plain["ran_seconds"] = round((stage.finished_at - stage.started_at).total_seconds(), 3)
    return plain | {"metrics": stage.metrics}


if __name__ == "__main__":
    cylinder_flow()
