"""Whether the executor can do its work: each kind of call that tasks need, made once, to no effect."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from sched_plugins.airflow.executors.task_options import job_id, parameter_name
from sched_plugins.client.failures import missing_environment
from sched_plugins.client.fleet import stack_outputs
from sched_plugins.client.submission import invoke
from sched_plugins.core import names
from sched_plugins.core.state import TERMINAL
from sched_plugins.errors import (
    EnvironmentNotFound,
    InvalidSettings,
    JobNotFound,
    LaptopStackError,
    NotPermitted,
    SchedulerError,
    Unknown,
)

if TYPE_CHECKING:
    from sched_plugins.airflow.executors.settings import ExecutorSettings
    from sched_plugins.client import SchedulerClient
    from sched_plugins.client.secret_store import SecretStore


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of call, and what came of it."""

    name: str
    """What it is for, in a word."""
    action: str
    """What AWS calls it."""
    policy: str
    """The export of a stack that names the policy which allows it."""
    error: SchedulerError | None

    @property
    def outcome(self) -> str:
        """``works``, or what is wrong and what to do next."""
        if self.error is None:
            return "works"
        grant = f" The policy that allows it is the export {self.policy!r}." * isinstance(self.error, NotPermitted)
        return f"{type(self.error).__name__}: {self.error}{grant}"


def checks(client: SchedulerClient, store: SecretStore, settings: ExecutorSettings) -> Iterator[Check]:
    """Make one call after the other; after one that has no answer, none.

    AWS calls: one GetQueueUrl, one DescribeStacks, two Invoke, one GetItem, one BatchGetItem, four Query, one
    PutParameter, one DeleteParameters. No job is touched: none has the id that is asked for.

    Args:
        client: of the executor's scheduler.
        store: of workloads.
        settings: of the executor.
    """
    # A parameter must not be made again within 30 s of its deletion, so each check has a name of its own.
    probe = job_id(f"health-check-{uuid4()}")
    parameter = parameter_name(settings.environment, probe)
    submitter, reader = f"{settings.scheduler}-SubmitterPolicyArn", f"{settings.scheduler}-JobTableReaderPolicyArn"
    executor = f"{settings.environment}-ExecutorPolicyArn"
    calls: tuple[tuple[str, str, str, Callable[[], Any]], ...] = (
        ("environment", "sqs:GetQueueUrl", reader, lambda: _find_environment(client, settings)),
        ("submit", "lambda:InvokeFunction", executor, lambda: _submit_nothing(client, settings.environment)),
        ("cancel", "lambda:InvokeFunction", submitter, lambda: _cancel_nothing(client, probe)),
        ("read", "dynamodb:GetItem", reader, lambda: _read_nothing(client, probe)),
        ("read many", "dynamodb:BatchGetItem", reader, lambda: client.get_many([probe])),
        ("look", "dynamodb:Query", reader, lambda: _look_at_nothing(client)),
        ("store", "ssm:PutParameter", executor, lambda: _store(store, parameter)),
        ("delete", "ssm:DeleteParameters", executor, lambda: store.delete_many([parameter])),
    )
    for name, action, policy, call in calls:
        failed: SchedulerError | None = None
        try:
            call()
        except SchedulerError as error:
            failed = error
        yield Check(name, action, policy, failed)
        if isinstance(failed, Unknown | LaptopStackError):
            # Where nothing answers, each further call would take as long, and tell nothing new.
            return


def _find_environment(client: SchedulerClient, settings: ExecutorSettings) -> None:
    """Require the environment's queue, and that it is this scheduler's: in another one's, jobs would wait for ever."""
    name, queue = settings.environment, names.job_queue(settings.environment)
    missing = EnvironmentNotFound(
        f"there is no environment {name!r} in {client.connection.place} (no queue {queue!r}). Deploy it with "
        f"`sched deploy environment {name} --scheduler {settings.scheduler}`, or set [sched_executor] environment to "
        "one that there is."
    )
    with client.connection.doing(f"find queue {queue!r}", missing):
        client.connection.client("sqs").get_queue_url(QueueName=queue)
    owner = _owner(client, name)
    if owner and owner != settings.scheduler:
        raise InvalidSettings(
            f"environment {name!r} belongs to scheduler {owner!r}, not to {settings.scheduler!r}; set [sched_executor] "
            "scheduler to that one, or environment to another."
        )


def _owner(client: SchedulerClient, environment: str) -> str:
    """The scheduler of an environment, as its stack tells; empty where none tells, since tasks need no such call."""
    try:
        with client.connection.doing(f"find environment {environment!r}"):
            [stack] = client.connection.client("cloudformation").describe_stacks(StackName=environment)["Stacks"]
    except SchedulerError:
        return ""
    return stack_outputs(stack).get("SchedulerName", "")


def _submit_nothing(client: SchedulerClient, environment: str) -> None:
    # The client itself makes no call for no job.
    submit, missing = names.function(environment, "submit"), missing_environment(environment, client.connection.place)
    invoke(client.connection, submit, {"jobs": []}, "submit jobs", missing)


def _cancel_nothing(client: SchedulerClient, probe: str) -> None:
    [cancelled] = client.cancel_many([probe])
    if cancelled.error is not None and not isinstance(cancelled.error, JobNotFound):
        raise cancelled.error


def _read_nothing(client: SchedulerClient, probe: str) -> None:
    try:
        client.get(probe)
    except JobNotFound:
        pass


def _look_at_nothing(client: SchedulerClient) -> None:
    # Of jobs that ended tomorrow there are none to be read.
    client.list(statuses=TERMINAL, since=datetime.now(UTC) + timedelta(days=1), limit=1)


def _store(store: SecretStore, parameter: str) -> None:
    if error := store.put_many({parameter: "health-check"})[parameter]:
        raise error
