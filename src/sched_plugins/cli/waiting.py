"""Waiting for jobs, with what happens shown meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sched_plugins.cli.advice import QueueAdvice
from sched_plugins.cli.command import Shell
from sched_plugins.cli.exit_codes import of_error, of_statuses, worst
from sched_plugins.cli.output import duration, told
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
    said = "exit code" in job.status_reason
    code = "" if job.exit_code is None or said else f", exit code {job.exit_code}"
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
    from sched_plugins.client.waiting import result

    output = shell.output
    ended: dict[Run, Job] = {}
    errors: dict[Run, SchedulerError] = {}
    counts: Counter[str] = Counter()
    earlier = {run.job_id: run.after for run in runs if run.after}
    advice = QueueAdvice(shell, client)
    jobs = "the job goes on" if len(runs) == 1 else "the jobs go on"
    shell.on_interrupt = f"{jobs}; `sched wait` waits again, `sched cancel` ends {'it' if len(runs) == 1 else 'them'}"
    try:
        with output.working(f"waiting for {len(runs)} job(s)") as status:

            def changed(job: Job) -> None:
                if earlier.get(job.job_id) == job.run_id:
                    return  # The run before the one that is waited for.
                if len(runs) == 1:
                    status.update(describe(job))
                advice.of_job(job)

            for one in client.watch(runs, timeout=timeout, on_change=changed):
                try:
                    job = ended[one.run] = result(one)
                except SchedulerError as error:
                    errors[one.run] = error
                    output.complain(str(error))
                    continue
                counts[str(job.status)] += 1
                output.line(ended_line(job))
                if len(runs) > 1 and output.is_interactive:
                    summary = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
                    status.update(f"{len(ended)} of {len(runs)} ended: {summary}")
    except WaitTimeout as error:
        late = [run for run in runs if run not in ended and run not in errors]
        errors |= dict.fromkeys(late, error)
        output.complain(str(error))
    documents = [_document(run, ended.get(run), errors.get(run)) for run in runs]
    output.document(documents[0] if single else documents)
    if errors:
        return worst(of_error(error) for error in errors.values())
    return of_statuses(job.status for job in ended.values())


def _document(run: Run, job: Job | None, error: SchedulerError | None) -> dict[str, Any]:
    from sched_plugins.client import plain

    if job is not None:
        return plain(job)
    return {"job_id": run.job_id, **(told(error) if error else {})}
