"""Messages on the queues: reading what submitters send, and composing what the outbox sends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sched_plugins.core import limits, names
from sched_plugins.core.job import JobSpec, parse_spec
from sched_plugins.core.record import JobRecord, to_item
from sched_plugins.core.state import Status
from sched_plugins.errors import InvalidJob


@dataclass(frozen=True, slots=True)
class JobMessage:
    """An understood job message. ``run_id`` is empty and ``attempt`` 0 unless the outbox sent it."""

    spec: JobSpec
    run_id: str = ""
    attempt: int = 0


def parse(body: str) -> JobMessage:
    """Read the body of a message on a job queue.

    Raises:
        InvalidJob: the body cannot be understood or is too large; the message says why.
    """
    size = len(body.encode(errors="replace"))
    if size > limits.MAX_SPEC_BYTES * 2:  # twice: a spec may be sent with \\u escapes or indentation
        raise InvalidJob(f"the message is {size:,} bytes long; a job is at most {limits.MAX_SPEC_BYTES:,}")
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidJob(f"the message is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidJob(f"the message is JSON but not an object: {type(fields).__name__}")
    run_id, attempt = fields.get("run_id", ""), fields.get("attempt", 0)
    ours = isinstance(run_id, str) and isinstance(attempt, int) and not isinstance(attempt, bool) and attempt > 0
    return JobMessage(parse_spec(fields), run_id if ours else "", attempt if ours and run_id else 0)


def compose(record: JobRecord) -> str:
    """The job message of a QUEUED record, as the outbox sends it."""
    fields = record.spec.to_plain() | {"run_id": record.run_id, "attempt": record.attempt}
    return dump(fields)


def dump(fields: Mapping[str, Any]) -> str:
    """Compact JSON that SQS accepts: U+FFFE and U+FFFF, which it refuses in a body, are escaped."""
    text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def rejection(message_id: str, body: str, queue: str, reason: str, sent_at: datetime, now: datetime) -> JobRecord:
    """The record of a message that is no valid job. A body over 64 KiB is kept by its head and hash."""
    raw = body.encode(errors="replace")
    large = len(raw) > limits.REJECTED_BODY_BYTES
    record = JobRecord(
        spec=JobSpec.restore({"job_id": f"rejected/{message_id}"}),
        run_id=message_id,
        run_ids=(message_id,),
        status=Status.REJECTED,
        status_reason=names.clip(reason, limits.MAX_REASON_BYTES),
        queue=names.queue_name(queue),
        queue_address=names.address(queue),
        submitted_at=sent_at,
        updated_at=now,
        finished_at=now,
        body=names.clip(body, limits.REJECTED_HEAD_BYTES if large else limits.REJECTED_BODY_BYTES),
        body_sha256=hashlib.sha256(raw).hexdigest() if large else "",
    )
    return record.changed(pending=record.event_id)


_FINISHED = (
    "status", "status_reason", "attempt", "retries", "exit_code", "queue", "worker_id", "stdout_uri",
    "results_uri", "metrics", "submitted_at", "started_at", "finished_at", "body", "body_uri", "body_sha256",
)  # fmt: skip


def finished(record: JobRecord, scheduler: str) -> dict[str, Any]:
    """The message that tells of a run's end, the same on the queues and on EventBridge."""
    item = to_item(record)
    fields = {} if record.status is Status.REJECTED else record.spec.to_plain()
    fields |= {name: item[name] for name in _FINISHED if name in item}
    fields |= {
        "job_id": record.job_id,
        "run_id": record.run_id,
        "event_id": record.event_id,
        "scheduler": scheduler,
    }
    if "body" in fields and len(dump(fields).encode()) > limits.MAX_FINISHED_MESSAGE_BYTES:
        # Control characters grow sixfold in JSON; the whole body stays in the record.
        fields["body"] = names.clip(record.body, limits.REJECTED_HEAD_BYTES)
    return fields
