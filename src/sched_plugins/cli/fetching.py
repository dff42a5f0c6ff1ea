"""``sched results``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sched_plugins.cli.command import EnvironmentName, SchedulerName, Shell, command
from sched_plugins.cli.output import size

if TYPE_CHECKING:
    from sched_plugins.client import Progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "results")(results)


def results(
    shell: Shell,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)],
    scheduler: SchedulerName = None,
    environment: EnvironmentName = None,
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where to store them; made if missing.")] = Path(
        "results"
    ),
    internal: Annotated[
        bool, typer.Option("--internal", help="Also _sched/: the manifest, and what failed tries wrote.")
    ] = False,
) -> None:
    """Download a job's results folder. Files of the same name are replaced."""
    client = shell.jobs(scheduler, environment)
    with shell.output.transfer("downloading") as bar:

        def told(progress: Progress) -> None:
            if bar is not None:
                bar.update(bar.task_ids[0], completed=progress.bytes_done, total=progress.bytes)

        fetched = client.results(job, to, internal=internal, progress=told)
    shell.output.document(
        {
            "job_id": job,
            "source": fetched.source,
            "folder": str(fetched.folder),
            "files": [str(path) for path in fetched.files],
            "bytes": fetched.bytes,
            "skipped": list(fetched.skipped),
        }
    )
    for path in fetched.files:
        shell.output.line(str(fetched.folder / path))
    for key in fetched.skipped:
        shell.output.say(f"left out {key!r}: it cannot be a file below {str(fetched.folder)!r}", "yellow")
    shell.output.say(f"{len(fetched.files)} file(s), {size(fetched.bytes)}, from {fetched.source}")
