"""Executions: names, inputs, and what Step Functions' answers mean."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aws_wire import SETTINGS, Reply, Wire, make_clients, refusal, reply
from botocore.exceptions import ReadTimeoutError

from sched_plugins.aws.clients import TRIES
from sched_plugins.aws.executions import StepFunctionsExecutions
from sched_plugins.core import worker
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState, Verdict
from sched_plugins.errors import InvalidSettings, Refused, Throttled, Unknown

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SLOT, _ = worker.new_slot("i-0123456789abcdef0", "q", NOW)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def scripted(*replies: Reply | Exception) -> tuple[StepFunctionsExecutions, Wire]:
    """Executions whose requests meet these replies."""
    clients = make_clients()
    return StepFunctionsExecutions(SETTINGS, clients), Wire(clients.stepfunctions, *replies)


def test_one_name_always_has_the_same_input() -> None:
    executions, wire = scripted(reply({"executionArn": "a", "startDate": 0}), refusal("ExecutionAlreadyExists"))
    executions.start(SLOT)
    changed: Slot = SLOT.changed(state=SlotState.HELD, job_id="j", ticket="t", queue="other", draining="spot")
    executions.start(changed)
    first, second = wire.bodies
    assert first == second
    assert first["name"] == "i-0123456789abcdef0-0-1"
    assert json.loads(first["input"]) == {"slot_id": SLOT.slot_id, "worker_id": SLOT.worker_id, "execution": 1}
    assert first["stateMachineArn"] == SETTINGS.state_machine_arn


def test_a_start_that_failed_is_not_taken_for_one() -> None:
    executions, _ = scripted(refusal("StateMachineDoesNotExist"), refusal("ExecutionLimitExceeded"))
    with pytest.raises(Refused):
        executions.start(SLOT)
    with pytest.raises(Refused):
        executions.start(SLOT)
    executions, _ = scripted(*[refusal("ThrottlingException")] * TRIES)
    with pytest.raises(Throttled):
        executions.start(SLOT)


def test_all_pages_of_running_executions_are_read() -> None:
    def page(*names: str, **more: str) -> Reply:
        listed = [{"name": name, "executionArn": "a", "stateMachineArn": "s", "status": "RUNNING", "startDate": 0}
                  for name in names]  # fmt: skip
        return reply({"executions": listed, **more})

    executions, wire = scripted(page("a", "b", nextToken="more"), page("c"))
    assert executions.running() == {"a", "b", "c"}
    assert {body["statusFilter"] for body in wire.bodies} == {"RUNNING"}
    assert wire.bodies[1]["nextToken"] == "more"


def test_half_a_list_is_no_list() -> None:
    lost = ReadTimeoutError(endpoint_url="https://aws")
    executions, _ = scripted(reply({"executions": [], "nextToken": "more"}), *[lost] * TRIES)
    with pytest.raises(Unknown):
        executions.running()


@pytest.mark.parametrize("code", ["TaskDoesNotExist", "TaskTimedOut", "InvalidToken"])
def test_a_dead_token_is_told_from_a_failed_call(code: str) -> None:
    executions, _ = scripted(refusal(code), refusal("AccessDeniedException"), refusal("KmsInvalidStateException"))
    assert executions.wake(Wake("token", Verdict.NEXT)) is False
    for _ in range(2):
        with pytest.raises(Refused):
            executions.wake(Wake("token", Verdict.NEXT))


def test_a_token_is_completed_with_its_verdict() -> None:
    executions, wire = scripted(reply())
    assert executions.wake(Wake("token", Verdict.RETIRE)) is True
    [body] = wire.bodies
    assert body["taskToken"] == "token"
    assert json.loads(body["output"]) == {"verdict": "retire"}


def test_a_missing_state_machine_is_named() -> None:
    executions = StepFunctionsExecutions(replace(SETTINGS, state_machine_arn=""), make_clients())
    with pytest.raises(InvalidSettings, match="SCHED_STATE_MACHINE_ARN"):
        executions.start(SLOT)
