"""EC2 says that an instance goes, or is gone: look at what its slot holds."""

from __future__ import annotations

from typing import Any

from sched_plugins import scheduler
from sched_plugins.core import names
from sched_plugins.functions.process import logger, world
from sched_plugins.ports import InstanceState


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, bool]:
    """Take an "EC2 Instance State-change Notification"; a worker that holds nothing is left to the sweep."""
    worker_id, state = event["detail"]["instance-id"], InstanceState(event["detail"]["state"])
    slot = world().tables.slot(names.slot_id(worker_id))
    if slot is None or not slot.job_id:
        return {"concluded": False}
    concluded = scheduler.reap(world(), slot, state)
    logger.info("worker goes", extra={"worker_id": worker_id, "state": str(state), "concluded": concluded})
    return {"concluded": concluded}
