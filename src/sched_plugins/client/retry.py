"""Waiting between tries: how long, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random
from typing import Final

_FIRST: Final = 0.2
_LONGEST: Final = 5.0
_SLICE: Final = 0.5
_JITTER: Final = Random()  # noqa: S311 - spreads callers in time; no secret. Not the one that a user has seeded.


class Clock:
    """Time, in seconds, that only goes forward; a test has one of its own."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Backoff:
    """Waits that double from 0.2 s to 5 s, with full jitter, within a patience.

    Args:
        patience: seconds after which :meth:`wait` gives up.
        clock: time.
    """

    def __init__(self, patience: float, clock: Clock) -> None:
        self._clock = clock
        self._deadline = clock.now() + patience
        self._ceiling = _FIRST

    def wait(self, is_over: Callable[[], bool] = lambda: False) -> bool:
        """Wait before the next try; False, at once, when the patience is over.

        Args:
            is_over: asked twice a second; whether there is no use in waiting on.
        """
        if self._clock.now() >= self._deadline:
            return False
        left = _JITTER.uniform(0, self._ceiling)
        while left > 0 and not is_over():
            self._clock.sleep(min(left, _SLICE))
            left -= _SLICE
        self._ceiling = min(_LONGEST, 2 * self._ceiling)
        return True


class Pace:
    """How long to wait before the next look: a tenth of the time since something last happened.

    So the end of a job is seen late by at most a tenth of its length, with few calls: some 60 looks for a job of
    ten minutes, then one in ``longest`` seconds.

    Args:
        shortest: seconds between two looks, at least.
        longest: seconds between two looks, at most.
        clock: time.
    """

    SHARE: Final = 0.1
    JITTER: Final = 0.2

    def __init__(self, shortest: float, longest: float, clock: Clock) -> None:
        self.shortest = shortest
        self.longest = longest
        self._clock = clock
        self._last_news = clock.now()

    def news(self) -> None:
        """Something happened: look more often again."""
        self._last_news = self._clock.now()

    def delay(self) -> float:
        """Seconds to wait, with 20 % of jitter either way so that many watchers do not look at once."""
        quiet = self._clock.now() - self._last_news
        bounded = min(self.longest, max(self.shortest, self.SHARE * quiet))
        return bounded * _JITTER.uniform(1 - self.JITTER, 1 + self.JITTER)
