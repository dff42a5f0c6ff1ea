"""Settings from the environment, clients made once, and adapters that fit their ports."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from inspect import signature
from typing import Any

import pytest
from aws_wire import SETTINGS, make_clients

from sched_plugins import ports
from sched_plugins.aws.clients import LONG_READ_TIMEOUT, TRIES
from sched_plugins.aws.clock import SystemClock
from sched_plugins.aws.settings import Settings
from sched_plugins.aws.world import world, world_from_environment
from sched_plugins.core import limits
from sched_plugins.errors import InvalidSettings


def test_a_name_is_enough() -> None:
    found = Settings.from_environment({"SCHED_NAME": "sim"})
    assert found == Settings("sim", "sim-job-monitoring", "sim-worker-slots")
    assert found.event_bus == "default"


def test_every_setting_has_its_variable() -> None:
    variables = {f"SCHED_{field.name.upper()}": f"value of {field.name}" for field in fields(Settings)}
    assert set(variables) >= {"SCHED_JOB_TABLE", "SCHED_SLOT_TABLE", "SCHED_STATE_MACHINE_ARN", "SCHED_OUTPUT_BUCKET",
                              "SCHED_DEAD_LETTERS", "SCHED_EVENT_BUS"}  # fmt: skip
    found = Settings.from_environment(variables)
    assert all(getattr(found, field.name) == f"value of {field.name}" for field in fields(Settings))


@pytest.mark.parametrize("variables", [{}, {"SCHED_NAME": ""}])
def test_a_missing_name_is_said(variables: dict[str, str]) -> None:
    with pytest.raises(InvalidSettings, match="SCHED_NAME"):
        Settings.from_environment(variables)


def test_a_missing_value_is_said_when_it_is_needed() -> None:
    assert SETTINGS.needed("output_bucket") == "sim-output"
    with pytest.raises(InvalidSettings, match="SCHED_OUTPUT_BUCKET"):
        Settings.of("sim").needed("output_bucket")


def test_the_world_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHED_NAME", "sim")
    monkeypatch.setenv("SCHED_DEAD_LETTERS", "sim-dead")
    found = world_from_environment()
    assert (found.scheduler, found.dead_letters) == ("sim", "sim-dead")


@pytest.mark.parametrize(
    ("field", "port"),
    [
        ("tables", ports.Tables), ("queues", ports.Queues), ("commands", ports.Commands), ("objects", ports.Objects),
        ("workers", ports.Workers), ("executions", ports.Executions), ("events", ports.Events), ("clock", ports.Clock),
    ],
)  # fmt: skip
def test_each_adapter_has_its_ports_methods(field: str, port: type) -> None:
    adapter = getattr(world(SETTINGS, make_clients()), field)
    methods = [name for name in vars(port) if not name.startswith("_")]
    assert methods
    for name in methods:
        asked, given = signature(getattr(port, name)), signature(getattr(type(adapter), name))
        assert given == asked, name


def test_a_client_is_made_once_and_once_for_each_region() -> None:
    clients = make_clients()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: clients.dynamodb, range(32)))
    assert len({id(client) for client in made}) == 1
    assert clients.ssm is not clients.ssm_once
    assert clients.sqs() is not clients.sqs("us-east-2")
    assert clients.sqs("us-east-2").meta.region_name == "us-east-2"


def test_what_must_not_be_repeated_is_not_and_the_rest_is() -> None:
    clients = make_clients()

    def tries(client: Any) -> int:
        return int(client.meta.config.retries["total_max_attempts"])

    assert tries(clients.ssm_once) == tries(clients.autoscaling_once) == 1
    others = [clients.dynamodb, clients.sqs(), clients.ssm, clients.s3, clients.ec2, clients.autoscaling,
              clients.stepfunctions, clients.events]  # fmt: skip
    assert {tries(client) for client in others} == {TRIES}
    assert {client.meta.config.retries["mode"] for client in others} == {"standard"}


def test_a_long_poll_is_shorter_than_the_wait_for_its_reply() -> None:
    assert make_clients().sqs().meta.config.read_timeout == LONG_READ_TIMEOUT > limits.MAX_SQS_WAIT


def test_the_clock_tells_utc() -> None:
    now = SystemClock().now()
    assert now.tzinfo is UTC
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)


def test_settings_and_clients_are_imported_without_boto3() -> None:
    code = "import sys, sched_plugins.aws.clients, sched_plugins.aws.settings; print('boto3' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
