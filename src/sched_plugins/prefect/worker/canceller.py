"""Ends the jobs of flow runs that are cancelled in Prefect, whatever they are at.

Prefect's own workers do not end a flow run that was submitted: the process that executes it does, if it was started,
if it listens, and if no thread of it waits for something else. So the worker looks itself, for all flow runs at once:

- one that was never submitted is Cancelled at once;
- one whose job waits for a worker: its job is cancelled, and the flow run with it;
- one that runs gets a moment to end by itself, with its hooks; then the scheduler kills its processes.

In each case the jobs that the flow itself has submitted are cancelled too, and so are the flow runs that it has started
elsewhere: Prefect would do so when this one is Cancelled, up to twenty seconds later. The state Cancelled is set when
the processes are gone, unless the flow run has told of its end itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled

from sched_plugins.client import Ended, Job, Run
from sched_plugins.errors import JobNotFound, SchedulerError
from sched_plugins.prefect.cancellation import cancel_live_jobs
from sched_plugins.prefect.worker.flow_run_job import job_id_of
from sched_plugins.prefect.worker.flow_runs import FlowRuns
from sched_plugins.prefect.worker.observation import end_of
from sched_plugins.prefect.worker.tracking import NO_PLACE, Tracked, Where
from sched_plugins.prefect.worker.variables import Place

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.5
UNSUBMITTED: Final = "Cancelled before it was submitted as a job."
UNSEEN: Final = "If it had a job, that could not be looked for: {}"
_NOT_THERE: Final = "The scheduler has no job of it, and where else it may have had one cannot be told: {}"
_OTHERS_SUBMISSION: Final = 2.0
"""Seconds for which a submission by another worker may be on its way."""
_PAUSE: Final = 1.0


class Canceller:
    """See the module.

    Args:
        flow_runs: of the pool.
        tracked: the flow runs in this worker's hands.
        where: where the job of another flow run of the pool is.
    """

    def __init__(
        self,
        flow_runs: FlowRuns,
        tracked: dict[UUID, Tracked],
        where: Callable[[FlowRun], Awaitable[Where]],
    ) -> None:
        self._flow_runs = flow_runs
        self._tracked = tracked
        self._where = where
        self._handled: dict[UUID, asyncio.Task[None]] = {}

    async def look(self, *, all_of_pool: bool) -> None:
        """Begin to end what is cancelled: of the whole pool, or of what is in this worker's hands. One request.

        Raises:
            httpx.HTTPError: Prefect's server gave no usable answer.
        """
        only = None if all_of_pool else list(self._tracked)
        for flow_run in await self._flow_runs.in_states(StateType.CANCELLING, only=only):
            if flow_run.id not in self._handled:
                self._handled[flow_run.id] = asyncio.create_task(self._end(flow_run), name=f"cancel {flow_run.id}")

    async def close(self) -> None:
        """Leave what is under way to the next worker."""
        tasks = list(self._handled.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, flow_run: FlowRun) -> None:
        try:
            both = self._flow_runs.cancel_descendants(flow_run.id), self._end_job(flow_run)
            for told in await asyncio.gather(*both, return_exceptions=True):
                if isinstance(told, BaseException):
                    raise told
        except Exception:
            # The next look tries again.
            log.exception("Flow run %s is not cancelled yet", flow_run.id)
            await asyncio.sleep(_PAUSE)
        finally:
            self._handled.pop(flow_run.id, None)

    async def _end_job(self, flow_run: FlowRun) -> None:
        tracked = self._tracked.get(flow_run.id)
        if tracked is not None:
            # Whether there is a job is known when the submission has its answer.
            tracked.is_wanted = False
            await tracked.submitted.wait()
        try:
            if tracked is not None and tracked.place is not None:
                where = Where(tracked.place, tracked.grace_seconds)
            else:
                where = await self._where(flow_run)
            place = where.place
            job_id = flow_run.infrastructure_pid or job_id_of(flow_run.id)
            job = await self._job(place, job_id)
            if job is None and tracked is None:
                await asyncio.sleep(_OTHERS_SUBMISSION)
                job = await self._job(place, job_id)
        except NO_PLACE as error:
            log.warning("The job of cancelled flow run %s could not be looked for: %s", flow_run.id, error)
            await self._flow_runs.set_state(flow_run.id, Cancelled(message=UNSEEN.format(error)))
            return
        if job is None:
            message = _NOT_THERE.format(where.doubt) if where.doubt else UNSUBMITTED
            await asyncio.gather(
                self._flow_runs.set_state(flow_run.id, Cancelled(message=message)),
                end_children(place, flow_run.id),
            )
            return
        ended = await end_job(place, job, flow_run.id, where.grace_seconds)
        if tracked is None or flow_run.id not in self._tracked:
            # Nobody else in this process tells of its end.
            await self._flow_runs.settle(flow_run.id, ended)

    async def _job(self, place: Place, job_id: str) -> Job | None:
        return (await asyncio.to_thread(place.client.get_many, [job_id])).get(job_id)


async def end_job(place: Place, job: Job, flow_run_id: UUID, grace_seconds: float) -> Ended:
    """End a flow run's job and the jobs that the flow has submitted; how it has ended.

    Args:
        place: where it runs.
        job: its job.
        flow_run_id: the flow run.
        grace_seconds: for which a job that runs may end by itself.
    """
    run = Run(job.job_id, job.run_id)
    children = asyncio.create_task(end_children(place, flow_run_id))
    try:
        ended: Ended | None = None
        if job.is_live and grace_seconds > 0:
            try:
                ended = await asyncio.wait_for(end_of(place, run), grace_seconds)
            except TimeoutError:
                pass
        if ended is None:
            if not job.is_terminal:
                await _request_end(place, job.job_id)
            ended = await end_of(place, run)
        # What the flow submitted until its processes were gone.
        await children
        await end_children(place, flow_run_id)
        return ended
    finally:
        children.cancel()


async def end_children(place: Place, flow_run_id: UUID) -> None:
    """Cancel the jobs that a flow has submitted; the threads of a flow that wait for them do not hear a signal."""
    try:
        found = await asyncio.to_thread(cancel_live_jobs, place.client, str(flow_run_id))
    except SchedulerError as error:
        log.warning("The jobs of flow run %s could not all be cancelled: %s", flow_run_id, error)
        return
    if found:
        log.info("Cancelled %d jobs of flow run %s", len(found), flow_run_id)


async def _request_end(place: Place, job_id: str) -> None:
    while True:
        try:
            await asyncio.to_thread(place.jobs.cancel, job_id)
            return
        except JobNotFound:
            return
        except SchedulerError as error:
            log.warning("Job %s is not cancelled yet: %s", job_id, error)
            await asyncio.sleep(_PAUSE)
