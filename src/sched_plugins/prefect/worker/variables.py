"""What a work pool of the type ``serverless-scheduler`` lets users choose, and the checked choice for a flow run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prefect.workers.base import BaseJobConfiguration, BaseVariables
from pydantic import Field, PrivateAttr, field_validator

from sched_plugins.core import limits, names
from sched_plugins.errors import InvalidInput, InvalidSettings
from sched_plugins.prefect.blocks.scheduler import ServerlessScheduler, as_scheduler
from sched_plugins.prefect.exceptions import InvalidWorkPool
from sched_plugins.prefect.worker.flow_run_job import Execution, FlowRunJob

if TYPE_CHECKING:
    from prefect.client.schemas.objects import Flow, FlowRun, WorkPool
    from prefect.client.schemas.responses import DeploymentResponse

    from sched_plugins.client import EnvironmentClient, SchedulerClient

GRACE_SECONDS: Final = 3.0
LONGEST_GRACE: Final = 600.0
_OWN_LABELS: Final = "prefect.io/"


@dataclass(frozen=True)
class Place:
    """Where a flow run runs: the same object's fields for all that a process sends there."""

    client: SchedulerClient
    """Reads, watches and cancels jobs."""
    jobs: SchedulerClient | EnvironmentClient
    """Whose functions submit and cancel the flow runs' own jobs: the environment's start its workers at once."""
    environment: str
    """Empty where jobs can be read and ended, but none submitted."""
    queue: str
    """Ahead of that of the environment; empty for that."""
    kms_key_id: str


class SchedulerVariables(BaseVariables):
    """The variables of the pool's job template."""

    scheduler: str = Field(
        default="",
        title="Scheduler",
        description="Stack name of the scheduler; by default SCHED_SCHEDULER of the worker, or the environment's.",
        examples=["sim"],
    )
    scheduler_block: ServerlessScheduler | None = Field(
        default=None,
        title="Scheduler block",
        description="The scheduler with its credentials, and perhaps an environment, ahead of the stack name.",
    )
    environment: str = Field(
        default="",
        title="Environment",
        description="Stack name of the environment whose workers run the flows; by default the scheduler block's.",
        examples=["solver"],
    )
    queue: str = Field(
        default="",
        title="Queue",
        description="Job queue, instead of the environment's own. Its workers must have the environment's role.",
    )
    timeout_seconds: int = Field(
        default=limits.DEFAULT_JOB_TIMEOUT,
        ge=1,
        le=limits.MAX_JOB_TIMEOUT,
        title="Timeout",
        description="Seconds for which a flow run may run; then its processes are ended.",
    )
    python: str = Field(
        default="python3",
        min_length=1,
        title="Python",
        description="Python on the workers' image, with Prefect, this package and what the flows need.",
        examples=["/opt/flows/bin/python"],
    )
    command: str | None = Field(
        default=None,
        title="Command",
        description="What a job runs, read by a shell; by default `prefect flow-run execute` with that Python.",
    )
    working_directory: str = Field(
        default="",
        title="Working directory",
        description="An absolute directory on the worker; by default a fresh one, which is removed afterwards.",
    )
    tags: dict[str, str] = Field(default_factory=dict, title="Tags", description="Free labels of the jobs.")
    kms_key_id: str = Field(
        default="",
        title="KMS key",
        description="Key that encrypts the flow runs' variables in Parameter Store; by default the account's, aws/ssm.",
    )
    cancel_grace_seconds: float = Field(
        default=GRACE_SECONDS,
        ge=0,
        le=LONGEST_GRACE,
        title="Grace at cancellation",
        description="Seconds for which a running flow that is cancelled may end by itself, with its hooks.",
    )


class SchedulerJobConfiguration(BaseJobConfiguration):
    """The checked variables for one flow run. A value that cannot be is refused with InvalidWorkPool."""

    scheduler: str = ""
    scheduler_block: ServerlessScheduler | None = None
    environment: str = ""
    queue: str = ""
    timeout_seconds: int = limits.DEFAULT_JOB_TIMEOUT
    python: str = "python3"
    working_directory: str = ""
    tags: dict[str, str] = Field(default_factory=dict)
    kms_key_id: str = ""
    cancel_grace_seconds: float = GRACE_SECONDS

    _own_tags: dict[str, str] = PrivateAttr(default_factory=dict)
    _group: str = PrivateAttr(default="")

    @field_validator("scheduler", "environment", mode="before")
    @classmethod
    def _stack_name(cls, value: Any, info: Any) -> str:
        if value in (None, ""):
            return ""
        try:
            return names.check_stack_name(str(value))
        except InvalidSettings as error:
            raise InvalidWorkPool(f"{info.field_name} of the work pool: {error}") from None

    @field_validator("timeout_seconds", mode="before")
    @classmethod
    def _timeout(cls, value: Any) -> int:
        seconds = _number(value)
        if not 1 <= seconds <= limits.MAX_JOB_TIMEOUT or seconds != int(seconds):
            raise InvalidWorkPool(
                f"timeout_seconds of the work pool is {value!r}; give whole seconds from 1 to {limits.MAX_JOB_TIMEOUT}"
            )
        return int(seconds)

    @field_validator("cancel_grace_seconds", mode="before")
    @classmethod
    def _grace(cls, value: Any) -> float:
        seconds = _number(value)
        if not 0 <= seconds <= LONGEST_GRACE:
            raise InvalidWorkPool(
                f"cancel_grace_seconds of the work pool is {value!r}; give seconds from 0 to {LONGEST_GRACE:g}"
            )
        return seconds

    @field_validator("queue", "python", "working_directory", "kms_key_id", mode="before")
    @classmethod
    def _text(cls, value: Any, info: Any) -> str:
        text = "" if value is None else value
        if not isinstance(text, str) or (info.field_name == "python" and not text.strip()):
            raise InvalidWorkPool(f"{info.field_name} of the work pool is {value!r}; give a text")
        return text.strip()

    @field_validator("tags", mode="before")
    @classmethod
    def _labels(cls, value: Any) -> dict[str, str]:
        if value is not None and not isinstance(value, Mapping):
            raise InvalidWorkPool(f"tags of the work pool is {value!r}; give a mapping of names to values")
        return {str(name): str(text) for name, text in (value or {}).items()}

    def prepare_for_flow_run(
        self,
        flow_run: FlowRun,
        deployment: DeploymentResponse | None = None,
        flow: Flow | None = None,
        work_pool: WorkPool | None = None,
        worker_name: str | None = None,
        worker_id: Any = None,
    ) -> None:
        """Complete it with what is known of the flow run."""
        super().prepare_for_flow_run(flow_run, deployment, flow, work_pool, worker_name, worker_id)
        _refuse_unknown(work_pool, getattr(deployment, "job_variables", None), flow_run.job_variables)
        own = {
            "prefect_flow_run_id": flow_run.id,
            "prefect_flow_run_name": flow_run.name,
            "prefect_flow_name": getattr(flow, "name", None),
            "prefect_deployment_name": getattr(deployment, "name", None),
            "prefect_work_pool": getattr(work_pool, "name", None),
        }
        self._own_tags = {name: names.clip(str(value), 200) for name, value in own.items() if value}
        self._group = f"prefect-pool-{getattr(work_pool, 'name', None) or 'none'}"

    def place(self) -> Place:
        """Where the flow run runs. The first time for an environment, one DescribeStacks call.

        Raises:
            InvalidWorkPool: no scheduler or environment is named, or they do not belong together.
            SchedulerError: there is no such environment, or AWS gave no usable answer.
        """
        try:
            block = self._block()
            environment = self.environment or block.environment
            if not environment:
                raise InvalidWorkPool(
                    "the work pool names no environment; set its variable environment to the stack name of one of "
                    f"scheduler {block.scheduler!r} (`sched queues --scheduler {block.scheduler}` shows them)"
                )
            client = block.client()
            own = block.environment_client(environment)
        except InvalidInput as error:
            if isinstance(error, InvalidWorkPool):
                raise
            raise InvalidWorkPool(f"the work pool's scheduler cannot be used: {error}") from error
        is_own = names.queue_name(self.queue) in ("", own.queue)
        return Place(client, own if is_own else client, environment, "" if is_own else self.queue, self.kms_key_id)

    def scheduler_alone(self) -> Place:
        """Where jobs are read and ended whose environment is not to be had: all jobs of a scheduler are in its tables.

        Raises: as :meth:`place`, but an environment is only looked for if no scheduler is named.
        """
        try:
            client = self._block().client()
        except InvalidInput as error:
            raise InvalidWorkPool(f"the work pool's scheduler cannot be used: {error}") from error
        return Place(client, client, "", "", self.kms_key_id)

    def _block(self) -> ServerlessScheduler:
        return self.scheduler_block or as_scheduler(self.scheduler or None, environment=self.environment)

    def flow_run_job(self, execution: Execution, place: Place) -> FlowRunJob:
        """The flow run's job."""
        labels = {name: value for name, value in self.labels.items() if not name.startswith(_OWN_LABELS)}
        return FlowRunJob(
            execution=execution,
            environment=place.environment,
            region=place.client.connection.region,
            python=self.python,
            command=self.command or self._base_flow_run_command(),
            variables={name: value for name, value in self.env.items() if value is not None},
            timeout_seconds=self.timeout_seconds,
            working_directory=self.working_directory,
            group_id=self._group,
            tags={**labels, **self.tags, **self._own_tags},
        )


def _refuse_unknown(work_pool: WorkPool | None, *given: Mapping[str, Any] | None) -> None:
    """Refuse variables that the pool's job template does not have, which Prefect passes over."""
    template = getattr(work_pool, "base_job_template", None) or {}
    known = template.get("variables", {}).get("properties", {})
    for name in [name for variables in given for name in variables or {}] if known else []:
        if name.partition(".")[0] not in known:
            raise InvalidWorkPool(
                f"job_variables has {name!r}, which is no variable of the work pool; there are "
                f"{', '.join(sorted(known))}"
            )


def _number(value: Any) -> float:
    try:
        return float(str(value)) if not isinstance(value, bool) else -1.0
    except ValueError:
        return -1.0
