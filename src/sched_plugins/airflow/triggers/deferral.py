"""Whether a task whose trigger was cancelled is still deferred.

Airflow calls ``on_kill`` of each trigger that its triggerer may follow no longer. Mostly somebody has marked or cleared
the task. But it does so too when another triggerer has taken the trigger over, because this one was late with its
heartbeats: ``Trigger.ids_for_triggerer`` then no longer names it. The task waits on there, and its job has to go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

GATHER: Final = 0.25
"""Seconds for which questions about the same task are gathered: one request serves all its mapped ones."""
ANSWER_SECONDS: Final = 10.0
"""How long an answer is waited for: of the 30 s that an ``on_kill`` has."""
_DEFERRED: Final = "deferred"
_log = logging.getLogger(__name__)
_ASKED: dict[tuple[asyncio.AbstractEventLoop, Hashable], asyncio.Task[Mapping[str, Any]]] = {}
_FIRST: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[bool]] = WeakKeyDictionary()


def get_ready(task_instance: Any) -> None:
    """Ask once, for nothing: a triggerer's first question to Airflow takes seconds, which a killed task does not have.

    Args:
        task_instance: of any trigger that is being followed; None if it has none.
    """
    loop = asyncio.get_running_loop()
    if task_instance is not None and loop not in _FIRST:
        _FIRST[loop] = loop.create_task(_ask(task_instance))


async def is_deferred(task_instance: Any) -> bool:
    """Whether Airflow says that the task is deferred.

    False without an answer, since then it was probably killed; and at once while the first question is still open: a
    triggerer that has just begun to follow tasks has hardly lost one.

    Args:
        task_instance: the trigger's; None if it has none.
    """
    first = _FIRST.get(asyncio.get_running_loop())
    return (first is None or first.done()) and await _ask(task_instance)


async def _ask(task_instance: Any) -> bool:
    if task_instance is None:
        return False
    task = (task_instance.dag_id, task_instance.run_id, task_instance.task_id)
    place = (asyncio.get_running_loop(), task)
    if place not in _ASKED:
        _ASKED[place] = asyncio.create_task(_states(place, *task))
    try:
        states = await asyncio.shield(_ASKED[place])
    except Exception as error:  # noqa: BLE001 - whatever went wrong, who killed the task wants its job to end
        _log.warning("Airflow does not say whether task %s is still deferred: %r", task, error)
        return False
    index = task_instance.map_index
    name = task_instance.task_id if index is None or index < 0 else f"{task_instance.task_id}_{index}"
    return str(states.get(name)) == _DEFERRED


async def _states(
    place: tuple[asyncio.AbstractEventLoop, Hashable], dag_id: str, run_id: str, task_id: str
) -> Mapping[str, Any]:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        await asyncio.sleep(GATHER)
    finally:
        del _ASKED[place]  # Who asks from now on may have been killed after this answer.
    asked = asyncio.to_thread(RuntimeTaskInstance.get_task_states, dag_id, task_ids=[task_id], run_ids=[run_id])
    states: Mapping[str, Mapping[str, Any]] = await asyncio.wait_for(asked, ANSWER_SECONDS)
    return states.get(run_id, {})
