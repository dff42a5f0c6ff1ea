"""The ``sched`` command."""

from __future__ import annotations

import gc
from importlib.util import find_spec
from typing import Annotated

import typer

from sched_plugins import __version__
from sched_plugins.cli import deploying, fetching, following, jobs, laptop, submitting, uploading, workers

app = typer.Typer(
    name="sched",
    help="Run jobs and pipelines on a decoupled serverless scheduler, on AWS or on a laptop.",
    epilog="Exit codes: 0 succeeded, 1 failed, 2 usage, 3 timed out waiting, 4 not found, 5 cancelled.",
    no_args_is_help=True,
    # Plain help needs no rich, which takes longer to load than everything else here.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sched {__version__}")
        raise typer.Exit


@app.callback()
def options(
    region: Annotated[str | None, typer.Option(metavar="NAME", help="AWS region.")] = None,
    profile: Annotated[str | None, typer.Option(metavar="NAME", help="Profile of the AWS configuration.")] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Where AWS answers, as a laptop stack does.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options that may also stand after the command's name."""


for module in (submitting, uploading, jobs, following, fetching, workers):
    module.register(app)
app.add_typer(deploying.app, name="deploy")
deploying.register(app)
if find_spec("sched_plugins.cli.pipeline"):
    from sched_plugins.cli import pipeline

    app.add_typer(pipeline.app, name="pipeline")
app.add_typer(laptop.app, name="local")


def run() -> None:
    """The entry point."""
    # What a command loads stays to its end; to look through it for garbage would be a tenth of all its work.
    gc.set_threshold(200_000)
    app(prog_name="sched")
