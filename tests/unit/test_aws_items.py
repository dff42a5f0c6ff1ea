"""DynamoDB's form of items and of conditional writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer

from sched_plugins.aws.items import WRITE_ID, arguments_of, from_attributes, to_attribute
from sched_plugins.core import record as records
from sched_plugins.core import slot as slots
from sched_plugins.core import write
from sched_plugins.core.job import parse_spec
from sched_plugins.core.record import AttemptEntry, JobRecord, NextRun
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState, Status, Verdict
from sched_plugins.core.write import Table, Write

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
SPEC = parse_spec({
    "job_id": "jobé-1", "retry": "3", "job_success_string": " ", "ssm_document": "AWS-RunShellScript",
    "commands": ["echo 'Grüße'"], "environment": {"A": ""}, "tags": {"team": "cfd"},
})  # fmt: skip
RECORD = JobRecord(
    SPEC, "run-1", Status.FAILED, "sim-job-queue", NOW, NOW, attempt=2, exit_code=0, run_ids=("run-0", "run-1"),
    metrics={"drag": 5.57953, "steps": 12, "ok": True, "none": None, "list": [1, 2.5]},
    attempts=(AttemptEntry(1, "exit code 3", exit_code=3),), next_run=NextRun("run-2", SPEC),
)  # fmt: skip
SLOT = Slot("i-1-0", "i-1", "q", SlotState.HELD, 1, NOW, attempt=1, wake=Wake("token", Verdict.NEXT), streak=("a", "b"))


def stored(item: dict[str, Any]) -> dict[str, Any]:
    """The item as it comes back from DynamoDB."""
    return from_attributes({name: to_attribute(value) for name, value in item.items()})


def test_records_and_slots_come_back_as_they_were() -> None:
    assert records.from_item(stored(records.to_item(RECORD))) == RECORD
    assert slots.from_item(stored(slots.to_item(SLOT))) == SLOT


def test_numbers_keep_their_kind_and_value() -> None:
    back = stored({"int": 2**63, "float": 0.1, "whole": 2.0, "small": -1e-100, "bool": True})
    assert back == {"int": 2**63, "float": 0.1, "whole": 2, "small": -1e-100, "bool": True}
    assert {name: type(value) for name, value in back.items()} == {
        "int": int, "float": float, "whole": int, "small": float, "bool": bool
    }  # fmt: skip


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 1e300, 1e-300, 10**40 + 1])
def test_a_number_that_dynamodb_cannot_hold_becomes_text(number: float) -> None:
    assert to_attribute({"metric": number}) == {"M": {"metric": {"S": str(number)}}}


def test_deep_nesting_becomes_text_before_dynamodb_refuses_it() -> None:
    value: Any = "leaf"
    for _ in range(100):
        value = [value]
    attribute, depth = to_attribute(value), 1
    while "L" in attribute:
        [attribute] = attribute["L"]
        depth += 1
    assert depth <= 32
    assert json.loads(attribute["S"])[0][0]


def test_text_that_is_not_unicode_is_made_so() -> None:
    assert to_attribute({"": "half \ud83d pair"}) == {"M": {"_": {"S": "half ? pair"}}}


def test_an_update_sets_removes_and_checks() -> None:
    plan = Write(
        "plan", Table.JOBS, "job", {"status": "RUNNING", "attempt": 2}, ("pending", "size"),
        (
            write.equals("run_id", "r"), write.absent("pending"), write.one_of("status", ["B", "A"]),
            write.at_most("ticket", "t"),
        ),
    )  # fmt: skip
    found = arguments_of(plan, "id")
    names, values = found["ExpressionAttributeNames"], found["ExpressionAttributeValues"]
    assert found["Key"] == {"job_id": {"S": "job"}}
    assert found["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"

    def spelled(expression: str) -> str:
        for placeholder, value in sorted({**names, **values}.items(), key=lambda pair: -len(pair[0])):
            expression = expression.replace(placeholder, value if isinstance(value, str) else str(*value.values()))
        return expression

    assert spelled(found["UpdateExpression"]) == "SET status = RUNNING, attempt = 2, write_id = id REMOVE pending, size"
    assert spelled(found["ConditionExpression"]) == (
        "run_id = r AND attribute_not_exists(pending) AND status IN (A, B) "
        "AND (attribute_not_exists(ticket) OR ticket <= t)"
    )


def test_a_write_without_changes_still_checks_and_leaves_its_id() -> None:
    found = arguments_of(Write("same", Table.SLOTS, "i-0", {}, (), (write.equals("state", "FREE"),)), "id")
    assert found["Key"] == {"slot_id": {"S": "i-0"}}
    assert "REMOVE" not in found["UpdateExpression"]
    assert list(found["ExpressionAttributeNames"].values()) == [WRITE_ID, "state"]
    assert "ConditionExpression" in found


def test_nothing_empty_is_sent() -> None:
    update = arguments_of(Write("bare", Table.JOBS, "job", {}, (), ()), "id")
    assert "ConditionExpression" not in update
    delete = arguments_of(Write("drop", Table.SLOTS, "slot", {}, (), (), delete=True), "id")
    assert set(delete) == {"Key", "ReturnValuesOnConditionCheckFailure"}


def test_what_needs_no_change_is_serialised_as_boto3_does() -> None:
    plain = {"text": "é", "list": ["a", {"b": None}], "flag": False, "n": 7}
    assert to_attribute(plain) == TypeSerializer().serialize(plain)
