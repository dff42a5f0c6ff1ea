"""A scheduler and a Parameter Store in memory, which answer as badly as a test wants; they count calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from sched_plugins.airflow.executors.courier import Courier
from sched_plugins.airflow.executors.settings import ExecutorSettings
from sched_plugins.client import Ended, Job, JobSpec, Outcome, Run, Standing, Status, Submitted
from sched_plugins.client.submission import Cancellation
from sched_plugins.core import names
from sched_plugins.errors import EnvironmentNotFound, JobNotFound, SchedulerError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class FakeScheduler:
    """Jobs by id; plays the client, its watch and the store."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.fields: dict[str, Mapping[str, Any]] = {}
        self.workloads: dict[str, str] = {}
        self.written: dict[str, datetime] = {}
        self.cancelled: list[str] = []
        self.calls: Counter[str] = Counter()
        self.broken: dict[str, SchedulerError] = {}
        """What a call raises, by its name."""
        self.refused: dict[str, SchedulerError] = {}
        """What a job, or the storing of a parameter, is answered with, by id or name."""
        self.missing_environments: set[str] = set()
        """A job for one of these has all jobs of its call refused."""
        self.bad: dict[str, SchedulerError] = {}
        """What all jobs of a call are refused with, by the id of the job that is to blame."""
        self.lost_replies = 0
        self.now = 1000.0
        self.connection = SimpleNamespace(region="eu-west-1")
        self._watched: set[Run] = set()

    def courier(self, settings: ExecutorSettings) -> Courier:
        return Courier(self, self, self, settings, lambda: self.now)

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        if name in self.broken:
            raise self.broken[name]

    # The client

    def submit_many(
        self, jobs: Iterable[Mapping[str, Any]], *, run_ids: list[str], environment: str = "grid"
    ) -> list[Submitted]:
        self._call("submit")
        jobs = list(jobs)
        if environment in self.missing_environments:
            raise EnvironmentNotFound(f"there is no environment {environment}")
        if blamed := next((fields["job_id"] for fields in jobs if fields["job_id"] in self.bad), None):
            raise self.bad[blamed]
        answers = []
        for fields, run_id in zip(jobs, run_ids, strict=True):
            job_id = fields["job_id"]
            error = self.refused.get(job_id)
            if error is None or self.lost_replies:
                outcome = Outcome.DUPLICATE if job_id in self.jobs else Outcome.ACCEPTED
                self.fields.setdefault(job_id, fields)
                self.jobs.setdefault(job_id, record(job_id, run_id, environment))
            answers.append(Submitted(job_id, run_id, None if error else outcome, error=error))
        return answers

    def cancel_many(self, job_ids: Iterable[str]) -> list[Cancellation]:
        self._call("cancel")
        asked = list(job_ids)
        self.cancelled += asked
        missing = [JobNotFound("none") if one not in self.jobs else None for one in asked]
        return [
            Cancellation(one, "" if error else "cancelled", error=error)
            for one, error in zip(asked, missing, strict=True)
        ]

    def get_many(self, job_ids: Iterable[str]) -> dict[str, Job]:
        self._call("get")
        return {one: self.jobs[one] for one in job_ids if one in self.jobs}

    # Its watch

    def add(self, runs: Iterable[Run]) -> None:
        self._watched |= set(runs)

    def discard(self, run: Run) -> None:
        self._watched.discard(run)

    def look(self) -> list[Ended]:
        self._call("look")
        over = []
        for run in sorted(self._watched, key=lambda one: one.job_id):
            job = self.jobs.get(run.job_id)
            if job is None:
                over.append(Ended(run, Standing.MISSING, None))
            elif job.is_terminal:
                over.append(Ended(run, Standing.ENDED, job))
        self._watched -= {one.run for one in over}
        return over

    # The store

    def put_many(self, workloads: Mapping[str, str]) -> dict[str, SchedulerError | None]:
        for name, text in workloads.items():
            self._call("put")
            if name not in self.refused:
                self.workloads[name] = text
                self.written[name] = datetime.now(UTC)
        return {name: self.refused.get(name) for name in workloads}

    def delete_many(self, names: Iterable[str]) -> None:
        self._call("delete")
        for name in names:
            self.workloads.pop(name, None)

    def written_before(self, prefix: str, moment: datetime) -> list[str]:
        self._call("list")
        return [name for name in self.workloads if name.startswith(prefix) and self.written[name] < moment]

    def close(self) -> None:
        self._call("close")

    # What happens to jobs

    def end(self, job_id: str, status: Status = Status.SUCCEEDED, **changes: Any) -> None:
        self.jobs[job_id] = self.jobs[job_id].changed(status=status, **changes)


def record(job_id: str, run_id: str, environment: str = "grid") -> Job:
    """The record of a new job."""
    spec = JobSpec(job_id=job_id, retry=0, ssm_document="AWS-RunShellScript", commands=("true",))
    times = dict.fromkeys(("submitted_at", "updated_at", "queued_at"), NOW)
    queue = names.job_queue(environment)
    return Job(spec=spec, run_id=run_id, run_ids=(run_id,), status=Status.QUEUED, queue=queue, **times)
