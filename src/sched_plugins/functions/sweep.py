"""Once a minute: find what was left."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

from sched_plugins import scheduler
from sched_plugins.errors import SchedulerError
from sched_plugins.functions import settings
from sched_plugins.functions.process import logger, world


class SweepIncomplete(SchedulerError):
    """Some duties could not be done; the next sweep, a minute later, does them."""


@logger.inject_lambda_context
def handler(_event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Do every duty once, and log what was found.

    Raises:
        SweepIncomplete: after all duties, if some failed, so that the function's error metric shows it.
    """
    report = asdict(scheduler.sweep(world(), settings.requeue_after(os.environ)))
    if any(report.values()):
        logger.info("sweep", extra={"report": report})
    if errors := report["errors"]:
        raise SweepIncomplete(f"{len(errors)} duties failed; the first: {errors[0]}")
    return report
