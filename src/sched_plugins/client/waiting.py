"""Waiting for runs: in a thread, or in an event loop where all waiters share one poller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator
from typing import Final

from sched_plugins.client.retry import Clock, Pace
from sched_plugins.client.run import Run, Standing
from sched_plugins.client.watch import DIRECT, Ended, Watch
from sched_plugins.core.record import JobRecord
from sched_plugins.core.state import Status
from sched_plugins.errors import Conflict, JobFailed, JobNotFound, Throttled, Unknown, WaitTimeout

SHORTEST: Final = 0.2
"""Seconds between two looks at up to ten jobs, at least."""
SHORTEST_INDEXED: Final = 1.0
"""Seconds between two looks at the index, at least."""
LONGEST: Final = 10.0
"""Seconds between two looks, at most."""
OUTAGE_PATIENCE: Final = 60.0
"""Seconds for which a wait goes on although looks fail; the first look must succeed, unless the wait is patient."""


def watching(watch: Watch, timeout: float | None, clock: Clock, *, patient: bool = False) -> Iterator[Ended]:
    """What becomes of a watch's runs, as it becomes known; ends when none is left.

    Raises:
        WaitTimeout: ``timeout`` seconds have passed; the jobs go on.
    """
    pace = _Paced(clock, patient)
    deadline = None if timeout is None else clock.now() + timeout
    while watch.runs:
        yield from pace.look(watch)
        if not watch.runs:
            return
        left = None if deadline is None else deadline - clock.now()
        if left is not None and left <= 0:
            raise WaitTimeout(still_waiting(watch.runs, timeout or 0.0, watch.unseen))
        delay = pace.delay(watch)
        clock.sleep(delay if left is None else min(delay, left))


def still_waiting(runs: list[Run], timeout: float, unseen: frozenset[str] = frozenset()) -> str:
    """What to say when a wait is over before the jobs are."""
    late = [run for run in runs if run.job_id not in unseen]
    never = [run for run in runs if run.job_id in unseen]
    told = []
    if late:
        told.append(
            f"{len(late)} of the jobs had not ended ({_named(late)}); they go on. "
            "Wait again, or cancel them (`sched cancel`)."
        )
    if never:
        told.append(
            f"{len(never)} of the jobs did not exist yet ({_named(never)}). Check the ids (`sched list`), and that the "
            "upload or message that starts them was sent; then wait again."
        )
    return f"after {timeout:g} s {' '.join(told)}"


def _named(runs: list[Run]) -> str:
    return ", ".join(repr(run.job_id) for run in runs[:3]) + (", …" if len(runs) > 3 else "")


class _Paced:
    """Looks that become rarer while nothing happens, and that bear with short outages."""

    def __init__(self, clock: Clock, patient: bool = False) -> None:
        self._clock = clock
        self._pace = Pace(SHORTEST, LONGEST, clock)
        self._worked_at = clock.now() if patient else None

    def look(self, watch: Watch) -> list[Ended]:
        try:
            ended = watch.look()
        except (Throttled, Unknown):
            if self._worked_at is None or self._clock.now() - self._worked_at > OUTAGE_PATIENCE:
                raise
            return []
        self._worked_at = self._clock.now()
        if ended:
            self._pace.news()
        return ended

    def news(self) -> None:
        self._pace.news()

    def delay(self, watch: Watch) -> float:
        self._pace.shortest = SHORTEST if len(watch.runs) <= DIRECT else SHORTEST_INDEXED
        return self._pace.delay()


def result(ended: Ended) -> JobRecord:
    """The record of a run that has ended.

    Raises:
        JobNotFound: there is no such job, or its record knows no such run.
        Conflict: a later run has taken its place, so how it ended is no longer known.
    """
    run, job = ended.run, ended.job
    if job is None:
        raise JobNotFound(f"no job has the id {run.job_id!r}; `sched list` shows the ids that there are")
    if ended.standing is Standing.MISSING:
        raise JobNotFound(f"job {run.job_id!r} knows no run {run.run_id!r}; its present run is {job.run_id!r}")
    if ended.standing is Standing.SUPERSEDED:
        raise Conflict(
            f"run {run.run_id!r} of job {run.job_id!r} is over, and its record now tells of run {job.run_id!r} "
            f"({job.status}); how the earlier run ended is no longer known"
        )
    return job


def check_succeeded(job: JobRecord) -> JobRecord:
    """The record itself, if the job ended SUCCEEDED.

    Raises:
        JobFailed: it ended otherwise; the message carries its reason and where its output is.
    """
    if job.status is Status.SUCCEEDED:
        return job
    where = f" Its output: {job.stdout_uri}" if job.stdout_uri else ""
    raise JobFailed(f"job {job.job_id!r} ended {job.status}: {job.status_reason or 'no reason given'}.{where}")


class SharedPoller:
    """One task that looks for all waiters of an event loop. The looks themselves run in a thread.

    It starts with the first waiter and ends with the last one. Waiters that come within :data:`GATHER` of each
    other are served by one look.
    """

    GATHER: Final = 0.2
    """Seconds."""

    def __init__(self, watch: Watch, clock: Clock) -> None:
        self._watch = watch
        self._clock = clock
        self._waiters: dict[Run, set[asyncio.Future[Ended]]] = {}
        self._added: list[Run] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, run: Run) -> Ended:
        """What becomes of a run."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(run, set()).add(future)
        self._added.append(run)
        self._wake.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll(), name="sched-poller")
        try:
            return await future
        finally:
            waiting = self._waiters.get(run, set())
            waiting.discard(future)
            if not waiting:
                self._waiters.pop(run, None)
                self._wake.set()

    async def _poll(self) -> None:
        pace = _Paced(self._clock)
        while self._waiters:
            # The watch belongs to the looking thread; it is changed only between two looks.
            self._wake.clear()
            for run in set(self._watch.runs) - self._waiters.keys():
                self._watch.discard(run)
            added, self._added = self._added, []
            self._watch.add(run for run in added if run in self._waiters)
            if added:
                pace.news()
            try:
                ended = await asyncio.to_thread(pace.look, self._watch)
            except Exception as error:  # noqa: BLE001 - whatever went wrong, no waiter may be left waiting
                self._fail(error)
                continue
            for one in ended:
                for future in self._waiters.get(one.run, set()):
                    if not future.done():
                        future.set_result(one)
            try:
                await asyncio.wait_for(self._wake.wait(), pace.delay(self._watch))
                await asyncio.sleep(self.GATHER)
            except TimeoutError:
                pass  # Nobody came or went: time to look again.

    def _fail(self, error: Exception) -> None:
        for future in {future for futures in self._waiters.values() for future in futures}:
            if not future.done():
                future.set_exception(error)
        self._waiters.clear()


_POLLERS: dict[asyncio.AbstractEventLoop, dict[Hashable, SharedPoller]] = {}


def shared_poller(key: Hashable, make: Callable[[], SharedPoller]) -> SharedPoller:
    """The running event loop's poller of that key."""
    for loop in [loop for loop in _POLLERS if loop.is_closed()]:
        del _POLLERS[loop]
    pollers = _POLLERS.setdefault(asyncio.get_running_loop(), {})
    if key not in pollers:
        pollers[key] = make()
    return pollers[key]


async def as_they_end(poller: SharedPoller, runs: Iterable[Run], timeout: float | None) -> AsyncIterator[Ended]:
    """What becomes of several runs, as it becomes known.

    Raises:
        WaitTimeout: ``timeout`` seconds have passed; the jobs go on.
    """
    tasks = {asyncio.ensure_future(poller.wait(run)): run for run in dict.fromkeys(runs)}
    try:
        for next_end in asyncio.as_completed(list(tasks), timeout=timeout):
            yield await next_end
    except TimeoutError:
        raise WaitTimeout(
            still_waiting([run for task, run in tasks.items() if not task.done()], timeout or 0.0)
        ) from None
    finally:
        for task in tasks:
            task.cancel()


async def ended_in_order(poller: SharedPoller, runs: Iterable[Run], timeout: float | None) -> list[Ended]:
    """What becomes of several runs, in their order.

    Raises:
        WaitTimeout: ``timeout`` seconds have passed; the jobs go on.
    """
    waited = list(runs)
    try:
        async with asyncio.timeout(timeout):
            return list(await asyncio.gather(*(poller.wait(run) for run in waited)))
    except TimeoutError:
        raise WaitTimeout(still_waiting(waited, timeout or 0.0)) from None
