"""What a command's answer proves. Nothing but a whole proof is success, and nothing unknown is failure."""

from __future__ import annotations

import base64
import json

import pytest
from rule_records import answer, spec

from sched_plugins.core import limits
from sched_plugins.core.judge import (
    Contradiction,
    Failed,
    Invocation,
    Judgement,
    Lost,
    NotOver,
    SeekInOutput,
    SeekTrailer,
    Succeeded,
    judge,
)  # fmt: skip
from sched_plugins.core.wrapper import ALREADY_STARTED, EXIT_REMAPPED, NOT_PREPARED, STAGE_OUT_FAILED, STARTED_TOO_LATE

WORD = spec(job_success_string="Hello")
LONG = "." * limits.API_STDOUT_CHARACTERS


def trailer(**fields: object) -> str:
    """The wrapper's last line of stderr."""
    return f"sched-trailer: {base64.b64encode(json.dumps(fields).encode()).decode()}\n"


@pytest.mark.parametrize("status", ["Pending", "InProgress", "Delayed", "Cancelling", "SomethingNew", ""])
def test_a_command_that_is_not_over_proves_nothing(status: str) -> None:
    assert judge(answer(status=status, details=status, exit_code=0), spec()) == NotOver()


def test_success_and_exit_code_0_are_success() -> None:
    assert judge(answer(), spec()) == Succeeded()


@pytest.mark.parametrize(
    ("status", "code"), [("Success", 1), ("Success", -1), ("Failed", 0)], ids=["code 1", "no code", "failed with 0"]
)
def test_a_contradiction_is_neither(status: str, code: int) -> None:
    assert isinstance(judge(answer(status=status, details=status, exit_code=code), spec()), Contradiction)


@pytest.mark.parametrize(
    ("stdout", "expected"),
    [
        ("Hello World", Succeeded),
        ("hello", Failed),
        ("", Failed),
        (LONG, SeekInOutput),
        ("Hello" + LONG, SeekInOutput),
        ("é" * (limits.API_STDOUT_CHARACTERS // 2), SeekInOutput),
        ("cut in a char\ufffd", SeekInOutput),
    ],
)
def test_the_success_string_is_sought_in_the_whole_of_stdout(stdout: str, expected: type[Judgement]) -> None:
    assert isinstance(judge(answer(stdout=stdout), WORD), expected)


@pytest.mark.parametrize(("found", "expected"), [(True, Succeeded), (False, Failed)])
def test_what_was_found_in_the_whole_decides(found: bool, expected: type[Judgement]) -> None:
    assert isinstance(judge(answer(stdout=LONG), WORD, found=found), expected)


@pytest.mark.parametrize("where", ["job_id", "commands", "stderr"])
def test_the_success_string_elsewhere_than_in_stdout_is_no_success(where: str) -> None:
    job = spec(job_success_string="Hello", **({where: ["echo Hello"] if where == "commands" else "Hello"}
                                             if where != "stderr" else {}))  # fmt: skip
    assert isinstance(judge(answer(stderr="Hello", comment="Hello"), job), Failed)


@pytest.mark.parametrize("code", [1, 2, 126, 255])
def test_a_failure_carries_its_exit_code(code: int) -> None:
    assert judge(answer(code), spec()) == Failed(f"exit code {code}", code)


@pytest.mark.parametrize("code", [194, 3010, 221])
def test_a_code_that_would_be_misunderstood_comes_in_the_trailer(code: int) -> None:
    told = answer(EXIT_REMAPPED, stderr="bad\n" + trailer(exit_code=code, metrics={"cells": 5}))
    assert judge(told, spec()) == Failed(f"exit code {code}", code, {"cells": 5})


def test_a_job_that_forges_a_trailer_changes_no_code_of_its_own() -> None:
    assert judge(answer(3, stderr=trailer(exit_code=0)), spec()) == Failed("exit code 3", 3)


def test_the_wrappers_reason_is_told() -> None:
    told = answer(STAGE_OUT_FAILED, stderr=trailer(reason="the results could not be stored"))
    assert judge(told, spec()) == Failed("the results could not be stored", STAGE_OUT_FAILED)


def test_metrics_of_a_success_are_kept() -> None:
    assert judge(answer(stderr=trailer(metrics={"drag": 5.5})), spec()) == Succeeded(metrics={"drag": 5.5})


def test_a_cut_stderr_is_read_to_its_end_first() -> None:
    told = answer(stderr="e" * limits.API_STDERR_CHARACTERS)
    assert judge(told, spec()) == SeekTrailer()
    assert judge(told, spec(), stderr_tail=trailer(metrics={"a": 1})) == Succeeded(metrics={"a": 1})
    assert judge(told, spec(), stderr_tail="") == Succeeded()


def test_another_document_has_no_trailer() -> None:
    other = spec(ssm_document="My-Document")
    told = answer(stderr="e" * limits.API_STDERR_CHARACTERS)
    assert judge(told, other) == Succeeded()
    assert judge(answer(ALREADY_STARTED), other) == Failed(f"exit code {ALREADY_STARTED}", ALREADY_STARTED)


@pytest.mark.parametrize(
    ("told", "retire"),
    [
        (answer(-1, status="TimedOut", details="DeliveryTimedOut"), True),
        (answer(-1, status="TimedOut", details="Delivery Timed Out"), True),
        (answer(-1, status="Failed", details="Undeliverable"), True),
        (answer(-1, status="Failed", details="Terminated"), True),
        (answer(-1, status="Failed", details="AccessDenied"), True),
        (answer(143, status="Cancelled", details="Cancelled"), False),
        (answer(ALREADY_STARTED), False),
        (answer(STARTED_TOO_LATE), True),
        (answer(NOT_PREPARED), False),
    ],
)
def test_what_is_no_fault_of_the_job_is_a_loss(told: Invocation, retire: bool) -> None:
    judged = judge(told, spec())
    assert isinstance(judged, Lost)
    assert judged.retire is retire


def test_running_longer_than_allowed_is_the_jobs_failure() -> None:
    told = answer(-1, status="TimedOut", details="ExecutionTimedOut")
    judged = judge(told, spec(timeout_seconds=60))
    assert isinstance(judged, Failed)
    assert "3,660 s" in judged.reason
