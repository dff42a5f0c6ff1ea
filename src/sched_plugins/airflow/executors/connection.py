"""How the executor reaches its scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sched_plugins.airflow.executors.settings import ExecutorSettings
    from sched_plugins.client import SchedulerClient


def connect(settings: ExecutorSettings) -> SchedulerClient:
    """The client of the executor's scheduler, by the configured connection. No call of AWS is made.

    It sends each submission and cancellation once: the courier tries again in a later round, and looks at the jobs
    that run in between.
    """
    from sched_plugins.airflow.exceptions import translated
    from sched_plugins.airflow.hooks.scheduler import SchedulerHook
    from sched_plugins.client import SchedulerClient

    hook = SchedulerHook(
        scheduler=settings.scheduler,
        aws_conn_id=settings.conn_id or None,
        region_name=settings.region_name or None,
    )
    with translated():
        return SchedulerClient(hook.scheduler, patience=0.0, **hook.client_settings())
