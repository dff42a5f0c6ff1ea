"""Ending the jobs of what is ended: a task that is interrupted, a flow run that is cancelled or crashed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from prefect.exceptions import CancelledRun, ExternalSignal
from prefect.logging import get_logger

from sched_plugins.client import Status
from sched_plugins.core.state import LIVE
from sched_plugins.errors import JobNotFound, SchedulerError
from sched_plugins.prefect.identity import group_id, outermost_of
from sched_plugins.prefect.records import JobHandle
from sched_plugins.prefect.submission import JobClientLike

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

    from sched_plugins.prefect.blocks.scheduler import ServerlessScheduler

log = get_logger("sched_plugins")
T = TypeVar("T")
_LIVE_STATUSES: Final = frozenset({Status.QUEUED, *LIVE})
_MOST: Final = 10_000
"""Live jobs of one flow run that are found and cancelled at once; the next look finds more."""
_PAGE: Final = 200
"""Flow runs that Prefect's API gives at once."""
_END_SECONDS: Final = 60.0
_LATE_TRIES: Final = 4
Claimed = list[tuple[JobClientLike, list[str]]]


class _Held:
    """Jobs that this process waits for and would cancel, by flow run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[JobClientLike, Sequence[JobHandle], str]] = {}
        self._newest = 0

    def take(self, client: JobClientLike, handles: Sequence[JobHandle], root_id: str) -> int:
        with self._lock:
            self._newest += 1
            self._held[self._newest] = (client, handles, root_id)
            return self._newest

    def leave(self, key: int) -> None:
        with self._lock:
            self._held.pop(key, None)

    def claim(self, key: int, *, all_of_flow: bool) -> Claimed:
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
            # A stage's wait and its pipeline's may hold the same job.
            return [(client, list(dict.fromkeys(job_ids))) for client, job_ids in found.values()]


class _Ending:
    """Cancels jobs for many that are interrupted at once with one request for 100 of their jobs."""

    GATHER: Final = 0.1
    """Seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[int, tuple[JobClientLike, dict[str, bool]]] = {}
        self._done = threading.Event()

    def end(self, client: JobClientLike, job_ids: Collection[str], *, late: bool) -> None:
        with self._lock:
            leads = not self._asked
            self._asked.setdefault(id(client), (client, {}))[1].update(dict.fromkeys(job_ids, late))
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
                _request_end(one, ids)
            done.set()


_HELD = _Held()
_ENDING = _Ending()


@contextmanager
def cancelling(
    client: JobClientLike, handles: Sequence[JobHandle], root_id: str = "", *, late: bool = False
) -> Iterator[None]:
    """Cancel these jobs if the block is interrupted: by a signal, or a timeout of the task or flow.

    Python interrupts a process's main thread alone, so the first wait of a flow run that a signal interrupts acts for
    all of its waits in this process. Other errors are no interruption: the jobs are left as they are.

    Args:
        client: cancels.
        handles: the jobs; more may be added until the end.
        root_id: the flow run around all others, which they belong to.
        late: a submission of theirs may be under way still.
    """
    key = _HELD.take(client, handles, root_id)
    try:
        yield
    except BaseException as error:
        _end(_claimed(key, error), late)
        raise
    finally:
        _HELD.leave(key)


@asynccontextmanager
async def acancelling(
    client: JobClientLike, handles: Sequence[JobHandle], root_id: str = "", *, late: bool = False
) -> AsyncIterator[None]:
    """As :func:`cancelling`, in an event loop, which goes on while the jobs are cancelled."""
    key = _HELD.take(client, handles, root_id)
    try:
        yield
    except BaseException as error:
        if claimed := _claimed(key, error):
            await _whole(asyncio.ensure_future(asyncio.to_thread(_end, claimed, late)))
        raise
    finally:
        _HELD.leave(key)


async def asubmitting(client: JobClientLike, root_id: str, submit: Callable[[], T], handles: Sequence[JobHandle]) -> T:
    """Submit in a thread. If that is interrupted it is let to its end, and what it has submitted is cancelled."""
    async with acancelling(client, handles, root_id, late=True):
        task = asyncio.ensure_future(asyncio.to_thread(submit))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await _whole(task)
            raise


async def _whole(task: asyncio.Future[Any]) -> None:
    """Wait for something's end, however often the waiting task is cancelled."""
    while not task.done():
        try:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({task})
        except asyncio.CancelledError:
            continue
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("It came to nothing: %s", error)


def _claimed(key: int, error: BaseException) -> Claimed:
    """What is to be cancelled because of an error: nothing, unless it is an interruption."""
    if isinstance(error, SchedulerError) or (
        isinstance(error, Exception) and not isinstance(error, (TimeoutError, CancelledRun))
    ):
        return []
    is_signal = isinstance(error, (KeyboardInterrupt, SystemExit, ExternalSignal))
    return _HELD.claim(key, all_of_flow=is_signal)


def _end(claimed: Claimed, late: bool) -> None:
    for client, job_ids in claimed:
        if job_ids:
            log.info("Interrupted: cancelling %d jobs, among them %s", len(job_ids), job_ids[0])
            _ENDING.end(client, job_ids, late=late)


def _request_end(client: JobClientLike, asked: Mapping[str, bool]) -> None:
    """Cancel jobs as far as that can be done now; what cannot is told of, never raised.

    A job that does not exist may be on its way to AWS: it is cancelled when it comes, within some seconds.
    """
    left, more = list(asked), _LATE_TRIES
    try:
        if len(left) > 100:
            client.request_cancel(left)  # There may be no time for the answers.
        while left:
            refused = [one for one in client.cancel_many(left) if one.error is not None]
            left = [one.job_id for one in refused if isinstance(one.error, JobNotFound) and asked[one.job_id]]
            for one in [one for one in refused if not isinstance(one.error, JobNotFound)][:3]:
                log.warning("Job %s could not be cancelled: %s", one.job_id, one.error)
            if not left or not more or len(asked) > 100:
                return
            more -= 1
            time.sleep(1)
    except SchedulerError as error:
        log.warning("%d jobs could not be cancelled: %s", len(left), error)


def cancel_live_jobs(client: JobClientLike, flow_run_id: str, *, only: Collection[str] | None = None) -> list[str]:
    """Cancel what a flow run, and the flows that it calls, have submitted and what has not ended; the jobs' ids.

    One Query a page for each of the 4 shards of the queued and of the live jobs, and one Lambda call for 100 jobs.

    Args:
        client: cancels.
        flow_run_id: the outermost flow run of its process.
        only: take only what these flow runs have submitted.

    Raises:
        SchedulerError: AWS gave no usable answer; some may go on.
    """
    found = client.list(statuses=_LIVE_STATUSES, group=group_id(flow_run_id), limit=_MOST)
    job_ids = [
        job.job_id for job in found
        if not job.cancel_requested and (only is None or job.spec.tags.get("prefect_flow_run_id") in only)
    ]  # fmt: skip
    if job_ids:
        client.cancel_many(job_ids)
    return job_ids


def cancel_jobs(
    flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any], *, scheduler: ServerlessScheduler | str | None = None
) -> None:
    """A hook for flows that run elsewhere than in this package's work pool: cancels what the flow run has submitted.

    ::

        hook = functools.partial(cancel_jobs, scheduler="sim")  # or a block; by default that of SCHED_SCHEDULER

        @flow(on_cancellation=[hook], on_crashed=[hook])
    """
    from sched_plugins.prefect.blocks.scheduler import as_scheduler

    outermost = outermost_of(flow_run)
    only = None if outermost == str(flow_run.id) else _with_called(flow_run)
    job_ids = cancel_live_jobs(as_scheduler(scheduler).client(), outermost, only=only)
    log.info("Flow run %s of %s is %s: cancelled %d jobs", flow_run.name, flow.name, state.type.value, len(job_ids))


def _with_called(flow_run: FlowRun) -> set[str]:
    """The ids of a flow run and of all that it has called, however deep; one request for 200 of a level."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId

    found, level = {str(flow_run.id)}, [flow_run.id]
    with get_client(sync_client=True) as client:
        while level:
            within = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=level))
            level = []
            while page := client.read_flow_runs(flow_run_filter=within, limit=_PAGE, offset=len(level)):
                level += [one.id for one in page]
                if len(page) < _PAGE:
                    break
            found |= {str(one) for one in level}
    return found
