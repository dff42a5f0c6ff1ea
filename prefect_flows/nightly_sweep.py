"""A batch of simulations every night: the pipeline for each of several Reynolds numbers, then one report with a plot.

A case that fails does not stop the others: each waits only for its own stages, and the report takes what there is. All
waits share one watch, so that a thousand cases cost as many calls as one. Run it with other ``reynolds`` for a sweep of
your own: ``prefect deployment run nightly-sweep/nightly --param 'reynolds=[1, 2, 3]'``.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, runtime, task
from prefect.artifacts import acreate_table_artifact

from sched_plugins import pipeline as pipelines
from sched_plugins.client import EnvironmentClient
from sched_plugins.errors import SchedulerError
from sched_plugins.prefect import JobResult, acreate_image_artifacts, arun_pipeline

PIPELINE = Path(__file__).resolve().parents[1] / "pipelines" / "cylinder_flow"


@flow(name="nightly-sweep")
async def nightly_sweep(reynolds: Sequence[float] = (5, 10, 20, 30, 40)) -> dict[str, Any]:
    """Drag of the cylinder against the Reynolds number."""
    cases = sorted(set(reynolds))
    ended = await asyncio.gather(*(case(value) for value in cases), return_exceptions=True)
    for one in ended:
        # That a job failed is this case's own affair; anything else is wrong with the flow.
        if isinstance(one, BaseException) and not isinstance(one, SchedulerError):
            raise one
    failed = {value: str(one) for value, one in zip(cases, ended, strict=True) if isinstance(one, BaseException)}
    results = [one for one in ended if isinstance(one, JobResult)]
    if not results:
        raise RuntimeError(f"none of the {len(cases)} cases succeeded; the logs of their stages say why")
    return await report(results, failed)


async def case(reynolds: float) -> JobResult:
    """Run the pipeline for one Reynolds number; many at once, as far as there are workers."""
    parameters = {"preprocess": {"reynolds": reynolds}}
    stages = await arun_pipeline(PIPELINE, parameters=parameters, job_key=f"reynolds-{reynolds:g}")
    return list(stages.values())[-1]


@task
async def report(results: list[JobResult], failed: dict[float, str]) -> dict[str, Any]:
    """Show a table and a plot of what was computed, and store both in S3."""
    client = EnvironmentClient(pipelines.load(PIPELINE).environment("postprocess"))
    computed = await asyncio.gather(*(asyncio.to_thread(read, client, one) for one in results))
    drag = {one["reynolds"]: one["drag_coefficient"] for one in sorted(computed, key=lambda one: one["reynolds"])}
    folder = f"s3://{client.bucket}/nightly_sweep/{runtime.flow_run.id}/"
    summary = {"drag": {f"{value:g}": one for value, one in drag.items()}, "failed": sorted(failed), "folder": folder}
    await asyncio.to_thread(store, client, folder, summary, drag)

    await acreate_image_artifacts(client, folder, key="drag")
    rows = [{"Reynolds number": value, "drag coefficient": one, "why not": ""} for value, one in drag.items()]
    rows += [{"Reynolds number": value, "drag coefficient": None, "why not": why} for value, why in failed.items()]
    await acreate_table_artifact(rows, key="cases", description=f"{len(drag)} of {len(rows)} cases")
    return summary


def read(client: EnvironmentClient, result: JobResult) -> dict[str, Any]:
    """What a case came to."""
    with tempfile.TemporaryDirectory() as folder:
        client.results(result.job_id, folder)
        found: dict[str, Any] = json.loads((Path(folder) / "results.json").read_text())
    return found


def store(client: EnvironmentClient, folder: str, summary: dict[str, Any], drag: dict[float, float]) -> None:
    """Put the numbers and their plot into S3."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.loglog(list(drag), list(drag.values()), "o-")
    axes.set(xlabel="Reynolds number", ylabel="drag coefficient", title="Flow around a cylinder")
    axes.grid(visible=True, which="both", alpha=0.3)
    with tempfile.TemporaryDirectory() as scratch:
        figure.savefig(Path(scratch) / "drag.png")
        (Path(scratch) / "drag.json").write_text(json.dumps(summary, indent=2))
        for name in ("drag.json", "drag.png"):
            # Marked as the environment's own, so that no trigger takes it for an upload.
            client.store(folder + name, Path(scratch) / name, metadata={"sched-environment": client.name})


if __name__ == "__main__":
    asyncio.run(nightly_sweep())
