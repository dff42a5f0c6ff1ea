"""Ending the jobs of what is ended: a task that is interrupted, a flow run that is cancelled or crashed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from prefect.exceptions import ExternalSignal

from sched_plugins.client import Status
from sched_plugins.core.state import LIVE
from sched_plugins.errors import SchedulerError
from sched_plugins.prefect.identity import group_id
from sched_plugins.prefect.records import JobHandle
from sched_plugins.prefect.submission import JobClientLike

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

log = logging.getLogger(__name__)
T = TypeVar("T")
_LIVE_STATUSES: Final = frozenset({Status.QUEUED, *LIVE})
_MOST: Final = 10_000
"""Live jobs of one flow run that are found and cancelled at once; the next look finds more."""
_END_SECONDS: Final = 60.0


class _Held:
    """Jobs that this process waits for and would cancel, by flow run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[JobClientLike, Sequence[JobHandle], str]] = {}
        self._newest = 0

    def take(self, client: JobClientLike, handles: Sequence[JobHandle], flow_run_id: str) -> int:
        with self._lock:
            self._newest += 1
            self._held[self._newest] = (client, handles, flow_run_id)
            return self._newest

    def leave(self, key: int) -> None:
        with self._lock:
            self._held.pop(key, None)

    def claim(self, key: int, *, all_of_flow: bool) -> list[tuple[JobClientLike, list[str]]]:
        """The jobs of a wait, or of all waits of its flow run; nobody else gets them any more."""
        with self._lock:
            own = self._held.get(key)
            if own is None:
                return []
            same = [
                number for number, one in self._held.items()
                if number == key or (all_of_flow and own[2] and one[2] == own[2])
            ]  # fmt: skip
            found: dict[int, tuple[JobClientLike, list[str]]] = {}
            for number in same:
                client, handles, _ = self._held.pop(number)
                found.setdefault(id(client), (client, []))[1].extend(handle.job_id for handle in handles)
            return list(found.values())


class _Ending:
    """Cancels jobs for many that are interrupted at once with one request for 100 of their jobs."""

    GATHER: Final = 0.1
    """Seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[JobClientLike, dict[str, None]]] = {}
        self._done = threading.Event()

    def end(self, client: JobClientLike, job_ids: Collection[str]) -> None:
        with self._lock:
            leads = not self._asked
            self._asked.setdefault(id(client), (client, {}))[1].update(dict.fromkeys(job_ids))
            if leads:
                self._done = threading.Event()
            done = self._done
        if not leads:
            done.wait(_END_SECONDS)
            return
        try:
            time.sleep(self.GATHER)
        finally:
            with self._lock:
                asked, self._asked = self._asked, {}
            for one, ids in asked.values():
                _request_end(one, list(ids))
            done.set()


_HELD = _Held()
_ENDING = _Ending()


@contextmanager
def cancelling(client: JobClientLike, handles: Sequence[JobHandle], flow_run_id: str = "") -> Iterator[None]:
    """Cancel these jobs if the block is interrupted: by a signal, or a timeout of the task.

    Python interrupts a process's main thread alone, so the first wait of a flow run that a signal interrupts acts for
    all of its waits in this process. A SchedulerError is no interruption: the wait has ended, or cannot go on.
    """
    key = _HELD.take(client, handles, flow_run_id)
    try:
        yield
    except SchedulerError:
        raise
    except BaseException as error:
        _end_held(key, error)
        raise
    finally:
        _HELD.leave(key)


@asynccontextmanager
async def acancelling(
    client: JobClientLike, handles: Sequence[JobHandle], flow_run_id: str = ""
) -> AsyncIterator[None]:
    """As :func:`cancelling`, in an event loop, which goes on while the jobs are cancelled."""
    key = _HELD.take(client, handles, flow_run_id)
    try:
        yield
    except SchedulerError:
        raise
    except BaseException as error:
        await asyncio.shield(asyncio.to_thread(_end_held, key, error))
        raise
    finally:
        _HELD.leave(key)


async def asubmitting(
    client: JobClientLike, flow_run_id: str, submit: Callable[[], T], handles_of: Callable[[T], Sequence[JobHandle]]
) -> T:
    """Submit in a thread. If that is interrupted it is let to its end, and what it has submitted is cancelled."""
    submitted: list[JobHandle] = []
    async with acancelling(client, submitted, flow_run_id):
        task = asyncio.ensure_future(asyncio.to_thread(submit))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            try:
                submitted.extend(handles_of(await task))
            except SchedulerError as error:
                log.debug("Nothing was submitted: %s", error)
            raise


def _end_held(key: int, error: BaseException) -> None:
    is_signal = isinstance(error, (KeyboardInterrupt, SystemExit, ExternalSignal))
    for client, job_ids in _HELD.claim(key, all_of_flow=is_signal):
        if job_ids:
            _ENDING.end(client, job_ids)


def _request_end(client: JobClientLike, job_ids: Collection[str]) -> None:
    """Cancel jobs as far as that can be done now; what cannot is told of, never raised."""
    try:
        if len(job_ids) > 100:
            client.request_cancel(job_ids)  # There may be no time for the answers.
        refused = [one for one in client.cancel_many(job_ids) if one.error is not None]
    except SchedulerError as error:
        log.warning("%d jobs could not be cancelled: %s", len(job_ids), error)
        return
    for one in refused[:3]:
        log.warning("Job %s could not be cancelled: %s", one.job_id, one.error)


def cancel_live_jobs(client: JobClientLike, flow_run_id: str) -> list[str]:
    """Cancel what a flow run has submitted and what has not ended; the jobs' ids.

    One Query a page for each of the 4 shards of the queued and of the live jobs, and one Lambda call for 100 jobs.

    Raises:
        SchedulerError: AWS gave no usable answer; some may go on.
    """
    found = client.list(statuses=_LIVE_STATUSES, group=group_id(flow_run_id), limit=_MOST)
    job_ids = [job.job_id for job in found if not job.cancel_requested]
    if job_ids:
        client.cancel_many(job_ids)
    return job_ids


def cancel_jobs(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A hook for flows that run elsewhere than in this package's work pool: cancels what the flow run has submitted.

    ::

        @flow(on_cancellation=[cancel_jobs], on_crashed=[cancel_jobs])

    The scheduler is that of ``SCHED_SCHEDULER``.
    """
    from sched_plugins.prefect.blocks.scheduler import as_scheduler

    job_ids = cancel_live_jobs(as_scheduler().client(), str(flow_run.id))
    log.info("Flow run %s of %s is %s: cancelled %d jobs", flow_run.name, flow.name, state.type.value, len(job_ids))
