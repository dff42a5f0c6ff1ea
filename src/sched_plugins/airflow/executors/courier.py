"""Carries tasks to the scheduler and brings back what became of them, beside Airflow's scheduling loop.

Airflow's scheduler stops scheduling, and is soon taken for dead, while an executor waits for a network. So the executor
only hands tasks over and takes news; one thread of its own makes the calls, in rounds:

1. cancel what was revoked: one call for 100 jobs;
2. store the workloads of new tasks: one call each, a few at once; then submit their jobs to their environments: one
   call for 100 of an environment;
3. look which jobs have ended: 4 queries however many there are, or one read while they are at most ten;
4. of tasks that have waited for half of Airflow's patience, or for half of the life of their token: read which still
   wait (one call for 100), tell Airflow of them, and renew those tokens;
5. delete what ended jobs may have left in Parameter Store: one call for ten.

A call that fails is made again in a later round; each may be repeated without effect. Nothing here knows Airflow.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from sched_plugins.airflow.executors.outcome import Outcome, outcome_of
from sched_plugins.airflow.executors.settings import ExecutorSettings
from sched_plugins.airflow.executors.task_options import job_of, left_over
from sched_plugins.client import Ended, Job, Run, Status, Submitted
from sched_plugins.client.secret_store import secret_prefix
from sched_plugins.errors import Busy, NotFound, NotPermitted, SchedulerError, Throttled, Unknown

log = logging.getLogger(__name__)

SUBMIT_AT_ONCE: Final = 200
"""Tasks in one round that are submitted, and tokens that are renewed, so that looks are not kept waiting for long."""
_TRANSIENT: Final = (Busy, Throttled, Unknown)
_REFUSED_TRIES: Final = 7
"""Tries, within a minute, after which it is believed that the executor may not submit: credentials may be changing."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_SWEEP_SECONDS: Final = 3600.0


class Jobs(Protocol):
    """What is asked of the scheduler's client."""

    def submit_many(self, jobs: Iterable[Any], *, run_ids: list[str], environment: str) -> list[Submitted]:
        """Submit jobs to an environment."""

    def cancel_many(self, job_ids: Iterable[str]) -> list[Any]:
        """Cancel jobs."""

    def get_many(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Read jobs."""


class Looks(Protocol):
    """What is asked of the client's watch."""

    def add(self, runs: Iterable[Run]) -> None:
        """Follow."""

    def discard(self, run: Run) -> None:
        """Follow no longer."""

    def look(self) -> list[Ended]:
        """The runs that turn out to be over."""


class Store(Protocol):
    """What is asked of Parameter Store."""

    def put_many(self, workloads: Mapping[str, str]) -> dict[str, SchedulerError | None]:
        """Write workloads."""

    def delete_many(self, names: Iterable[str]) -> None:
        """Delete workloads."""

    def written_before(self, prefix: str, moment: datetime) -> Iterable[str]:
        """Workloads that were last written before that moment."""

    def close(self) -> None:
        """Write no more."""


@dataclass(slots=True)
class Task:
    """A task on its way."""

    job_id: str
    parameter: str
    """Name of the parameter that holds its workload."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Its job; empty for one that was adopted."""
    workload: Callable[[], str] | None = None
    """Makes its workload, with a fresh token; None when it is known to run."""
    stored_at: float = 0.0
    kept_at: float = 0.0
    """When it was last known to wait."""
    tries: int = 0
    not_before: float = 0.0

    @property
    def run(self) -> Run:
        """Its run; a job of a task has only one, and its key is the job's id."""
        return Run(self.job_id, self.job_id)


@dataclass(frozen=True, slots=True)
class News:
    """What became of a task's job: its outcome, or None while it waits for a worker."""

    job_id: str
    outcome: Outcome | None


class Courier:
    """See the module. :meth:`hand_over`, :meth:`adopt`, :meth:`revoke`, :meth:`ask` and :meth:`news` never wait.

    Args:
        jobs: the scheduler's client.
        watch: follows jobs.
        store: holds workloads.
        settings: of the executor.
        now: seconds since some moment.
    """

    def __init__(
        self, jobs: Jobs, watch: Looks, store: Store, settings: ExecutorSettings, now: Callable[[], float]
    ) -> None:
        self._jobs = jobs
        self._watch = watch
        self._store = store
        self._settings = settings
        self._now = now
        self._inbox: deque[Task] = deque()
        self._revoked: deque[str] = deque()
        self._news: deque[News] = deque()
        self._waiting: dict[str, Task] = {}
        self._live: dict[str, Task] = {}
        self._left: dict[str, None] = {}
        self._cancel: dict[str, None] = {}
        self._environments = {settings.environment}
        self._looked_at = float("-inf")
        self._swept_at = now() - _SWEEP_SECONDS
        self._asked = threading.Event()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to make calls."""
        self._thread = threading.Thread(target=self._work, name="sched-executor", daemon=True)
        self._thread.start()

    def hand_over(self, tasks: Iterable[Task]) -> None:
        """Submit these."""
        self._inbox.extend(tasks)

    def adopt(self, tasks: Iterable[Task]) -> None:
        """Follow these, whose jobs are there already."""
        self._inbox.extend(tasks)

    def revoke(self, job_id: str) -> None:
        """Cancel this; there will be no news of it."""
        self._revoked.append(job_id)

    def ask(self) -> None:
        """Let a round begin, unless one is under way."""
        self._asked.set()

    def news(self) -> list[News]:
        """What has become known since it was last asked."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def stop(self, patience: float) -> None:
        """Hand over what was given, cancel nothing, and end. Jobs go on.

        Args:
            patience: seconds to wait for calls that are under way.
        """
        self._ending.set()
        self._asked.set()
        if self._thread is not None:
            self._thread.join(patience)
        self._store.close()

    def _work(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            # Read first: a round that began before the end was asked for may have missed what was handed over last.
            ending = self._ending.is_set()
            try:
                self.round()
            except Exception:
                # A thread that ended would leave every task waiting for ever.
                log.exception("A round of the scheduler executor failed; the next one tries again")
            if ending:
                return

    def round(self) -> None:
        """One round of calls."""
        self._take_in()
        for step in (self._cancel_revoked, self._submit, self._look, self._keep_waiting, self._sweep, self._delete):
            try:
                step()
            except SchedulerError as error:
                log.warning("The scheduler executor tries again: %s", error)
            except Exception:
                log.exception("A step of the scheduler executor failed; the next round tries again")

    def _take_in(self) -> None:
        now = self._now()
        for _ in range(len(self._inbox)):
            task = self._inbox.popleft()
            task.kept_at = task.kept_at or now
            self._environments.add(_environment_of(task.parameter))
            if task.fields:
                self._waiting[task.job_id] = task
            else:
                self._follow(task)

    def _follow(self, task: Task) -> None:
        task.tries = 0
        self._live[task.job_id] = task
        self._watch.add([task.run])

    def _cancel_revoked(self) -> None:
        for _ in range(len(self._revoked)):
            job_id = self._revoked.popleft()
            task = self._waiting.pop(job_id, None) or self._live.pop(job_id, None)
            if task is not None:
                self._left[task.parameter] = None
                self._watch.discard(task.run)
            # It may have been submitted with the answer lost, or before this process began.
            self._cancel[job_id] = None
        if self._cancel:
            for cancelled in self._jobs.cancel_many(list(self._cancel)):
                if not isinstance(cancelled.error, _TRANSIENT):
                    self._cancel.pop(cancelled.job_id, None)

    def _submit(self) -> None:
        now = self._now()
        due = [task for task in self._waiting.values() if task.not_before <= now][:SUBMIT_AT_ONCE]
        if not due:
            return
        stored = self._store_workloads(due)
        if not stored:
            return
        for task, error in self._submitted(stored):
            if error is not None:
                self._not_submitted(task, error)
            else:
                del self._waiting[task.job_id]
                self._follow(task)

    def _submitted(self, tasks: list[Task]) -> list[tuple[Task, SchedulerError | None]]:
        """Each of the tasks, and why it could not be submitted. A wrong environment holds up no other one's tasks."""
        groups: dict[str, list[Task]] = {}
        for task in tasks:
            groups.setdefault(_environment_of(task.parameter), []).append(task)
        return [one for name, group in groups.items() for one in self._submitted_to(name, group)]

    def _submitted_to(self, environment: str, tasks: list[Task]) -> list[tuple[Task, SchedulerError | None]]:
        told: list[tuple[Task, SchedulerError | None]] = []
        groups = deque([tasks])
        while groups:
            some = groups.popleft()
            errors: list[SchedulerError | None]
            try:
                answers = self._jobs.submit_many(
                    [task.fields for task in some], run_ids=[task.job_id for task in some], environment=environment
                )
                errors = [answer.error for answer in answers]
            except SchedulerError as error:
                if len(some) > 1 and not isinstance(error, (*_TRANSIENT, NotFound, NotPermitted)):
                    # Nothing was sent, because of one of them: halves, so that few calls find it out among many.
                    half = len(some) // 2
                    groups.extendleft((some[half:], some[:half]))
                    continue
                errors = [error] * len(some)
            told += zip(some, errors, strict=True)
            if groups and all(isinstance(error, _TRANSIENT) for error in errors):
                # The next call would fare no better, and meanwhile nothing else of the round is done.
                told += [(task, errors[-1]) for group in groups for task in group]
                break
        return told

    def _store_workloads(self, tasks: list[Task]) -> list[Task]:
        """Those of the tasks whose workloads could be stored."""
        now = self._now()
        texts = {task.parameter: task.workload() for task in tasks if task.workload is not None}
        failures = self._store.put_many(texts)
        stored = []
        for task in tasks:
            error = failures[task.parameter]
            if error is None:
                task.stored_at = now
                stored.append(task)
            elif task.job_id in self._waiting:
                self._not_submitted(task, error)
            else:
                self._put_off(task)
                log.warning("The token of job %s is not renewed yet: %s", task.job_id, error)
        return stored

    def _not_submitted(self, task: Task, error: SchedulerError) -> None:
        refused_lately = isinstance(error, NotPermitted) and task.tries + 1 < _REFUSED_TRIES
        if isinstance(error, _TRANSIENT) or refused_lately:
            # Throttles without end: Airflow itself revokes a task that waits for too long.
            self._put_off(task)
            log.warning("Job %s is not submitted yet: %s", task.job_id, error)
            return
        del self._waiting[task.job_id]
        self._left[task.parameter] = None
        if task.tries:
            self._cancel[task.job_id] = None  # An earlier request may have been carried out without an answer.
        self._news.append(News(task.job_id, Outcome(False, f"Job {task.job_id!r} could not be submitted: {error}")))

    def _put_off(self, task: Task) -> None:
        task.tries += 1
        task.not_before = self._now() + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(task.tries - 1, 10))

    def _look(self) -> None:
        now = self._now()
        if not self._live or now < self._looked_at + self._settings.poll_interval:
            return
        self._looked_at = now
        for ended in self._watch.look():
            task = self._live.pop(ended.run.job_id, None)
            if task is not None:
                self._left[task.parameter] = None
                self._news.append(News(task.job_id, outcome_of(ended)))

    def _keep_waiting(self) -> None:
        """Tell of the tasks that still wait, and renew their tokens, before Airflow takes them for stuck."""
        now = self._now()
        due = [task for task in self._live.values() if task.workload is not None and self._is_due(task, now)]
        if not due:
            return
        records = self._jobs.get_many([task.job_id for task in due])
        renewed = []
        for task in due:
            job = records.get(task.job_id)
            if job is None or not _waits(job):
                task.workload = None
                continue
            if self._is_silent(task, now):
                task.kept_at = now
                self._news.append(News(task.job_id, None))
            if self._is_old(task, now):
                renewed.append(task)
        self._store_workloads(renewed[:SUBMIT_AT_ONCE])  # The rest is due in the next round.

    def _is_due(self, task: Task, now: float) -> bool:
        return self._is_silent(task, now) or (self._is_old(task, now) and now >= task.not_before)

    def _is_silent(self, task: Task, now: float) -> bool:
        return now >= task.kept_at + self._settings.queued_timeout / 2

    def _is_old(self, task: Task, now: float) -> bool:
        return now >= task.stored_at + self._settings.token_lifetime / 2

    def _sweep(self) -> None:
        """Once an hour, find workloads that somebody left who was killed."""
        now = self._now()
        if now < self._swept_at + _SWEEP_SECONDS or self._ending.is_set():
            return
        self._swept_at = now
        before = datetime.now(UTC) - timedelta(seconds=self._settings.leftover_age)
        for environment in self._environments:
            names = list(self._store.written_before(secret_prefix(environment), before))
            records = self._jobs.get_many([job_of(name) for name in names]) if names else {}
            live = {job_id for job_id, job in records.items() if not job.is_terminal} | self._waiting.keys()
            self._left |= dict.fromkeys(left_over(names, live))

    def _delete(self) -> None:
        names = list(self._left)
        if names:
            self._store.delete_many(names)
            self._left.clear()


def _waits(job: Job) -> bool:
    # A second attempt finds no workload: the first one took it, and its task may be running still.
    return job.status in (Status.QUEUED, Status.STARTING) and job.attempt <= 1


def _environment_of(parameter: str) -> str:
    return parameter.split("/")[2]
