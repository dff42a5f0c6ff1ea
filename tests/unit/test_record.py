"""The job record and its item."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from rule_records import LATER, NOW, queued, running, spec

from sched_plugins.core import limits
from sched_plugins.core import record as records
from sched_plugins.core.record import AttemptEntry, NextRun, from_item, to_item, to_text, to_time
from sched_plugins.core.state import Status


def test_times_are_text_of_one_width_that_sorts_as_they_do() -> None:
    moments = [NOW, NOW + timedelta(milliseconds=5), NOW + timedelta(seconds=1), NOW + timedelta(days=400)]
    texts = [to_text(moment) for moment in moments]
    assert texts == sorted(texts)
    assert len({len(text) for text in texts}) == 1
    assert [to_time(text) for text in texts] == moments


def test_times_are_in_utc() -> None:
    assert to_text(datetime(2026, 3, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))) == "2026-03-01T12:00:00.000Z"


def test_an_item_reads_as_people_expect_it() -> None:
    item = to_item(running(attempt=3, losses=1))
    assert (item["status"], item["retries"], item["attempt"], item["losses"]) == ("RUNNING", "1 of 2", 3, 1)
    assert item["commands"] == ["./run.sh"]
    assert "pending" not in item
    assert "finished_at" not in item


@pytest.mark.parametrize(
    ("record", "state", "pending"),
    [
        (queued(), "queued", True),
        (queued(pending=""), "queued", False),
        (running(), "live", False),
        (running(status=Status.FAILED, finished_at=LATER, pending="x"), "ended", True),
    ],
)
def test_indexes_are_sparse_and_by_kind(record: records.JobRecord, state: str, pending: bool) -> None:
    item = to_item(record)
    assert item["state_shard"].startswith(f"{state}#")
    assert ("pending_shard" in item) is pending
    assert ("pending_at" in item) is pending


def test_ended_jobs_are_indexed_by_when_they_ended() -> None:
    assert to_item(running(status=Status.FAILED, finished_at=LATER))["state_at"] == to_text(LATER)


def test_an_item_read_with_decimals_is_the_same_record() -> None:
    record = running(attempt=3, losses=1, exit_code=7, attempts=(AttemptEntry(1, "why", exit_code=3),))
    item: dict[str, Any] = {
        name: Decimal(value) if isinstance(value, int) else value for name, value in to_item(record).items()
    }
    item["attempts"] = [{"attempt": Decimal(1), "status_reason": "why", "exit_code": Decimal(3)}]
    read = from_item(item)
    assert read == record
    assert isinstance(read.attempts[0].attempt, int)


def test_everything_survives_the_item() -> None:
    stage = {"executable": "/opt/run", "output": "s3://bucket/out/", "stage_parameters": {"deep": {"x": [1.5, None]}}}
    record = running(
        spec=spec(commands=[], stage=stage, environment={"A": "1"}, tags={"t": "1"}, group_id="g", retry=5),
        metrics={"cells": 10}, stdout_uri="s3://o/1", stderr_uri="s3://o/2", cancel_requested=to_text(NOW),
        next_run=NextRun("upload-2", spec(retry=1)), pending="p", body="b", run_ids=("a", "b"), finished_at=LATER,
    )  # fmt: skip
    assert from_item(to_item(record)) == record


def test_retries_are_attempts_that_were_charged() -> None:
    assert [running(attempt=a, losses=b).retries for a, b in ((1, 0), (2, 0), (2, 1), (7, 6), (4, 1))] == [
        0,
        1,
        0,
        0,
        2,
    ]


def test_the_newest_twenty_run_ids_are_known() -> None:
    record = queued()
    for number in range(30):
        record = record.changed(run_ids=record.with_run_id(f"run-{number}"))
    assert len(record.run_ids) == limits.KEPT_RUN_IDS
    assert record.knows("run-29")
    assert not record.knows("run-9")


def test_a_run_id_is_remembered_once() -> None:
    assert queued().with_run_id("run-1") == ("run-1",)


def test_a_run_in_waiting_is_known() -> None:
    assert queued(next_run=NextRun("upload-2", spec())).knows("upload-2")


def test_the_newest_fifty_attempts_are_kept() -> None:
    record = running()
    for number in range(60):
        record = record.changed(attempts=record.with_attempt(AttemptEntry(number, "why")))
    assert [entry.attempt for entry in record.attempts] == list(range(10, 60))
