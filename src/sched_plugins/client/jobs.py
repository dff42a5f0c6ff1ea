"""What one can do with jobs, whichever stack's functions are asked: submit, read, wait, fetch, cancel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sched_plugins.client import results, waiting
from sched_plugins.client.connection import Connection
from sched_plugins.client.failures import missing_environment
from sched_plugins.client.fleet import Fleet
from sched_plugins.client.logs import LogChunk, Logs, Stream
from sched_plugins.client.queues import Queues
from sched_plugins.client.records import Records
from sched_plugins.client.retry import Clock
from sched_plugins.client.run import Run
from sched_plugins.client.submission import (
    Cancellation,
    JobLike,
    Owner,
    Requests,
    Submitted,
    job_entries,
    refuse_conflicts,
)
from sched_plugins.client.transfer import ProgressCallback
from sched_plugins.client.watch import LEVEL_SECONDS, Ended, Watch
from sched_plugins.core import names
from sched_plugins.core.record import JobRecord, to_item
from sched_plugins.core.state import Status
from sched_plugins.errors import InvalidInput, JobNotFound, NotFound, SchedulerError

Job = JobRecord
"""What the client tells of a job: its record, a frozen dataclass."""
Waitable = Run | Submitted | Job | str
"""What can be waited for; a plain job id stands for whichever run its record shows."""

A = TypeVar("A", Submitted, Cancellation)


class JobClient:
    """Submit, read, wait for, fetch and cancel jobs. Use :class:`SchedulerClient` or :class:`EnvironmentClient`."""

    def __init__(
        self, connection: Connection, owner: str, scheduler: str, missing: SchedulerError, default_queue: str = ""
    ) -> None:
        self.connection = connection
        self.scheduler = scheduler
        """Name of the scheduler whose jobs these are."""
        self.clock = clock = Clock()
        self.missing = missing
        """What is raised where this scheduler or environment does not exist."""
        self._default_queue = default_queue
        self._own_queue = names.job_queue(owner)
        self._requests = Requests(connection, Owner(owner, missing), clock)
        self._records = Records(connection, scheduler, clock)
        self._logs = Logs(connection, self._records, clock)
        self._fleet = Fleet(connection, self._records)
        self._queues = Queues(connection, scheduler, {self._own_queue, names.job_queue(scheduler)})

    # Submit and cancel

    def submit(self, job: JobLike, *, run_id: str | None = None, queue: str = "") -> Submitted:
        """Submit one job. One Lambda call; repeated, with the same run id, until it is answered.

        Args:
            job: a spec, or its fields; of a mapping a missing ``job_id`` is made up, ``retry`` is 0 and
                ``ssm_document`` the shell's.
            run_id: the idempotency key; a fresh one by default. Submitting again with the same key changes nothing.
            queue: the job queue; the stack's own by default.

        Raises:
            InvalidJob: a field breaks the contract; nothing was sent.
            JobConflict: the job is live with another spec, or belongs to another queue.
            Busy: for a minute the end of an earlier run was still being published.
            SchedulerNotFound: there is no such scheduler here.
            QueueNotFound: there is no such queue; nothing was sent.
        """
        return checked(self.submit_many([job], run_ids=[run_id] if run_id else None, queue=queue)[0])

    def submit_many(
        self,
        jobs: Iterable[JobLike],
        *,
        run_ids: Sequence[str] | None = None,
        queue: str = "",
        known: Mapping[str, Job] | None = None,
        environment: str = "",
    ) -> list[Submitted]:
        """Submit jobs: one Lambda call for 100 of them (or 5 MB), four at once.

        A job that is refused has its ``error`` set; the others are not kept from being accepted.

        Args:
            jobs: specs, or their fields, as for :meth:`submit`.
            run_ids: an idempotency key for each; fresh ones by default.
            queue: the job queue; the stack's own by default.
            known: records that were just read, by job id: a conflict that they show refuses all of the jobs.
            environment: submit with the function of this environment of the scheduler, and to its queue. Its workers
                are asked for at once then, otherwise within a minute.

        Raises:
            InvalidJob: a field of one of them breaks the contract; nothing was sent.
            JobConflict: with ``known``; nothing was sent.
            QueueNotFound: there is no such queue, or no such environment; nothing was sent.
        """
        listed = list(jobs)
        if run_ids is not None and len(run_ids) != len(listed):
            raise InvalidInput(f"{len(listed)} jobs need as many run ids, not {len(run_ids)}")
        keys: Sequence[str | None] = run_ids if run_ids is not None else [None] * len(listed)
        entries = job_entries(listed, keys, queue=queue or (names.job_queue(environment) if environment else ""))
        for named in dict.fromkeys(str(entry["queue"]) for entry in entries if "queue" in entry):
            self._queues.require(named)
        refuse_conflicts(entries, known or {}, self._own_queue)
        place = self.connection.place
        through = Owner(environment, missing_environment(environment, place)) if environment else None
        return self._requests.submit(entries, through)

    def stop_submitting(self) -> None:
        """End the submissions of this client that are under way, and refuse further ones.

        Requests that AWS has are answered; jobs that were not sent have the error ``SubmissionStopped``. May be called
        in a signal's handler.
        """
        self._requests.stop()

    def cancel(self, job_id: str) -> Cancellation:
        """Cancel a job: one that is queued ends at once, a running one when its command has ended.

        Raises:
            JobNotFound: there is no such job.
        """
        return checked(self.cancel_many([job_id])[0])

    def cancel_many(self, job_ids: Iterable[str]) -> list[Cancellation]:
        """Cancel jobs: one Lambda call for 100 of them. One that is refused has its ``error`` set."""
        return self._requests.cancel(list(job_ids))

    def request_cancel(self, job_ids: Iterable[str]) -> None:
        """Ask for jobs to be cancelled, and wait for no answer: for whoever has only a moment.

        One asynchronous Lambda call for 100 jobs, four at once. AWS may carry it out late, or not at all.
        """
        self._requests.request_cancel(list(job_ids))

    # Read

    def get(self, job_id: str) -> Job:
        """A job. One GetItem, strongly consistent.

        Raises:
            JobNotFound: there is no such job.
        """
        found = self._records.get(job_id)
        if found is None:
            raise JobNotFound(f"no job has the id {job_id!r}; `sched list` shows the ids that there are")
        return found

    def get_many(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """Those jobs that exist, by id. One BatchGetItem for 100 ids, strongly consistent."""
        return self._records.get_many(job_ids)

    def list(
        self,
        *,
        statuses: Collection[Status] | None = None,
        group: str = "",
        queue: str = "",
        since: datetime | None = None,
        limit: int = 50,
    ) -> list[Job]:  # fmt: skip
        """The newest jobs first, by when they were queued, started or ended.

        One Query a page for each of the 4 shards of each kind of state, and one BatchGetItem for 100 candidates.

        Args:
            statuses: only these; all by default.
            group: only of this ``group_id``.
            queue: only of this queue.
            since: only those that came into their present state at that moment or later.
            limit: at most so many.

        Raises:
            QueueNotFound: nothing was found of this queue, and there is no such queue.
        """
        if limit < 1:
            raise InvalidInput(f"limit must be at least 1, not {limit}")
        wanted = frozenset(Status) if statuses is None else frozenset(statuses)
        name = names.queue_name(queue) or self._default_queue
        found = self._records.recent(statuses=wanted, group=group, queue=name, since=since, limit=limit)
        if not found:
            self._queues.require(queue)
        return found

    def unserved(self, queue: str) -> str:
        """Why nothing takes jobs from a queue, and what to do; empty if something does, or will.

        One Scan of the slot table; where no worker is known one DescribeInstances, and one DescribeStacks for an
        environment's queue. Empty also for whoever may not ask.
        """
        return self._fleet.unserved(names.queue_name(queue))

    # Wait

    def wait(
        self,
        what: Waitable,
        *,
        timeout: float | None = None,
        on_change: Callable[[Job], None] | None = None,
        check: bool = False,
        patient: bool = False,
    ) -> Job:
        """Wait until a job has ended; its record. As :meth:`wait_all` for one."""
        return self.wait_all([what], timeout=timeout, on_change=on_change, check=check, patient=patient)[0]

    def wait_all(
        self,
        what: Iterable[Waitable],
        *,
        timeout: float | None = None,
        on_change: Callable[[Job], None] | None = None,
        check: bool = False,
        patient: bool = False,
    ) -> Sequence[Job]:
        """Wait until each of several jobs has ended; their records, in the order asked for.

        Calls: see :class:`~sched_plugins.client.watch.Watch`; a look every 0.2 s at first, every 10 s in the end.

        Args:
            what: what to wait for.
            timeout: seconds; without end by default.
            on_change: told of each record that is read and has changed. Of up to ten jobs that is every change which
                a look can see; of more jobs it is their ends, and what the level checks find.
            check: raise JobFailed for the first that did not succeed.
            patient: bear with throttles and an outage of a minute from the first look on, as after a submission;
                otherwise the first look must succeed.

        Raises:
            WaitTimeout: they had not all ended in time; they go on.
            JobNotFound: there is no such job, or run.
            Conflict: a later run has taken its place, so how it ended is no longer known.
            JobFailed: with ``check``.
        """
        runs = [as_run(one) for one in what]
        found: dict[Run, Job] = {}
        for ended in self.watch(runs, timeout=timeout, on_change=on_change, patient=patient):
            job = waiting.result(ended)
            found[ended.run] = waiting.check_succeeded(job) if check else job
        return [found[run] for run in runs]

    def watch(
        self,
        what: Iterable[Waitable],
        *,
        timeout: float | None = None,
        on_change: Callable[[Job], None] | None = None,
        patient: bool = False,
    ) -> Iterator[Ended]:
        """What becomes of each run, as it becomes known: ended, superseded by a later run, or missing.

        The arguments are those of :meth:`wait_all`.

        Raises:
            WaitTimeout: as for :meth:`wait`.
        """
        watch = Watch(self._records, self.clock, on_change)
        watch.add(as_run(one) for one in what)
        return waiting.watching(watch, timeout, self.clock, patient=patient)

    def new_watch(
        self,
        on_change: Callable[[Job], None] | None = None,
        *,
        level_seconds: float = LEVEL_SECONDS,
        level_jobs: int | None = None,
    ) -> Watch:
        """A watch that looks when it is told to, for whoever has a loop of their own. It makes no call yet.

        Args:
            on_change: told of each record that is read and has changed.
            level_seconds: how often followed jobs are read themselves, whatever the index said.
            level_jobs: how many each time; all by default.
        """
        return Watch(self._records, self.clock, on_change, level_seconds=level_seconds, level_jobs=level_jobs)

    # Output and results

    def logs(
        self,
        job_id: str,
        *,
        stream: Stream = "stdout",
        attempt: int | None = None,
        follow: bool = False,
        run_id: str = "",
        timeout: float | None = None,
        on_change: Callable[[Job], None] | None = None,
    ) -> Iterator[LogChunk]:
        """What a job wrote, in pieces. Calls: see :class:`~sched_plugins.client.logs.Logs`.

        Args:
            job_id: the job.
            stream: ``stdout`` or ``stderr``.
            attempt: which try; the newest that ran by default.
            follow: go on until the run has ended, through its retries.
            run_id: of the run to follow, from its first attempt on; by default the present one from where it is.
            timeout: with ``follow``, seconds after which to give up; without end by default.
            on_change: with ``follow``, told of the record first and whenever its state has changed.

        Raises:
            JobNotFound: there is no such job.
            NotFound: the job has no such attempt.
            WaitTimeout: with ``follow``: the job had not ended in time; it goes on.
        """
        if follow and attempt is not None:
            raise InvalidInput("follow shows the present attempt and those after it; leave attempt out")
        if not follow:
            return self._logs.read(job_id, stream, attempt)
        return self._logs.follow(job_id, stream, run_id, timeout, on_change)

    def results(
        self,
        job: str | Job,
        destination: str | Path,
        *,
        internal: bool = False,
        progress: ProgressCallback | None = None,
    ) -> results.Fetched:
        """Download a job's results folder. Calls: one GetItem, one ListObjectsV2 for 1,000 objects, one GetObject each.

        Args:
            job: the job.
            destination: a folder; made if it is missing, files in it are replaced.
            internal: also what is below ``_sched/``: the manifest, and what failed attempts wrote.
            progress: told after each part and file.

        Raises:
            JobNotFound: there is no such job.
            NotFound: the job names no results folder, or there is nothing in it.
        """
        record = self.get(job) if isinstance(job, str) else job
        if not record.spec.results_uri:
            said = "it wrote" if record.is_terminal else f"it writes; it is {record.status}"
            raise NotFound(
                f"job {record.job_id!r} names no results folder (results_uri); `sched logs` shows what {said}"
            )
        return results.fetch(
            self.connection, record.spec.results_uri, Path(destination), internal=internal, progress=progress
        )

    # The same for event loops: threads do the calls; all waits of a loop share one poller.

    async def asubmit(self, job: JobLike, *, run_id: str | None = None, queue: str = "") -> Submitted:
        """As :meth:`submit`."""
        return await asyncio.to_thread(self.submit, job, run_id=run_id, queue=queue)

    async def asubmit_many(
        self, jobs: Iterable[JobLike], *, run_ids: Sequence[str] | None = None, queue: str = ""
    ) -> Sequence[Submitted]:
        """As :meth:`submit_many`."""
        return await asyncio.to_thread(self.submit_many, jobs, run_ids=run_ids, queue=queue)

    async def acancel(self, job_id: str) -> Cancellation:
        """As :meth:`cancel`."""
        return await asyncio.to_thread(self.cancel, job_id)

    async def aget(self, job_id: str) -> Job:
        """As :meth:`get`."""
        return await asyncio.to_thread(self.get, job_id)

    async def aget_many(self, job_ids: Iterable[str]) -> dict[str, Job]:
        """As :meth:`get_many`."""
        return await asyncio.to_thread(self.get_many, job_ids)

    async def await_one(self, what: Waitable, *, timeout: float | None = None, check: bool = False) -> Job:
        """As :meth:`wait`. However many tasks of a loop wait, one poller looks for all of them."""
        return (await self.await_many([what], timeout=timeout, check=check))[0]

    async def await_many(
        self, what: Iterable[Waitable], *, timeout: float | None = None, check: bool = False
    ) -> Sequence[Job]:
        """As :meth:`wait_all`."""
        ended = await waiting.ended_in_order(self._poller(), [as_run(one) for one in what], timeout)
        jobs = [waiting.result(one) for one in ended]
        return [waiting.check_succeeded(job) for job in jobs] if check else jobs

    def awatch(self, what: Iterable[Waitable], *, timeout: float | None = None) -> AsyncIterator[Ended]:
        """As :meth:`watch`."""
        return waiting.as_they_end(self._poller(), [as_run(one) for one in what], timeout)

    def _poller(self) -> waiting.SharedPoller:
        key = (self.scheduler, *self.connection.identity)
        return waiting.shared_poller(key, lambda: waiting.SharedPoller(Watch(self._records, self.clock), self.clock))


def as_run(what: Waitable) -> Run:
    """What is to be waited for, as a run."""
    if isinstance(what, Run):
        return what
    if isinstance(what, Submitted):
        return what.run
    if isinstance(what, JobRecord):
        return Run(what.job_id, what.run_id)
    return Run(what)


def checked(answer: A) -> A:
    """The answer itself, unless it is a refusal: that is raised."""
    if answer.error is not None:
        raise answer.error
    return answer


def plain(job: Job) -> dict[str, Any]:
    """A job as JSON types, as ``sched status --json`` prints it: without what only the indexes need."""
    item = to_item(job)
    if "stage" in item:
        item["stage"] = job.spec.to_plain()["stage"]
    first = {name: item[name] for name in _FIRST if name in item}
    return first | {name: value for name, value in item.items() if name not in _INDEX_KEYS}


_FIRST = ("job_id", "run_id", "status", "status_reason", "attempt", "losses", "retries", "exit_code")
_INDEX_KEYS = frozenset({"state_shard", "state_at", "pending_shard", "pending_at", "next_spec"})
