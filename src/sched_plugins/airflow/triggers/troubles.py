"""How a poll bears with an AWS that does not answer, and when it gives up."""

from __future__ import annotations

import logging
import random
from typing import Final

from sched_plugins.client.retry import Clock
from sched_plugins.errors import SchedulerError, Throttled, Unknown

REFUSAL_PATIENCE: Final = 60.0
"""Seconds for which refusals are borne once calls have worked: credentials may just be changing."""
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
        self._worked_at: float | None = None
        self.delay = 0.0

    def over(self) -> None:
        """A call worked."""
        if self._in_a_row:
            _log.info("AWS answers again after %s failed calls", self._in_a_row)
        self._in_a_row, self.delay, self._worked_at = 0, 0.0, self._clock.now()

    def met(self, error: SchedulerError) -> None:
        """A call failed: wait longer each time; raises what waiting will not help against."""
        if not isinstance(error, Throttled | Unknown) and (
            self._worked_at is None or self._clock.now() - self._worked_at > REFUSAL_PATIENCE
        ):
            raise error
        self._in_a_row += 1
        ceiling = min(LONGEST_BACKOFF, 2.0**self._in_a_row)
        self.delay = ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - spreads triggerers in time; no secret
        if self._in_a_row in (1, 10) or self._in_a_row % 60 == 0:
            _log.warning("Polling has failed %s times; trying again: %s", self._in_a_row, error)
