"""``sched upload``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sched_plugins.cli.command import EnvironmentName, Shell, check_used_with, command
from sched_plugins.cli.exit_codes import ExitCode
from sched_plugins.cli.output import size
from sched_plugins.cli.waiting import wait_for

if TYPE_CHECKING:
    from sched_plugins.client import Progress


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "upload")(upload)


def upload(
    shell: Shell,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The job folder.", show_default=False)],
    executable: Annotated[
        str, typer.Option(metavar="NAME", help="The file in it that starts the job; uploaded last.", show_default=False)
    ],
    environment: EnvironmentName = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="PATH", help="Folder in the bucket, instead of the local folder's name.")
    ] = None,
    several: Annotated[
        bool, typer.Option("--several", help="Other files that end in the trigger suffix start jobs of their own.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait until the job has ended.")] = False,
    wait_timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="With --wait: how long to wait.")
    ] = None,
) -> int:
    """Upload a job folder to an environment, which runs its executable; print the job's id."""
    check_used_with("--wait-timeout", wait_timeout, "--wait", used=wait)
    client = shell.environment(environment)
    with shell.output.transfer("uploading") as bar:

        def told(progress: Progress) -> None:
            if bar is not None:
                bar.update(bar.task_ids[0], completed=progress.bytes_done, total=progress.bytes)

        uploaded = client.upload(folder, executable, prefix=prefix, several=several, progress=told)
    shell.output.say(f"{uploaded.files} file(s), {size(uploaded.bytes)}, to {uploaded.folder}")
    if wait:
        return wait_for(shell, client, [uploaded.run], wait_timeout, single=True)
    shell.output.line(uploaded.job_id)
    shell.output.document(
        {
            "job_id": uploaded.job_id,
            "folder": uploaded.folder,
            "files": uploaded.files,
            "bytes": uploaded.bytes,
            "after": uploaded.after,
        }
    )
    if not shell.output.as_json:
        shell.output.say(f"  sched wait --may-come {shlex.quote(uploaded.job_id)} -e {client.name}")
    return ExitCode.SUCCEEDED
