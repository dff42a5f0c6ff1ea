"""Runs of a deployed pipeline: started, followed, found again."""

from __future__ import annotations

import json
import re
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sched_plugins.client import EnvironmentClient, Run, SchedulerClient
from sched_plugins.core.environment import OVERRIDES
from sched_plugins.core.record import JobRecord
from sched_plugins.core.state import Status
from sched_plugins.errors import InvalidInput, JobFailed, NotFound, SchedulerError
from sched_plugins.pipeline.definition import StageDefinition
from sched_plugins.pipeline.deployment import Deployment

_RUN_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_:+=@-]|\.(?!\.)){0,127}")
"""A run's name is a folder in every bucket, and part of job ids."""
_TAIL_LINES, _TAIL_CHARACTERS = 12, 2_000
"""How much of a failed stage's output its error tells."""

Parameters = Mapping[str, Mapping[str, Any]]
"""Parameters of one run, by stage."""
OnChange = Callable[[str, JobRecord], None]
"""Told of every change of a stage's job that was seen: the stage's name and the record."""


@dataclass(frozen=True)
class StageResult:
    """A stage that succeeded in a run."""

    stage: str
    job: JobRecord
    results_uri: str

    @property
    def seconds(self) -> float:
        """From submission to end, queueing and staging included."""
        if self.job.finished_at is None:
            return 0.0
        return (self.job.finished_at - self.job.submitted_at).total_seconds()


@dataclass(frozen=True)
class PipelineRun:
    """One run of a deployed pipeline. Its jobs' ids follow from its name, so that it can be found again."""

    deployment: Deployment
    name: str
    chained: bool

    def job_id(self, stage: str) -> str:
        """The job of a stage."""
        where = self.deployment
        return where.chained_job(self.name, stage) if self.chained else where.orchestrated_job(self.name, stage)

    def results_uri(self, stage: str) -> str:
        """The folder of a stage's results."""
        where = self.deployment
        return where.chained_results(self.name, stage) if self.chained else where.orchestrated_results(self.name, stage)

    def records(self) -> dict[str, JobRecord | None]:
        """The record of each stage's job, in the pipeline's order; None for one that has not begun."""
        stages = [stage.name for stage in self.deployment.pipeline.in_order()]
        client = SchedulerClient(self.deployment.scheduler)
        found = client.get_many([self.job_id(stage) for stage in stages])
        return {stage: found.get(self.job_id(stage)) for stage in stages}


def new_run_name() -> str:
    """A name for a run: the time, and a few letters against two in one second."""
    return f"run-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def check_parameters(deployment: Deployment, parameters: Parameters) -> None:
    """Refuse parameters for stages that do not exist.

    Raises:
        InvalidPipeline: names the stage and those that there are.
    """
    for stage in parameters:
        deployment.pipeline.stage(stage)


def check_run_name(name: str) -> str:
    """The name itself, if a run may have it.

    Raises:
        InvalidInput: it could be no folder, or hides in one.
    """
    if not _RUN_NAME.fullmatch(name):
        raise InvalidInput(
            f"{name!r} cannot be the name of a run: use at most 128 letters, digits and any of - _ . : + = @, "
            "beginning with a letter or a digit, without '..'"
        )
    return name


def check_repeated(run: PipelineRun, stage: str, job: JobRecord | None, parameters: Mapping[str, Any] | None) -> None:
    """Refuse to take a stage's job for a run that asks for other parameters.

    Raises:
        InvalidInput: names both.
    """
    if job is None or job.spec.stage is None:
        return
    asked = {**run.deployment.pipeline.stage(stage).parameters, **(parameters or {})}
    had = job.spec.stage.stage_parameters
    if json.loads(json.dumps(asked)) != had:
        raise InvalidInput(
            f"run {run.name!r} has stage {stage!r} {job.status} with the parameters {json.dumps(had)}, not "
            f"{json.dumps(asked)}; give the same ones, or choose another name for the run"
        )


def run_stage(
    deployment: Deployment,
    run: str,
    stage: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    inputs: Path | None = None,
    timeout: float | None = None,
    on_change: OnChange | None = None,
) -> StageResult:
    """Start one stage of an orchestrated run with its predecessors' results, and wait for its end.

    Calling it again with the same run attaches to the live job, takes the result of a succeeded one, and starts the
    stage anew only after it failed or was cancelled.

    Args:
        deployment: the deployed pipeline.
        run: the run's name.
        stage: the stage's name.
        parameters: of this run, ahead of the pipeline file's.
        inputs: a local folder with the first stage's input files.
        timeout: seconds to wait; None: without end.
        on_change: told of every change that was seen.

    Raises:
        InvalidInput: the name cannot be a run's, or the run has the stage with other parameters; nothing was done.
        JobFailed: the stage ended otherwise than SUCCEEDED; tells the last lines that it wrote.
        WaitTimeout: the wait ended first; the job goes on.
    """
    check_run_name(run)
    definition = deployment.pipeline.stage(stage)
    this = PipelineRun(deployment, run, chained=False)
    environment = EnvironmentClient(deployment.pipeline.environment(stage))
    earlier = SchedulerClient(deployment.scheduler).get_many([this.job_id(stage)]).get(this.job_id(stage))
    if not _starts_anew(earlier):
        check_repeated(this, stage, earlier, parameters)
    sources = [this.results_uri(name) for name in definition.after]
    if inputs is not None:
        folder = f"s3://{deployment.bucket(stage)}/{run}/_input/"
        _upload_inputs(environment, inputs, folder)
        sources.append(folder)
    started = environment.start_stage(
        executable=deployment.executable_uri(definition),
        inputs=sources,
        input_names=list(definition.after) if len(sources) > 1 else [],
        outputs=[this.results_uri(stage)],
        parameters=parameters or {},
        job_id=this.job_id(stage),
        run_id=_run_id(earlier, run),
    )
    job = _followed(deployment, started.run, stage, timeout, on_change)
    return _succeeded(this, stage, job)


def _starts_anew(job: JobRecord | None) -> bool:
    """Whether a stage is started rather than attached to: the first time, and after a failure."""
    return job is None or job.status in (Status.FAILED, Status.CANCELLED)


def _run_id(job: JobRecord | None, run: str) -> str:
    """The key of the stage's run: the first one's, the live or succeeded one's, or a new one after a failure."""
    if job is None:
        return f"{run}:1"
    return f"{run}:{len(job.run_ids) + 1}" if _starts_anew(job) else job.run_id


def _followed(
    deployment: Deployment, run: Run, stage: str, timeout: float | None, on_change: OnChange | None
) -> JobRecord:
    client = SchedulerClient(deployment.scheduler)
    tell = (lambda job: on_change(stage, job)) if on_change else None
    return client.wait(run, timeout=timeout, on_change=tell)


def _succeeded(run: PipelineRun, stage: str, job: JobRecord) -> StageResult:
    if job.status is not Status.SUCCEEDED:
        raise JobFailed(
            f"stage {stage!r} ended {job.status}: {job.status_reason}. {_last_words(run, job)}"
            f"All of it: `sched logs {job.job_id!r} --scheduler {run.deployment.scheduler}`"
        )
    return StageResult(stage, job, run.results_uri(stage))


def _last_words(run: PipelineRun, job: JobRecord) -> str:
    """The last lines that a failed stage wrote: to stderr, or if that is empty to stdout."""
    client = SchedulerClient(run.deployment.scheduler)
    for stream in ("stderr", "stdout"):
        text = ""
        try:
            for chunk in client.logs(job.job_id, stream=stream, attempt=job.attempt):
                text = (text + chunk.text)[-_TAIL_CHARACTERS:]
        except SchedulerError:
            text = ""  # The stage's failure is what is to be told, not that its output cannot be read.
        if not text.strip() and stream == "stdout":
            text = job.output[-_TAIL_CHARACTERS:]
        if lines := text.strip().splitlines()[-_TAIL_LINES:]:
            return f"The end of its {stream}:\n" + "".join(f"  {line}\n" for line in lines)
    return ""


def _upload_inputs(environment: EnvironmentClient, folder: Path, uri: str) -> None:
    if not folder.is_dir():
        raise InvalidInput(f"{str(folder)!r} is not a folder; give the folder that holds the first stage's files")
    own = {"sched-environment": environment.name}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        environment.store(uri + file.relative_to(folder).as_posix(), file, metadata=own)


def run_orchestrated(
    deployment: Deployment,
    *,
    run: str = "",
    parameters: Parameters | None = None,
    inputs: Path | None = None,
    timeout: float | None = None,
    on_change: OnChange | None = None,
) -> Iterator[StageResult]:
    """Run the stages in order, each as soon as those it works on have succeeded; yields each one's result.

    Stages that do not depend on each other run at the same time. Raises as :func:`run_stage`; what else is live
    then goes on. Names and parameters are checked before the first stage starts.
    """
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
    from graphlib import TopologicalSorter

    chosen, name = parameters or {}, check_run_name(run or new_run_name())
    check_parameters(deployment, chosen)
    this = PipelineRun(deployment, name, chained=False)
    for stage, job in this.records().items():
        if not _starts_anew(job):
            check_repeated(this, stage, job, chosen.get(stage))
    order = TopologicalSorter({stage.name: stage.after for stage in deployment.pipeline.stages})
    order.prepare()
    with ThreadPoolExecutor(max(1, len(deployment.pipeline.stages)), thread_name_prefix="stage") as pool:
        running: dict[Future[StageResult], str] = {}
        while order.is_active():
            for stage in order.get_ready():
                first = not deployment.pipeline.stage(stage).after
                future = pool.submit(
                    run_stage,
                    deployment,
                    name,
                    stage,
                    parameters=chosen.get(stage),
                    inputs=inputs if first else None,
                    timeout=timeout,
                    on_change=on_change,
                )
                running[future] = stage
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                order.done(running.pop(future))
                yield future.result()


def run_chained(
    deployment: Deployment,
    *,
    run: str = "",
    parameters: Parameters | None = None,
    inputs: Path | None = None,
) -> PipelineRun:
    """Start a chained run by one upload into each first stage's bucket, the executable last, and return at once.

    Raises:
        InvalidInput: the name cannot be a run's, or there is such a run with other parameters; nothing was done.
    """
    chosen, name = parameters or {}, check_run_name(run or new_run_name())
    check_parameters(deployment, chosen)
    this = PipelineRun(deployment, name, chained=True)
    for stage, job in this.records().items():
        check_repeated(this, stage, job, chosen.get(stage))
    for root in deployment.pipeline.roots:
        environment = EnvironmentClient(deployment.pipeline.environment(root.name))
        folder = f"s3://{deployment.bucket(root.name)}/{name}/"
        if inputs is not None:
            _upload_inputs(environment, inputs, folder)
        with tempfile.TemporaryDirectory() as scratch:
            overrides, start = Path(scratch) / "parameters.json", Path(scratch) / "start"
            overrides.write_text(json.dumps({name: dict(values) for name, values in chosen.items()}))
            start.touch()
            environment.store(folder + OVERRIDES, overrides)
            environment.store(deployment.chained_job(name, root.name), _trigger_file(deployment, root, start))
    return this


def _trigger_file(deployment: Deployment, stage: StageDefinition, start: Path) -> Path:
    return deployment.pipeline.executable_path(stage) if stage.is_local_file else start


def follow_chained(
    run: PipelineRun, *, timeout: float | None = None, on_change: OnChange | None = None
) -> Iterator[StageResult]:
    """Watch a chained run to its end; yields each stage's result. Watching has no part in the run's going on.

    Raises:
        JobFailed: a stage ended otherwise than SUCCEEDED, so that nothing after it starts.
        WaitTimeout: the wait ended first.
    """
    for stage in run.deployment.pipeline.in_order():
        job = _followed(run.deployment, Run(run.job_id(stage.name), may_come=True), stage.name, timeout, on_change)
        yield _succeeded(run, stage.name, job)


def find_run(deployment: Deployment, run: str) -> PipelineRun:
    """The run of that name, orchestrated or chained.

    Raises:
        NotFound: no stage of such a run has begun.
    """
    for chained in (False, True):
        found = PipelineRun(deployment, run, chained)
        if any(found.records().values()):
            return found
    raise NotFound(f"pipeline {deployment.pipeline.name!r} has no run {run!r}; `sched pipeline run FILE` starts one")


def stages_of(run: PipelineRun) -> list[dict[str, Any]]:
    """What each stage of a run came to, as plain data; times are in seconds."""
    return [_plain(run, stage, job) for stage, job in run.records().items()]


def _plain(run: PipelineRun, stage: str, job: JobRecord | None) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": stage, "job_id": run.job_id(stage), "results_uri": run.results_uri(stage)}
    if job is None:
        return {**plain, "status": "NOT STARTED"}
    started, finished = job.started_at or job.updated_at, job.finished_at or job.updated_at
    return {
        **plain,
        "status": str(job.status),
        "status_reason": job.status_reason,
        "attempt": job.attempt,
        "worker_id": job.worker_id,
        "waited_seconds": round((started - job.submitted_at).total_seconds(), 3),
        "ran_seconds": round((finished - started).total_seconds(), 3),
        "metrics": dict(job.metrics),
    }
