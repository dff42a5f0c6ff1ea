"""One watcher for all jobs of a scheduler that tasks of this triggerer wait for.

A triggerer runs thousands of triggers in one event loop. Each of them tells the watcher of its run, and waits for a
future; one task, the poll of the *shared stream* that all of them subscribe to, looks for all of them:

- With up to ten jobs a look is one BatchGetItem. With more it follows the index of ended jobs: four Queries a look,
  however many wait. Every minute up to a hundred jobs are read themselves, so that nothing depends on the index alone.
- A run that comes later is read itself at the next look, before the index is asked: an end before that is found too.
- What is known is state, not a message: nothing is broadcast to ten thousand queues when one job ends, and only whom it
  concerns is woken.
- A throttle or an outage makes the looks rarer, and fails nobody. A refusal does, after a minute, since it may be a
  change of credentials; at the first look, one that is not about them does at once.

Nothing here blocks the event loop: AWS is asked by one aiobotocore client, and long answers are read in slices.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final
from weakref import WeakValueDictionary

from sched_plugins.airflow.triggers.troubles import Troubles
from sched_plugins.client.retry import Clock, Pace
from sched_plugins.client.run import Run
from sched_plugins.client.watch import DIRECT, AsyncReader, Ended, Watch
from sched_plugins.errors import SchedulerError

SHORTEST: Final = 1.0
"""Seconds between two looks, at least."""
LONGEST: Final = 3.0
"""Seconds between two looks, at most, while AWS answers: an end is seen 1.5 s late at the median."""
GATHER: Final = 0.25
"""Seconds for which newcomers are gathered before they are looked for."""
LEVEL_SECONDS: Final = 60.0
LEVEL_JOBS: Final = 100
"""Jobs that are read themselves every minute: one BatchGetItem."""

OpenReader = Callable[[], AbstractAsyncContextManager[AsyncReader]]


class Watcher:
    """Runs that are waited for in one event loop, and the looks that find out which have ended.

    Args:
        longest: seconds between two looks, at most, while AWS answers.
        clock: time.
    """

    def __init__(self, longest: float = LONGEST, clock: Clock | None = None) -> None:
        self.looks_taken = 0
        self._longest = longest
        self._clock = clock or Clock()
        self._waiting: dict[Run, set[asyncio.Future[Ended]]] = {}
        self._added: list[Run] = []
        self._left: set[Run] = set()
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()

    def follow(self, runs: Iterable[Run]) -> dict[Run, asyncio.Future[Ended]]:
        """A future for each of the runs, with what becomes of it."""
        loop = asyncio.get_running_loop()
        futures = {}
        for run in dict.fromkeys(runs):
            futures[run] = future = loop.create_future()
            self._waiting.setdefault(run, set()).add(future)
            self._added.append(run)
        self._wake.set()
        return futures

    def leave(self, futures: dict[Run, asyncio.Future[Ended]]) -> None:
        """Wait for these no longer."""
        for run, future in futures.items():
            waiting = self._waiting.get(run, set())
            waiting.discard(future)
            future.cancel()
            if not waiting:
                self._waiting.pop(run, None)
                self._left.add(run)

    async def looks(self, open_reader: OpenReader) -> AsyncIterator[None]:
        """Look until cancelled; nothing is ever yielded.

        Raises:
            SchedulerError: AWS refused the looks for a minute; or the first one, for another reason than credentials.
        """
        # One poll at a time: that of an earlier group of triggers may be about to end.
        async with self._turn, AsyncExitStack() as opened:
            troubles = Troubles(self._clock)
            reader = await self._open(open_reader, opened, troubles)
            watch = Watch(reader, self._clock, level_seconds=LEVEL_SECONDS, level_jobs=LEVEL_JOBS)
            watch.add(self._waiting)
            pace = Pace(SHORTEST, self._longest, self._clock)
            while True:
                await self._wait(troubles.delay or pace.delay(), idle=not self._waiting)
                if self._renew(watch):
                    pace.news()
                try:
                    ended = await watch.alook()
                except SchedulerError as error:
                    troubles.met(error)
                    continue
                self.looks_taken += 1
                troubles.over()
                pace.shortest = min(self._longest, SHORTEST)
                if ended:
                    pace.news()
                for one in ended:
                    for future in self._waiting.get(one.run, ()):
                        if not future.done():
                            future.set_result(one)
        yield  # pragma: no cover - it makes this a generator, which is what a shared stream is

    async def _open(self, open_reader: OpenReader, opened: AsyncExitStack, troubles: Troubles) -> AsyncReader:
        while True:
            try:
                return await opened.enter_async_context(open_reader())
            except SchedulerError as error:  # Signing in may fail for a while like any other call.
                troubles.met(error)
                await asyncio.sleep(troubles.delay)

    async def _wait(self, seconds: float, *, idle: bool) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), None if idle else seconds)
            await asyncio.sleep(GATHER if len(self._waiting) <= DIRECT else min(SHORTEST, self._longest))
        except TimeoutError:
            pass  # Nobody came: time to look again.

    def _renew(self, watch: Watch) -> bool:
        """Let the watch follow what is waited for now; whether anybody came."""
        self._wake.clear()
        left, self._left = self._left, set()
        added, self._added = self._added, []
        for run in left - self._waiting.keys():
            watch.discard(run)
        watch.add(run for run in added if run in self._waiting)
        return bool(added)


_WATCHERS: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, Hashable], Watcher] = WeakValueDictionary()


def watcher_of(key: Hashable, longest: float) -> Watcher:
    """The running loop's watcher of that key. It lives as long as somebody uses it."""
    place = (asyncio.get_running_loop(), key)
    found = _WATCHERS.get(place)
    if found is None:
        _WATCHERS[place] = found = Watcher(longest)
    return found
