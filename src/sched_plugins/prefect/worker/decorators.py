"""A decorator that runs a flow as a job wherever it is called from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect.flows import Flow, InfrastructureBoundFlow, bind_flow_to_infrastructure

from sched_plugins.errors import InvalidInput
from sched_plugins.prefect.worker.variables import SchedulerVariables
from sched_plugins.prefect.worker.worker import SchedulerWorker

if TYPE_CHECKING:
    from prefect.bundles import BundleLauncher

P = ParamSpec("P")
R = TypeVar("R")


def serverless_scheduler(
    work_pool: str,
    include_files: Sequence[str] | None = None,
    launcher: BundleLauncher | None = None,
    **job_variables: Any,
) -> Callable[[Flow[P, R]], InfrastructureBoundFlow[P, R]]:
    """Bind a flow to a work pool of the type ``serverless-scheduler``: each call of it runs as a job.

    The flow's code travels in a bundle: the pool needs storage for bundles (``prefect work-pool storage configure``).

    Args:
        work_pool: name of the pool.
        include_files: patterns of files beside the flow's own that go with it (``*.yaml``, ``data/``).
        launcher: the command that uploads and executes bundles, instead of ``uv run``.
        job_variables: variables of the pool for this flow: ``environment``, ``timeout_seconds``, ``python``, …

    Raises:
        InvalidInput: there is no such variable, or a pattern is no text.

    Example:
        Run a flow on the pool's environment::

            from prefect import flow
            from sched_plugins.prefect import serverless_scheduler

            @serverless_scheduler(work_pool="simulations", timeout_seconds=3600)
            @flow
            def simulate(reynolds: float) -> float: ...

            drag = simulate(20)
    """
    if not isinstance(work_pool, str) or not work_pool.strip():
        raise InvalidInput(f"work_pool is {work_pool!r}; write @serverless_scheduler(work_pool='NAME') above @flow")
    known = SchedulerVariables.model_fields.keys()
    if unknown := sorted(name for name in job_variables if name.partition(".")[0] not in known):
        raise InvalidInput(f"{unknown[0]!r} is no variable of the work pool; there are {', '.join(sorted(known))}")
    for pattern in include_files or ():
        if not isinstance(pattern, str) or not pattern.strip():
            raise InvalidInput(f"include_files has {pattern!r}; give patterns such as 'config.yaml' or 'data/'")

    def decorator(flow: Flow[P, R]) -> InfrastructureBoundFlow[P, R]:
        if not isinstance(flow, Flow):
            raise InvalidInput(
                f"{getattr(flow, '__name__', flow)!r} is no flow; write @serverless_scheduler(…) above @flow"
            )
        return bind_flow_to_infrastructure(
            flow,
            work_pool=work_pool,
            worker_cls=SchedulerWorker,
            job_variables=job_variables,
            launcher=launcher,
            include_files=list(include_files) if include_files is not None else None,
        )

    return decorator
