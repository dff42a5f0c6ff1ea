"""Ask for as many workers as an environment's jobs need: once a minute, and at once when jobs come."""

from __future__ import annotations

import json
import os
from typing import Any

from sched_plugins import scheduler
from sched_plugins.core import names
from sched_plugins.errors import SchedulerError
from sched_plugins.functions import settings
from sched_plugins.functions.process import logger, world
from sched_plugins.scheduler.scaling import Capacity

LOOK_AGAIN = json.dumps({"scale": "again"})
"""In the uploads' queue: look once more how many workers are missing."""
LOOK_AGAIN_AFTER = 4
"""Seconds in which the messages of jobs that were just accepted come into their queue (own; mostly it is one)."""


@logger.inject_lambda_context
def handler(_event: dict[str, Any], _context: object) -> dict[str, int]:
    """Raise the capacity of the environment's group where that is needed; never lower it."""
    return {"capacity": _scale().desired}


def ask_for_workers(jobs: int) -> None:
    """Ask at once for workers for so many new jobs, whose messages may not be in the queue yet.

    Those of other calls may not be there either, so some seconds later somebody looks again, unless the group is at
    its maximum. ``jobs`` is 0 for that second look.

    Nothing is raised: the jobs are accepted, and within a minute the schedule asks again.
    """
    try:
        desired, maximum = _scale(jobs)
        if jobs and desired < maximum:
            queue = names.upload_queue(settings.environment(os.environ).name)
            [refused] = world().queues.send(queue, [LOOK_AGAIN], delay=LOOK_AGAIN_AFTER)
            if refused is not None:
                logger.warning("nobody looks again before the next minute", extra={"reason": str(refused)})
    except SchedulerError as error:
        logger.warning("no workers were asked for", extra={"reason": str(error)})


def _scale(at_least: int = 0) -> Capacity:
    environment = settings.environment(os.environ)
    return scheduler.scale(world(), environment.queue, names.group(environment.name), at_least)
