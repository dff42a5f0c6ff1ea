"""Whether the flow of a task that waits in another thread was broken off.

Python interrupts the main thread alone. Prefect's ThreadPoolTaskRunner then waits for its threads, and these for their
jobs, which may take days. It does set an event for each task run first, but so it does when a flow ends properly with
tasks still running, and those are to run to their end. So the frames that set it are looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext


def interruption() -> Callable[[], bool] | None:
    """A function that tells whether the present task's flow has been broken off since; cheap while it has not.

    None where a signal interrupts the wait itself.
    """
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    runner: Any = getattr(flow, "task_runner", None)
    events = getattr(runner, "_cancel_events", None)
    event = events.get(task.task_run.id) if isinstance(events, dict) and task is not None else None
    if event is None:
        return None
    return lambda: event.is_set() and any(_breaks_off(frame) for frame in sys._current_frames().values())


def _breaks_off(frame: FrameType | None) -> bool:
    """Whether a thread is ending a task runner because of a signal (no ``Exception``), or of the flow's timeout."""
    while frame is not None:
        if frame.f_code.co_name == "cancel_all_tasks":
            return True
        if frame.f_code.co_name == "__exit__" and "exc_type" in frame.f_locals:
            kind = frame.f_locals["exc_type"]
            if isinstance(kind, type) and (not issubclass(kind, Exception) or issubclass(kind, TimeoutError)):
                return True
        frame = frame.f_back
    return False
