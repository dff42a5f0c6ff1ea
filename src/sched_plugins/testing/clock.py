"""A clock that moves only when told, and carries out on the way what was scheduled."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

BEGINNING = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
"""When a virtual clock starts, unless told otherwise."""

Action = Callable[[], None]


class VirtualClock:
    """The ``Clock`` port, in virtual time.

    Waiting carries out what falls due meanwhile, so a use case that sleeps, or waits for a message, is overtaken
    by others as it would be in reality.
    """

    def __init__(self, start: datetime = BEGINNING) -> None:
        self._now = start
        self._order = itertools.count()
        self._due: list[tuple[datetime, int, Action]] = []

    def now(self) -> datetime:
        """The present moment."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let so much time pass."""
        self.run_until(self._now + timedelta(seconds=seconds))

    def after(self, seconds: float, action: Action) -> None:
        """Carry out ``action`` once so many seconds have passed."""
        heapq.heappush(self._due, (self._now + timedelta(seconds=seconds), next(self._order), action))

    def step(self, until: datetime) -> bool:
        """Carry out the next action due by then, or move to that moment. Returns whether there was one."""
        if not self._due or self._due[0][0] > until:
            self._now = max(self._now, until)
            return False
        moment, _, action = heapq.heappop(self._due)
        self._now = max(self._now, moment)
        action()
        return True

    def run_until(self, moment: datetime) -> None:
        """Let time pass until then."""
        while self.step(moment):
            pass

    def wait_for(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until the condition holds, at most so long. Returns whether it holds."""
        end = self._now + timedelta(seconds=seconds)
        while not condition():
            if not self.step(end):
                return condition()
        return True

    def jump(self, seconds: float) -> None:
        """Set the clock forward without letting anything happen meanwhile; what was due comes late."""
        self._now += timedelta(seconds=seconds)
