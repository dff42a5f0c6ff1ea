"""Takes over flow runs that another worker, or an earlier process of this one, has left behind.

Whoever submitted a job need not live until its end: the job goes on. So a worker looks, when it starts and every
minute, for flow runs of its pool that are claimed or running and not in its own hands:

- one that has a job is followed to its end;
- one that was claimed, and for which no job was submitted in time, is submitted. Its job and run id are those that the
  dead worker would have used, so should that one live after all, the job runs once. Where it names what does not exist,
  that refuses it, and it is Crashed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, StateType

from sched_plugins.client import Job, Run
from sched_plugins.errors import SchedulerError
from sched_plugins.prefect.worker.flow_run_job import job_id_of, known_run
from sched_plugins.prefect.worker.flow_runs import FlowRuns
from sched_plugins.prefect.worker.outcome import execution_of
from sched_plugins.prefect.worker.tracking import NO_PLACE, Where
from sched_plugins.prefect.worker.variables import Place

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 60.0
CLAIM_PATIENCE: Final = timedelta(seconds=10)
"""For so long after its claim a flow run is left to the worker that claimed it."""
_LEFT: Final = "Flow run %s cannot be taken over: %s"
_IN_HAND: Final = (StateType.PENDING, StateType.RUNNING, StateType.PAUSED)


@dataclass(frozen=True)
class Found:
    """A flow run that was left behind."""

    flow_run: FlowRun
    where: Where | None
    """None if that cannot be told: its submission will tell why."""
    run: Run | None
    """Its job's run; None if it is to be submitted."""


class Step(StrEnum):
    """What to do about a flow run that is in nobody's hands here."""

    FOLLOW = "follow"
    """It has a job."""
    SUBMIT = "submit"
    """It was claimed, and whoever claimed it has not submitted it."""
    WAIT = "wait"
    """It was claimed a moment ago."""
    LEAVE = "leave"
    """It is somebody else's."""


def left_behind(flow_run: FlowRun, record: Job | None, now: datetime) -> tuple[Step, Run | None]:
    """What to do about a flow run, and its job's run if it has one.

    Args:
        flow_run: claimed or running, and not in this worker's hands.
        record: of its job, if there is one.
        now: the time.
    """
    state = flow_run.state
    if state is None:
        return Step.LEAVE, None
    job_id = job_id_of(flow_run.id)
    if not state.is_pending():
        # Without a job it is none of ours: somebody executes it by hand.
        suspended = state.is_paused() and state.state_details.pause_reschedule
        return (Step.LEAVE, None) if record is None or suspended else (Step.FOLLOW, Run(job_id, record.run_id))
    run = known_run(execution_of(flow_run), record)
    if run is not None:
        return Step.FOLLOW, run
    if state.state_details.scheduled_time is None:
        # It was created as pending, and its creator is submitting it, together with its code.
        return Step.LEAVE, None
    return (Step.SUBMIT if now - state.timestamp > CLAIM_PATIENCE else Step.WAIT), None


class Adoption:
    """See the module.

    Args:
        flow_runs: of the pool.
        in_hand: whether a flow run is in this worker's hands.
        new_where: made for one look: where the job of a flow run of the pool is.
    """

    def __init__(
        self,
        flow_runs: FlowRuns,
        in_hand: Callable[[UUID], bool],
        new_where: Callable[[], Callable[[FlowRun], Awaitable[Where]]],
    ) -> None:
        self._flow_runs = flow_runs
        self._in_hand = in_hand
        self._new_where = new_where

    async def look(self) -> tuple[list[Found], bool]:
        """What is to be taken over, and whether there may be more in a moment.

        One request for 200 flow runs, one BatchGetItem for 100 jobs.

        Raises:
            httpx.HTTPError: Prefect's server gave no usable answer.
            SchedulerError: AWS gave none.
        """
        strange = [run for run in await self._flow_runs.in_states(*_IN_HAND) if not self._in_hand(run.id)]
        where_of, groups = self._new_where(), dict[Place, list[tuple[FlowRun, Where]]]()
        found: list[Found] = []
        for flow_run in strange:
            try:
                where = await where_of(flow_run)
            except NO_PLACE as error:
                found += self._without_place(flow_run, error)
                continue
            except SchedulerError as error:
                log.warning(_LEFT, flow_run.id, error)
                continue
            groups.setdefault(where.place, []).append((flow_run, where))
        more = False
        for place, some in groups.items():
            job_ids = [job_id_of(flow_run.id) for flow_run, _ in some]
            try:
                records = await asyncio.to_thread(place.client.get_many, job_ids)
            except NO_PLACE as error:
                found += [one for flow_run, _ in some for one in self._without_place(flow_run, error)]
                continue
            now = datetime.now(UTC)
            for (flow_run, where), job_id in zip(some, job_ids, strict=True):
                step, run = left_behind(flow_run, records.get(job_id), now)
                more = more or step is Step.WAIT
                if step in (Step.FOLLOW, Step.SUBMIT) and not self._in_hand(flow_run.id):
                    found.append(Found(flow_run, where, run))
                elif where.doubt and step is Step.LEAVE:
                    log.warning(_LEFT, flow_run.id, where.doubt)
        return found, more

    def _without_place(self, flow_run: FlowRun, error: SchedulerError) -> list[Found]:
        """One whose job cannot be looked for: to be submitted, and so refused, if it was not submitted before."""
        step, _ = left_behind(flow_run, None, datetime.now(UTC))
        if step is Step.SUBMIT and not flow_run.infrastructure_pid:
            return [] if self._in_hand(flow_run.id) else [Found(flow_run, None, None)]
        log.warning(_LEFT, flow_run.id, error)
        return []
