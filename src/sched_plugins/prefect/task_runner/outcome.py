"""What the end of a job means for the task runs that it carried, and telling Prefect what the job did not."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Cancelled, Crashed
from prefect.utilities.engine import emit_task_run_state_change_event, link_state_to_task_run_result

from sched_plugins.client import Ended, Standing, Status
from sched_plugins.prefect.task_runner import payload
from sched_plugins.prefect.task_runner.calls import Call
from sched_plugins.prefect.task_runner.exceptions import raised, restore_chain

log = logging.getLogger(__name__)
_A_REQUEST: Final = 200
"""Prefect's API: objects in one answer."""


def state_of_silent(ended: Ended) -> State[Any]:
    """The state of a task run whose job has ended and left no outcome of it."""
    job_id, job = ended.run.job_id, ended.job
    if ended.standing is Standing.MISSING or job is None:
        return Crashed(message=f"Job {job_id!r} is lost: the scheduler has no record of it.")
    if ended.standing is not Standing.ENDED:
        return Crashed(message=f"Job {job_id!r}: run {job.run_id!r} has taken the place of the task's run.")
    if job.status is Status.CANCELLED:
        return Cancelled(message=f"Job {job_id!r} was cancelled: {job.status_reason or 'no reason given'}")
    code = "" if job.exit_code is None else f" (exit code {job.exit_code})"
    why = job.status_reason or "no reason given"
    told = [f"Job {job_id!r} ended {job.status}{code} without an outcome of the task: {why}."]
    if job.worker_id:
        told.append(f"It ran on worker {job.worker_id}.")
    if job.stderr_uri or job.stdout_uri:
        told.append(f"Its output is in {job.stderr_uri or job.stdout_uri}")
    return Crashed(message=" ".join(told))


def told_by(text: bytes | None, call: Call, ended: Ended) -> tuple[State[Any], bool]:
    """The state of a call whose job has ended, and whether Prefect knows it.

    Args:
        text: the outcome; None if there certainly is none.
        call: the call.
        ended: the end of its job.
    """
    if text is None:
        return state_of_silent(ended), False
    try:
        found = payload.loads(text)
    except Exception as error:  # noqa: BLE001 - whatever unpickling raises
        told = f"The outcome of the task cannot be read here: {type(error).__name__}: {error}"
        return Crashed(message=told, data=error), False
    state: State[Any] = found["state"]
    exception = raised(state)
    if exception is not None:
        restore_chain(exception, found["chain"])
    run: TaskRun | None = found["run"]
    if run is None or run.id == call.future.task_run_id:
        call.task_run = run or call.task_run
        return state, bool(found["reported"])
    # An earlier try's task run: that of this try has had no states yet.
    own = call.register()
    own.start_time, own.end_time, own.run_count = run.start_time, run.end_time, run.run_count
    return state.model_copy(update={"id": uuid4(), "timestamp": datetime.now(UTC)}), False


def has_completed(text: bytes | None) -> bool:
    """Whether an outcome is there and tells of success."""
    if text is None:
        return False
    try:
        state: State[Any] = payload.loads(text)["state"]
    except Exception:  # noqa: BLE001 - whatever unpickling raises
        return False
    return state.is_completed()


def end_all(ended: Sequence[tuple[Call, State[Any]]], *, reported: bool) -> None:
    """Give calls their final states, as the engine would have done in the flow's process.

    Args:
        ended: the calls and their states.
        reported: whether Prefect has certainly been told of them.
    """
    todo = [(call, state) for call, state in ended if not call.future.is_done]
    ask = [call.future.task_run_id for call, _ in todo if call.future.job_id and not reported]
    known = todo[0][0].within(_known, ask) if ask else {}  # This thread does not know Prefect's address by itself.
    for call, state in todo:
        state.state_details.task_run_id = call.future.task_run_id
        if call.task_run is not None:
            state.state_details.flow_run_id = call.task_run.flow_run_id
        if not reported and not _is_known(known.get(call.future.task_run_id), state):
            call.within(_report, call.register(), known, state)
        call.within(link_state_to_task_run_result, state, getattr(state.data, "result", state.data))
        call.future.finish(state)


def _is_known(run: TaskRun | None, state: State[Any]) -> bool:
    return run is not None and (run.state_type, run.state_name) == (state.type, state.name)


def _report(own: TaskRun, known: Mapping[UUID, TaskRun], state: State[Any]) -> None:
    """Tell Prefect of a state. Everything else that is known of the run, as when it began, stays."""
    run = own if own.start_time is not None else known.get(own.id, own)
    before = known.get(own.id, own).state
    run.state, run.state_id, run.state_type, run.state_name = state, state.id, state.type, state.name
    if run.start_time is not None:
        run.end_time = run.end_time or state.timestamp  # type: ignore[assignment]
    emit_task_run_state_change_event(task_run=run, initial_state=before, validated_state=state)


def _known(run_ids: Sequence[UUID]) -> dict[UUID, TaskRun]:
    """What Prefect's API knows of task runs; nothing if it does not answer."""
    found: dict[UUID, TaskRun] = {}
    try:
        with get_client(sync_client=True) as client:
            for first in range(0, len(run_ids), _A_REQUEST):
                ids = TaskRunFilterId(any_=list(run_ids[first : first + _A_REQUEST]))
                runs = client.read_task_runs(task_run_filter=TaskRunFilter(id=ids), limit=_A_REQUEST)
                found |= {run.id: run for run in runs}
    except Exception as error:  # noqa: BLE001 - what is known here will do
        log.debug("Prefect's API did not tell of %d task runs: %s", len(run_ids), error)
    return found
