"""A call of a task on its way to a job: what it waits for, what it is given, and how Prefect knows it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final

from prefect.client.schemas.objects import (
    RunInput,
    State,
    StateDetails,
    TaskRun,
    TaskRunPolicy,
    TaskRunResult,
)
from prefect.context import FlowRunContext, TagsContext, TaskRunContext
from prefect.futures import PrefectFuture
from prefect.states import Pending
from prefect.tasks import Task
from prefect.utilities.annotations import quote
from prefect.utilities.collections import StopVisiting, visit_collection
from prefect.utilities.engine import collect_task_run_inputs_sync, emit_task_run_state_change_event, resolve_inputs_sync

from sched_plugins.prefect.task_runner.futures import SchedulerFuture

NAMESPACE: Final = uuid.UUID("4f0a5c6e-6d1c-4d8a-9c4c-1a5f1f0f6a11")
"""Of the ids of task runs, which follow from who the call is."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a try of a flow run, or a runner outside flows."""

    flow_run_id: str
    """Empty outside flows."""
    session: str
    """The try of the flow run; outside flows unique."""
    flow_run_name: str = ""
    flow_name: str = ""
    run_count: int = 0
    """Which try it is."""
    root_id: str = ""
    """The flow run around all others."""

    @property
    def owner(self) -> str:
        """What the objects of its tasks are kept under."""
        return self.flow_run_id or self.session

    def task_run_id(self, task_key: str, number: int) -> uuid.UUID:
        """The id of the ``number``-th run of a task in this try: the same in a process that repeats it."""
        return uuid.uuid5(NAMESPACE, f"{self.flow_run_id}/{self.session}/{task_key}/{number}")


@dataclass(eq=False, slots=True)
class Call:
    """One run of a task."""

    task: Task[Any, Any]
    parameters: dict[str, Any]
    wait_for: list[Any]
    dependencies: Mapping[str, set[RunInput]]
    number: int
    """Which run of this task it is in this try."""
    caller: Caller
    context: Context
    future: SchedulerFuture[Any]
    task_run: TaskRun | None = None
    shared_inputs: Mapping[str, set[RunInput]] = field(default_factory=dict)
    """What parameters that all calls of a map share come from: found once."""

    def within(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function as if the flow did, at the moment when it submitted the task."""
        return self.context.copy().run(function, *args, **kwargs)

    def register(self) -> TaskRun:
        """Tell Prefect of the run, which is Pending until the job reports that it runs."""
        if self.task_run is None:
            self.task_run = self.within(self._registered)
        return self.task_run

    def _registered(self) -> TaskRun:
        run = new_task_run(self)
        emit_task_run_state_change_event(task_run=run, initial_state=None, validated_state=run.state)  # type: ignore[arg-type]
        return run


@dataclass(eq=False, slots=True)
class Group:
    """Calls that were submitted together: those of one ``map``, or one alone."""

    calls: list[Call]
    shared_names: frozenset[str] = frozenset()
    """Parameters that are the same object in all of the calls; looked through, resolved and carried once."""
    shared_values: dict[str, Any] | None = None
    """The same, resolved; once the first of the calls is due."""
    shared_upstream: set[PrefectFuture[Any]] | None = None

    @classmethod
    def of(cls, calls: list[Call]) -> Group:
        """A group of these calls."""
        first, *others = calls
        names = first.parameters.keys() if others else ()
        same = (name for name in names if all(one.parameters.get(name) is first.parameters[name] for one in others))
        return cls(calls, frozenset(same))

    def own(self, call: Call) -> dict[str, Any]:
        """A call's parameters without those that all share."""
        return {name: value for name, value in call.parameters.items() if name not in self.shared_names}

    def look_through(self, call: Call) -> set[PrefectFuture[Any]]:
        """Find what a call's inputs come from; the futures among them that may not be done.

        Raises:
            ValueError: it waits for itself.
        """
        if self.shared_upstream is None:
            shared = {name: call.parameters[name] for name in self.shared_names}
            self.shared_upstream = futures_in([shared, call.wait_for])
            inputs = {name: set(call.within(collect_task_run_inputs_sync, value)) for name, value in shared.items()}
            for one in self.calls:
                one.shared_inputs = inputs
        found = self.shared_upstream | futures_in(self.own(call))
        if call.future in found:
            raise ValueError(
                f"a run of task {call.task.name!r} is given its own future, for which it would wait for ever"
            )
        return {one for one in found if not getattr(one, "_final_state", None)}

    def resolve(self, call: Call) -> dict[str, Any]:
        """A call's own parameters, with data instead of futures and states; those that all share are resolved once.

        Raises:
            UpstreamTaskError: an upstream task has not completed.
        """
        if self.shared_values is None:
            shared = {name: call.parameters[name] for name in self.shared_names}
            self.shared_values = call.within(resolve_inputs_sync, shared)
        if call.wait_for:
            call.within(resolve_inputs_sync, {"wait_for": call.wait_for}, return_data=False)
        resolved: dict[str, Any] = call.within(resolve_inputs_sync, self.own(call))
        return resolved


@dataclass(eq=False, slots=True)
class Bundle:
    """Calls that one job runs, one after the other."""

    group: Group
    calls: list[Call]
    waits_for: set[PrefectFuture[Any]] = field(default_factory=set)
    tries: int = 0

    def fields_for_log(self) -> str:
        """Who it is, for messages."""
        first = self.calls[0]
        more = f" and {len(self.calls) - 1} more" if len(self.calls) > 1 else ""
        return f"{first.task.name}-{first.number}{more}"


def new_task_run(call: Call) -> TaskRun:
    """A task run that only this process knows of; to be called in the call's context."""
    task, flow, parent = call.task, FlowRunContext.get(), TaskRunContext.get()
    flow_run_id = flow.flow_run.id if flow and flow.flow_run else None
    inputs: dict[str, Any] = {
        name: set(call.shared_inputs[name] if name in call.shared_inputs else collect_task_run_inputs_sync(value))
        for name, value in call.parameters.items()
    }
    if call.wait_for:
        inputs["wait_for"] = set(collect_task_run_inputs_sync(call.wait_for))
    for name, more in call.dependencies.items():
        inputs[name] = inputs.get(name, set()) | more
    if parent and parent.task_run.flow_run_id == flow_run_id:
        inputs["__parents__"] = {TaskRunResult(id=parent.task_run.id)}
    run_id = call.future.task_run_id
    state: State[Any] = Pending(state_details=StateDetails(task_run_id=run_id, flow_run_id=flow_run_id))
    tags = set(task.tags).union(getattr(TagsContext.get(), "current_tags", None) or ())
    return TaskRun(
        id=run_id,
        name=f"{task.name}-{call.number}",
        flow_run_id=flow_run_id,
        task_key=task.task_key,
        dynamic_key=f"{call.caller.session}-{call.number}",
        task_version=task.version,
        empirical_policy=TaskRunPolicy(
            retries=task.retries,
            retry_delay=task.retry_delay_seconds,
            retry_jitter_factor=task.retry_jitter_factor,
        ),
        tags=sorted(tags),
        task_inputs={name: list(found) for name, found in inputs.items()},
        flow_run_run_count=flow.flow_run.run_count if flow and flow.flow_run else 0,
        expected_start_time=state.timestamp,
        state_id=state.id,
        state_type=state.type,
        state_name=state.name,
        state=state,
        created=state.timestamp,
        updated=state.timestamp,
    )


def futures_in(value: Any) -> set[PrefectFuture[Any]]:
    """The futures in a value, as Prefect looks for them: in collections, and not in quotes."""
    found: set[PrefectFuture[Any]] = set()

    def visit(one: Any, context: dict[str, Any]) -> Any:
        if isinstance(context.get("annotation"), quote):
            raise StopVisiting
        if isinstance(one, PrefectFuture):
            found.add(one)
        return one

    visit_collection(value, visit_fn=visit, return_data=False, context={})
    return found


def quoted(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that were resolved: the engine that runs the task is to leave them as they are."""
    return {name: quote(value) for name, value in parameters.items()}


def bundles(group: Group, size: int) -> Iterable[Bundle]:
    """A group's calls, so many to a job."""
    for first in range(0, len(group.calls), size):
        yield Bundle(group, group.calls[first : first + size])
