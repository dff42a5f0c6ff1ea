"""The stages of a pipeline file as tasks, each as soon as those that it works on have succeeded."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from sched_plugins.pipeline import Pipeline, StageDefinition, load
from sched_plugins.prefect.cancellation import cancelling
from sched_plugins.prefect.identity import Caller
from sched_plugins.prefect.records import JobResult
from sched_plugins.prefect.tasks.jobs import SchedulerLike
from sched_plugins.prefect.tasks.stages import arun_stage, environment_of, run_stage

PipelineLike = Pipeline | str | Path
"""A pipeline that was loaded, its file, or the folder that holds a ``pipeline.yaml``."""
Parameters = Mapping[str, Mapping[str, Any]]
"""Parameters by stage."""


def run_pipeline(
    pipeline: PipelineLike,
    *,
    scheduler: SchedulerLike = None,
    parameters: Parameters | None = None,
    input_folder: str | Path | None = None,
    job_key: str | None = None,
    stage_options: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> dict[str, JobResult]:
    """Run the stages of a deployed pipeline, each a task named by it; their results by stage.

    Each stage's results are the next one's inputs. Stages that do not depend on each other run at the same time. Call
    it from a flow: the stages are task runs of it. A retry of the flow takes what has succeeded.

    Args:
        pipeline: the pipeline; ``sched pipeline deploy`` deployed it.
        scheduler: a block or a stack name; by default that of the pipeline's environments.
        parameters: by stage, ahead of the file's.
        input_folder: a local folder with the first stages' input files.
        job_key: who this run is within the flow run, where its jobs are to be known by a name.
        stage_options: options of the stages' tasks: ``retries``, ``timeout_seconds``, ``tags``, …
        arguments: of every stage's ``run_stage``.

    Raises:
        InvalidPipeline: the file, or a stage's name, is wrong; nothing was submitted.
        JobRunFailed: a stage failed; those after it do not start, and those beside it end first.
    """
    plan = _Plan(pipeline, parameters, input_folder, job_key, arguments)
    stage = run_stage.with_options(**dict(stage_options or {}))

    def start(definition: StageDefinition, results: Mapping[str, JobResult]) -> JobResult:
        named = stage.with_options(name=definition.name, task_run_name=definition.name)
        found: JobResult = named(scheduler=scheduler, **plan.arguments(definition, results), _sync=True)
        return found

    return _in_order(plan.pipeline, start, plan.client(scheduler))


async def arun_pipeline(
    pipeline: PipelineLike,
    *,
    scheduler: SchedulerLike = None,
    parameters: Parameters | None = None,
    input_folder: str | Path | None = None,
    job_key: str | None = None,
    stage_options: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> dict[str, JobResult]:
    """As :func:`run_pipeline`, for async code."""
    plan = _Plan(pipeline, parameters, input_folder, job_key, arguments)
    stage = arun_stage.with_options(**dict(stage_options or {}))
    started: dict[str, asyncio.Task[JobResult]] = {}

    async def start(definition: StageDefinition) -> JobResult:
        earlier = {name: await asyncio.shield(started[name]) for name in definition.after}
        named = stage.with_options(name=definition.name, task_run_name=definition.name)
        found: JobResult = await named(scheduler=scheduler, **plan.arguments(definition, earlier))
        return found

    for definition in plan.pipeline.in_order():
        started[definition.name] = asyncio.create_task(start(definition), name=definition.name)
    try:
        # Those beside one that fails end first, as their jobs go on.
        ended = await asyncio.gather(*started.values(), return_exceptions=True)
    except asyncio.CancelledError:
        for task in started.values():
            task.cancel()
        await asyncio.gather(*started.values(), return_exceptions=True)
        raise
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    return {name: task.result() for name, task in started.items()}


class _Plan:
    """What each stage is called with."""

    def __init__(
        self,
        pipeline: PipelineLike,
        parameters: Parameters | None,
        input_folder: str | Path | None,
        job_key: str | None,
        arguments: Mapping[str, Any],
    ) -> None:
        self.pipeline = pipeline if isinstance(pipeline, Pipeline) else load(pipeline)
        self._parameters = dict(parameters or {})
        for name in self._parameters:
            self.pipeline.stage(name)
        self._input_folder, self._job_key, self._arguments = input_folder, job_key, dict(arguments)

    def client(self, scheduler: SchedulerLike) -> Any:
        """The first stage's environment: whose jobs are ended, whichever stage's they are."""
        return environment_of(scheduler, self.pipeline.environment(self.pipeline.in_order()[0].name))

    def arguments(self, stage: StageDefinition, results: Mapping[str, JobResult]) -> dict[str, Any]:
        """Of one stage's task."""
        local = {"input_folder": self._input_folder} if self._input_folder and not stage.after else {}
        key = {"job_key": f"{self._job_key}.{stage.name}"} if self._job_key else {}
        path = self.pipeline.executable_path(stage) if stage.is_local_file else stage.executable
        return {
            "executable": str(path),
            "environment": self.pipeline.environment(stage.name),
            "inputs": [results[name] for name in stage.after],
            "input_names": list(stage.after) if len(stage.after) > 1 else [],
            "parameters": dict(self._parameters.get(stage.name, {})) or None,
            **local,
            **key,
            **self._arguments,
        }


def _in_order(
    pipeline: Pipeline, start: Callable[[StageDefinition, Mapping[str, JobResult]], JobResult], client: Any
) -> dict[str, JobResult]:
    order = TopologicalSorter({stage.name: stage.after for stage in pipeline.stages})
    order.prepare()
    results: dict[str, JobResult] = {}
    most = max(1, len(pipeline.stages))
    # The pool waits for its stages, and these for their jobs: those are to be ended before.
    with ThreadPoolExecutor(most, thread_name_prefix="stage") as pool, cancelling(client, (), Caller().root_id):
        running: dict[Future[JobResult], str] = {}
        while order.is_active():
            ready = order.get_ready()
            if len(ready) == 1 and not running:
                # In the flow's own thread, which a signal interrupts.
                results[ready[0]] = start(pipeline.stage(ready[0]), results)
                order.done(ready[0])
                continue
            for name in ready:
                context = contextvars.copy_context()
                future = pool.submit(context.run, start, pipeline.stage(name), dict(results))
                running[future] = name
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                results[name] = future.result()
                order.done(name)
    return {stage.name: results[stage.name] for stage in pipeline.in_order()}
