"""A scheduler, and perhaps environments, deployed on a laptop stack by the shipped templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pytest
from boto3.dynamodb.types import TypeDeserializer
from fleet_client import BOOT_SECONDS, FleetClient, eventually

from sched_plugins import deploy
from sched_plugins.core import names
from sched_plugins.local import lifecycle
from sched_plugins.local.state import StackInfo

SCHEDULER = "sched"
TERMINAL = {"SUCCEEDED", "FAILED", "CANCELLED", "REJECTED"}
PATIENCE = 90.0
"""Seconds; a machine that also does other things may need some."""


class DeployedStack(FleetClient):
    """What the tests of deployed stacks ask for, all through public interfaces of AWS."""

    lambda_ = cached_property(lambda self: self.client("lambda"))
    dynamodb = cached_property(lambda self: self.client("dynamodb"))
    stepfunctions = cached_property(lambda self: self.client("stepfunctions"))

    def send_job(self, job_id: str, *commands: str, queue: str = f"{SCHEDULER}-job-queue", **fields: Any) -> None:
        """Send a job as the original's users do: five fields in a message."""
        message = {
            "job_id": job_id,
            "retry": "0",
            "job_success_string": " ",
            "ssm_document": "AWS-RunShellScript",
            "commands": list(commands),
        }
        self.send_text(json.dumps(message | fields), queue)

    def send_text(self, body: str, queue: str = f"{SCHEDULER}-job-queue") -> None:
        """Send any message to a queue."""
        self.sqs.send_message(QueueUrl=self.queue_url(queue), MessageBody=body)

    def queue_url(self, queue: str) -> str:
        """URL of a queue."""
        return str(self.sqs.get_queue_url(QueueName=queue)["QueueUrl"])

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Take every message of a queue away."""
        url, taken = self.queue_url(queue), []
        while found := self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                taken.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return taken

    def told(self, queue: str, job_id: str) -> dict[str, Any]:
        """The message about a job on a finished or failed queue; what else is there is taken away."""
        seen: list[dict[str, Any]] = []

        def look() -> list[dict[str, Any]]:
            seen.extend(self.messages(queue))
            return [message for message in seen if message["job_id"] == job_id]

        found: list[dict[str, Any]] = eventually(look, PATIENCE)
        return found[0]

    def record(self, job_id: str) -> dict[str, Any]:
        """A job's record, as ``aws dynamodb get-item`` shows it; empty while there is none."""
        key = {"job_id": {"S": job_id}}
        item = self.dynamodb.get_item(TableName=names.job_table(SCHEDULER), Key=key, ConsistentRead=True).get(
            "Item", {}
        )
        return plain(item)

    def ended(self, job_id: str) -> dict[str, Any]:
        """The record of a job once it has ended."""
        eventually(lambda: self.record(job_id).get("status") in TERMINAL, PATIENCE)
        return self.record(job_id)

    def running(self, job_id: str) -> dict[str, Any]:
        """The record of a job once it runs."""
        eventually(lambda: self.record(job_id).get("status") == "RUNNING", PATIENCE)
        return self.record(job_id)

    def slots(self) -> list[dict[str, Any]]:
        """All worker slots."""
        found = self.dynamodb.scan(TableName=names.slot_table(SCHEDULER), ConsistentRead=True)["Items"]
        return [plain(item) for item in found]

    def worker(self, queue: str = f"{SCHEDULER}-job-queue") -> str:
        """Launch a worker of a queue; the tag is all it takes."""
        return self.launch(**{SCHEDULER: queue})

    def gone(self, worker_id: str) -> None:
        """Wait until a worker has ended itself."""
        eventually(lambda: self.state(worker_id) == "terminated", PATIENCE)

    def call(self, function: str, event: Mapping[str, Any]) -> dict[str, Any]:
        """Invoke a function and return its answer."""
        reply = self.lambda_.invoke(FunctionName=function, Payload=json.dumps(event).encode())
        answer: dict[str, Any] = json.loads(reply["Payload"].read())
        assert "FunctionError" not in reply, answer
        return answer

    def sweep(self) -> dict[str, Any]:
        """What the schedule does once a minute."""
        return self.call(names.function(SCHEDULER, "sweep"), {})

    def history(self, worker_id: str) -> list[str]:
        """Kinds of the events of a worker's first execution."""
        machines = self.stepfunctions.list_state_machines()["stateMachines"]
        [arn] = [one["stateMachineArn"] for one in machines if one["name"] == f"{SCHEDULER}-worker"]
        execution = arn.replace(":stateMachine:", ":execution:") + f":{names.execution(names.slot_id(worker_id), 1)}"
        pages = self.stepfunctions.get_paginator("get_execution_history").paginate(executionArn=execution)
        return [event["type"] for page in pages for event in page["events"]]


def plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item without DynamoDB's types."""
    return {name: TypeDeserializer().deserialize(value) for name, value in item.items()}


class Server(Protocol):
    """Runs a laptop stack for the length of a block."""

    def __call__(self, folder: Path, *, settings: dict[str, Any]) -> AbstractContextManager[StackInfo]: ...


@contextmanager
def deployed(
    folder: Path,
    environments: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    server: Server = lifecycle.running,
) -> Iterator[DeployedStack]:
    """A laptop stack with a scheduler and the named environments, for the length of a block."""
    with (
        server(folder, settings={"boot_seconds": BOOT_SECONDS}) as info,
        pytest.MonkeyPatch.context() as set_,
    ):
        for name, value in lifecycle.environment(info).items():
            set_.setenv(name, value)
        set_.delenv("AWS_PROFILE", raising=False)
        deploy.deploy_scheduler(SCHEDULER, {"EmptyQueueWaitSeconds": 1})
        for name, parameters in (environments or {}).items():
            deploy.deploy_environment(name, scheduler=SCHEDULER, parameters=parameters)
        yield DeployedStack(info)
