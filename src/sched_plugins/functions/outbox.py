"""The tables' streams: publish what is pending, wake what is to be woken."""

from __future__ import annotations

from typing import Any

from sched_plugins import scheduler
from sched_plugins.core import record as records
from sched_plugins.core import slot as slots
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot
from sched_plugins.functions.process import logger, world


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Publish a batch of stream records together, and name those to be delivered again.

    The whole batch is published at once, because its messages are sent ten at a time; so the partial answer
    is made here and not record by record.
    """
    due: dict[str, list[str]] = {}
    jobs: list[JobRecord] = []
    waiting: dict[str, Slot] = {}
    for entry in event["Records"]:
        change = entry["dynamodb"]
        image = _plain(change.get("NewImage", {}))
        if image.get("pending"):
            jobs.append(records.from_item(image))
            due.setdefault(image["job_id"], []).append(change["SequenceNumber"])
        elif image.get("wake"):
            waiting[image["slot_id"]] = slots.from_item(image)
    scheduler.wake_overdue(world(), list(waiting.values()))
    failed = scheduler.publish(world(), jobs)
    for job_id, error in failed.items():
        logger.warning("not published", extra={"job_id": job_id, "reason": f"{type(error).__name__}: {error}"})
    numbers = [number for job_id in failed for number in due[job_id]]
    return {"batchItemFailures": [{"itemIdentifier": number} for number in numbers]}


def _plain(image: dict[str, Any]) -> dict[str, Any]:
    from sched_plugins.aws.items import from_attributes

    return from_attributes(image)
