"""An environment without AWS, for the task runner: it keeps objects and jobs, and counts calls. It runs nothing."""

from __future__ import annotations

import collections
import io
import pickle
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from fleet_client import eventually
from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.settings import PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW, temporary_settings

from sched_plugins.client import Cancellation, Ended, Job, Outcome, Run, Standing, Status, Submitted
from sched_plugins.core.job import parse_spec
from sched_plugins.core.record import JobRecord
from sched_plugins.errors import SchedulerError
from sched_plugins.prefect import SchedulerTaskRunner
from sched_plugins.prefect.task_runner import dispatcher, earlier, payload, runner
from sched_plugins.prefect.task_runner.futures import SchedulerFuture
from sched_plugins.prefect.task_runner.place import result_key


class NoSuchKey(Exception):
    """As S3 raises."""


class FakeEnvironment:
    """As :class:`~sched_plugins.client.EnvironmentClient`, as far as the task runner uses it."""

    def __init__(self) -> None:
        self.name = "fake"
        self.bucket = "fake-bucket"
        self.scheduler = "sched"
        self.objects: dict[str, bytes] = {}
        self.jobs: dict[str, Job] = {}
        self.calls: collections.Counter[str] = collections.Counter()
        self.answers: list[SchedulerError | None] = []
        """Errors of the next submissions; one that is None is carried out."""
        self.loses_answers = False
        """Whether a submission that fails is carried out all the same."""
        self.outages: list[SchedulerError] = []
        """Errors of the next readings of objects."""
        self.ends_cancelled = True
        """Whether a job that is cancelled ends at once."""
        self.gate = threading.Event()
        self.gate.set()
        self.s3 = SimpleNamespace(
            put_object=self._put, get_object=self._get, exceptions=SimpleNamespace(NoSuchKey=NoSuchKey)
        )
        self.connection = SimpleNamespace(
            region="eu-west-1",
            is_loopback=True,
            identity=(id(self),),
            place="a test",
            doing=self._doing,
            client=lambda service: {"s3": self.s3}[service],
        )
        self._followed: dict[str, list[Future[Ended]]] = {}

    @contextmanager
    def _doing(self, what: str, missing: Any = None) -> Iterator[None]:
        yield

    def _put(self, *, Bucket: str, Key: str, Body: bytes, Metadata: dict[str, str]) -> None:  # noqa: N803
        assert Metadata == {"sched-environment": self.name}, "or it would start a job"
        self.calls["put"] += 1
        self.objects[Key] = Body

    def _get(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        if self.outages:
            raise self.outages.pop(0)
        if Key not in self.objects:
            raise NoSuchKey
        return {"Body": io.BytesIO(self.objects[Key])}

    def submit_many(self, jobs: Iterable[Any], *, run_ids: Sequence[str]) -> list[Submitted]:
        """Accept jobs, as far as ``answers`` lets."""
        self.calls["submit"] += 1
        self.gate.wait()
        error = self.answers.pop(0) if self.answers else None
        submitted = []
        for fields, run_id in zip(jobs, run_ids, strict=True):
            if error is None or self.loses_answers:
                spec = parse_spec(fields)
                now = datetime.now(UTC)
                self.jobs[spec.job_id] = JobRecord(
                    spec=spec,
                    run_id=run_id,
                    status=Status.QUEUED,
                    queue="fake-job-queue",
                    submitted_at=now,
                    updated_at=now,
                )
            outcome = None if error else Outcome.ACCEPTED
            submitted.append(Submitted(fields["job_id"], run_id, outcome, error=error))
        return submitted

    def list(self, *, statuses: set[Status], group: str, limit: int) -> list[Job]:
        """The jobs of a group."""
        self.calls["list"] += 1
        found = [job for job in self.jobs.values() if job.status in statuses and job.spec.group_id == group]
        return found[:limit]

    def get_many(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Those that there are."""
        self.calls["get"] += 1
        return {job_id: self.jobs[job_id] for job_id in job_ids if job_id in self.jobs}

    def cancel_many(self, job_ids: Iterable[str]) -> list[Cancellation]:
        """End those that are there."""
        self.calls["cancel"] += 1
        for job_id in job_ids:
            if job_id in self.jobs and self.ends_cancelled:
                self.end(job_id, Status.CANCELLED)
        return [Cancellation(job_id, "cancelled") for job_id in job_ids]

    def follow(self, run: Run) -> Future[Ended]:
        """As the shared watch."""
        future: Future[Ended] = Future()
        self._followed.setdefault(run.job_id, []).append(future)
        self.tell(run.job_id)
        return future

    def change(self, job_id: str, status: Status, **fields: Any) -> None:
        """Bring a job into a state."""
        self.jobs[job_id] = replace(self.jobs[job_id], status=status, **fields)

    def end(self, job_id: str, status: Status, **fields: Any) -> None:
        """End a job."""
        self.change(job_id, status, **fields)
        self.tell(job_id)

    def tell(self, job_id: str) -> None:
        """Tell those who follow an ended job."""
        job = self.jobs.get(job_id)
        if job is None or job.is_terminal:
            standing = Standing.MISSING if job is None else Standing.ENDED
            for future in self._followed.pop(job_id, []):
                if not future.done():
                    future.set_result(Ended(Run(job_id), standing, job))


@task
def double(x: int, table: list[int] | None = None) -> int:
    return 2 * x


@pytest.fixture(name="fake")
def fake_environment(monkeypatch: pytest.MonkeyPatch, prefect_server: str) -> Iterator[FakeEnvironment]:
    """An environment that the runners of a test use."""
    found = FakeEnvironment()

    class Block:
        environment = "fake"

        def environment_client(self, name: str) -> FakeEnvironment:
            return found

    class Unwritten:
        name = "/sched/fake/workloads/prefect-tasks/x"

        def __init__(self, *_: Any) -> None:
            pass

        def write(self) -> None:
            found.calls["secret"] += 1

        def delete(self) -> None:
            found.calls["secret deleted"] += 1

        def sweep(self) -> None:
            pass

    monkeypatch.setattr(runner, "as_scheduler", lambda *_, **__: Block())
    monkeypatch.setattr(runner, "JobSecret", Unwritten)
    monkeypatch.setattr(dispatcher, "shared_watch", lambda _: found)
    monkeypatch.setattr(earlier, "shared_watch", lambda _: found)
    with temporary_settings({PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW: "ignore"}):
        yield found


@contextmanager
def running(**arguments: Any) -> Iterator[SchedulerTaskRunner]:
    """A started runner, which leaves no thread."""
    before = set(threading.enumerate())
    with SchedulerTaskRunner("sched", "fake", **arguments) as started:
        yield started
    left = {one for one in threading.enumerate() if one.name.startswith("sched-")} - before
    assert not left


def runs_of(fake: FakeEnvironment, job_id: str) -> dict[UUID, tuple[TaskRun, int]]:
    """The task runs that a job carries, and their numbers."""
    command = fake.jobs[job_id].spec.commands[0].split()
    first, last = map(int, command[command.index("--range") + 1].split("-"))
    calls = pickle.loads(fake.objects[command[command.index("--calls") + 1]][first : last + 1])
    return {(run := pickle.loads(one["task_run"])).id: (run, one["number"]) for one in calls}


def finish(fake: FakeEnvironment, futures: list[SchedulerFuture[Any]], states: list[State[Any]]) -> None:
    """Leave the outcomes of tasks as their jobs would, and end the jobs."""
    for future, state in zip(futures, states, strict=True):
        eventually(lambda future=future: future.job_id)
        command = fake.jobs[future.job_id].spec.commands[0].split()
        results = command[command.index("--results") + 1]
        run, number = runs_of(fake, future.job_id)[future.task_run_id]
        outcome = payload.dumps({"state": state, "reported": True, "chain": None, "run": run})
        fake.objects[result_key(results, number)] = outcome
    for job_id in {future.job_id for future in futures}:
        fake.end(job_id, Status.SUCCEEDED)
