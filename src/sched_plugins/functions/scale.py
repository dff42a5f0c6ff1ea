"""Ask for as many workers as an environment's jobs need: once a minute, and at once when jobs come."""

from __future__ import annotations

import os
from typing import Any

from sched_plugins import scheduler
from sched_plugins.core import names
from sched_plugins.errors import SchedulerError
from sched_plugins.functions import settings
from sched_plugins.functions.process import logger, world


@logger.inject_lambda_context
def handler(_event: dict[str, Any], _context: object) -> dict[str, int]:
    """Raise the capacity of the environment's group where that is needed; never lower it."""
    return {"capacity": _scale()}


def ask_for_workers(jobs: int) -> None:
    """Ask at once for workers for so many new jobs, whose messages may not be in the queue yet.

    Nothing is raised: the jobs are accepted, and within a minute the schedule asks again.
    """
    try:
        _scale(jobs)
    except SchedulerError as error:
        logger.warning("no workers were asked for", extra={"reason": str(error)})


def _scale(at_least: int = 0) -> int:
    environment = settings.environment(os.environ)
    return scheduler.scale(world(), environment.queue, names.group(environment.name), at_least)
