"""Systems Manager says that a command is over."""

from __future__ import annotations

from typing import Any

from sched_plugins import scheduler
from sched_plugins.functions.process import logger, world


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, bool]:
    """Take an "EC2 Command Invocation Status-change Notification"; most are of commands that are not ours."""
    detail = event["detail"]
    command_id, worker_id = detail["command-id"], detail["instance-id"]
    concluded = scheduler.observe(world(), command_id, worker_id)
    if concluded:
        logger.info("attempt ended", extra={"worker_id": worker_id, "command_id": command_id})
    return {"concluded": concluded}
