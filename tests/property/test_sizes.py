"""The largest items that the rules can make fit where they are stored."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from sched_plugins.core import conclude, limits, message, submission, worker
from sched_plugins.core.job import JobSpec, parse_spec
from sched_plugins.core.judge import Failed, Invocation, Lost
from sched_plugins.core.record import JobRecord, NextRun, from_item, to_item, to_text
from sched_plugins.core.state import Status
from sched_plugins.core.submission import Submission
from sched_plugins.testing.tables import item_size

QUICK = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
WRITE_ID = item_size({"write_id": "x" * 36})
"""What the adapter adds to every item."""
QUEUE = "https://sqs.eu-central-1.amazonaws.com/000000000000/" + "q" * 70
FILLERS = st.sampled_from(["x", "é", "€", "😀", '"', "\\", "\n", "\x01", "\x7f", "x€", '"😀'])
SHAPES = st.sampled_from(["commands", "lines", "stage", "overrides", "folders", "environment", "tags", "parameters"])


def fields(job_id: str, shape: str, text: str, number: int) -> dict[str, Any]:
    """A job of which one part holds the text so many times."""
    plain: dict[str, Any] = {"job_id": job_id, "retry": limits.MAX_RETRY, "job_success_string": "",
                             "ssm_document": "AWS-RunShellScript", "commands": ["true"]}  # fmt: skip
    stage: dict[str, Any] = {"executable": "/opt/run", "output": "s3://bucket/out/"}
    match shape:
        case "commands":
            plain["commands"] = ["true", text * number]
        case "lines":
            plain["commands"] = ["true", *[text] * number]
        case "stage":
            plain |= {"commands": [], "stage": stage | {"stage_parameters": {"p": text * number}}}
        case "overrides":
            plain |= {"commands": [], "stage": stage | {"overrides": {"mesh": {"p": [text] * number}}}}
        case "folders":
            plain |= {"commands": [], "stage": stage | {"outputs_too": [f"s3://bucket/{text}/"] * number}}
        case "environment":
            plain["environment"] = {"A": text * number}
        case "tags":
            plain["tags"] = {"a": text * number}
        case _:
            plain |= {"ssm_document": "Own", "commands": [], "parameters": {"p": [text] * number}}
    return plain


def size(spec: dict[str, Any]) -> int:
    return len(json.dumps(spec, ensure_ascii=False).encode())


def largest(job_id: str, shape: str, text: str) -> JobSpec:
    """The largest job of this shape that is accepted."""
    few, more = (size(fields(job_id, shape, text, number)) for number in (10, 11))
    number = 10 + (limits.MAX_SPEC_BYTES - few - 100) // (more - few)
    spec = parse_spec(fields(job_id, shape, text, number))
    assert size(spec.to_plain()) > limits.MAX_SPEC_BYTES * 0.95
    return spec


def of_bytes(text: str, number: int) -> str:
    """The text as often as it fits into so many bytes."""
    return text * (number // len(text.encode()))


def run_often(spec: JobSpec, text: str) -> JobRecord:
    """The live record of a job that has been tried more often than is remembered, each time for the longest reason."""
    run_ids = tuple(f"{number:0{limits.MAX_RUN_ID_BYTES}}" for number in range(limits.KEPT_RUN_IDS))
    job = submission.new_run(Submission(spec, run_ids[-1], QUEUE), None, NOW).changed(run_ids=run_ids)
    slot = worker.new_slot("i-0123456789abcdef0", QUEUE, NOW)[0]
    uri = f"s3://{'b' * 63}/commands/{'c' * 36}/{'i' * 40}/awsrunShellScript/0.awsrunShellScript/stdout"
    metrics = {"m": of_bytes("x", limits.MAX_METRICS_BYTES - 9)}
    for attempt in range(limits.KEPT_ATTEMPTS + 5):
        now = NOW + timedelta(days=attempt)
        live = job.changed(status=Status.RUNNING, worker_id="i-" + "0" * 38, started_at=now)
        reason = text * (limits.MAX_REASON_BYTES * 2)
        end = Lost(reason, unsent=True) if attempt % 2 else Failed(reason, exit_code=255, metrics=metrics)
        answer = Invocation("c" * 36, live.worker_id, "", "Failed", "Failed", 255, text * 24_000, "", stdout_uri=uri,
                            stderr_uri=uri)  # fmt: skip
        job = conclude.conclude(live, slot, end, now, answer).job
    assert len(job.attempts) == limits.KEPT_ATTEMPTS
    return job.changed(status=Status.RUNNING, metrics=metrics)


@QUICK
@given(FILLERS, SHAPES, FILLERS)
def test_a_record_at_its_largest_fits_into_an_item(filler: str, shape: str, waiting: str) -> None:
    job_id = of_bytes(filler if filler.isprintable() else "j", limits.MAX_JOB_ID_BYTES)
    job = run_often(largest(job_id, shape, filler), filler)
    text = filler * (limits.MAX_REASON_BYTES * 2)
    slot = worker.new_slot("i-0123456789abcdef0", QUEUE, NOW)[0]
    ended = conclude.conclude(job.changed(losses=0, unsent=0, attempt=1001), slot, Failed(text), NOW).job
    kept = NextRun("9" * limits.MAX_RUN_ID_BYTES, largest(job_id, "stage", waiting))
    full = ended.changed(next_run=kept, cancel_requested=to_text(NOW), unsent=9, raw=True, queued_at=NOW,
                         started_at=NOW, losses=999, command_id="c" * 36)  # fmt: skip
    item = to_item(full)
    assert item_size(item) + WRITE_ID <= limits.MAX_ITEM_BYTES
    assert from_item(item) == full


@QUICK
@given(FILLERS, st.sampled_from([limits.REJECTED_BODY_BYTES, limits.REJECTED_BODY_BYTES * 2]))
def test_a_rejection_at_its_largest_fits_into_an_item(filler: str, length: int) -> None:
    reason = filler * (limits.MAX_REASON_BYTES * 2)
    record = message.rejection("m" * 100, of_bytes(filler, length), QUEUE, reason, NOW, NOW)
    item = to_item(record.changed(body_uri="s3://" + "b" * 300))
    assert item_size(item) + WRITE_ID <= limits.MAX_ITEM_BYTES
    assert len(record.status_reason.encode()) <= limits.MAX_REASON_BYTES


@QUICK
@given(FILLERS)
def test_a_reason_is_cut_by_its_bytes_wherever_it_is_kept(filler: str) -> None:
    job = run_often(parse_spec(fields("a", "commands", "x", 1)), filler)
    reasons = [job.status_reason, *(entry.status_reason for entry in job.attempts)]
    assert all(0 < len(reason.encode()) <= limits.MAX_REASON_BYTES for reason in reasons)
