"""What the worker asks of Prefect's server about the flow runs of its pool, and tells it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from random import Random
from typing import Any, Final, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed
from prefect.utilities.engine import propose_state

from sched_plugins.client import Ended
from sched_plugins.prefect.worker.outcome import Verdict, explanation, verdict

log = logging.getLogger(__name__)
T = TypeVar("T")

_PAGE: Final = 200
"""The most that Prefect's server gives at once by default."""
_NOT_ENDED_BY_ITSELF: Final = [one for one in StateType if one not in (StateType.COMPLETED, StateType.FAILED)]
_SET_AT_ONCE: Final = 8
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_JITTER: Final = Random()  # noqa: S311 - spreads callers in time; no secret


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Ask Prefect's server again and again while it is not to be reached, or too busy to answer.

    On SQLite a busy server answers 503, which says nothing about what was asked.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return await call()
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 and error.response.status_code not in (408, 429):
                raise
            log.info("Prefect's server answers %s; asking again", error.response.status_code)
        except httpx.TransportError as error:
            log.info("Prefect's server cannot be reached (%s); asking again", error)
        await asyncio.sleep(pause * _JITTER.uniform(0.5, 1.5))
        pause = min(_LONGEST_PAUSE, 2 * pause)


class FlowRuns:
    """The flow runs of a work pool.

    Args:
        client: of Prefect's server.
        pool: the pool's name.
        queues: the pool's work queues that the worker serves; empty for all.
    """

    def __init__(self, client: PrefectClient, pool: str, queues: Collection[str] = ()) -> None:
        self._client = client
        self._pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
        self._queues = frozenset(queues)

    async def in_states(self, *types: StateType, only: Collection[UUID] | None = None) -> list[FlowRun]:
        """Those of the pool in such states: one request for 200.

        Args:
            types: the states.
            only: among these.
        """
        chosen = None if only is None else FlowRunFilterId(any_=list(only))
        wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))), id=chosen)
        if only is not None and not only:
            return []
        found = await self._all(wanted, self._pool)
        # A work queue may be served from another account, where the job would not be found.
        return [run for run in found if not self._queues or run.work_queue_name in self._queues]

    async def read(self, flow_run_id: UUID) -> FlowRun | None:
        """A flow run; None if it was deleted. Waits for a server that does not answer."""
        try:
            return await patiently(lambda: self._client.read_flow_run(flow_run_id))
        except ObjectNotFound:
            return None

    async def cancel_descendants(self, flow_run_id: UUID) -> None:
        """Have what a cancelled flow run has started elsewhere cancelled too, at once, as if its user had done so.

        A flow that runs within another's process ends with that, but what it has started elsewhere does not: so all
        levels are looked through. What was started by a flow that has ended by itself is left, as Prefect leaves it.

        For each level one request for 200, and one for each flow run that is to end.
        """
        parents, seen, few = [flow_run_id], {flow_run_id}, asyncio.Semaphore(_SET_AT_ONCE)
        while parents:
            wanted = FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=parents),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_NOT_ENDED_BY_ITSELF)),
            )
            children = [run for run in await self._all_patiently(wanted) if run.id not in seen]
            await asyncio.gather(*(self._cancel_elsewhere(run, few) for run in children))
            parents = [run.id for run in children]
            seen.update(parents)

    async def _cancel_elsewhere(self, flow_run: FlowRun, few: asyncio.Semaphore) -> None:
        """Set a flow run Cancelling that has a process of its own, or is to have one."""
        state = flow_run.state
        if flow_run.deployment_id is None and flow_run.work_pool_name is None:
            return
        if state is None or state.is_cancelling() or state.is_final():
            return
        async with few:
            await self.set_state(flow_run.id, Cancelling(message="The flow run that started it was cancelled."))

    async def _all_patiently(self, wanted: FlowRunFilter) -> list[FlowRun]:
        return await patiently(lambda: self._all(wanted))

    async def _all(self, wanted: FlowRunFilter, pool: WorkPoolFilter | None = None) -> list[FlowRun]:
        found: list[FlowRun] = []
        while True:
            page = await self._client.read_flow_runs(
                flow_run_filter=wanted, work_pool_filter=pool, limit=_PAGE, offset=len(found)
            )
            found += page
            if len(page) < _PAGE:
                return found

    async def set_job(self, flow_run_id: UUID, job_id: str) -> None:
        """Tell which job a flow run is."""
        try:
            await patiently(lambda: self._client.update_flow_run(flow_run_id=flow_run_id, infrastructure_pid=job_id))
        except ObjectNotFound:
            log.debug("Flow run %s was deleted", flow_run_id)

    async def settle(self, flow_run_id: UUID, ended: Ended) -> tuple[Verdict, State[Any] | None]:
        """Tell Prefect what the end of a job means, unless the flow run has told so itself; and the state before.

        One that was cancelled may have started others until its processes were gone: those are cancelled too.
        """
        flow_run = await self.read(flow_run_id)
        state = flow_run.state if flow_run is not None else None
        found = verdict(flow_run, ended)
        if found is Verdict.CANCELLED:
            job = ended.job
            reason = f": {job.status_reason}" if job is not None and job.status_reason else ""
            await self.set_state(flow_run_id, Cancelled(message=f"Job {ended.run.job_id!r} was ended{reason}."))
        elif found is Verdict.CRASHED:
            await self.set_state(flow_run_id, Crashed(message=explanation(ended)))
        if found is Verdict.CANCELLED or (state is not None and state.is_cancelled()):
            await self.cancel_descendants(flow_run_id)
        return found, state

    async def set_state(self, flow_run_id: UUID, state: State[Any]) -> None:
        """Propose a state. A flow run that was deleted, or has ended meanwhile, is left as it is."""
        try:
            await patiently(lambda: propose_state(self._client, state, flow_run_id=flow_run_id))
        except Abort as abort:
            log.debug("Flow run %s is not set %s: %s", flow_run_id, state.name, abort)
        except ObjectNotFound:
            log.debug("Flow run %s was deleted", flow_run_id)
