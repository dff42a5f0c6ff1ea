"""``sched pipeline``: check, run and follow pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sched_plugins.cli.command import Shell, command
from sched_plugins.cli.exit_codes import ExitCode
from sched_plugins.cli.output import duration
from sched_plugins.errors import InvalidInput

if TYPE_CHECKING:
    from sched_plugins.core.record import JobRecord
    from sched_plugins.pipeline import Pipeline, PipelineRun

app = typer.Typer(help="Check, run and follow pipelines.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A pipeline.yaml, or the folder that holds one.")]
Run = Annotated[str | None, typer.Option("--run", metavar="NAME", help="The run's name; made up if not given.")]
Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="SECONDS", min=0, help="Stop waiting for a stage then.")
]


@command(app)
def validate(shell: Shell, file: File) -> None:
    """Check a pipeline file and the executables beside it, without asking AWS anything."""
    from sched_plugins.pipeline import load

    pipeline = load(file)
    shell.output.document(pipeline.model_dump(mode="json"))
    shell.output.table(
        ("stage", "after", "executable", "workers", "timeout", "retry", "success string"),
        (
            (
                stage.name,
                ", ".join(stage.after),
                stage.executable,
                stage.max_workers,
                f"{stage.timeout_seconds} s",
                stage.retry,
                stage.success_string,
            )
            for stage in pipeline.in_order()
        ),
    )
    shell.output.say(f"pipeline {pipeline.name!r} is valid; `sched deploy pipeline {file} --scheduler NAME` deploys it")


@command(app)
def run(
    shell: Shell,
    file: File,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.KEY=VALUE", help="A parameter of this run; JSON, or text. Repeatable."),
    ] = None,
    chained: Annotated[bool, typer.Option("--chained", help="One upload; the buckets carry the run on.")] = False,
    inputs: Annotated[Path | None, typer.Option("--inputs", metavar="FOLDER", help="The first stage's files.")] = None,
    name: Run = None,
    timeout: Timeout = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="With --chained: do not watch it.")] = False,
) -> int:
    """Run a deployed pipeline. The same --run name again takes what succeeded and attaches to what is live."""
    from sched_plugins import pipeline as pipelines

    definition = pipelines.load(file)
    parameters = parse_settings(settings or [], definition)
    if name is not None:
        pipelines.check_run_name(name)
    if no_wait and not chained:
        raise InvalidInput(
            "--no-wait needs --chained: an orchestrated run goes on only while somebody starts its stages"
        )
    if inputs is not None and not inputs.is_dir():
        raise InvalidInput(f"--inputs: {str(inputs)!r} is not a folder")
    deployment = pipelines.find_deployment(definition)
    chosen = name or pipelines.new_run_name()
    again = f"sched pipeline status {file} --run {chosen}"
    shell.output.say(f"run {chosen}")
    if chained:
        this = pipelines.run_chained(deployment, run=chosen, parameters=parameters, inputs=inputs)
        if no_wait:
            shell.output.document({"run": chosen, "stages": pipelines.stages_of(this)})
            shell.output.say(f"uploaded; `{again}` shows how it goes")
            return ExitCode.SUCCEEDED
        shell.on_interrupt = f"the run goes on; `{again}` shows how"
        results = pipelines.follow_chained(this, timeout=timeout, on_change=_told(shell))
    else:
        this = pipelines.PipelineRun(deployment, chosen, chained=False)
        shell.on_interrupt = "live stages go on; the same command with this --run name goes on from there"
        results = pipelines.run_orchestrated(
            deployment, run=chosen, parameters=parameters, inputs=inputs, timeout=timeout, on_change=_told(shell)
        )
    for _ in results:
        pass
    _show(shell, this)
    last = definition.in_order()[-1].name
    shell.output.say(f"results: `sched results {this.job_id(last)!r} --scheduler {deployment.scheduler}`")
    return ExitCode.SUCCEEDED


@command(app)
def status(shell: Shell, file: File, name: Annotated[str, typer.Option("--run", metavar="NAME")]) -> int:
    """Show the stages of a run. Exit code 1 if one has failed, 5 if one was cancelled."""
    from sched_plugins import pipeline as pipelines

    this = pipelines.find_run(pipelines.find_deployment(pipelines.load(file)), name)
    statuses = _show(shell, this)
    if statuses & {"FAILED", "REJECTED"}:
        return ExitCode.FAILED
    return ExitCode.CANCELLED if "CANCELLED" in statuses else ExitCode.SUCCEEDED


def parse_settings(settings: list[str], pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """Parameters by stage from ``stage.key=value``; a value that is no JSON is text.

    Raises:
        InvalidInput: one has another form.
        InvalidPipeline: it names a stage that does not exist.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for setting in settings:
        target, equals, text = setting.partition("=")
        stage, dot, key = target.partition(".")
        if not (equals and dot and stage and key):
            raise InvalidInput(f"--set {setting!r}: write STAGE.KEY=VALUE, as in {pipeline.stages[0].name}.size=10")
        pipeline.stage(stage)
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        chosen.setdefault(stage, {})[key] = value
    return chosen


def _told(shell: Shell) -> Any:
    def tell(stage: str, job: JobRecord) -> None:
        where = f" on {job.worker_id}" if job.worker_id else ""
        why = f": {job.status_reason}" if job.status_reason else ""
        shell.output.say(f"{stage:<20} {job.status}{where}{why}")

    return tell


def _show(shell: Shell, this: PipelineRun) -> set[str]:
    from sched_plugins.pipeline import stages_of

    stages, records = stages_of(this), this.records()
    shell.output.document({"run": this.name, "chained": this.chained, "stages": stages})
    rows = []
    for stage in stages:
        job = records[stage["name"]]
        waited = duration(job.submitted_at, job.started_at) if job and job.started_at else ""
        ran = duration(job.started_at, job.finished_at) if job else ""
        reason, worker = (job.status_reason, job.worker_id) if job else ("", "")
        rows.append((stage["name"], stage["status"], waited, ran, worker, reason, stage["results_uri"]))
    shell.output.table(("stage", "status", "waited", "ran", "worker", "reason", "results"), rows)
    return {str(stage["status"]) for stage in stages}
