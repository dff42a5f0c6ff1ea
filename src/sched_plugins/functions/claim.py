"""The worker's execution asks for its next job, and leaves a task token to be called back with."""

from __future__ import annotations

import os
from typing import Any

from sched_plugins import scheduler
from sched_plugins.core.claim import Round
from sched_plugins.functions import settings
from sched_plugins.functions.process import logger, world


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Claim and start one job for ``{"slot_id", "token", "execution", "round", "retry", "events"}``.

    The answer is for the log; the execution gets its verdict through the token.
    """
    round_ = Round(
        slot_id=event["slot_id"],
        token=event["token"],
        execution=int(event["execution"]),
        round=int(event["round"]),
        retry=int(event["retry"]),
        events=int(event["events"]),
    )
    verdict = scheduler.claim(world(), round_, wait=settings.empty_queue_wait(os.environ))
    answer = {"slot_id": round_.slot_id, "ticket": round_.ticket, "verdict": verdict and str(verdict)}
    logger.info("claim", extra=answer)
    return answer
