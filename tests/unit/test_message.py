"""Messages: read from submitters, composed for the queues."""

from __future__ import annotations

import json

import pytest
from rule_records import LATER, NOW, QUEUE, queued, running, spec

from sched_plugins.core import limits, message
from sched_plugins.core.state import Status
from sched_plugins.errors import InvalidJob

PLAIN = spec().to_plain()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("no JSON", "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not an object: list"),
        ("null", "not an object"),
        ("{}", "job_id: is missing"),
        ("x" * 900_000, "900,000 bytes"),
        (json.dumps(PLAIN | {"retry": -1}), "retry"),
        (json.dumps(PLAIN | {"timeout_seconds": 3 * 86_400}), "timeout_seconds"),
        (json.dumps(PLAIN | {"commands": ["x" * limits.MAX_SPEC_BYTES]}), "at most 65,536"),
    ],
)
def test_a_bad_message_is_refused_with_its_reason(body: str, reason: str) -> None:
    with pytest.raises(InvalidJob, match=reason):
        message.parse(body)


def test_a_composed_message_is_read_back() -> None:
    record = queued().changed(attempt=3)
    read = message.parse(message.compose(record))
    assert (read.spec, read.run_id, read.attempt) == (record.spec, record.run_id, 3)


@pytest.mark.parametrize(
    "forged",
    [
        {"run_id": "run-1"}, {"run_id": 7, "attempt": 1}, {"run_id": "run-1", "attempt": 0}, {"attempt": 1},
        {"run_id": "run-1", "attempt": True}, {"run_id": "run-1", "attempt": "1"},
    ],
)  # fmt: skip
def test_what_the_outbox_would_not_write_counts_as_a_raw_message(forged: dict[str, object]) -> None:
    read = message.parse(json.dumps(PLAIN | forged))
    assert (read.run_id, read.attempt) == ("", 0)


def test_unknown_fields_are_ignored() -> None:
    assert message.parse(json.dumps(PLAIN | {"colour": "blue"})).spec == spec()


def test_characters_that_sqs_refuses_are_escaped() -> None:
    text = message.dump({"a": "\ufffe\uffff é"})
    assert "\ufffe" not in text
    assert json.loads(text) == {"a": "\ufffe\uffff é"}


def test_a_rejection_keeps_a_small_body_whole() -> None:
    record = message.rejection("m-1", "no JSON", QUEUE, "why", NOW, LATER)
    assert (record.status, record.body, record.body_sha256, record.status_reason) == (
        Status.REJECTED,
        "no JSON",
        "",
        "why",
    )
    assert record.pending == record.event_id == "rejected/m-1:m-1:1:REJECTED"


def test_a_rejection_keeps_head_and_hash_of_a_large_body() -> None:
    record = message.rejection("m-1", "x" * 900_000, QUEUE, "why", NOW, LATER)
    assert len(record.body) == limits.REJECTED_HEAD_BYTES
    assert len(record.body_sha256) == 64


def test_a_finished_message_carries_the_job_and_its_end() -> None:
    ended = running(status=Status.SUCCEEDED, finished_at=LATER, exit_code=0)
    told = message.finished(ended, "sched")
    assert {"job_id", "commands", "retry", "status", "exit_code", "worker_id", "started_at", "finished_at"} <= set(told)
    assert told["event_id"] == "job:run-1:1:SUCCEEDED"
    assert told["retries"] == "0 of 2"


@pytest.mark.parametrize("body", ["\x01" * 60_000, "é" * 32_000, '"' * 64_000])
def test_a_finished_message_stays_under_its_limit(body: str) -> None:
    record = message.rejection("m-1", body, QUEUE, "why" * 400, NOW, LATER)
    size = len(message.dump(message.finished(record, "sched")).encode())
    assert size <= limits.MAX_FINISHED_MESSAGE_BYTES


def test_the_largest_job_has_a_finished_message_within_the_limit() -> None:
    big = spec(commands=["x" * (limits.MAX_SPEC_BYTES - 1000)])
    ended = running(spec=big, status=Status.FAILED, status_reason="y" * 1000, metrics={"m": "z" * 4000})
    assert len(message.dump(message.finished(ended, "sched")).encode()) <= limits.MAX_FINISHED_MESSAGE_BYTES
