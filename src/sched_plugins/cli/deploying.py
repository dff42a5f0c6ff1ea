"""``sched deploy``, ``destroy`` and ``package``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sched_plugins.cli.command import SchedulerName, Shell, command
from sched_plugins.cli.output import cell
from sched_plugins.cli.submitting import pairs
from sched_plugins.cli.template_options import EnvironmentTemplateCommand, SchedulerTemplateCommand
from sched_plugins.errors import InvalidInput

if TYPE_CHECKING:
    from sched_plugins.deploy import Change, Deployment, Destruction, StackEvent, Target
    from sched_plugins.pipeline import Pipeline

_ROWS = 15
"""Rows of the table of an operation under way."""

app = typer.Typer(
    help="Create or update schedulers, environments and pipelines.", no_args_is_help=True, rich_markup_mode=None
)
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="Tag for everything; repeatable.")]
Plan = Annotated[bool, typer.Option("--plan", help="Show what would change, and change nothing.")]
Python = Annotated[str, typer.Option("--python", metavar="X.Y", help="Python of the functions; this one's by default.")]
Architecture = Annotated[
    str, typer.Option("--architecture", metavar="NAME", help="x86_64 or arm64; this machine's by default.")
]


def register(root: typer.Typer) -> None:
    """Add the commands that stand beside the group."""
    command(root, "destroy")(destroy)
    command(root, "package")(package)


@command(app, cls=SchedulerTemplateCommand)
def scheduler(
    shell: Shell,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its stack name.", show_default=False)],
    plan: Plan = False,
    tag: Tags = None,
    python: Python = "",
    architecture: Architecture = "",
) -> None:
    """Create or update a scheduler. A parameter left out keeps its value, or has its default in a new stack."""
    from sched_plugins import deploy

    with _Shown(shell, name, plan_only=plan).following() as shown:
        done = deploy.deploy_scheduler(
            name,
            shell.parameters,
            tags=pairs("--tag", tag),
            plan_only=plan,
            on_plan=shown.plan,
            on_event=shown.event,
            target=_target(python, architecture),
        )
    _report(shell, done)


@command(app, cls=EnvironmentTemplateCommand)
def environment(
    shell: Shell,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its stack name.", show_default=False)],
    scheduler: SchedulerName = None,
    plan: Plan = False,
    tag: Tags = None,
    python: Python = "",
    architecture: Architecture = "",
) -> None:
    """Create or update an environment of a scheduler.

    A parameter left out keeps its value, or has its default in a new stack.
    """
    from sched_plugins import deploy

    with _Shown(shell, name, plan_only=plan).following() as shown:
        done = deploy.deploy_environment(
            name,
            scheduler=_scheduler_name(scheduler),
            parameters=shell.parameters,
            tags=pairs("--tag", tag),
            plan_only=plan,
            on_plan=shown.plan,
            on_event=shown.event,
            target=_target(python, architecture),
        )
    _report(shell, done)


@command(app)
def pipeline(
    shell: Shell,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The pipeline.yaml.", show_default=False)],
    scheduler: SchedulerName = None,
    plan: Plan = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--parameter", metavar="NAME=VALUE", help="Template parameter for every stage; repeatable."),
    ] = None,
    tag: Tags = None,
) -> None:
    """Create or update a pipeline: one environment a stage, buckets chained."""
    from sched_plugins import pipeline as pipelines

    found = pipelines.load(file)
    if plan:
        settings, tags = pairs("--parameter", setting), pairs("--tag", tag)
        _show_plans(
            shell, found, pipelines.plan_pipeline(found, _scheduler_name(scheduler), settings=settings, tags=tags)
        )
        return
    with _Shown(shell, found.name).following() as shown:
        done = pipelines.deploy_pipeline(
            found,
            _scheduler_name(scheduler),
            on_event=shown.event,
            settings=pairs("--parameter", setting),
            tags=pairs("--tag", tag),
        )
    stages = [
        {"stage": stage.name, "environment": found.environment(stage.name), "bucket": done.bucket(stage.name)}
        for stage in found.in_order()
    ]
    shell.output.document({"pipeline": found.name, "scheduler": done.scheduler, "stages": stages})
    shell.output.table(("STAGE", "ENVIRONMENT", "BUCKET"), [list(stage.values()) for stage in stages])
    if not shell.output.as_json:
        shell.output.say(f"  sched pipeline run {file}")


def destroy(
    shell: Shell,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="A scheduler or an environment; or the word pipeline, then FILE.", show_default=False
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="With pipeline: the pipeline.yaml of what is to go.", show_default=False),
    ] = None,
    delete_data: Annotated[
        bool,
        typer.Option(
            "--delete-data", help="Also end workers that are at work, and delete buckets and tables with data."
        ),
    ] = False,
    cancel_jobs: Annotated[
        bool, typer.Option("--cancel-jobs", help="Also cancel an environment's jobs, and drop its queue's messages.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be deleted, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a scheduler, an environment, or all environments of a pipeline (`sched destroy pipeline FILE`)."""
    from sched_plugins import deploy
    from sched_plugins import pipeline as pipelines

    if file is not None and name != "pipeline":
        raise InvalidInput(f"{str(file)!r} is one name too many; a pipeline is `sched destroy pipeline FILE`")
    found = pipelines.load(file) if file is not None else None
    if not (yes or plan):
        _ask(shell, f"pipeline {found.name}" if found else name, delete_data, cancel_jobs)
    with _Shown(shell, found.name if found else name).following() as shown:
        if found:
            done = pipelines.destroy_pipeline(
                found, delete_data=delete_data, cancel_jobs=cancel_jobs, plan_only=plan, on_event=shown.event
            )
        else:
            done = [
                deploy.destroy(
                    name, delete_data=delete_data, cancel_jobs=cancel_jobs, plan_only=plan, on_event=shown.event
                )
            ]
    documents = [_destroyed(shell, one, plan=plan) for one in done]
    shell.output.document({"pipeline": found.name, "stages": documents} if found else documents[0])
    if plan:
        rows = [(one.name, kind, physical) for one in done for kind, physical in one.resources]
        shell.output.table(("OF", "TYPE", "NAME"), rows)
        shell.output.say("nothing was deleted; the same without --plan does it")


def _destroyed(shell: Shell, done: Destruction, *, plan: bool) -> dict[str, Any]:
    """Tell of one stack that is gone, or would be; its document."""
    known: dict[str, Any] = {"name": done.name, "kind": done.kind}
    if plan:
        return {**known, "resources": [{"type": kind, "name": name} for kind, name in done.resources]}
    shell.output.line(f"{done.kind} {done.name} is deleted")
    for job_id in done.cancelled:
        shell.output.say(f"cancelled: {job_id}")
    for kind, name in done.kept:
        shell.output.say(f"kept: {kind} {name}")
    kept = [{"type": kind, "name": name} for kind, name in done.kept]
    return {**known, "kept": kept, "cancelled": list(done.cancelled)}


def package(
    shell: Shell,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where to write; made if missing.")] = Path(
        ".packaged"
    ),
    python: Python = "",
    architecture: Architecture = "",
) -> None:
    """Write self-contained templates and the functions' archive, for launching from the console."""
    from sched_plugins import deploy

    written = deploy.package(to, target=_target(python, architecture))
    files = [str(path) for path in (written.scheduler, written.environment, written.archive)]
    runs_on = {"runtime": written.target.runtime, "architecture": written.target.architecture}
    shell.output.document({"files": files, **runs_on})
    for path in files:
        shell.output.line(path)
    shell.output.say(
        f"for {written.target.runtime} on {written.target.architecture}: upload the archive to a bucket in the stack's "
        "region, then launch a template"
    )


def _scheduler_name(given: str | None) -> str:
    import os

    from sched_plugins.cli.command import SCHEDULER_VARIABLE

    name = given or os.environ.get(SCHEDULER_VARIABLE)
    if not name:
        raise InvalidInput(f"no scheduler is named; give --scheduler NAME, or set {SCHEDULER_VARIABLE}")
    return name


def _target(python: str, architecture: str) -> Target | None:
    """What the functions run on; None, for what this machine is like, if nothing was chosen."""
    from sched_plugins.deploy import Target

    if not python and not architecture:
        return None
    here = Target.here()
    return Target(python or here.python, architecture or here.architecture)


def _ask(shell: Shell, name: str, delete_data: bool, cancel_jobs: bool) -> None:
    import sys

    if shell.output.as_json or not sys.stdin.isatty():
        raise InvalidInput(f"destroying {name!r} needs --yes where nobody can be asked")
    data = " with all its data" if delete_data else " and cancel its jobs" if cancel_jobs else ""
    if not typer.confirm(f"Delete {name}{data}?", err=True):
        raise InvalidInput(f"{name!r} was not deleted")


def _changes(done: Deployment) -> list[dict[str, Any]]:
    return [
        {"action": one.action, "resource": one.resource, "type": one.type, "replacement": one.replacement}
        for one in done.changes
    ]


def _show_plans(shell: Shell, pipeline: Pipeline, plans: Mapping[str, Deployment]) -> None:
    stages = [
        {"stage": stage, "environment": one.name, "outcome": one.outcome, "changes": _changes(one)}
        for stage, one in plans.items()
    ]
    shell.output.document({"pipeline": pipeline.name, "stages": stages})
    rows = [
        (one.name, change.action, change.resource, change.type, ", ".join(change.details))
        for one in plans.values()
        for change in one.changes
    ]
    shell.output.table(("ENVIRONMENT", "CHANGE", "RESOURCE", "TYPE", "PROPERTIES"), rows, empty="nothing would change")
    for one in plans.values():
        shell.output.say(f"environment {one.name}: {one.outcome}")


def _report(shell: Shell, done: Deployment) -> None:
    shell.output.document(
        {
            "name": done.name,
            "kind": done.kind,
            "outcome": done.outcome,
            "changes": _changes(done),
            "outputs": dict(done.outputs),
        }
    )
    shell.output.say(f"{done.kind} {done.name}: {done.outcome}", "green")
    if done.outcome == "planned":
        return
    shell.output.facts(sorted(done.outputs.items()))
    if shell.output.as_json:
        return
    if done.kind == "scheduler":
        shell.output.say(
            f"  sched deploy environment NAME --scheduler {done.name}      workers come and go with its jobs"
        )
    else:
        shell.output.say(f"  sched submit --environment {done.name} -- COMMAND")
        shell.output.say(f"  sched upload FOLDER --executable NAME --environment {done.name}")


class _Shown:
    """What a stack operation shows: its plan, then a table of its resources while somebody watches.

    In a pipe only what matters: how the stack itself goes on, and what failed.
    """

    def __init__(self, shell: Shell, name: str, *, plan_only: bool = False) -> None:
        self._shell = shell
        self._plan_only = plan_only
        self._name = name
        self._rows: dict[tuple[str, str], StackEvent] = {}
        self._redraw: Callable[[], None] = lambda: None
        shell.on_interrupt = "AWS goes on with what it has begun; the same command again follows it"

    @contextmanager
    def following(self) -> Iterator[_Shown]:
        """While the operation is under way."""
        with self._shell.output.redrawing(self._table) as self._redraw:
            yield self

    def plan(self, changes: tuple[Change, ...]) -> None:
        """Show what will change; of a new stack, unless only the plan was asked for, how much."""
        if not self._plan_only and all(one.action == "Add" for one in changes):
            self._shell.output.say(f"{self._name}: creating {len(changes)} resources")
            return
        rows = [
            (one.action, one.resource, one.type, f"replaced: {one.replacement}" if one.replacement == "True" else "",
             ", ".join(one.details))
            for one in changes
        ]  # fmt: skip
        self._shell.output.table(("CHANGE", "RESOURCE", "TYPE", "", "PROPERTIES"), rows)

    def event(self, event: StackEvent) -> None:
        """Show a step."""
        # What happened last stands last.
        self._rows.pop((event.stack, event.resource), None)
        self._rows[(event.stack, event.resource)] = event
        if not self._shell.output.is_interactive and (event.is_stack or event.failed):
            why = f": {event.reason}" if event.reason else ""
            self._shell.output.say(
                f"{cell(event.at)}  {event.status}  {event.stack}/{event.resource} ({event.type}){why}"
            )
        self._redraw()

    def _table(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold", title=None)
        for column in ("RESOURCE", "TYPE", "STATUS", ""):
            table.add_column(column, overflow="fold")
        for one in list(self._rows.values())[-_ROWS:]:
            style = "red" if one.failed else "green" if one.status.endswith("_COMPLETE") else "yellow"
            table.add_row(Text(one.resource), Text(one.type), Text(one.status, style=style), Text(one.reason))
        return table
