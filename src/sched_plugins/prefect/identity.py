"""Who the job of a call is: the same when Prefect runs the call again, another for every other call.

The job id is ``prefect/<flow run id>/<task>/<content>/<number>``: the n-th call of that task with that content (what
the job does) in this try of the flow run. A retry of the flow or of a task, also in another process, comes to the same
id for the same call, in whatever order concurrent calls come; and a call that asks for something else never takes its
result. (Prefect's own dynamic key does not serve: for a task that runs locally it is random.) With a ``job_key`` the id
is ``prefect/<flow run id>/<job key>``, and other content is refused. Outside flows the task run's own id stands in.

A flow that another flow calls is made anew, as another flow run, when that is retried. So it is known by the outermost
flow run of the process and by what it is called with: ``prefect/<outermost flow run id>.<digest>/…``, the n-th call of
that flow with these parameters. A flow run of a deployment has a process of its own and outlasts a retry of whoever
started it: it is known by its own id.

What an execution has to do about the job says :func:`sched_plugins.client.identity.decide`.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4

from pydantic import BaseModel

from sched_plugins.client.identity import digest, escaped, fitted
from sched_plugins.core import limits
from sched_plugins.core.names import clip
from sched_plugins.errors import InvalidInput
from sched_plugins.prefect.enclosing import around

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

PREFIX: Final = "prefect"
CONTENT_TAG: Final = "prefect_content"
"""The job's tag that tells the content for which it was submitted."""
PARENT: ContextVar[tuple[str, int] | None] = ContextVar("sched_parent", default=None)
"""The task run within which a task of this package was called, and its try; None where nobody has told."""
_LOCK = threading.Lock()
_SHOWN: Final = 12
"""Hex digits of a content in job ids: 48 bits, among the calls of one flow run."""


@dataclass(frozen=True, slots=True)
class CallIdentity:
    """A call of a task, over all of its retries."""

    owner: str
    """The flow run: its id, or, within another one, what outlasts a retry of that. Empty outside a flow run."""
    parts: tuple[str, ...]
    """The job key; or the task, the content and the number of the call."""
    content: str = ""
    """A digest of what the job does."""
    is_named: bool = False
    """Whether the user named the job key."""
    group_id: str = field(default="", compare=False)
    """What all jobs of a flow run, and of the flow runs within it, have in common."""
    labels: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @property
    def job_id(self) -> str:
        """The job's id, at most 1,200 bytes."""
        told = "/".join(escaped(part) for part in (PREFIX, self.owner or "no-flow", *self.parts))
        return fitted(told, limits.MAX_JOB_ID_BYTES)

    @property
    def digest(self) -> str:
        """What the run ids of this identity, and no others, begin with."""
        return digest(PREFIX, self.owner, *self.parts)

    @property
    def tags(self) -> dict[str, str]:
        """Who started the job, for those who look at it, and for which content."""
        return {**dict(self.labels), CONTENT_TAG: self.content}


def group_id(flow_run_id: str) -> str:
    """The group of the jobs of a flow run, which is no part of another one."""
    return f"{PREFIX}-{flow_run_id}"


def content_digest(content: Any) -> str:
    """A digest of what a job does."""
    return digest(json.dumps(content, sort_keys=True, default=str, ensure_ascii=False))


class Caller:
    """The present call of a task: gives its jobs their identities.

    Args:
        job_key: who the job is, where the user has named it.

    Raises:
        InvalidInput: the job key cannot be one, or names a job outside flows and tasks.
    """

    def __init__(self, job_key: str | None = None) -> None:
        from prefect.context import FlowRunContext, TaskRunContext

        if job_key is not None and (not isinstance(job_key, str) or not job_key.strip()):
            raise InvalidInput(f"job_key is {job_key!r}; give a text that is not empty, or leave it out")
        task, flow = TaskRunContext.get(), FlowRunContext.get()
        run: Any = task.task_run if task else None
        flow_run: Any = flow.flow_run if flow else None
        self.flow_run_id = str((run and run.flow_run_id) or (flow_run and flow_run.id) or "")
        if job_key is not None and not self.flow_run_id and run is None:
            raise InvalidInput(f"job_key {job_key!r} names a job within a flow run, and this is none; leave it out")
        self._key = job_key
        self._run_id = str(run.id) if run else uuid4().hex
        self._task = _task_name(run) if run else "call"
        self._parent, self._try = PARENT.get() or _parent_of(run)
        # Where no other call of the flow run is known, a call is known by its task run, or by that around it.
        alone = not self.flow_run_id or flow is None or bool(getattr(flow, "detached", False))
        self._scope = () if not alone else (self._parent if self._parent and self.flow_run_id else self._run_id,)
        self._counters: dict[str, Any] = {} if flow is None else flow.task_run_dynamic_keys
        flows = _flows_around(flow)
        is_called = len(flows) > 1 and str(flows[0].flow_run.id) == self.flow_run_id
        self._owner = _owner(flows) if is_called else self.flow_run_id
        self.root_id = _root_id(flows, self.flow_run_id)
        labels = {
            "prefect_flow_run_id": self.flow_run_id,
            "prefect_flow_run_name": getattr(flow_run, "name", "") or "",
            "prefect_flow_name": getattr(getattr(flow, "flow", None), "name", "") or "",
            "prefect_task_run_id": str(run.id) if run else "",
            "prefect_task_name": getattr(getattr(task, "task", None), "name", "") or "",
        }
        self._labels = tuple((label, clip(str(value), 200)) for label, value in labels.items() if value)

    def identity(self, content: Mapping[str, Any]) -> CallIdentity:
        """Of the call's one job.

        Raises:
            InvalidInput: another call of this try of the flow run has the same job key.
        """
        told = content_digest(content)
        if self._key is not None:
            self._claim(self._key)
            return self._identity((*self._scope, self._key), told)
        number = self._number(self._task, told)
        return self._identity((*self._scope, self._task, told[:_SHOWN], str(number)), told)

    def batch(self, contents: Sequence[Mapping[str, Any]]) -> list[CallIdentity]:
        """Of the call's jobs, which a retry may give in another order, or not all of them.

        Raises: as :meth:`identity`.
        """
        told = [content_digest(content) for content in contents]
        if self._key is not None:
            self._claim(self._key)
        seen: Counter[str] = Counter()
        found = []
        for one in told:
            nth = str(seen[one])
            seen[one] += 1
            if self._key is not None:
                parts = (*self._scope, self._key, one[:_SHOWN], nth)
            else:
                parts = (*self._scope, self._task, one[:_SHOWN], str(self._number(self._task, one, nth)), nth)
            found.append(self._identity(parts, one))
        return found

    def unique(self, content: Mapping[str, Any]) -> CallIdentity:
        """Of a job that is another one whenever it is asked for."""
        return self._identity((*self._scope, self._task, uuid4().hex), content_digest(content))

    def _identity(self, parts: tuple[str, ...], content: str) -> CallIdentity:
        group = group_id(self.root_id) if self.root_id else ""
        return CallIdentity(self._owner, parts, content, self._key is not None, group, self._labels)

    def _claim(self, key: str) -> None:
        if self._number("key", key):
            raise InvalidInput(
                f"job_key {key!r} is used by two calls of this flow run; give each a key of its own, say with what it "
                "is mapped over in it"
            )

    def _number(self, *what: str) -> int:
        """Which call of that kind this is in this try of the flow run; the same for each retry of it.

        It is kept in Prefect's context of the try, beside Prefect's own counters.
        """
        kind = "\x1f".join(what)
        return _place(self._counters, f"sched/run/{self._run_id}/{kind}", self._parent, self._try, kind)


def _place(counters: MutableMapping[str, Any], mine: str, parent: str, attempt: int, kind: str) -> int:
    """Which call of a kind one is in a try of a flow run.

    Args:
        counters: of the try.
        mine: who calls; it gets the same answer again.
        parent: the task run around it, and ``attempt`` the try of that, which may make all of its calls again. Such a
            call is known by how many of the kind that try has made before it.
        kind: what is counted.
    """
    with _LOCK:
        if mine not in counters:
            made = f"sched/made/{parent}/{attempt}/{kind}"
            nth = counters.get(made, 0)
            counters[made] = nth + 1
            place = f"sched/place/{parent}/{nth}/{kind}"
            if place not in counters:
                counters[place] = counters.get(f"sched/next/{kind}", 0)
                counters[f"sched/next/{kind}"] = counters[place] + 1
            counters[mine] = counters[place]
        return int(counters[mine])


def parent() -> tuple[str, int]:
    """The task run around a call that is about to be made, and its try."""
    from prefect.context import TaskRunContext

    task = TaskRunContext.get()
    return (str(task.task_run.id), int(task.task_run.run_count)) if task else ("", 0)


def _parent_of(run: Any) -> tuple[str, int]:
    """The task run around a task run, as far as Prefect tells."""
    parents = (getattr(run, "task_inputs", None) or {}).get("__parents__") or ()
    return next(((str(one.id), 0) for one in parents), ("", 0))


def _task_name(run: Any) -> str:
    """The task's name in its key, without the digest of its code: an upgrade is to find the jobs of before."""
    name, _, _ = str(run.task_key).rpartition("-")
    return name or str(run.task_key)


def _flows_around(flow: Any) -> list[Any]:
    """The contexts of a flow and of those that call it in this process, the outermost last."""
    found: list[Any] = []
    for one in around(flow):
        if one.flow_run is None:
            break
        if not found or found[-1].flow_run.id != one.flow_run.id:
            found.append(one)
    return found


def _owner(flows: Sequence[Any]) -> str:
    """Who the innermost of these flows is, also when the outer ones are tried again."""
    outermost_first = list(reversed(flows))
    owner = root = str(outermost_first[0].flow_run.id)
    for outer, inner in pairwise(outermost_first):
        counters = inner.task_run_dynamic_keys
        if "sched/owner" not in counters:
            kind = content_digest([owner, inner.flow.name if inner.flow else "", _stable(inner.parameters)])
            parent, attempt = _task_of(outer)
            number = _place(outer.task_run_dynamic_keys, f"sched/flow/{inner.flow_run.id}", parent, attempt, kind)
            counters["sched/owner"] = content_digest([kind, number])[:_SHOWN]
        owner = f"{root}.{counters['sched/owner']}"
    return owner


def _task_of(flow: Any) -> tuple[str, int]:
    """The task of a flow within which this is called, and its try; none where the flow calls it itself."""
    from prefect.context import TaskRunContext

    runs = (task.task_run for task in around(TaskRunContext.get()))
    return next(((str(run.id), int(run.run_count)) for run in runs if run.flow_run_id == flow.flow_run.id), ("", 0))


def _stable(value: Any) -> Any:
    """A parameter as JSON that is the same in every process; of what JSON cannot tell, its type."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {f"{type(key).__name__} {key}": _stable(one) for key, one in value.items()}
        case set() | frozenset():
            return sorted(json.dumps(_stable(one), sort_keys=True, default=str) for one in value)
        case list() | tuple():
            return [_stable(one) for one in value]
        case PurePath() | UUID() | datetime() | date() | timedelta() | Decimal():
            return str(value)
        case Enum():
            return _stable(value.value)
        case BaseModel():
            return {name: _stable(one) for name, one in value}
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _stable(getattr(value, one.name)) for one in fields(value)}
    return f"{type(value).__module__}.{type(value).__qualname__}"


def outermost_of(flow_run: FlowRun) -> str:
    """The id of the outermost flow run of a flow run's process: that of a deployment's is its own.

    Two requests for each flow run around it.
    """
    from prefect.client.orchestration import get_client

    while flow_run.parent_task_run_id and not (flow_run.deployment_id or flow_run.work_queue_id):
        with get_client(sync_client=True) as client:
            parent = client.read_task_run(flow_run.parent_task_run_id).flow_run_id
            if parent is None:
                break
            flow_run = client.read_flow_run(parent)
    return str(flow_run.id)


def _root_id(flows: Sequence[Any], flow_run_id: str) -> str:
    """The outermost flow run of the process; asked of Prefect once where a task runs in a process of its own."""
    if not flows:
        return flow_run_id
    flow = flows[-1]
    counters = flow.task_run_dynamic_keys
    if not getattr(flow, "detached", False) or flow.flow_run.parent_task_run_id is None:
        return str(flow.flow_run.id)
    if "sched/root" not in counters:
        try:
            counters["sched/root"] = outermost_of(flow.flow_run)
        except Exception:  # noqa: BLE001 - whatever Prefect's server says: then they are found by their own flow run
            return str(flow.flow_run.id)
    return str(counters["sched/root"])
