"""A worker starts, or is attached, or is about to be taken away."""

from __future__ import annotations

from typing import Any

from sched_plugins import scheduler
from sched_plugins.errors import Conflict, NotFound, SchedulerError
from sched_plugins.functions.answers import error_answer
from sched_plugins.functions.process import logger, world
from sched_plugins.ports import InstanceState

_ALIVE = (InstanceState.PENDING, InstanceState.RUNNING)


@logger.inject_lambda_context
def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Take an EC2 event, or ``{"worker_id", "queue"}`` from who attaches a worker by hand.

    A hand gets ``{"slot_id"}``, or ``{"error": {"type", "message"}}``.
    """
    if "detail" in event:
        return _event(event["detail-type"], event["detail"])
    try:
        return _attached(str(event["worker_id"]), str(event["queue"]))
    except SchedulerError as error:
        return error_answer(error)


def _event(kind: str, detail: dict[str, Any]) -> dict[str, Any]:
    worker_id = detail["instance-id"]
    if kind == "EC2 Spot Instance Interruption Warning":
        return {"draining": scheduler.warn(world(), worker_id, f"Spot will {detail['instance-action']} it")}
    worker = world().workers.described([worker_id])[worker_id]
    if worker.state is InstanceState.GONE:
        raise NotFound(f"EC2 does not know instance {worker_id} yet")  # Lambda tries again; so does the sweep.
    if not worker.queue:
        return {}  # Not one of this scheduler's.
    try:
        slot = scheduler.attach(world(), worker_id, worker.queue)
    except Conflict as error:
        logger.warning("not attached", extra={"worker_id": worker_id, "reason": str(error)})
        return {}
    logger.info("worker starts", extra={"worker_id": worker_id, "queue": worker.queue})
    return {"slot_id": slot.slot_id}


def _attached(worker_id: str, queue: str) -> dict[str, Any]:
    worker = world().workers.described([worker_id])[worker_id]
    if worker.state is InstanceState.GONE:
        raise NotFound(f"EC2 knows no instance {worker_id}; check the id")
    if worker.state not in _ALIVE:
        raise NotFound(f"instance {worker_id} is {worker.state}; attach one that is pending or running")
    world().queues.waiting(queue)  # Says so if there is no such queue.
    return {"slot_id": scheduler.attach(world(), worker_id, queue).slot_id}
