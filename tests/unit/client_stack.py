"""A scheduler for tests of the client: its tables and buckets in moto, its functions' real handlers in process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from aws_tables import create_tables
from botocore.exceptions import ClientError
from moto import mock_aws

from sched_plugins.aws import world
from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings
from sched_plugins.client import SchedulerClient
from sched_plugins.client.retry import Clock
from sched_plugins.core import write
from sched_plugins.core.record import AttemptEntry, JobRecord
from sched_plugins.core.state import Status
from sched_plugins.functions import cancel, process, start, submit
from sched_plugins.ports import World

REGION = "eu-west-1"
NAME = "sim"
QUEUES = (f"{NAME}-job-queue", "env-job-queue", "their-job-queue", "other-job-queue", "other", "mine")
_CONTEXT = SimpleNamespace(
    function_name="f", memory_limit_in_mb=128, invoked_function_arn="arn:f", aws_request_id="1", tenant_id=None
)
Answer = Mapping[str, Any] | Exception
Function = Callable[[dict[str, Any]], Answer]


class InProcessLambda:
    """Plays Lambda's Invoke: calls handlers, or whatever a test puts in their place, and keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.functions: dict[str, Function] = {
            f"{NAME}-submit": lambda event: submit.handler(event, _CONTEXT),
            f"{NAME}-cancel": lambda event: cancel.handler(event, _CONTEXT),
            f"{NAME}-start": lambda event: start.handler(event, _CONTEXT),
        }
        self.first: list[Answer | None] = []
        """What comes in place of the first answers: an exception is raised, None stands for the function itself."""

    def invoke(self, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803 - boto3's names
        event = json.loads(Payload)
        self.requests.append((FunctionName, event))
        answer = self.first.pop(0) if self.first else None
        if answer is None:
            answer = self.functions.get(FunctionName, _missing)(event)
        if isinstance(answer, Exception):
            raise answer
        failed = {"FunctionError": "Unhandled"} if "errorMessage" in answer else {}
        return {"StatusCode": 200, "Payload": io.BytesIO(json.dumps(answer).encode()), **failed}


class VirtualTime:
    """Time that passes by sleeping alone; what a test puts into ``then`` happens during the next sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.then: list[Callable[[], Any]] = []

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += max(seconds, 0.001)
        if self.then:
            self.then.pop(0)()

    def govern(self, clock: Clock) -> None:
        """Replace a client's clock by this one."""
        clock.now = self.now  # type: ignore[method-assign]
        clock.sleep = self.sleep  # type: ignore[method-assign]


def _missing(event: dict[str, Any]) -> Answer:
    return ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "Function not found"}}, "Invoke")


class Stacks(dict[str, dict[str, Any]]):
    """Plays CloudFormation's DescribeStacks: stacks by name, each with outputs and parameters."""

    def add(self, name: str, outputs: Mapping[str, str], parameters: Mapping[str, str], status: str = "") -> None:
        self[name] = {
            "StackName": name,
            "StackStatus": status or "CREATE_COMPLETE",
            "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()],
            "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        }

    def answer(self, params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        """What botocore takes for the service's reply."""
        name = params["body"].get("StackName")
        if name is not None and name not in self:
            message = f"Stack with id {name} does not exist"
            error = {"Code": "ValidationError", "Message": message}
            return SimpleNamespace(status_code=400), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 400}}
        found = [self[name]] if name else list(self.values())
        return SimpleNamespace(status_code=200), {"Stacks": found, "ResponseMetadata": {"HTTPStatusCode": 200}}


class ClientStack:
    """One scheduler."""

    def __init__(self, stacks: Stacks) -> None:
        self.stacks = stacks
        self.functions = InProcessLambda()
        self.clock = VirtualTime()
        self.client = self.adopt(SchedulerClient(NAME, session=session()))

    def adopt(self, client: Any) -> Any:
        """Let a client call the functions of this stack, in virtual time."""
        client.connection._clients["lambda"] = self.functions
        self.clock.govern(client.clock)
        return client

    @property
    def world(self) -> World:
        """The scheduler's ports, on moto."""
        return process.world()

    def change(self, job_id: str, **fields: Any) -> JobRecord:
        """Change a record, as some use case would."""
        before = self.world.tables.job(job_id)
        assert before is not None
        after = before.changed(updated_at=datetime.now(UTC), **fields)
        self.world.tables.write(write.job("test", before, after))
        return after

    def end(
        self, job_id: str, status: Status = Status.SUCCEEDED, at: datetime | None = None, **fields: Any
    ) -> JobRecord:
        """End a job's run, and let its end be published."""
        moment = at or datetime.now(UTC)
        return self.change(job_id, status=status, finished_at=moment, pending="", **fields)

    def attempts(self, job_id: str, *uris: str) -> tuple[AttemptEntry, ...]:
        """History entries for as many ended attempts."""
        return tuple(AttemptEntry(number, "over", stdout_uri=uri) for number, uri in enumerate(uris, 1))


@cache
def session() -> boto3.Session:
    """One for all tests: it reads the services' descriptions, and that takes longer than a test."""
    return boto3.Session(region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")


@cache
def service(name: str) -> Any:
    """A boto3 client for what a test itself does, or looks at."""
    return session().client(name)


@cache
def _clients() -> Clients:
    """Those of the functions."""
    return Clients(session())


@contextmanager
def client_stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    """A scheduler for the length of a test."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    variables = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION,
        "SCHED_NAME": NAME, "SCHED_OUTPUT_BUCKET": "out",
    }  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(world, "Clients", _clients)
    process.world.cache_clear()
    with mock_aws():
        create_tables(service("dynamodb"), Settings.of(NAME))
        for queue in QUEUES:
            service("sqs").create_queue(QueueName=queue)
        stacks = Stacks()
        session().events.register("before-call.cloudformation.DescribeStacks", stacks.answer)
        try:
            yield ClientStack(stacks)
        finally:
            session().events.unregister("before-call.cloudformation.DescribeStacks", stacks.answer)
    process.world.cache_clear()
