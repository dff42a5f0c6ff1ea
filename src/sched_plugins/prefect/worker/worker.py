"""The worker: each flow run of its work pool is a job of the scheduler.

``prefect worker start --pool NAME --type serverless-scheduler``

The worker submits, watches and cancels; the flows run on the workers of an environment. It may be ended and started
again at any time, and several may serve one pool: the jobs go on, and whoever is there follows them (see
:mod:`.adoption`).

*Known limitation*: flow runs of one environment run under one role, so a flow's code could read the secrets of another
one that runs in the same environment. Give teams that do not trust each other environments of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final
from uuid import UUID

import anyio
import anyio.abc
import httpx
from prefect.client.schemas.objects import StateType
from prefect.exceptions import InfrastructureNotAvailable, InfrastructureNotFound
from prefect.states import Cancelled
from prefect.workers.base import BaseWorker, BaseWorkerResult

from sched_plugins.client import Ended, Run
from sched_plugins.errors import SchedulerError
from sched_plugins.prefect.worker import adoption, canceller
from sched_plugins.prefect.worker.adoption import Adoption, Found
from sched_plugins.prefect.worker.canceller import Canceller, end_job
from sched_plugins.prefect.worker.flow_run_job import job_id_of, secret_name
from sched_plugins.prefect.worker.flow_runs import FlowRuns, patiently
from sched_plugins.prefect.worker.observation import end_of, telling
from sched_plugins.prefect.worker.outcome import Verdict, execution_of, explanation, has_killed, status_code
from sched_plugins.prefect.worker.submission import Asked, NotWanted, Submissions
from sched_plugins.prefect.worker.tracking import Configurations, Tracked
from sched_plugins.prefect.worker.variables import Place, SchedulerJobConfiguration, SchedulerVariables

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

_LOGO: Final = "https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png"
_LOOK_PATIENCE: Final = 5.0
_SWEEP_SECONDS: Final = 3600.0
_LAST_LOOK: Final = 10.0
"""Seconds for which a worker of one flow, which is over, waits for the end of its job."""
log = logging.getLogger(__name__)


class SchedulerWorkerResult(BaseWorkerResult):
    """How a flow run's job ended."""


class SchedulerWorker(BaseWorker[SchedulerJobConfiguration, SchedulerVariables, SchedulerWorkerResult]):
    """Runs flow runs as jobs. Prefect makes and starts it."""

    type: str = "serverless-scheduler"
    job_configuration = SchedulerJobConfiguration
    job_configuration_variables = SchedulerVariables
    _documentation_url: ClassVar[str] = "https://docs.prefect.io/v3/concepts/workers"  # type: ignore[misc]
    _logo_url: ClassVar[str] = _LOGO  # type: ignore[misc]
    _description: ClassVar[str] = (  # type: ignore[misc]
        "Run flows as jobs of a serverless scheduler on AWS: they wait in SQS and run on EC2 workers, which scale from "
        "zero and back. Needs an AWS account with a scheduler and an environment, or the laptop stack."
    )

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._tracked: dict[UUID, Tracked] = {}
        self._submissions = Submissions()
        self._watcher: Canceller | None = None
        self._serves_pool = False
        self._closing = asyncio.Event()
        self._places: dict[str, Place] = {}
        self._adopted: set[asyncio.Task[None]] = set()
        self._adhoc: dict[UUID, asyncio.Task[None]] = {}

    # What Prefect calls

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Claim what is due; before the first time, take over what was left behind."""
        if self._work_pool is not None and not self._serves_pool:
            self._serves_pool = True
            self._watch_cancellations()
            more = await self._adopt()
            assert self._runs_task_group is not None
            self._runs_task_group.start_soon(self._keep_adopting, more)
            self._runs_task_group.start_soon(self._keep_sweeping)
        return await super().get_and_submit_flow_runs()

    async def run(
        self,
        flow_run: FlowRun,
        configuration: SchedulerJobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> SchedulerWorkerResult:
        """Submit a claimed flow run, and follow its job to the end.

        Raises:
            InfrastructureNotAvailable: a value of the work pool cannot be, or AWS took no submission.
        """
        try:
            tracked = await self._submit(flow_run, configuration)
        except NotWanted:
            if task_status is not None:
                task_status.started(job_id_of(flow_run.id))
            return SchedulerWorkerResult(identifier=job_id_of(flow_run.id), status_code=0)
        assert tracked.place is not None
        assert tracked.run is not None
        if task_status is not None:
            task_status.started(tracked.run.job_id)
        return await self._follow(flow_run, tracked.place, tracked.run)

    async def _initiate_run(self, flow_run: FlowRun, configuration: SchedulerJobConfiguration) -> None:
        """Submit a flow of :meth:`submit`, which waits for nothing, and follow its job while this worker is there."""
        self._watch_cancellations()
        try:
            tracked = await self._submit(flow_run, configuration)
        except NotWanted:
            return
        assert tracked.place is not None
        assert tracked.run is not None
        if self._closing.is_set():
            # Its caller has left it alone: a worker of the pool follows it.
            self._tracked.pop(flow_run.id, None)
            await self._flow_runs.set_job(flow_run.id, tracked.run.job_id)
            return
        self._adhoc[flow_run.id] = asyncio.create_task(self._follow_beside(flow_run, tracked.place, tracked.run))

    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: SchedulerJobConfiguration, grace_seconds: int = 30
    ) -> None:
        """End a flow run's job, and the jobs that the flow has submitted.

        Args:
            infrastructure_pid: the job.
            configuration: of the flow run.
            grace_seconds: Prefect's, for infrastructure that passes on signals. The pool's own grace counts here.

        Raises:
            InfrastructureNotFound: there is no such job, or it has ended.
            InfrastructureNotAvailable: AWS gave no usable answer.
        """
        del grace_seconds
        try:
            place = await asyncio.to_thread(configuration.place)
            job = (await asyncio.to_thread(place.client.get_many, [infrastructure_pid])).get(infrastructure_pid)
            if job is None or job.is_terminal:
                raise InfrastructureNotFound(
                    f"job {infrastructure_pid!r} {'has ended' if job else 'does not exist'}; nothing is left to end"
                )
            flow_run_id = UUID(infrastructure_pid.removeprefix(job_id_of("")))
            await end_job(place, job, flow_run_id, configuration.cancel_grace_seconds)
        except SchedulerError as error:
            raise InfrastructureNotAvailable(f"job {infrastructure_pid!r} cannot be ended: {error}") from error

    async def teardown(self, *exc_info: Any) -> None:
        """End the worker. Jobs go on, and the next worker follows them."""
        if exc_info[:1] == (None,):
            await self._await_adhoc()
        self._closing.set()
        tasks = [*self._adopted, *self._adhoc.values()]
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*tasks, return_exceptions=True)
        await super().teardown(*exc_info)
        with anyio.CancelScope(shield=True):
            await self._submissions.close()

    # A flow run's way

    @property
    def _flow_runs(self) -> FlowRuns:
        return FlowRuns(self.client, self._work_pool_name, self._work_queues)

    async def _submit(self, flow_run: FlowRun, configuration: SchedulerJobConfiguration) -> Tracked:
        """Submit a flow run. From now on it is tracked, until its end was followed."""
        tracked = Tracked(grace_seconds=configuration.cancel_grace_seconds)
        # Before the state is read: who cancels it from here on waits for the submission.
        self._tracked[flow_run.id] = tracked
        try:
            tracked.place = place = await asyncio.to_thread(configuration.place)
            self._places.setdefault(place.environment, place)
            current = await self._flow_runs.read(flow_run.id)
            if current is None or current.state is None or not _is_wanted(current):
                await self._let_go_of(current)
                raise NotWanted
            tracked.run = await self._submitted(current, configuration, tracked, place)
        except BaseException as error:
            self._tracked.pop(flow_run.id, None)
            if isinstance(error, SchedulerError) and not isinstance(error, InfrastructureNotAvailable):
                raise InfrastructureNotAvailable(str(error)) from error
            raise
        finally:
            tracked.submitted.set()
        self.get_flow_run_logger(flow_run).info(
            "Flow run is job %s of environment %s", tracked.run.job_id, place.environment
        )
        return tracked

    async def _submitted(
        self, flow_run: FlowRun, configuration: SchedulerJobConfiguration, tracked: Tracked, place: Place
    ) -> Run:
        """The run of a claimed flow run; submitted, unless another worker has done so while this one was slow."""
        if flow_run.state is not None and flow_run.state.is_pending():
            job = configuration.flow_run_job(execution_of(flow_run), place)
            job.check()
            return await self._submissions.submit(Asked(job, place, lambda: tracked.is_wanted))
        job_id = job_id_of(flow_run.id)
        record = (await asyncio.to_thread(place.client.get_many, [job_id])).get(job_id)
        if record is None:
            raise NotWanted
        return Run(job_id, record.run_id)

    async def _let_go_of(self, flow_run: FlowRun | None) -> None:
        if flow_run is not None and flow_run.state is not None and flow_run.state.is_cancelling():
            await self._flow_runs.set_state(flow_run.id, Cancelled(message=canceller.UNSUBMITTED))

    async def _follow(self, flow_run: FlowRun, place: Place, run: Run) -> SchedulerWorkerResult:
        """Follow a flow run's job, and tell Prefect what its end means."""
        logger = self.get_flow_run_logger(flow_run)
        try:
            ended: Ended = await end_of(place, run, telling(logger.info, logger.warning))
            found, state = await self._flow_runs.settle(flow_run.id, ended)
            if found is Verdict.CRASHED or has_killed(state, ended):
                logger.error("%s", explanation(ended))
        finally:
            self._tracked.pop(flow_run.id, None)
        if place.environment:
            await self._submissions.forget(place, [secret_name(place.environment, run.job_id, run.run_id)])
        # What waits to be executed again is not to be taken for crashed, whatever its process ended with.
        code = 0 if state is None or state.is_scheduled() or state.is_paused() else status_code(ended)
        return SchedulerWorkerResult(identifier=run.job_id, status_code=code)

    async def _follow_beside(self, flow_run: FlowRun, place: Place, run: Run) -> None:
        """Follow a flow run that Prefect's worker does not wait for itself."""
        try:
            if flow_run.infrastructure_pid != run.job_id:
                await self._flow_runs.set_job(flow_run.id, run.job_id)
            await self._follow(flow_run, place, run)
        except Exception:
            self._logger.exception("Flow run %s is not followed; the next look takes it over again", flow_run.id)
        finally:
            self._tracked.pop(flow_run.id, None)
            self._adhoc.pop(flow_run.id, None)
            self._release_limit_slot(flow_run.id)

    # What is done beside

    def _watch_cancellations(self) -> None:
        if self._watcher is None:
            self._watcher = Canceller(
                self._flow_runs, self._tracked, lambda one: self._configurations().where_its_job_is(one)
            )
            assert self._runs_task_group is not None
            self._runs_task_group.start_soon(self._end_what_is_cancelled, self._watcher)

    async def _end_what_is_cancelled(self, watcher: Canceller) -> None:
        try:
            # A worker that runs once waits for its runs at its end, and they may be cancelled until theirs.
            while self._tracked or not self._closing.is_set():
                # Prefect's client waits ever longer for a busy server, for a minute in the end: asking anew is quicker.
                await self._attempt(
                    lambda: asyncio.wait_for(watcher.look(all_of_pool=self._serves_pool), _LOOK_PATIENCE)
                )
                if self._closing.is_set():
                    await asyncio.sleep(canceller.LOOK_SECONDS if self._tracked else 0)
                else:
                    await self._closed_within(canceller.LOOK_SECONDS)
        finally:
            with anyio.CancelScope(shield=True):
                await watcher.close()

    def _configurations(self) -> Configurations:
        return Configurations(self.client, self.work_pool)

    async def _keep_adopting(self, more: bool) -> None:
        soon = adoption.CLAIM_PATIENCE.total_seconds()
        while not await self._closed_within(soon if more else adoption.LOOK_SECONDS):
            more = await self._adopt()

    async def _adopt(self) -> bool:
        """Take over what was left behind; whether there may be more in a moment, as when Prefect or AWS fails."""
        in_hand = lambda id_: id_ in self._tracked or id_ in self._submitting_flow_run_ids  # noqa: E731
        try:
            found, more = await Adoption(
                self._flow_runs, in_hand, lambda: self._configurations().where_its_job_is
            ).look()
        except Exception as error:
            # Whatever went wrong, the worker is to serve what is due.
            expected = isinstance(error, SchedulerError | httpx.HTTPError)
            self._logger.warning(
                "Flow runs that were left behind are looked for later: %s", error, exc_info=not expected
            )
            return True
        for one in found:
            await self._take_over(one)
        if found:
            self._logger.info("Took over %d flow runs", len(found))
        return more

    async def _take_over(self, found: Found) -> None:
        flow_run = found.flow_run
        self._count(flow_run)
        if found.run is None or found.where is None:
            assert self._runs_task_group is not None
            self._submitting_flow_run_ids.add(flow_run.id)
            self._runs_task_group.start_soon(self._submit_again, flow_run)
            return
        place = found.where.place
        if place.environment:
            self._places.setdefault(place.environment, place)
        tracked = Tracked(place, found.where.grace_seconds, found.run)
        tracked.submitted.set()
        self._tracked[flow_run.id] = tracked
        task = asyncio.create_task(self._follow_beside(flow_run, place, found.run))
        self._adopted.add(task)
        task.add_done_callback(self._adopted.discard)

    async def _submit_again(self, flow_run: FlowRun) -> None:
        """Submit a flow run that was claimed by a worker which is gone, in Prefect's own way from there on."""
        try:
            assert self._runs_task_group is not None
            told = await self._runs_task_group.start(self._submit_run_and_capture_errors, flow_run)
            if not isinstance(told, Exception):
                await self._flow_runs.set_job(flow_run.id, str(told))
        finally:
            self._submitting_flow_run_ids.discard(flow_run.id)

    def _count(self, flow_run: FlowRun) -> None:
        """Count a flow run for the worker's limit if it was this worker's, under this name."""
        if self._limiter is None or flow_run.labels.get("prefect.worker.name") != self.name:
            return
        try:
            self._limiter.acquire_on_behalf_of_nowait(flow_run.id)
        except (anyio.WouldBlock, RuntimeError):
            self._logger.debug("Flow run %s is beyond the limit of this worker", flow_run.id)

    async def _keep_sweeping(self) -> None:
        await self._attempt(self._sweep)
        while not await self._closed_within(_SWEEP_SECONDS):
            await self._attempt(self._sweep)

    async def _sweep(self) -> None:
        """Delete the secrets that were left over in the environments that are known."""
        try:
            where = await self._configurations().where()
            self._places.setdefault(where.place.environment, where.place)
        except SchedulerError as error:
            self._logger.warning("Flow runs that choose nothing themselves would be refused: %s", error)
        for place in list(self._places.values()):
            try:
                left = await asyncio.to_thread(self._submissions.sweep, place)
            except SchedulerError as error:
                self._logger.warning("Secrets of environment %s are swept later: %s", place.environment, error)
            else:
                if left:
                    self._logger.info("Deleted %d secrets that were left over", len(left))

    async def _attempt(self, do: Callable[[], Awaitable[None]]) -> None:
        try:
            await do()
        except (httpx.HTTPError, TimeoutError) as error:
            self._logger.debug("Prefect's server gave no usable answer: %s", error)
        except Exception:
            self._logger.exception("What the worker does regularly failed; it is done again")

    async def _closed_within(self, seconds: float) -> bool:
        with anyio.move_on_after(seconds):
            await self._closing.wait()
        return self._closing.is_set()

    async def _await_adhoc(self) -> None:
        """Let the flows of :meth:`submit` that are over end properly; the others are left to the pool's workers."""
        if not self._adhoc or self._client is None:
            return
        states = [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED]
        over = await patiently(lambda: self._flow_runs.in_states(*states, only=list(self._adhoc)))
        tasks = [self._adhoc[one.id] for one in over if one.id in self._adhoc]
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_LOOK)


def _is_wanted(flow_run: FlowRun) -> bool:
    state = flow_run.state
    return state is not None and not state.is_final() and not state.is_cancelling()
