"""What the end of a job means for the task that ran in it."""

from __future__ import annotations

from dataclasses import dataclass

from sched_plugins.client import Ended, Standing, Status


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether the task's supervisor ended properly, and if it did not, what is known about it.

    ``succeeded`` does not mean that the task did: the supervisor has told Airflow itself how the task ended.
    """

    succeeded: bool
    reason: str = ""


def outcome_of(ended: Ended) -> Outcome:
    """The outcome of a job's run. What is not known to have succeeded has failed: Airflow then decides on a retry."""
    job_id, job = ended.run.job_id, ended.job
    if ended.standing is Standing.MISSING or job is None:
        return Outcome(False, f"Job {job_id!r} is lost: the scheduler has no record of it.")
    if ended.standing is not Standing.ENDED:
        return Outcome(
            False,
            f"Job {job_id!r}: run {job.run_id!r} has taken the place of run {ended.run.run_id!r}, so how that ended "
            "is not known any more.",
        )
    if job.status is Status.SUCCEEDED:
        return Outcome(True)
    code = "" if job.exit_code is None else f" (exit code {job.exit_code})"
    told = [
        f"Job {job_id!r} ended {job.status}{code} before its task was over: {job.status_reason or 'no reason given'}"
    ]
    if job.worker_id:
        told.append(f"It ran on worker {job.worker_id}.")
    if job.stderr_uri or job.stdout_uri:
        told.append(f"Its output is in {job.stderr_uri or job.stdout_uri}")
    return Outcome(False, " ".join(told))
