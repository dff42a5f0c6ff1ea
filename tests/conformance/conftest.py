"""The backends on which the same tests of the ports must pass: the fakes, and the adapters on MiniStack."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from backends import BUCKET, NAME, Backend

from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings
from sched_plugins.aws.tables import PENDING_INDEX, QUEUE_INDEX, STATE_INDEX, STATE_PROJECTION
from sched_plugins.aws.world import world as aws_world
from sched_plugins.core import names
from sched_plugins.core.claim import Round
from sched_plugins.core.slot import Slot
from sched_plugins.testing import Habits, Simulation
from sched_plugins.testing.executions import Functions


@pytest.fixture(params=["memory", "ministack"])
def backend(request: pytest.FixtureRequest) -> Backend:
    """The backend on trial, with a queue of the test's own."""
    make: Callable[[], Backend] = request.getfixturevalue(str(request.param))
    return make()


class _Waits(Functions):
    """Functions of a state machine whose executions only wait."""

    def __init__(self) -> None:
        self.tokens: dict[str, str] = {}

    def ready(self, slot_id: str) -> bool:
        return True

    def next_job(self, round_: Round) -> bool:
        self.tokens[names.execution(round_.slot_id, round_.execution)] = round_.token
        return True

    def renew(self, slot_id: str, execution: int) -> None:
        return None

    def retire(self, slot_id: str, execution: int, unready: bool) -> None:
        return None


@pytest.fixture
def memory() -> Callable[[], Backend]:
    """The fakes."""

    def make() -> Backend:
        simulation = Simulation(scheduler=NAME, habits=Habits(stream_copies=0))
        functions = simulation.executions.functions = _Waits()

        def token(slot: Slot) -> str:
            simulation.world.executions.start(slot)
            simulation.clock.sleep(5)
            return functions.tokens[names.execution(slot.slot_id, slot.execution)]

        backend = Backend("memory", simulation.world, simulation.clock.sleep, token)
        simulation.queues.create(backend.queue)
        return backend

    return make


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MiniStack that lives as long as the session."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ministack")
    variables = os.environ | {"GATEWAY_PORT": str(port), "HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "ministack"], env=variables, cwd=folder, stdout=log, stderr=log
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _until_healthy(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


def _until_healthy(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/_ministack/health", timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            assert server.poll() is None, "MiniStack ended"
            time.sleep(0.05)
        else:
            return
    raise AssertionError("MiniStack does not answer")


@pytest.fixture(scope="session")
def clients(endpoint: str) -> Clients:
    """Clients of MiniStack."""
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="eu-central-1")
    return Clients(session, endpoint)


@pytest.fixture(scope="session")
def settings(clients: Clients) -> Settings:
    """The resources of a scheduler on MiniStack."""
    _create_table(clients, names.job_table(NAME), "job_id", {
        PENDING_INDEX: ("pending_shard", "pending_at", {"ProjectionType": "KEYS_ONLY"}),
        STATE_INDEX: ("state_shard", "state_at", {"ProjectionType": "INCLUDE",
                                                  "NonKeyAttributes": list(STATE_PROJECTION)}),
    })  # fmt: skip
    _create_table(clients, names.slot_table(NAME), "slot_id", {
        QUEUE_INDEX: ("queue", "state", {"ProjectionType": "KEYS_ONLY"}),
    })  # fmt: skip
    clients.s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    own = names.job_queue(NAME)
    for queue in ("tokens", own, names.finished_queue(own), names.failed_queue(own)):
        clients.sqs().create_queue(QueueName=queue)
    waits = {
        "StartAt": "Wait",
        "States": {"Wait": {
            "Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken", "End": True,
            "Parameters": {"QueueUrl": clients.sqs().get_queue_url(QueueName="tokens")["QueueUrl"],
                           "MessageBody.$": "States.Format('{} {}', $$.Execution.Name, $$.Task.Token)"},
        }},
    }  # fmt: skip
    machine = clients.stepfunctions.create_state_machine(
        name=f"{NAME}-worker", definition=json.dumps(waits), roleArn="arn:aws:iam::000000000000:role/any"
    )
    return Settings(
        NAME, names.job_table(NAME), names.slot_table(NAME), machine["stateMachineArn"], BUCKET, f"{NAME}-dead-letters"
    )


def _create_table(clients: Clients, table: str, key: str, indexes: dict[str, tuple[str, str, Any]]) -> None:
    keys = {key} | {name for hash_key, range_key, _ in indexes.values() for name in (hash_key, range_key)}
    secondary: Any = [
        {"IndexName": name, "Projection": projection, "KeySchema": [
            {"AttributeName": hash_key, "KeyType": "HASH"}, {"AttributeName": range_key, "KeyType": "RANGE"}]}
        for name, (hash_key, range_key, projection) in indexes.items()
    ]  # fmt: skip
    clients.dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in sorted(keys)],
        BillingMode="PAY_PER_REQUEST",
        GlobalSecondaryIndexes=secondary,
    )


@pytest.fixture
def ministack(clients: Clients, settings: Settings) -> Callable[[], Backend]:
    """The adapters on boto3, against MiniStack."""

    def make() -> Backend:
        world = aws_world(settings, clients)

        def token(slot: Slot) -> str:
            world.executions.start(slot)
            for _ in range(20):
                for received in world.queues.receive("tokens", 1):
                    world.queues.delete("tokens", received.receipt)
                    execution, found = received.body.split(" ")
                    if execution == names.execution(slot.slot_id, slot.execution):
                        return found
            raise AssertionError("the execution asked for nothing")

        backend = Backend("ministack", world, lambda _: time.sleep(0.05), token)
        clients.sqs().create_queue(QueueName=backend.queue)
        return backend

    return make
