"""Results of jobs for tests: valid, with what matters to a test as arguments."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from fleet_client import eventually
from prefect.client.orchestration import get_client
from prefect.events.filters import EventFilter, EventIDFilter

from sched_plugins.core import names
from sched_plugins.prefect.events import event_uuid
from sched_plugins.prefect.records import JobResult

NOW = datetime.now(UTC).replace(microsecond=0)
"""Prefect's server forgets old events."""


def result(job_id: str = "job", **fields: Any) -> JobResult:
    """A job that has ended."""
    plain: dict[str, Any] = {
        "job_id": job_id, "run_id": "run-1", "status": "SUCCEEDED", "exit_code": 0, "queue": "sim-job-queue",
        "worker_id": "i-0123456789abcdef0", "submitted_at": NOW, "started_at": NOW + timedelta(seconds=2),
        "finished_at": NOW + timedelta(seconds=5),
    }  # fmt: skip
    return JobResult(**(plain | fields))


def message(job_id: str = "job", **fields: Any) -> dict[str, Any]:
    """The finished message of a job, as the outbox sends it."""
    plain: dict[str, Any] = {
        "job_id": job_id, "run_id": "run-1", "status": "SUCCEEDED", "attempt": 1, "retries": "0 of 0", "exit_code": 0,
        "queue": "sim-job-queue", "commands": ["./secret.sh"], "environment": {"TOKEN": "planted"}, "scheduler": "sim",
        "finished_at": NOW.isoformat(),
    } | fields  # fmt: skip
    told = (plain["job_id"], plain["run_id"], plain["attempt"], plain["status"])
    return {"event_id": names.event_id(*told)} | plain


def events_of(event_id: str) -> list[Any]:
    """The events of a job's state that the server has stored."""
    wanted = EventFilter(id=EventIDFilter(id=[event_uuid(event_id)]))
    with get_client(sync_client=True) as client:
        return list(client.read_events(wanted, limit=50).events)


def stored(event_id: str) -> Any:
    """The one event of a job's state, once the server has stored it."""
    [found] = eventually(lambda: events_of(event_id), 60)
    return found
