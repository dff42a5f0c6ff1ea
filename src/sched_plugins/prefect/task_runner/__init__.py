"""Prefect tasks as jobs. Imports nothing by itself: a worker that runs a task waits for every import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sched_plugins.prefect.task_runner.futures import SchedulerFuture
    from sched_plugins.prefect.task_runner.runner import SchedulerTaskRunner

__all__ = ["SchedulerFuture", "SchedulerTaskRunner"]


def __getattr__(name: str) -> Any:
    if name == "SchedulerTaskRunner":
        from sched_plugins.prefect.task_runner.runner import SchedulerTaskRunner

        return SchedulerTaskRunner
    if name == "SchedulerFuture":
        from sched_plugins.prefect.task_runner.futures import SchedulerFuture

        return SchedulerFuture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
