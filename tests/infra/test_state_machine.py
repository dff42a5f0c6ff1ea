"""The worker state machine: complete, bounded, and true to the limits that the rules count with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint
from jsonata import Jsonata
from shipped import machine, of_type

from sched_plugins.core import limits
from sched_plugins.core.state import Verdict

STATES: dict[str, dict[str, Any]] = machine()["States"]
TASKS = {name: state for name, state in STATES.items() if state["Type"] == "Task"}


def expressions(value: Any) -> Iterator[str]:
    """The JSONata expressions in a state."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)
    elif isinstance(value, str) and value.startswith("{%"):
        yield value.removeprefix("{%").removesuffix("%}").strip()


def evaluate(template: str, variables: dict[str, Any], **states: Any) -> Any:
    """The value of one expression, as Step Functions would have it."""
    [expression] = expressions(template)
    return Jsonata(expression).evaluate(None, {**variables, "states": states})


def test_the_definition_keeps_to_the_language() -> None:
    # cfn-lint reads definitions of this resource alone, and knows one partition.
    definition = json.loads(json.dumps(machine()).replace("${Partition}", "aws"))
    substituted = dict.fromkeys(("ReadyFunction", "ClaimFunction", "RetireFunction"), "function")
    properties = {
        "Definition": definition,
        "DefinitionSubstitutions": substituted,
        "RoleArn": "arn:aws:iam::123456789012:role/worker",
    }
    template = {"Resources": {"Machine": {"Type": "AWS::StepFunctions::StateMachine", "Properties": properties}}}
    found = lint(json.dumps(template), config=ManualArgs(regions=["us-east-1"]))
    assert [str(match) for match in found] == []


def test_every_state_is_reached_and_leads_somewhere() -> None:
    targets = {machine()["StartAt"]}
    for state in STATES.values():
        found = set(re.findall(r'"(?:Next|Default)": "(\w+)"', json.dumps(state)))
        assert found or state["Type"] in ("Succeed", "Fail")
        targets |= found
    assert targets == set(STATES)


def test_every_expression_is_jsonata() -> None:
    found = list(expressions(STATES))
    assert len(found) > 10
    for expression in found:
        Jsonata(expression)  # raises if it cannot be parsed


def test_every_function_is_substituted() -> None:
    used = set(re.findall(r"\$\{(\w+)\}", json.dumps(machine())))
    [properties] = of_type("scheduler", "AWS::Serverless::StateMachine").values()
    assert used == set(properties["DefinitionSubstitutions"])


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_tried_again_a_bounded_number_of_times_and_its_end_is_caught(name: str) -> None:
    task = TASKS[name]
    assert task["Retry"][-1]["ErrorEquals"] == ["States.ALL"]
    for retry in task["Retry"]:
        assert 1 <= retry["MaxAttempts"] <= 40
        assert retry["MaxDelaySeconds"] > retry["IntervalSeconds"]
        assert retry["JitterStrategy"] in ("FULL", "NONE")
    [catch] = task["Catch"]
    assert catch["ErrorEquals"] == ["States.ALL"]
    # An execution that ends is replaced by the sweep; only a worker that never answered is ended.
    assert catch["Next"] == ("Retire" if name == "Ready" else "GaveUp")
    assert task["TimeoutSeconds"] > 0


def test_a_workers_agent_has_fifteen_minutes() -> None:
    retry = STATES["Ready"]["Retry"][0]
    assert retry["ErrorEquals"] == ["NotReady", "Throttled"]
    assert retry["JitterStrategy"] == "NONE"
    delays = [
        min(retry["IntervalSeconds"] * retry["BackoffRate"] ** attempt, retry["MaxDelaySeconds"])
        for attempt in range(retry["MaxAttempts"])
    ]
    assert limits.READY_PATIENCE - retry["MaxDelaySeconds"] <= sum(delays) <= limits.READY_PATIENCE + 60


def test_a_job_is_awaited_longer_than_it_can_last() -> None:
    longest = limits.DELIVERY_TIMEOUT + limits.MAX_EXECUTION_TIMEOUT + limits.LEASE_MARGIN
    assert longest < STATES["NextJob"]["TimeoutSeconds"] < longest + 2 * 3600


@pytest.mark.parametrize("name", TASKS)
def test_events_are_counted_as_the_rules_bound_them(name: str) -> None:
    assigned = TASKS[name]["Assign"]["events"]
    before = 0 if name == "Ready" else 100
    count = evaluate(assigned, {"events": 100}, context={"State": {"RetryCount": 2}})
    assert count == before + limits.EVENTS_A_ROUND + 2 * limits.EVENTS_A_RETRY


def test_a_full_history_still_has_room_for_a_round_with_every_retry() -> None:
    most = sum(retry["MaxAttempts"] for retry in STATES["NextJob"]["Retry"])
    a_round = limits.EVENTS_A_ROUND + most * limits.EVENTS_A_RETRY
    # Its last job, a last look, and handing over.
    assert limits.RENEW_AT_EVENTS + 4 * a_round < limits.MAX_HISTORY_EVENTS


def test_tickets_grow_from_round_to_round() -> None:
    assert STATES["Ready"]["Assign"]["round"] == 0
    assert evaluate(STATES["NextJob"]["Assign"]["round"], {"round": 41}) == 42


def test_the_claim_is_told_all_that_a_round_is() -> None:
    payload = STATES["NextJob"]["Arguments"]["Payload"]
    context = {
        "Execution": {"Input": {"slot_id": "i-1-0", "execution": 3}},
        "Task": {"Token": "token"},
        "State": {"RetryCount": 2},
    }
    given = {
        name: evaluate(value, {"round": 7, "events": 99}, context=context) for name, value in payload.items()
    }  # fmt: skip
    assert given == {"slot_id": "i-1-0", "execution": 3, "token": "token", "round": 7, "retry": 2, "events": 99}


@pytest.mark.parametrize(
    ("verdict", "state"),
    [(Verdict.NEXT, "NextJob"), (Verdict.RETIRE, "Retire"), (Verdict.RENEW, "Renew"), (Verdict.STOP, "Done")],
)
def test_every_verdict_leads_to_its_state(verdict: Verdict, state: str) -> None:
    decide = STATES["Decide"]
    chosen = [
        choice["Next"]
        for choice in decide["Choices"]
        if evaluate(choice["Condition"], {}, input={"verdict": str(verdict)})
    ]
    assert (chosen or [decide["Default"]]) == [state]


def test_a_worker_that_never_answered_retires_whatever_waits() -> None:
    assert STATES["Ready"]["Catch"][0]["Assign"]["unready"] is True
    assert STATES["Ready"]["Assign"]["unready"] is False
    assert evaluate(STATES["Retire"]["Arguments"]["Payload"]["unready"], {"unready": True}) is True
    assert STATES["Retire"]["Assign"]["unready"] is False
