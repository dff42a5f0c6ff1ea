"""Prefect events that tell of jobs: ``sched.job.<status>``, of resource ``sched.job.<job id>``.

Their related resources are the scheduler, the queue and, for the job of a flow run, what Prefect knows of that run:
flow, deployment, work pool. So automations can react to jobs, and the UI shows a job's end beside the run's own events.

An event's id derives from the job's ``event_id``: whoever tells of the same end, a task or the bridge, tells the same
event, and Prefect keeps it once.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid5

from prefect.context import ContextModel, FlowRunContext, TaskRunContext
from prefect.events import Event, emit_event

from sched_plugins.client import Job
from sched_plugins.core import names
from sched_plugins.prefect import identity
from sched_plugins.prefect.records import JobResult

PREFIX: Final = "sched.job."
"""How the names of events, and the ids of jobs as resources, begin."""
FLOW_RUN_TAG: Final = "prefect_flow_run_id"
"""The job's tag that names the flow run which submitted it."""
FLOW_RUN_NAME_TAG: Final = "prefect_flow_run_name"
REMEMBERED: Final = 10_000
_NAMESPACE: Final = UUID("6f0f3d0c-55a4-5b5e-9a0b-6d3a2f0c8e11")
_MAX_TAGS: Final = 50
"""Tags of a job that become labels of its resource."""

_log = logging.getLogger(__name__)


class Recent:
    """The newest ids that were seen. Safe to share between threads.

    Args:
        size: how many are remembered.
    """

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._seen: OrderedDict[UUID, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, one: UUID) -> bool:
        """Remember an id; False if it is remembered already."""
        with self._lock:
            new = one not in self._seen
            self._seen[one] = None
            self._seen.move_to_end(one)
            if len(self._seen) > self._size:
                self._seen.popitem(last=False)
            return new

    def forget(self, one: UUID) -> None:
        """As if it had not been seen."""
        with self._lock:
            self._seen.pop(one, None)

    def __contains__(self, one: UUID) -> bool:
        with self._lock:
            return one in self._seen


_emitted = Recent()


def emit_job_event(job: JobResult | Job, *, scheduler: str = "", flow_run_id: UUID | str | None = None) -> Event | None:
    """Tell Prefect of a job's state, once a process. Only hands the event over: it blocks nobody, and never fails.

    Call it in the context of the flow run or task run that waits for the job: what Prefect knows of that run is added.

    Args:
        job: the job, as its task's result or as its record.
        scheduler: the scheduler's stack name.
        flow_run_id: the flow run that the job belongs to, where there is no context; by default the one that the job's
            tags name.

    Returns:
        The event; None if it was told before, or could not be handed over, which is logged.
    """
    number: UUID | None = None
    try:
        result = as_result(job)
        # In a run's context Prefect adds the run by itself, with more than is known here.
        run = None if current_run_ids()[1] else _as_uuid(flow_run_id) or flow_run_of(result.tags)
        around = [] if run is None else [flow_run_resource(run, result.tags.get(FLOW_RUN_NAME_TAG, ""))]
        event = describe(result, scheduler=scheduler, related=around)
        number = event["id"]
        if not _emitted.add(event["id"]):
            return None
        told = contextvars.copy_context().run(_emit, event)
    except Exception as error:  # noqa: BLE001 - an event is not worth a failed job's task
        _log.warning("No event for job %s: %s", job.job_id, error)
        told = None
    if told is None and number is not None:
        _emitted.forget(number)
    return told


def describe(
    job: JobResult, *, event_id: str = "", scheduler: str = "", related: Sequence[Mapping[str, str]] = ()
) -> dict[str, Any]:
    """The fields of the event of a job's state.

    Nothing of what the job runs is among them: its commands and its environment may hold what few should see.

    Args:
        job: the job.
        event_id: the key of the state, as a finished message carries it; derived from the job by default.
        scheduler: the scheduler's stack name.
        related: further related resources.
    """
    key = event_id or names.event_id(job.job_id, job.run_id, job.attempt, job.status)
    labels = {
        "prefect.resource.id": PREFIX + job.job_id,
        "prefect.resource.name": job.job_id,
        "sched.status": job.status,
        "sched.run-id": job.run_id,
        "sched.attempt": str(job.attempt),
        "sched.exit-code": "" if job.exit_code is None else str(job.exit_code),
        "sched.queue": job.queue,
        "sched.worker": job.worker_id,
        "sched.scheduler": scheduler,
    } | {f"sched.tag.{name}": value for name, value in _own_tags(job)}
    around = [*_resource("scheduler", scheduler), *_resource("queue", job.queue), *(dict(one) for one in related)]
    payload = job.model_dump(mode="json", exclude_none=True) | {"event_id": key}
    return {
        "event": PREFIX + job.status.lower(),
        "id": event_uuid(key),
        "occurred": job.finished_at or datetime.now(UTC),
        "resource": {name: value for name, value in labels.items() if value},
        "related": around,
        "payload": payload,
    }


def event_uuid(event_id: str) -> UUID:
    """The id of Prefect's event for a job's ``event_id``: the same wherever it is derived."""
    return uuid5(_NAMESPACE, event_id)


def flow_run_of(tags: Mapping[str, str], group_id: str = "") -> UUID | None:
    """The flow run that submitted a job, as its tags or its group tell; None if neither names one."""
    named = _as_uuid(tags.get(FLOW_RUN_TAG))
    prefix = identity.group_id("")
    return named or (_as_uuid(group_id.removeprefix(prefix)) if group_id.startswith(prefix) else None)


def flow_run_resource(flow_run_id: UUID, name: str = "") -> dict[str, str]:
    """A flow run as a related resource."""
    return {
        "prefect.resource.id": f"prefect.flow-run.{flow_run_id}",
        "prefect.resource.role": "flow-run",
        **({"prefect.resource.name": name} if name else {}),
    }


def as_result(job: JobResult | Job) -> JobResult:
    """The job as a task's result."""
    return job if isinstance(job, JobResult) else JobResult.of(job)


def _resource(role: str, name: str) -> list[dict[str, str]]:
    if not name:
        return []
    return [
        {"prefect.resource.id": f"sched.{role}.{name}", "prefect.resource.role": role, "prefect.resource.name": name}
    ]


def _emit(event: Mapping[str, Any]) -> Event | None:
    """Hand an event over, with the present run and no other.

    Prefect's thread that sends events was perhaps started in a flow run. It would take an event without a run for one
    of that run, unless the event's context says that there is none.
    """
    runs: tuple[type[ContextModel], ...] = (FlowRunContext, TaskRunContext)
    for kind in runs:
        kind.__var__.set(kind.get())
    return emit_event(**event)


def _own_tags(job: JobResult) -> list[tuple[str, str]]:
    """The user's tags; who submitted the job is told by the related resources."""
    return [(name, value) for name, value in job.tags.items() if not name.startswith("prefect_")][:_MAX_TAGS]


def current_run_ids() -> tuple[UUID | None, UUID | None]:
    """The task run and the flow run that this is called in."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    task_run, flow_run = getattr(task, "task_run", None), getattr(flow, "flow_run", None)
    return getattr(task_run, "id", None), getattr(flow_run, "id", None) or getattr(task_run, "flow_run_id", None)


def _as_uuid(text: UUID | str | None) -> UUID | None:
    try:
        return text if isinstance(text, UUID) else UUID(text) if text else None
    except ValueError:
        return None
