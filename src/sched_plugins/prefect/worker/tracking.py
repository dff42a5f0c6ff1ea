"""The flow runs that a worker has in hand, and where each runs."""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, WorkPool
from prefect.exceptions import ObjectNotFound

from sched_plugins.client import Run
from sched_plugins.prefect.worker.flow_runs import patiently
from sched_plugins.prefect.worker.variables import Place, SchedulerJobConfiguration

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse


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
        self._found: dict[str, Where] = {}

    async def where(self, flow_run: FlowRun | None = None) -> Where:
        """Where a flow run runs; without one, those that choose nothing themselves.

        Raises:
            SchedulerError: a value cannot be, or AWS gave no usable answer.
        """
        values = await self._variables(flow_run) if flow_run is not None else {}
        key = json.dumps(values, sort_keys=True, default=str)
        if key not in self._found:
            configuration: Any = await SchedulerJobConfiguration.from_template_and_values(
                base_job_template=self._template, values=values, client=self._client
            )
            place = await asyncio.to_thread(configuration.place)
            self._found[key] = Where(place, configuration.cancel_grace_seconds)
        return self._found[key]

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
