"""``sched logs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sched_plugins.cli.advice import QueueAdvice
from sched_plugins.cli.command import EnvironmentName, SchedulerName, Shell, check_used_with, command
from sched_plugins.cli.exit_codes import ExitCode, of_statuses
from sched_plugins.cli.waiting import describe, ended_line

if TYPE_CHECKING:
    from sched_plugins.client import EnvironmentClient, Job, Run, SchedulerClient


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "logs")(logs)


def logs(
    shell: Shell,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)],
    scheduler: SchedulerName = None,
    environment: EnvironmentName = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="Show stderr instead of stdout.")] = False,
    attempt: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Which try; the newest that ran by default.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="With --follow: how long to go on.")
    ] = None,
) -> int:
    """Show what a job wrote.

    While a job runs, as far as Systems Manager tells: often nothing before a try has ended. Afterwards all of it.
    The exit code tells whether it could be shown, not how the job ended; `sched wait` tells that.
    """
    check_used_with("--timeout", timeout, "--follow", used=follow)
    client = shell.jobs(scheduler, environment)
    stream: Literal["stdout", "stderr"] = "stderr" if stderr else "stdout"
    shell.on_interrupt = "the job goes on; `sched cancel` ends it" if follow else ""
    pieces = []
    empty = True
    for chunk in client.logs(job, stream=stream, attempt=attempt, follow=follow, timeout=timeout):
        shell.output.text(chunk.text)
        empty = empty and not chunk.text
        if shell.output.as_json:
            pieces.append(chunk)
    if pieces or shell.output.as_json:
        attempts = sorted({piece.attempt for piece in pieces})
        shell.output.document(
            {
                "job_id": job,
                "stream": stream,
                "attempts": [
                    {"attempt": number, "text": "".join(piece.text for piece in pieces if piece.attempt == number)}
                    for number in attempts
                ],
            }
        )
    if empty:
        seen = client.get(job)
        which = f"try {attempt} of job {job!r}" if attempt else f"job {job!r}"
        so_far = "" if seen.is_terminal else " so far"
        shell.output.say(f"{which} has written nothing to {stream}{so_far}; the job is {seen.status}")
    return ExitCode.SUCCEEDED


def follow_to_end(shell: Shell, client: SchedulerClient | EnvironmentClient, run: Run, timeout: float | None) -> int:
    """Show a job's output until it has ended; the exit code tells how it did."""
    from sched_plugins.client import plain

    shell.on_interrupt = f"job {run.job_id!r} goes on; `sched wait` waits again, `sched cancel` ends it"
    last = ""
    advice = QueueAdvice(shell, client)

    def told(job: Job) -> None:
        nonlocal last
        if not job.is_terminal and (text := describe(job)) != last:
            last = text
            shell.output.say(text)
            advice.of_job(job)

    if shell.output.as_json:
        job = client.wait(run, timeout=timeout, on_change=told)
    else:
        for chunk in client.logs(run.job_id, follow=True, run_id=run.run_id, timeout=timeout, on_change=told):
            shell.output.text(chunk.text)
        job = client.wait(run, timeout=timeout)
        shell.output.say(ended_line(job), "green" if job.status == "SUCCEEDED" else "red")
    shell.output.document(plain(job))
    return ExitCode(of_statuses([job.status]))
