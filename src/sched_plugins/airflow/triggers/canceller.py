"""One canceller for all jobs of a scheduler whose deferred tasks are killed at about the same time.

Who marks a DAG run marks hundreds of deferred tasks at once. Airflow then calls ``on_kill`` of all their triggers in
one event loop, and gives each 30 s (``[triggerer] on_kill_timeout``). A client takes a fifth of a second of processor
time to make: with one for each trigger, most would be late, and the loop would stand still meanwhile. Therefore they
share one, and what is asked for within a quarter of a second is one request for each hundred jobs.

Nothing here blocks the event loop: the client is made and used in a thread, one at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain
from typing import Final

from sched_plugins.airflow.exceptions import ServiceException
from sched_plugins.client import Cancellation
from sched_plugins.client.jobs import JobClient
from sched_plugins.client.retry import Backoff, Clock
from sched_plugins.client.run import Run, Standing, standing
from sched_plugins.errors import Throttled, Unknown

GATHER: Final = 0.25
"""Seconds for which runs are gathered before they are cancelled."""
PATIENCE: Final = 20.0
"""Seconds for which it is tried again to reach the jobs: of the 30 s that an ``on_kill`` has."""

MakeClient = Callable[[], JobClient]
ListRuns = Callable[[], Iterable[Run]]


class Canceller:
    """Cancels runs for several who ask for it at about the same time; it ends when nobody asks any more.

    Args:
        make_client: makes the client; called in a thread.
    """

    def __init__(self, make_client: MakeClient) -> None:
        self._make_client = make_client
        self._client: JobClient | None = None
        self._asked: list[tuple[ListRuns, asyncio.Future[list[Cancellation]]]] = []

    def ask(self, runs: ListRuns) -> asyncio.Future[list[Cancellation]]:
        """A future with what becomes of these runs. Who stops waiting for it stops nothing."""
        future: asyncio.Future[list[Cancellation]] = asyncio.get_running_loop().create_future()
        self._asked.append((runs, future))
        return future

    async def work(self) -> None:
        """Cancel until nobody asks any more."""
        asked = self._asked
        try:
            while self._asked:
                await asyncio.sleep(GATHER)
                asked, self._asked = self._asked, []
                await self._answer(asked)
        finally:
            for _, future in chain(asked, self._asked):
                future.cancel()  # The loop ends; without effect on those that have their answer.

    async def _answer(self, asked: Sequence[tuple[ListRuns, asyncio.Future[list[Cancellation]]]]) -> None:
        try:
            answers = await asyncio.to_thread(self._cancel_patiently, [runs for runs, _ in asked])
        except Exception as error:  # noqa: BLE001 - told to each of them
            for _, future in asked:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), told in zip(asked, answers, strict=True):
            if not future.done():
                future.set_result(told)

    def _cancel_patiently(self, asked: Sequence[ListRuns]) -> list[list[Cancellation]]:
        """Bear throttles and silence: what is not cancelled now, goes on for good."""
        backoff = Backoff(PATIENCE, Clock())
        while True:
            try:
                return self._cancel(asked)
            except (Throttled, Unknown, ServiceException):  # The last is what a hook makes of them.
                if not backoff.wait():
                    raise

    def _cancel(self, asked: Sequence[ListRuns]) -> list[list[Cancellation]]:
        """Cancel the runs that have not ended; a later run of the same job is nobody's here."""
        if self._client is None:
            self._client = self._make_client()
        each = [list(runs()) for runs in asked]
        known = self._client.get_many(run.job_id for run in chain.from_iterable(each))
        live = [
            [run.job_id for run in runs if standing(run, known.get(run.job_id)) is Standing.WAITING] for runs in each
        ]
        job_ids = list(dict.fromkeys(chain.from_iterable(live)))
        answers = dict(zip(job_ids, self._client.cancel_many(job_ids), strict=True))
        return [[answers[job_id] for job_id in own] for own in live]


_WORKING: dict[tuple[asyncio.AbstractEventLoop, Hashable], tuple[Canceller, asyncio.Task[None]]] = {}


async def cancel_runs(key: Hashable, make_client: MakeClient, runs: ListRuns) -> list[Cancellation]:
    """Cancel those of the runs that have not ended, together with all others that have the same key just now.

    Args:
        key: equal for those who reach the same scheduler in the same way.
        make_client: makes the client, if nobody else of this key has just made one; called in a thread.
        runs: lists the runs; called in a thread.

    Returns:
        What became of each that had not ended.

    Raises:
        Exception: what making the client, or reading the jobs, raised: to each of those who asked together.
    """
    place = (asyncio.get_running_loop(), key)
    if place in _WORKING:
        return await _WORKING[place][0].ask(runs)
    canceller = Canceller(make_client)
    future = canceller.ask(runs)

    async def work() -> None:
        try:
            await canceller.work()
        finally:
            del _WORKING[place]  # Before anybody else runs: who asks from now on finds another one.

    _WORKING[place] = (canceller, asyncio.create_task(work()))
    return await future
