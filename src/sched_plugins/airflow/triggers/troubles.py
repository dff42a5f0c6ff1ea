"""How a poll bears with an AWS that does not answer, and when it gives up."""

from __future__ import annotations

import logging
import random
from typing import Final

from sched_plugins.client.retry import Clock
from sched_plugins.errors import NotPermitted, SchedulerError, Throttled, Unknown

REFUSAL_PATIENCE: Final = 60.0
"""Seconds for which refusals are borne: credentials may just be changing, or not be there yet.

At the start too, since a triggerer that starts takes over the waits of thousands of tasks whose jobs are running: that
credentials of a container or a role are late by seconds should not fail all of them. Who lacks a permission is told a
minute later for that; mostly it is not this late, as the task has read and submitted jobs on its worker before. What
surely is wrong at the start is told at once: a name, a setting.
"""
LONGEST_BACKOFF: Final = 60.0

_log = logging.getLogger(__name__)


class Troubles:
    """How long to wait after failed calls, and when to give up.

    Args:
        clock: time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._in_a_row = 0
        self._worked = False
        self._refused_at: float | None = None
        self.delay = 0.0

    def over(self) -> None:
        """A call worked."""
        if self._in_a_row:
            _log.info("AWS answers again after %s failed calls", self._in_a_row)
        self._in_a_row, self.delay, self._worked, self._refused_at = 0, 0.0, True, None

    def met(self, error: SchedulerError) -> None:
        """A call failed: wait longer each time; raises what waiting will not help against."""
        left = LONGEST_BACKOFF if isinstance(error, Throttled | Unknown) else self._patience_left(error)
        if left <= 0:
            raise error
        self._in_a_row += 1
        ceiling = min(LONGEST_BACKOFF, 2.0**self._in_a_row)
        self.delay = min(left, ceiling * random.uniform(0.5, 1.0))  # noqa: S311 - spreads triggerers; no secret
        if self._in_a_row in (1, 10) or self._in_a_row % 60 == 0:
            _log.warning("Polling has failed %s times; trying again: %s", self._in_a_row, error)

    def _patience_left(self, refusal: SchedulerError) -> float:
        """Seconds for which it is still borne."""
        if not self._worked and not isinstance(refusal, NotPermitted):
            return 0.0
        now = self._clock.now()
        if self._refused_at is None:
            self._refused_at = now
        return self._refused_at + REFUSAL_PATIENCE - now
