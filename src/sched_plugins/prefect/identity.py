"""Who the job of a call is: the same when Prefect runs the call again, another for every other call.

The job id is ``prefect/<flow run id>/<task>/<number>``: this is the n-th call of that task in this try of the flow
run. A retry of the flow, also in another process, comes to the same number for the same call. (Prefect's own dynamic
key does not: for a task that runs locally it is random.) Where calls run concurrently their order decides, so mapped
calls should name a ``job_key`` each: then it is ``prefect/<flow run id>/<job key>``. Outside flows it is the task run's
own id. What an execution has to do about the job says :func:`sched_plugins.client.identity.decide`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

from sched_plugins.client.identity import digest, escaped, fitted
from sched_plugins.core import limits
from sched_plugins.core.names import clip
from sched_plugins.errors import InvalidInput

PREFIX: Final = "prefect"
_CLAIMED: dict[tuple[str, str, str], str] = {}
_LOCK = threading.Lock()
_REMEMBERED: Final = 100_000
"""Job keys of which a process knows who uses them; more are forgotten, the oldest first."""


@dataclass(frozen=True, slots=True)
class CallIdentity:
    """A call of a task, over all of its retries."""

    flow_run_id: str
    """Empty outside a flow run."""
    parts: tuple[str, ...]
    """The job key, or the task and the number of the call."""
    explicit: bool = False
    """Whether the user named the job key."""
    run_count: int = 0
    """Which try of the flow run this is. It is no part of who the job is."""
    caller: str = field(default="", compare=False)
    """The task run's key, for telling two calls apart that name the same job key."""
    labels: tuple[tuple[str, str], ...] = field(default=(), compare=False)

    @property
    def job_id(self) -> str:
        """The job's id, at most 1,200 bytes."""
        told = "/".join(escaped(part) for part in (PREFIX, self.flow_run_id or "no-flow", *self.parts))
        return fitted(told, limits.MAX_JOB_ID_BYTES)

    @property
    def digest(self) -> str:
        """What the run ids of this identity, and no others, begin with."""
        return digest(PREFIX, self.flow_run_id, *self.parts)

    @property
    def group_id(self) -> str:
        """What all jobs of a flow run have in common."""
        return group_id(self.flow_run_id) if self.flow_run_id else ""

    @property
    def tags(self) -> dict[str, str]:
        """Who started the job, for those who look at it."""
        return dict(self.labels)

    def numbered(self, number: int) -> CallIdentity:
        """One of the jobs of a batch."""
        return CallIdentity(self.flow_run_id, (*self.parts, f"{number:06d}"), self.explicit, labels=self.labels)

    def part(self, name: str) -> CallIdentity:
        """A job beside others of the same call."""
        return CallIdentity(self.flow_run_id, (*self.parts, name), self.explicit, labels=self.labels)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Refuse a job key that another call of the same try of the flow run uses.

        Raises:
            InvalidInput: names the key.
        """
        if self.explicit and self.flow_run_id:
            key = (self.flow_run_id, str(self.run_count), "/".join(self.parts))
            with _LOCK:
                owner = _CLAIMED.setdefault(key, self.caller)
                while len(_CLAIMED) > _REMEMBERED:
                    del _CLAIMED[next(iter(_CLAIMED))]
            if owner != self.caller:
                raise InvalidInput(
                    f"job_key {self.parts[0]!r} is used by two calls of this flow run ({owner} and {self.caller}); "
                    "give each a key of its own, say with what it is mapped over in it"
                )
        yield


def group_id(flow_run_id: str) -> str:
    """The group of the jobs of a flow run."""
    return f"{PREFIX}-{flow_run_id}"


def current_identity(job_key: str | None) -> CallIdentity:
    """Who the job of the present call is.

    Raises:
        InvalidInput: the job key cannot be one.
    """
    from prefect.context import FlowRunContext, TaskRunContext

    if job_key is not None and (not isinstance(job_key, str) or not job_key.strip()):
        raise InvalidInput(f"job_key is {job_key!r}; give a text that is not empty, or leave it out")
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    run: Any = task.task_run if task else None
    flow_run: Any = flow.flow_run if flow else None
    flow_run_id = str((run and run.flow_run_id) or (flow_run and flow_run.id) or "")
    name = _task_name(run) if run else ""
    number = _number(flow, run, name) if flow is not None and flow_run_id and run else ""
    caller = f"{name}/{number}" if run else "the flow itself"
    labels = {
        "prefect_flow_run_id": flow_run_id,
        "prefect_flow_run_name": getattr(flow_run, "name", "") or "",
        "prefect_flow_name": getattr(getattr(flow, "flow", None), "name", "") or "",
        "prefect_task_run_id": str(run.id) if run else "",
        "prefect_task_name": getattr(getattr(task, "task", None), "name", "") or "",
    }
    told = tuple((label, clip(str(value), 200)) for label, value in labels.items() if value)
    count = int(getattr(flow_run, "run_count", 0) or 0)
    if job_key is not None:
        return CallIdentity(flow_run_id, (job_key,), True, count, caller, told)
    if run is None:
        return CallIdentity(flow_run_id, ("call", uuid4().hex), False, count, caller, told)
    return CallIdentity(flow_run_id, (name, number or str(run.id)), False, count, caller, told)


def _task_name(run: Any) -> str:
    """The task's name in its key, without the digest of its code: an upgrade is to find the jobs of before."""
    name, _, _ = str(run.task_key).rpartition("-")
    return name or str(run.task_key)


def _number(flow: Any, run: Any, name: str) -> str:
    """Which call of the task this is in this try of the flow run; the same for each retry of the task run.

    It is kept in Prefect's context of that try, beside Prefect's own counters.
    """
    if getattr(flow, "detached", False):
        return ""  # In a process of its own, where the other calls are not known.
    counters: dict[str, Any] = flow.task_run_dynamic_keys
    mine, next_ = f"sched/{run.id}", f"sched/{name}"
    with _LOCK:
        if mine not in counters:
            counters[mine] = counters.get(next_, 0)
            counters[next_] = counters[mine] + 1
        return str(counters[mine])
