"""Waiting for jobs from tasks: all waits of a process share one watch, and one that is interrupted ends its jobs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Final, NoReturn

from prefect.exceptions import CancelledRun

from sched_plugins.client import Ended, Job, Run
from sched_plugins.client.shared_watch import OnChange, shared_watch
from sched_plugins.client.waiting import result, still_waiting
from sched_plugins.errors import InvalidInput
from sched_plugins.prefect.cancellation import acancelling, cancelling
from sched_plugins.prefect.exceptions import JobWaitTimeout
from sched_plugins.prefect.interruption import interruption
from sched_plugins.prefect.records import JobHandle
from sched_plugins.prefect.submission import JobClientLike

_LOOK_UP: Final = 2.0
_BROKEN_OFF: Final = "the flow was interrupted while its jobs ran; they are being cancelled"
"""Seconds after which a waiting thread looks whether its flow was broken off."""
Jobs = Mapping[str, Job]
OnEnd = Callable[[Job], None]


def check_timeout(timeout: object) -> None:
    """Refuse what cannot be a wait's timeout, before anything is submitted.

    Raises:
        InvalidInput: it is no number of seconds.
    """
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise InvalidInput(f"timeout is {timeout!r}; give a number of seconds, or leave it out to wait without end")


def wait_each(
    client: JobClientLike,
    handles: Sequence[JobHandle],
    *,
    timeout: float | None = None,
    root_id: str = "",
    cancel: bool = True,
    on_change: OnChange | None = None,
    on_end: OnEnd = lambda _: None,
) -> dict[str, Job]:
    """Wait until each of these runs has ended; their records, by job id.

    Args:
        client: the client.
        handles: the runs.
        timeout: seconds; without end by default.
        root_id: the flow run around all others, which they belong to: a signal ends all of its waits together.
        cancel: whether an interruption of the wait cancels the jobs.
        on_change: told of each change of a job that was seen, in another thread.
        on_end: told of each end, in this one.

    Raises:
        JobWaitTimeout: they had not all ended in time; they go on.
        JobNotFound: there is no such job, or run.
        Conflict: a later run has taken the place of one.
        CancelledRun: the flow was broken off.
    """
    check_timeout(timeout)
    watch, ended, is_broken_off = shared_watch(client), {}, interruption()
    # A signal wakes the main thread alone; what else interrupts a thread waits for its next step.
    step = None if threading.current_thread() is threading.main_thread() else _LOOK_UP
    deadline = None if timeout is None else monotonic() + timeout
    with cancelling(client, handles if cancel else (), root_id):
        open_ = {watch.follow(run, on_change): run for run in _runs(handles)}
        # Not ``concurrent.futures.wait``, which looks at all of them whenever one has ended.
        done: SimpleQueue[Future[Ended]] = SimpleQueue()
        for future in open_:
            future.add_done_callback(done.put)
        try:
            while open_:
                left = None if deadline is None else max(0.0, deadline - monotonic())
                for future in _taken(done, step if left is None else min(left, step or left)):
                    del open_[future]
                    job = result(future.result())
                    ended[job.job_id] = job
                    on_end(job)
                if open_ and left is not None and left <= 0:
                    raise JobWaitTimeout(still_waiting(list(open_.values()), timeout or 0.0))
                if open_ and is_broken_off is not None and is_broken_off():
                    raise CancelledRun(_BROKEN_OFF)
        finally:
            _leave(open_)
    return ended


async def await_each(
    client: JobClientLike,
    handles: Sequence[JobHandle],
    *,
    timeout: float | None = None,
    root_id: str = "",
    cancel: bool = True,
    on_change: OnChange | None = None,
    on_end: OnEnd = lambda _: None,
) -> dict[str, Job]:
    """As :func:`wait_each`, in an event loop."""
    check_timeout(timeout)
    watch, ended, is_broken_off = shared_watch(client), {}, interruption()
    async with acancelling(client, handles if cancel else (), root_id):
        open_ = {watch.follow(run, on_change): run for run in _runs(handles)}
        ends: list[asyncio.Future[Ended]] = [asyncio.wrap_future(future) for future in open_]
        guard = [] if is_broken_off is None else [asyncio.ensure_future(_broken_off(is_broken_off))]
        try:
            async with asyncio.timeout(timeout):
                for next_end in islice(asyncio.as_completed([*ends, *guard]), len(ends)):
                    job = result(await next_end)
                    ended[job.job_id] = job
                    on_end(job)
        except TimeoutError:
            late = [run for future, run in open_.items() if not future.done()]
            raise JobWaitTimeout(still_waiting(late, timeout or 0.0)) from None
        finally:
            for one in guard:
                one.cancel()
            _leave(open_)
    return ended


async def _broken_off(asked: Callable[[], bool]) -> NoReturn:
    """Raise once the flow is broken off: in a thread of its own an event loop hears of no signal."""
    while not asked():
        await asyncio.sleep(_LOOK_UP)
    raise CancelledRun(_BROKEN_OFF)


def _runs(handles: Sequence[JobHandle]) -> Iterable[Run]:
    return dict.fromkeys(handle.run for handle in handles)


def _taken(done: SimpleQueue[Future[Ended]], seconds: float | None) -> Iterable[Future[Ended]]:
    try:
        yield done.get(timeout=seconds)
        while True:
            yield done.get_nowait()
    except Empty:
        return


def _leave(futures: Iterable[Future[Ended]]) -> None:
    for future in futures:
        future.cancel()
