"""Submission of flow runs' jobs when answers are lost, against a scheduler that a test makes up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from sched_plugins.client import Job, JobSpec, Run, Status, Submitted
from sched_plugins.core.submission import Outcome
from sched_plugins.errors import QueueNotFound, SchedulerError, Throttled, Unknown
from sched_plugins.prefect.worker import submission
from sched_plugins.prefect.worker.flow_run_job import Execution, FlowRunJob
from sched_plugins.prefect.worker.submission import Asked, NotWanted, Submissions
from sched_plugins.prefect.worker.variables import Place

NOW = datetime.now(UTC)


class Scheduler:
    """Takes jobs, and loses answers as it is told."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.calls: list[list[str]] = []
        self.lose: list[SchedulerError | None] = []
        self.lost_but_done = False
        self.cancelled: list[str] = []
        self.scheduler = "sim"
        self.connection = self
        self.identity = ("here",)

    def get_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        return {job_id: self.jobs[job_id] for job_id in job_ids if job_id in self.jobs}

    def submit_many(self, specs: Sequence[JobSpec], *, run_ids: Sequence[str], queue: str) -> list[Submitted]:
        self.calls.append([spec.job_id for spec in specs])
        error = self.lose.pop(0) if self.lose else None
        if isinstance(error, QueueNotFound):
            raise error
        if error is None or self.lost_but_done:
            for spec, run_id in zip(specs, run_ids, strict=True):
                self.jobs[spec.job_id] = Job(
                    spec=spec, run_id=run_id, run_ids=(run_id,), status=Status.QUEUED, queue="q", submitted_at=NOW,
                    updated_at=NOW,
                )  # fmt: skip
        return [
            Submitted(spec.job_id, run_id, None if error else Outcome.ACCEPTED, error=error)
            for spec, run_id in zip(specs, run_ids, strict=True)
        ]

    def request_cancel(self, job_ids: Sequence[str]) -> None:
        self.cancelled += job_ids


class Store:
    """Keeps secrets."""

    kept: dict[str, str]

    def __init__(self, *_: Any) -> None:
        self.kept = SECRETS

    def put_many(self, secrets: Mapping[str, str]) -> dict[str, SchedulerError | None]:
        self.kept |= secrets
        return dict.fromkeys(secrets)

    def delete_many(self, names: Sequence[str]) -> None:
        for name in names:
            self.kept.pop(name, None)

    def close(self) -> None: ...


SECRETS: dict[str, str] = {}


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    SECRETS.clear()
    monkeypatch.setattr(submission, "SecretStore", Store)
    monkeypatch.setattr(submission, "_PAUSE", 0.01)
    return Scheduler()


def asked(scheduler: Scheduler, number: int = 0, **fields: Any) -> Asked:
    place = Place(scheduler, scheduler, "solver", "", "")  # type: ignore[arg-type]
    return Asked(
        FlowRunJob(Execution(f"id-{number}", 0, "now"), "solver", "eu-west-1", "python3", "true", {}), place, **fields
    )


def submit(*all_: Asked, patience: float = 60.0) -> list[Run | BaseException]:
    async def run() -> list[Run | BaseException]:
        submissions = Submissions(patience)
        found = await asyncio.gather(*(submissions.submit(one) for one in all_), return_exceptions=True)
        await submissions.close()
        return found

    return asyncio.run(run())


def test_submissions_that_come_together_are_one_call(scheduler: Scheduler) -> None:
    # One place for all: a process makes one of them for all flow runs that choose the same.
    place = asked(scheduler).place
    found = submit(*(Asked(asked(scheduler, number).job, place) for number in range(50)))
    assert [len(call) for call in scheduler.calls] == [50]
    assert {one.job_id for one in found if isinstance(one, Run)} == set(scheduler.jobs)
    assert len(SECRETS) == 50


def test_a_submission_whose_answer_was_lost_is_found_and_not_made_again(scheduler: Scheduler) -> None:
    scheduler.lose, scheduler.lost_but_done = [Unknown("lost")], True
    [run] = submit(asked(scheduler))
    assert isinstance(run, Run)
    assert run.run_id == scheduler.jobs["prefect-id-0"].run_id
    assert len(scheduler.calls) == 1
    assert len(SECRETS) == 1


def test_one_that_was_not_carried_out_is_made_again_under_the_same_id(scheduler: Scheduler) -> None:
    scheduler.lose = [Throttled("later"), Unknown("lost")]
    [run] = submit(asked(scheduler))
    assert isinstance(run, Run)
    assert run.run_id.endswith("-1")
    assert len(scheduler.calls) == 3


def test_one_that_stays_without_an_answer_is_cancelled_and_told(scheduler: Scheduler) -> None:
    scheduler.lose = [Unknown("lost")] * 1000
    [error] = submit(asked(scheduler), patience=0.05)
    assert isinstance(error, Unknown)
    assert scheduler.cancelled == ["prefect-id-0"]
    # The job may come all the same, and read it.
    assert len(SECRETS) == 1


def test_one_that_is_cancelled_meanwhile_is_not_submitted_again(scheduler: Scheduler) -> None:
    scheduler.lose = [Unknown("lost")] * 1000
    [error] = submit(asked(scheduler, is_wanted=lambda: len(scheduler.calls) < 3))
    assert isinstance(error, NotWanted)
    assert len(scheduler.calls) == 3
    assert scheduler.cancelled == ["prefect-id-0"]


def test_one_that_is_refused_leaves_no_secret(scheduler: Scheduler) -> None:
    scheduler.lose = [QueueNotFound("there is no queue 'x'")]
    [error] = submit(asked(scheduler))
    assert isinstance(error, QueueNotFound)
    assert SECRETS == {}
