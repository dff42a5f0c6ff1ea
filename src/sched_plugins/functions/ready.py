"""The worker's execution asks, until it is so, whether its worker can take commands."""

from __future__ import annotations

from typing import Any

from sched_plugins import scheduler
from sched_plugins.errors import SchedulerError
from sched_plugins.functions.process import logger, world


class NotReady(SchedulerError):
    """The worker's agent does not answer yet; the state machine asks again."""


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer ``{"slot_id"}`` with ``{"ready": true}``.

    Raises:
        NotReady: not yet.
    """
    slot_id = event["slot_id"]
    if not scheduler.ready(world(), slot_id):
        raise NotReady(f"the agent of slot {slot_id} does not answer yet")
    return {"ready": True}
