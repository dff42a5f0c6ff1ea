"""How the executor reaches its scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sched_plugins.client import SchedulerClient

if TYPE_CHECKING:
    from sched_plugins.airflow.executors.settings import ExecutorSettings


def connect(settings: ExecutorSettings) -> SchedulerClient:
    """The client of the executor's scheduler. No call is made."""
    return SchedulerClient(settings.scheduler, region=settings.region_name or None)
