"""What a task sees of the flow run around it, carried from the flow's process to its worker: without secrets.

Prefect's own serialized context holds every setting, the API key included, and the result storage with its credentials.
Here the settings are left out (see :mod:`~sched_plugins.prefect.task_runner.settings`), a result storage travels as the
name of its block, and the flow as its name and options, not as its function with all that this refers to.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, SyncClientContext, TagsContext, hydrated_context, serialize_context
from prefect.filesystems import LocalFileSystem
from prefect.flows import Flow
from prefect.results import get_result_store
from prefect.task_runners import ThreadPoolTaskRunner

from sched_plugins.prefect.task_runner.payload import dumps

log = logging.getLogger(__name__)


def current_key() -> Hashable:
    """Equal in places that have the same surroundings, as long as both are alive."""
    flow, tags = FlowRunContext.get(), TagsContext.get()
    return id(flow), frozenset(getattr(tags, "current_tags", None) or ())


def collect() -> dict[str, Any]:
    """The surroundings of the present context, to be pickled."""
    flow_context, tags = FlowRunContext.get(), TagsContext.get()
    found: dict[str, Any] = {"tags": sorted(getattr(tags, "current_tags", None) or ())}
    if flow_context is None or flow_context.flow_run is None:
        return found
    flow: Any = flow_context.flow
    found["flow"] = {
        "name": flow.name,
        "version": flow.version,
        "description": flow.description,
        "log_prints": flow_context.log_prints,
        "persist_result": flow_context.persist_result,
        "result_serializer": flow_context.result_store.serializer,
        "cache_result_in_memory": flow_context.result_store.cache_result_in_memory,
        "result_storage": _named_storage(flow_context.result_store.result_storage),
    }
    # A deployment's job variables may hold what its environment has of secrets.
    found["flow_run"] = flow_context.flow_run.model_copy(update={"job_variables": None})
    found["parameters"] = _carried(flow_context.parameters or {})
    whole = _context_without_flow()
    found["deployment"] = {name: whole[name] for name in ("deployment_id", "deployment_parameters") if whole.get(name)}
    return found


def _context_without_flow() -> dict[str, Any]:
    """Prefect's serialized context without its flow run, which is left out by being hidden meanwhile."""
    token = FlowRunContext.__var__.set(None)  # type: ignore[arg-type]
    try:
        return serialize_context()
    finally:
        FlowRunContext.__var__.reset(token)


def _named_storage(storage: Any) -> Any:
    if getattr(storage, "_block_document_name", None):
        return storage
    if storage is not None and not isinstance(storage, LocalFileSystem):
        log.warning(
            "The result storage %s is not saved as a block, and may hold credentials: tasks that run as jobs use their "
            "worker's default storage instead. Save it to have them use it.",
            type(storage).__name__,
        )
    return None


def _carried(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the flow's parameters that can be carried: a task may ask for them, and hardly ever does."""
    carried = {}
    for name, value in parameters.items():
        try:
            dumps(value)
        except Exception as error:  # noqa: BLE001 - whatever pickling raises
            log.debug("The flow's parameter %s is not carried to its tasks' jobs: %s", name, error)
        else:
            carried[name] = value
    return carried


def _elsewhere() -> None:
    """Stands for the function of a flow that runs in another process."""


@contextmanager
def restored(found: Mapping[str, Any]) -> Iterator[None]:
    """The surroundings, on the worker. What the task submits by itself runs in threads there."""
    with ExitStack() as stack:
        stack.enter_context(SyncClientContext.get_or_create())
        client = get_client(sync_client=True)
        rest = {"tags_context": {"current_tags": set(found["tags"])}, **found.get("deployment", {})}
        # Before anything else: it completes the context's classes.
        stack.enter_context(hydrated_context(rest, client=client))
        if "flow_run" in found:
            flow = Flow(_elsewhere, validate_parameters=False, **found["flow"])
            runner: Any = stack.enter_context(ThreadPoolTaskRunner())
            context = FlowRunContext(
                flow=flow,
                flow_run=found["flow_run"],
                parameters=found["parameters"],
                log_prints=found["flow"]["log_prints"],
                persist_result=found["flow"]["persist_result"],
                result_store=get_result_store().update_for_flow(flow),
                task_runner=runner,
                client=client,
                detached=True,
            )
            stack.enter_context(context)
        yield
