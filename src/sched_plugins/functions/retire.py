"""The worker's execution ends its worker, or hands it over to the next execution."""

from __future__ import annotations

from typing import Any

from sched_plugins import scheduler
from sched_plugins.core.state import Verdict
from sched_plugins.functions.process import logger, world


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, str]:
    """Answer ``{"action": "retire" or "renew", "slot_id", "execution"}`` with ``{"verdict"}``.

    With ``"unready": true`` the worker's agent never answered: it retires whatever waits in its queue.
    """
    slot_id, execution = event["slot_id"], int(event["execution"])
    if event["action"] == Verdict.RENEW:
        verdict = scheduler.renew(world(), slot_id, execution)
    else:
        verdict = scheduler.retire(world(), slot_id, execution, unready=bool(event.get("unready")))
    logger.info(event["action"], extra={"slot_id": slot_id, "verdict": str(verdict)})
    return {"verdict": str(verdict)}
