"""Whether the flow of a task that waits in another thread was broken off.

Python interrupts the main thread alone. Prefect's ThreadPoolTaskRunner then waits for its threads, and these for their
jobs, which may take days. It does set an event for each task run first, but so it does when a flow ends properly, or
fails, with tasks still running, and those are to run to their end. So the flow run's state is looked at, which tells of
its timeout, and the frames that set the event, which tell of a signal.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from prefect.context import FlowRunContext, TaskRunContext
from prefect.flow_engine import FlowRunTimeoutError

from sched_plugins.prefect.enclosing import around


def interruption() -> Callable[[], bool] | None:
    """A function that tells whether a flow around the present task has been broken off since; cheap while it has not.

    None where a signal interrupts the wait itself: nothing around it was handed to another thread.
    """
    tasks = [one.task_run.id for one in around(TaskRunContext.get())]
    flows: list[FlowRunContext] = list(around(FlowRunContext.get()))
    watched = [
        (events[task], flow) for flow in flows
        if isinstance(events := getattr(flow.task_runner, "_cancel_events", None), dict)
        for task in tasks if task in events
    ]  # fmt: skip
    if not watched:
        return None
    return lambda: any(event.is_set() and _is_broken_off(flow) for event, flow in watched)


def _is_broken_off(flow: FlowRunContext) -> bool:
    return has_timed_out(flow) or any(_breaks_off(frame, flow) for frame in sys._current_frames().values())


def has_timed_out(flow: FlowRunContext | None) -> bool:
    """Whether the flow's own timeout has ended it. Its engine says so in the state, before it leaves the task runner.

    Prefect calls each flow TimedOut that a TimeoutError ends: also one whose wait for a job was limited, or one that
    calls another flow with a timeout. These have failed.
    """
    if flow is None or flow.flow is None or flow.flow.timeout_seconds is None:
        return False
    state = getattr(flow.flow_run, "state", None)
    return state is not None and state.name == "TimedOut" and isinstance(state.data, FlowRunTimeoutError)


def _breaks_off(frame: FrameType | None, flow: FlowRunContext | None) -> bool:
    """Whether a thread is ending a task runner because of a signal, or this flow's try because of its timeout.

    Neither is an ``Exception`` there. The second shows where the state does not: Prefect tries the flow again.
    """
    while frame is not None:
        if frame.f_code.co_name == "cancel_all_tasks":
            return True
        if frame.f_code.co_name == "__exit__" and _interrupts(frame.f_locals.get("exc_type")):
            return True
        if frame.f_code.co_name == "run_context" and frame.f_back is not None:
            # A generator of the flow's engine; the caller is contextlib, which throws into it what has ended the body.
            run, own = getattr(frame.f_locals.get("self"), "flow_run", None), getattr(flow, "flow_run", None)
            if (
                run is not None
                and own is not None
                and run.id == own.id
                and _interrupts(frame.f_back.f_locals.get("typ"))
            ):
                return True
        frame = frame.f_back
    return False


def _interrupts(kind: Any) -> bool:
    return isinstance(kind, type) and not issubclass(kind, Exception)
