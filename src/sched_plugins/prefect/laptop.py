"""What ``make prefect`` makes on its server, as a process of its own, since what starts all needs no Prefect itself.

A block with the laptop stack's scheduler, and a work pool whose flow runs are jobs of one environment. Its workers are
processes of this machine and run this very Python; on AWS, a pool names that of the workers' image.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Mapping
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectAlreadyExists
from prefect.states import Cancelled, Crashed

from sched_plugins.prefect.blocks.scheduler import ServerlessScheduler
from sched_plugins.prefect.worker.worker import SchedulerWorker


def with_defaults(template: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A job template whose variables have other defaults.

    Raises:
        KeyError: the template has no such variable.
    """
    changed = copy.deepcopy(dict(template))
    for name, value in defaults.items():
        changed["variables"]["properties"][name]["default"] = value
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Make the block and the pool, or bring them up to date."""
    parser = argparse.ArgumentParser(prog="laptop", description="Make a work pool for a laptop stack.")
    parser.add_argument("pool")
    parser.add_argument("scheduler")
    parser.add_argument("environment")
    parser.add_argument("--new-stack", action="store_true", help="no job of an earlier stack is left")
    options = parser.parse_args(arguments)
    ServerlessScheduler(scheduler=options.scheduler, environment=options.environment).save(options.pool, overwrite=True)
    defaults = {
        "scheduler": options.scheduler,
        "environment": options.environment,
        "python": sys.executable,
        "env": {"SCHED_SCHEDULER": options.scheduler},
    }
    template = with_defaults(SchedulerWorker.get_default_base_job_template(), defaults)
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(
                WorkPoolCreate(name=options.pool, type=SchedulerWorker.type, base_job_template=template)
            )
        except ObjectAlreadyExists:
            # Not anew: it keeps its storage for bundles, its limits and its queues.
            client.update_work_pool(options.pool, WorkPoolUpdate(base_job_template=template))
        if options.new_stack:
            end_lost_runs(client, options.pool)
    return 0


def end_lost_runs(client: SyncPrefectClient, pool: str) -> None:
    """End the flow runs of a pool that were jobs of a stack which has gone: they would hold deployments' limits."""
    ends = {StateType.RUNNING: Crashed, StateType.CANCELLING: Cancelled}
    chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(ends))))
    of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    for run in client.read_flow_runs(flow_run_filter=chosen, work_pool_filter=of_pool):
        if run.state is not None:
            state: State[Any] = ends[run.state.type](message="The laptop stack that ran its job was stopped.")
            client.set_flow_run_state(run.id, state, force=True)


if __name__ == "__main__":
    sys.exit(main())
