"""Reading the messages of finished and failed queues, and what Prefect knows around the job that one tells of."""

from __future__ import annotations

import json
from typing import Any, Final

from prefect.client.schemas.objects import FlowRun

from sched_plugins.client import Status
from sched_plugins.core.state import TERMINAL
from sched_plugins.prefect.events import flow_run_resource

_MAX_TAGS: Final = 50
"""Tags of a flow run that become related resources; Prefect takes 100 of all kinds."""


def job_message(body: str) -> dict[str, Any]:
    """The finished message in a body: as the outbox sends it, or in the envelope of EventBridge.

    Raises:
        ValueError: it is none.
    """
    try:
        told = json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    message = told.get("detail", told) if isinstance(told, dict) else told
    if not isinstance(message, dict):
        raise ValueError(f"it is JSON, but no object: {type(message).__name__}")
    for name in ("job_id", "run_id", "status", "event_id"):
        if not isinstance(message.get(name), str) or not message[name]:
            raise ValueError(f"it has no {name}")
    if message["status"] not in TERMINAL:
        known = ", ".join(sorted(TERMINAL))
        raise ValueError(f"its status is {message['status']!r}, not one of {known}")
    if message["status"] == Status.REJECTED:
        # A message that was no valid job: nothing else of it can be relied on.
        message = {name: value for name, value in message.items() if name not in ("tags", "metrics")}
    stage = message.get("stage")
    outputs = stage.get("outputs") if isinstance(stage, dict) else None
    if not message.get("results_uri") and outputs:
        message = message | {"results_uri": outputs[0]}
    return message


def around_flow_run(run: FlowRun) -> list[dict[str, str]]:
    """A flow run, its flow, deployment and work pool as related resources, as Prefect adds them itself."""
    around = [flow_run_resource(run.id, run.name)]
    for role, number, name in (
        ("flow", run.flow_id, ""),
        ("deployment", run.deployment_id, ""),
        ("work-queue", run.work_queue_id, run.work_queue_name),
        ("work-pool", run.work_pool_id, run.work_pool_name),
    ):
        if number:
            named = {"prefect.resource.name": name} if name else {}
            around.append({"prefect.resource.id": f"prefect.{role}.{number}", "prefect.resource.role": role, **named})
    tags = [{"prefect.resource.id": f"prefect.tag.{tag}", "prefect.resource.role": "tag"} for tag in sorted(run.tags)]
    return around + tags[:_MAX_TAGS]
