"""The flow runs that a worker has in hand, and where each runs."""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.exceptions import ObjectNotFound

from sched_plugins.client import Run
from sched_plugins.errors import NotFound
from sched_plugins.prefect.exceptions import InvalidWorkPool
from sched_plugins.prefect.worker.flow_run_job import job_id_of
from sched_plugins.prefect.worker.flow_runs import patiently
from sched_plugins.prefect.worker.variables import Place, SchedulerJobConfiguration

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse

NO_PLACE: Final = (InvalidWorkPool, NotFound)
"""What a flow run chooses cannot be, or does not exist; asking again will not help."""
_SCHEDULER: Final = ("scheduler", "scheduler_block")


@dataclass
class Tracked:
    """A flow run in a worker's hands, from before its submission to after its end."""

    place: Place | None = None
    grace_seconds: float = 0.0
    run: Run | None = None
    """Its job's run, once it is known to be submitted."""
    is_wanted: bool = True
    """False when it was cancelled in Prefect."""
    submitted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the submission has come to an end, whichever."""


@dataclass(frozen=True)
class Where:
    """Where a flow run that this process has not submitted runs."""

    place: Place
    grace_seconds: float
    doubt: str = ""
    """Why its job may be elsewhere; empty where it cannot."""


class Configurations:
    """The pool's template with the variables of deployments and flow runs; each combination is resolved once.

    Args:
        client: of Prefect's server.
        work_pool: the pool, as it is now.
    """

    def __init__(self, client: PrefectClient, work_pool: WorkPool) -> None:
        self._client = client
        self._template = copy.deepcopy(work_pool.base_job_template)
        self._deployments: dict[UUID, dict[str, Any]] = {}
        self._found: dict[str, Where | InvalidWorkPool | NotFound] = {}

    async def where(self, flow_run: FlowRun | None = None) -> Where:
        """Where a flow run runs; without one, those that choose nothing themselves.

        Raises:
            SchedulerError: a value cannot be, or AWS gave no usable answer.
        """
        values = await self._variables(flow_run) if flow_run is not None else {}
        key = json.dumps(values, sort_keys=True, default=str)
        if key not in self._found:
            try:
                configuration = await self._configuration(values)
                place = await asyncio.to_thread(configuration.place)
            except NO_PLACE as error:
                self._found[key] = error
            else:
                self._found[key] = Where(place, configuration.cancel_grace_seconds)
        found = self._found[key]
        if isinstance(found, Exception):
            raise found
        return found

    async def where_its_job_is(self, flow_run: FlowRun) -> Where:
        """Where to look for the job of a flow run, and to end it, even if nothing could be submitted there any more.

        A deployment may be changed, and an environment deleted, while a job goes on. The record of that is still with
        the scheduler that the flow run names, or with the pool's own.

        Raises:
            NO_PLACE: there is nowhere to look.
            SchedulerError: AWS gave no usable answer.
        """
        try:
            return await self.where(flow_run)
        except NO_PLACE as error:
            reason = error
        values = await self._variables(flow_run)
        own = {name: value for name, value in values.items() if name.partition(".")[0] in _SCHEDULER}
        answering: list[Where] = []
        for chosen in (own, {}) if own else ({},):
            try:
                configuration = await self._configuration(chosen)
                place = await asyncio.to_thread(configuration.scheduler_alone)
                job_id = flow_run.infrastructure_pid or job_id_of(flow_run.id)
                found = await asyncio.to_thread(place.client.get_many, [job_id])
            except NO_PLACE:
                continue
            answering.append(Where(place, configuration.cancel_grace_seconds, str(reason)))
            if found:
                return answering[-1]
        if not answering:
            raise reason
        return answering[0]

    async def _configuration(self, values: dict[str, Any]) -> SchedulerJobConfiguration:
        try:
            made: SchedulerJobConfiguration = await SchedulerJobConfiguration.from_template_and_values(
                base_job_template=self._template, values=values, client=self._client
            )
        except (ObjectNotFound, ValueError) as error:
            # A block that was deleted, or is of another kind.
            raise InvalidWorkPool(f"the work pool's variables cannot be used: {error}") from error
        return made

    async def _variables(self, flow_run: FlowRun) -> dict[str, Any]:
        # Variables of the environment and the command decide nothing about the place.
        values = {**await self._deployment(flow_run.deployment_id), **(flow_run.job_variables or {})}
        return {name: value for name, value in values.items() if name.partition(".")[0] not in ("env", "command")}

    async def _deployment(self, deployment_id: UUID | None) -> dict[str, Any]:
        if deployment_id is None:
            return {}
        if deployment_id not in self._deployments:
            try:
                found: DeploymentResponse = await patiently(lambda: self._client.read_deployment(deployment_id))
            except ObjectNotFound:
                self._deployments[deployment_id] = {}
            else:
                self._deployments[deployment_id] = dict(found.job_variables or {})
        return self._deployments[deployment_id]
