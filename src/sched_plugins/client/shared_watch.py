"""One watch of a process for all that wait in it, in threads or event loops, for jobs of one scheduler."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

from sched_plugins.client.jobs import Job, JobClient
from sched_plugins.client.retry import Clock, Pace
from sched_plugins.client.run import Run
from sched_plugins.client.waiting import OUTAGE_PATIENCE, SHORTEST, SHORTEST_INDEXED, result, still_waiting
from sched_plugins.client.watch import DIRECT, Ended
from sched_plugins.errors import SchedulerError, Throttled, Unknown, WaitTimeout

LONGEST: Final = 3.0
"""Seconds between two looks, at most: what a user who waits for a short job still calls at once."""
LEVEL_SECONDS: Final = 30.0
LEVEL_JOBS: Final = 100
"""So many jobs are read themselves every :data:`LEVEL_SECONDS`, whatever the index said: one BatchGetItem."""
_GATHER: Final = 0.1
"""Seconds; who comes within them is served by one look."""
_CHUNK: Final = 1_000
"""Runs that one look reads for the first time, at most: ten BatchGetItem, so that no waiter's end is kept for long."""

log = logging.getLogger(__name__)
OnChange = Callable[[Job], None]


@dataclass(slots=True)
class _Waiter:
    run: Run
    future: Future[Ended] = field(default_factory=Future)
    on_change: OnChange | None = None


class SharedWatch:
    """Looks for all who wait, from one thread, which starts with the first waiter and ends with the last.

    The calls a minute do not grow with the number of waiters: see :class:`~sched_plugins.client.watch.Watch`. A waiter
    that comes late misses nothing, since its job is read itself first.

    Args:
        client: reads the jobs.
        clock: time; a test has one of its own.
    """

    def __init__(self, client: JobClient, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self._scheduler = client.scheduler
        self._watch = client.new_watch(self._seen, level_seconds=LEVEL_SECONDS, level_jobs=LEVEL_JOBS)
        self._changed = threading.Condition()
        self._waiters: dict[str, list[_Waiter]] = {}
        self._new: list[_Waiter] = []
        self._left: list[_Waiter] = []
        self._thread: threading.Thread | None = None

    def follow(self, run: Run, on_change: OnChange | None = None) -> Future[Ended]:
        """What becomes of a run, when it is known. Never waits; makes no call.

        Cancelling the future ends the following, not the job. An outage of AWS is borne for a minute, then the future
        holds the error.

        Args:
            run: the run.
            on_change: told, in the watching thread, of each record of the job that is read and has changed: of up to
                ten jobs every change that a look can see, of more their ends and what the level checks find.
        """
        waiter = _Waiter(run, on_change=on_change)
        with self._changed:
            self._new.append(waiter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="sched-watch", daemon=True)
                self._thread.start()
            self._changed.notify()
        waiter.future.add_done_callback(lambda _: self._leave(waiter))
        return waiter.future

    def _leave(self, waiter: _Waiter) -> None:
        if not waiter.future.cancelled():
            return  # It was served, and is known no longer.
        with self._changed:
            self._left.append(waiter)
            self._changed.notify()

    def _work(self) -> None:
        pace, worked_at = Pace(SHORTEST, LONGEST, self._clock), self._clock.now()
        while self._take_in(pace):
            try:
                ended = self._watch.look()
                worked_at = self._clock.now()
            except (Throttled, Unknown) as error:
                if self._clock.now() - worked_at > OUTAGE_PATIENCE:
                    self._fail(error)
                    worked_at = self._clock.now()
                ended = []
            except SchedulerError as error:
                self._fail(error)
                ended = []
            except Exception as error:
                # Whatever went wrong, no waiter may be left waiting; and of the jobs it says nothing.
                log.exception("A look at the jobs of scheduler %s failed", self._scheduler)
                self._fail(Unknown(f"cannot look at the jobs of scheduler {self._scheduler!r}: {error!r}"))
                ended = []
            if ended:
                pace.news()
            for one in ended:
                self._serve(one)
            pace.shortest = SHORTEST if len(self._watch.runs) <= DIRECT else SHORTEST_INDEXED
            with self._changed:
                if self._waiters and not self._new and not self._left:
                    self._changed.wait(pace.delay())

    def _take_in(self, pace: Pace) -> bool:
        """Follow who came, and leave who left; False, and the thread ends, when nobody waits."""
        with self._changed:
            came = bool(self._new)
        if came:
            self._clock.sleep(_GATHER)
            pace.news()
        with self._changed:
            new, self._new = self._new[:_CHUNK], self._new[_CHUNK:]
            left, self._left = self._left, []
            for waiter in new:
                if not waiter.future.cancelled():
                    self._waiters.setdefault(waiter.run.job_id, []).append(waiter)
                    self._watch.add([waiter.run])
            for waiter in left:
                self._forget(waiter)
            if self._waiters or self._new:
                return True
            self._thread = None
            return False

    def _forget(self, waiter: _Waiter) -> None:
        waiters = self._waiters.get(waiter.run.job_id, [])
        if waiter in waiters:
            waiters.remove(waiter)
        if not any(other.run == waiter.run for other in waiters):
            self._watch.discard(waiter.run)
        if not waiters:
            self._waiters.pop(waiter.run.job_id, None)

    def _serve(self, ended: Ended) -> None:
        with self._changed:
            waiters = self._waiters.get(ended.run.job_id, [])
            served = [waiter for waiter in waiters if waiter.run == ended.run]
            rest = [waiter for waiter in waiters if waiter.run != ended.run]
            if rest:
                self._waiters[ended.run.job_id] = rest
            else:
                self._waiters.pop(ended.run.job_id, None)
        for waiter in served:
            if waiter.future.set_running_or_notify_cancel():
                waiter.future.set_result(ended)

    def _fail(self, error: Exception) -> None:
        with self._changed:
            waiters = [waiter for waiters in self._waiters.values() for waiter in waiters]
            self._waiters.clear()
            for run in self._watch.runs:
                self._watch.discard(run)
        for waiter in waiters:
            if waiter.future.set_running_or_notify_cancel():
                waiter.future.set_exception(error)

    def _seen(self, job: Job) -> None:
        for waiter in list(self._waiters.get(job.job_id, ())):
            if waiter.on_change is None or waiter.run.run_id not in ("", job.run_id):
                continue
            try:
                waiter.on_change(job)
            except Exception:
                log.exception("What was to be told of job %s failed", job.job_id)


# One that nobody uses goes, and with it its client.
_WATCHES: WeakValueDictionary[Hashable, SharedWatch] = WeakValueDictionary()
_LOCK = threading.Lock()


def _begin_anew() -> None:
    """In a process that was forked: the thread that looked is not there."""
    global _LOCK, _WATCHES
    _LOCK, _WATCHES = threading.Lock(), WeakValueDictionary()


os.register_at_fork(after_in_child=_begin_anew)


def shared_watch(client: JobClient) -> SharedWatch:
    """The process's watch of a scheduler, for all clients that reach it in the same way. Makes no call."""
    key = (client.scheduler, *client.connection.identity)
    with _LOCK:
        watch = _WATCHES.get(key)
        if watch is None:
            watch = _WATCHES[key] = SharedWatch(client)
        return watch


def await_end(client: JobClient, run: Run, *, timeout: float | None = None, on_change: OnChange | None = None) -> Job:
    """Wait in this thread, with all others of the process, until a run has ended; its record.

    Raises:
        WaitTimeout: it had not ended in time; it goes on.
        JobNotFound: there is no such job, or run.
        Conflict: a later run has taken its place.
        SchedulerError: AWS gave no usable answer for a minute.
    """
    future = shared_watch(client).follow(run, on_change)
    try:
        return result(future.result(timeout))
    except TimeoutError:
        raise WaitTimeout(still_waiting([run], timeout or 0.0)) from None
    finally:
        future.cancel()
