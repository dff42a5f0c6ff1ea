"""Cancel jobs."""

from __future__ import annotations

import os
from typing import Any

from sched_plugins import scheduler
from sched_plugins.errors import SchedulerError
from sched_plugins.functions import settings
from sched_plugins.functions.answers import error_answer
from sched_plugins.functions.process import logger, world


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer ``{"job_ids": […]}`` with ``{"results": […]}``, in the same order.

    A result is ``{"job_id", "outcome": "cancelled" | "requested" | "ended already", "status"}`` or
    ``{"error": {"type", "message"}}``.
    """
    queue = settings.own_queue(os.environ)
    return {"results": [_cancel(str(job_id), queue) for job_id in event["job_ids"]]}


def _cancel(job_id: str, queue: str) -> dict[str, Any]:
    try:
        outcome, job = scheduler.cancel(world(), job_id, queue)
    except SchedulerError as error:
        return error_answer(error)
    return {"job_id": job_id, "outcome": str(outcome), "status": str(job.status)}
