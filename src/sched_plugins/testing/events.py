"""EventBridge in memory: it keeps what was published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sched_plugins.core import limits
from sched_plugins.errors import Refused


class MemoryEvents:
    """The ``Events`` port, in memory.

    Attributes:
        published: the details of every event, in order.
    """

    def __init__(self) -> None:
        self.published: list[Mapping[str, Any]] = []

    def publish(self, details: Sequence[Mapping[str, Any]]) -> Sequence[Exception | None]:
        """Publish job state changes; the outcome of each."""
        outcomes: list[Exception | None] = []
        for detail in details:
            size = len(json.dumps(detail).encode())
            if size > limits.MAX_EVENT_BYTES:
                outcomes.append(Refused(f"an event of {size:,} bytes is larger than EventBridge takes"))
            else:
                self.published.append(detail)
                outcomes.append(None)
        return outcomes
