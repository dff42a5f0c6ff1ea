"""``sched local``: the stack that runs everything on this machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sched_plugins.cli.command import Shell, command
from sched_plugins.cli.exit_codes import ExitCode
from sched_plugins.errors import NotFound

if TYPE_CHECKING:
    from sched_plugins.local.state import StackInfo

app = typer.Typer(
    help="The laptop stack: the same scheduler on this machine, with no AWS account.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
StateFolder = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="FOLDER",
        help="Where it keeps its files.  [env var: SCHED_LOCAL_STATE; default: .sched-local]",
    ),
]


@command(app, aws=False)
def up(
    shell: Shell,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="Port; a free one by default.")
    ] = None,
    state: StateFolder = None,
) -> None:
    """Start the stack, and wait until it answers. One that runs already goes on."""
    from sched_plugins.local import lifecycle

    with shell.output.working("starting the laptop stack") as line:
        info = lifecycle.up(port, state)
        line.update("")
    shell.output.document(_plain(info))
    shell.output.line(f"{'already running' if info.already_running else 'running'} at {info.endpoint}")
    if not info.already_running:
        shell.output.say('  eval "$(sched local env)"      so that sched, aws and boto3 talk to it')
        shell.output.say("  sched deploy scheduler NAME")


@command(app, aws=False)
def down(shell: Shell, state: StateFolder = None) -> None:
    """Stop the stack and everything it started."""
    from sched_plugins.local import lifecycle

    was_running = lifecycle.down(state)
    shell.output.document({"was_running": was_running})
    shell.output.line("stopped" if was_running else "was not running")


@command(app, aws=False)
def status(shell: Shell, state: StateFolder = None) -> int:
    """Show the stack and its instances. The exit code is 1 if it is not running."""
    from sched_plugins.local import lifecycle
    from sched_plugins.local.state import StateFolder as Folder

    info = lifecycle.status(state)
    if info is None:
        place = Folder.locate(state).path
        shell.output.document({"running": False, "state": str(place)})
        shell.output.line(f"no stack of {place} is running; start it (`sched local up`), or name its folder (--state)")
        return ExitCode.FAILED
    told = lifecycle.describe(info)
    shell.output.document({"running": True, **told})
    shell.output.facts(
        [("endpoint", info.endpoint), ("process", info.pid), ("state", info.state_dir), ("log", info.log_file)]
    )
    instances: list[dict[str, Any]] = list(told.get("instances", []))
    if instances and not shell.output.as_json:
        shell.output.line("")
        rows = [(one["instance_id"], one["state"], _tags(one.get("tags", {}))) for one in instances]
        shell.output.table(("INSTANCE", "STATE", "TAGS"), rows)
    return ExitCode.SUCCEEDED


@command(app, aws=False)
def env(shell: Shell, state: StateFolder = None) -> None:
    """Print what a shell needs to talk to it: eval "$(sched local env)"."""
    from sched_plugins.local import lifecycle

    info = lifecycle.require(state)
    shell.output.document(lifecycle.environment(info))
    shell.output.text(lifecycle.shell_environment(info))


@command(app, aws=False)
def logs(
    shell: Shell,
    lines: Annotated[int, typer.Option("--lines", "-n", metavar="N", min=1, help="How many of the last lines.")] = 50,
    state: StateFolder = None,
) -> int:
    """Show the last lines of the server's log."""
    from collections import deque

    from sched_plugins.local import lifecycle

    files = lifecycle.logs(state)
    if not files:
        shell.output.document({"file": None, "lines": []})
        shell.output.say("there is no log yet; start the stack with `sched local up`")
        return ExitCode.NOT_FOUND
    with files[0].open(errors="replace") as file:
        last = [line.rstrip("\n") for line in deque(file, lines)]
    shell.output.document({"file": str(files[0]), "lines": last})
    shell.output.say(str(files[0]))
    for line in last:
        shell.output.line(line)
    return ExitCode.SUCCEEDED


@command(app, aws=False)
def interrupt(
    shell: Shell,
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="The instance (i-…).", show_default=False)],
    warning: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Between the warning and the end; on AWS it is 120.")
    ] = 0.0,
    state: StateFolder = None,
) -> None:
    """Take an instance away, as Spot would."""
    from sched_plugins.local import lifecycle

    known = {one["instance_id"] for one in lifecycle.describe(lifecycle.require(state)).get("instances", ())}
    if instance not in known:
        raise NotFound(f"there is no instance {instance!r} in the laptop stack; `sched local status` shows them")
    lifecycle.interrupt(instance, state, warning_seconds=warning)
    shell.output.document({"instance_id": instance, "warning_seconds": warning})
    shell.output.line(f"{instance} is being taken away")


def _tags(tags: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in tags.items())


def _plain(info: StackInfo) -> dict[str, Any]:
    return asdict(info)
