"""Waiting for jobs, with what happens shown meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sched_plugins.cli.command import Shell
from sched_plugins.cli.exit_codes import ExitCode, of_error, of_statuses, worst
from sched_plugins.cli.output import duration
from sched_plugins.errors import SchedulerError, WaitTimeout

if TYPE_CHECKING:
    from sched_plugins.client import EnvironmentClient, Job, Run, SchedulerClient


def describe(job: Job) -> str:
    """A job's state in a few words."""
    tried = f", attempt {job.attempt}" if job.attempt > 1 else ""
    where = f" on {job.worker_id}" if job.worker_id else ""
    why = f": {job.status_reason}" if job.status_reason else ""
    return f"{job.job_id} is {job.status}{where}{tried}{why}"


def ended_line(job: Job) -> str:
    """How a job ended, in a line."""
    took = duration(job.started_at, job.finished_at)
    code = "" if job.exit_code is None else f", exit code {job.exit_code}"
    why = f": {job.status_reason}" if job.status_reason else ""
    retries = f", retries {job.retries} of {job.spec.retry}" if job.spec.retry else ""
    return f"{job.job_id} {job.status}{f' after {took}' if took else ''}{code}{retries}{why}"


def wait_for(
    shell: Shell,
    client: SchedulerClient | EnvironmentClient,
    runs: Sequence[Run],
    timeout: float | None,
    *,
    single: bool,
) -> int:
    """Wait for these runs, show how each ends, and tell by the exit code how they did."""
    from sched_plugins.client import plain
    from sched_plugins.client.waiting import result

    output = shell.output
    ended: dict[Run, Job] = {}
    errors: list[SchedulerError] = []
    counts: Counter[str] = Counter()
    jobs = "the job goes on" if len(runs) == 1 else "the jobs go on"
    shell.on_interrupt = f"{jobs}; `sched wait` waits again, `sched cancel` ends {'it' if len(runs) == 1 else 'them'}"
    try:
        with output.working(f"waiting for {len(runs)} job(s)") as status:

            def told(job: Job) -> None:
                if len(runs) == 1:
                    status.update(describe(job))

            for one in client.watch(runs, timeout=timeout, on_change=told):
                try:
                    job = ended[one.run] = result(one)
                except SchedulerError as error:
                    errors.append(error)
                    output.say(f"error: {error}", "red")
                    continue
                counts[str(job.status)] += 1
                output.line(ended_line(job))
                if len(runs) > 1 and output.is_interactive:
                    summary = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
                    status.update(f"{len(ended)} of {len(runs)} ended: {summary}")
    except WaitTimeout:
        if not output.as_json:
            raise
        output.say(f"error: after {timeout:g} s {len(runs) - len(ended)} job(s) had not ended; {jobs}", "red")
        errors.append(WaitTimeout(""))
        present = client.get_many([run.job_id for run in runs])
        ended |= {run: present[run.job_id] for run in runs if run not in ended and run.job_id in present}
    documents = [plain(ended[run]) if run in ended else {"job_id": run.job_id, "status": None} for run in runs]
    output.document(documents[0] if single else documents)
    if errors:
        return worst(of_error(error) for error in errors)
    return ExitCode(of_statuses(job.status for job in ended.values()))
