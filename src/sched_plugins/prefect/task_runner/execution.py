"""Running calls on a worker with Prefect's own task engine, which reports their states and logs to Prefect's API."""

from __future__ import annotations

import asyncio
import pickle
import sys
import traceback
from contextlib import ExitStack
from typing import Any, Final, Protocol

from prefect.client.schemas.objects import State, TaskRun
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.states import Crashed, Failed
from prefect.task_engine import run_task_async, run_task_sync

from sched_plugins.prefect.task_runner.calls import quoted
from sched_plugins.prefect.task_runner.exceptions import NotCarriedBack, add_traceback, chain_of, raised
from sched_plugins.prefect.task_runner.payload import dumps, loads
from sched_plugins.prefect.task_runner.place import result_key
from sched_plugins.prefect.task_runner.surroundings import restored

_FLUSH_SECONDS: Final = 60.0


class Store(Protocol):
    """Where outcomes are left."""

    def put(self, key: str, text: bytes) -> None:
        """Write an object."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""


def run_calls(shared: bytes, calls: bytes, store: Store, results: str, *, attempt: int) -> int:
    """Run calls, and leave the outcome of each as soon as it is known.

    Args:
        shared: pickle of what they have in common.
        calls: pickle of a list with a pickle of each.
        store: where outcomes go.
        results: what their keys begin with.
        attempt: which attempt of the job it is: what an earlier one has finished is not run again.
    """
    opened: list[dict[str, Any]] = pickle.loads(calls)  # noqa: S301 - from the environment's own bucket
    runs: list[TaskRun] = [pickle.loads(one["task_run"]) for one in opened]  # noqa: S301
    todo = [(one["parameters"], run, result_key(results, one["number"])) for one, run in zip(opened, runs, strict=True)]
    if attempt > 1:
        todo = [one for one in todo if not store.exists(one[2])]
    with ExitStack() as stack:
        stack.callback(_flush)
        try:
            common = loads(shared)
            stack.enter_context(restored(common))
        except Exception as error:  # noqa: BLE001 - a module of the user's raises what it likes, or is not here
            traceback.print_exc()
            for _, _, key in todo:
                store.put(key, _outcome(_not_started(error), reported=False))
            return 0
        for parameters, run, key in todo:
            run.run_count = attempt - 1
            store.put(key, _run(common, parameters, run))
    return 0


def _run(common: dict[str, Any], parameters: bytes, run: TaskRun) -> bytes:
    """Run one call; its outcome, as bytes."""
    try:
        given = quoted({**common["shared"], **loads(parameters)})
    except Exception as error:  # noqa: BLE001 - as above
        return _outcome(_not_started(error), reported=False)
    task = common["task"]
    arguments: dict[str, Any] = {"task": task, "task_run": run, "parameters": given, "return_type": "state"}
    try:
        state: Any = asyncio.run(run_task_async(**arguments)) if task.isasync else run_task_sync(**arguments)
    except BaseException as error:  # noqa: BLE001 - a task may end its process, and the next of the bundle is to run
        # The engine has told Prefect of it.
        traceback.print_exc()
        return _outcome(Crashed(message=f"The task ended its process: {error!r}"), reported=True)
    return _carried(state, run)


def _carried(state: State[Any], run: TaskRun) -> bytes:
    """The outcome of a call that has ended, made so that it can be read in the flow."""
    error = raised(state)
    try:
        if error is None:
            return _outcome(state, reported=True, run=run)
        add_traceback(error)
        text = _outcome(state, reported=True, chain=chain_of(error, _or_instead), run=run)
        loads(text)  # Not every exception survives that: one may say in its own way how it is carried.
        return text
    except Exception as why:  # noqa: BLE001 - whatever pickling raises
        return _outcome(_not_carried(state, error, why), reported=error is not None)


def _not_carried(state: State[Any], error: BaseException | None, why: Exception) -> State[Any]:
    if error is None:
        told = f"the result of the task cannot be carried back to the flow: {why}"
        return Failed(message=told, data=NotCarriedBack(told))
    return state.model_copy(update={"data": _instead(error), "id": state.id, "timestamp": state.timestamp})


def _instead(error: BaseException) -> NotCarriedBack:
    instead = NotCarriedBack(f"{type(error).__module__}.{type(error).__qualname__}: {error}")
    for note in getattr(error, "__notes__", ()):
        instead.add_note(note)
    return instead


def _or_instead(error: BaseException) -> BaseException:
    """An exception of a chain, or what stands for it: the one that was raised is carried all the same."""
    try:
        loads(dumps(error))
    except Exception:  # noqa: BLE001 - whatever pickling raises
        return _instead(error)
    return error


def _not_started(error: Exception) -> State[Any]:
    add_traceback(error)
    message = f"The task could not be loaded on its worker: {type(error).__name__}: {error}"
    if isinstance(error, ImportError):
        message += f". Is it installed for {sys.executable} on the image?"
    try:
        loads(dumps(error))
    except Exception:  # noqa: BLE001 - as above
        return Crashed(message=message)
    return Crashed(message=message, data=error)


def _outcome(state: State[Any], *, reported: bool, chain: Any = None, run: TaskRun | None = None) -> bytes:
    return dumps({"state": state, "reported": reported, "chain": chain, "run": run})


def _flush() -> None:
    """Send what is still to be sent: states are events, and whoever waits for the job may look at them next."""
    for worker in (EventsWorker, APILogWorker):
        try:
            worker.drain_all(timeout=_FLUSH_SECONDS)
        except Exception:  # noqa: BLE001 - the outcomes are there already
            traceback.print_exc()
