"""The job record: the truth about a job, and its form as a DynamoDB item."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sched_plugins.core import limits, names
from sched_plugins.core.job import JobSpec
from sched_plugins.core.state import LIVE, TERMINAL, Status


@lru_cache(maxsize=1024)  # each write of a record or a slot writes all its moments, though one or two are new
def to_text(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds, of fixed width, so that text sorts as time does."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_time(text: str) -> datetime:
    """The moment that :func:`to_text` wrote."""
    return datetime.fromisoformat(text)


@dataclass(frozen=True, slots=True)
class AttemptEntry:
    """One ended attempt, as the record's history keeps it."""

    attempt: int
    status_reason: str
    worker_id: str = ""
    command_id: str = ""
    started_at: str = ""
    finished_at: str = ""
    exit_code: int | None = None
    stdout_uri: str = ""

    def to_plain(self) -> dict[str, Any]:
        """As JSON types, without empty fields."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in plain.items() if value not in ("", None)}


@dataclass(frozen=True, slots=True)
class NextRun:
    """A newer upload that waits for the live run to end."""

    run_id: str
    spec: JobSpec


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Everything that is known of a job. Times are UTC; an empty string means "not yet" or "none"."""

    spec: JobSpec
    run_id: str
    """The submitter's idempotency key of the current run."""
    status: Status
    queue: str
    """Name of the job queue that the job belongs to."""
    submitted_at: datetime
    updated_at: datetime
    attempt: int = 1
    """Counts every try of this run, from 1."""
    losses: int = 0
    """Tries of this run that ended through no fault of the job."""
    unsent: int = 0
    """Those of the losses whose command was certainly never sent; they never end the job."""
    raw: bool = False
    """The run came by plain SQS, unchecked by a submit function: no manifest is written for it."""
    status_reason: str = ""
    worker_id: str = ""
    command_id: str = ""
    exit_code: int | None = None
    output: str = ""
    """The tail of stdout, at most 4 KiB."""
    stdout_uri: str = ""
    stderr_uri: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    attempts: tuple[AttemptEntry, ...] = ()
    queued_at: datetime | None = None
    """When the current wait in the queue began, or its message was last sent again."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    pending: str = ""
    """The event id of an effect that the outbox has not confirmed yet; empty when there is none."""
    cancel_requested: str = ""
    """When cancellation was asked for; empty if it was not."""
    next_run: NextRun | None = None
    run_ids: tuple[str, ...] = ()
    """The newest 20 run ids of this job: earlier runs, the current one, then submissions that it serves as well."""
    body: str = ""
    """Of a rejected message: its text, or the first 4 KiB of a larger one."""
    body_uri: str = ""
    body_sha256: str = ""
    queue_address: str = ""
    """ARN or URL of the queue, if it was given so: its name alone is not enough in another region or account."""

    @property
    def job_id(self) -> str:
        """Who the job is."""
        return self.spec.job_id

    @property
    def address(self) -> str:
        """Where the queue is found: its ARN or URL if that is known, or its name."""
        return self.queue_address or self.queue

    @property
    def retries(self) -> int:
        """Tries beyond the first that were charged to the job."""
        return max(0, self.attempt - 1 - self.losses)

    @property
    def is_live(self) -> bool:
        """Whether a slot holds the job."""
        return self.status in LIVE

    @property
    def is_terminal(self) -> bool:
        """Whether the run has ended."""
        return self.status in TERMINAL

    @property
    def event_id(self) -> str:
        """The key of the record's present state, for deduplication."""
        return names.event_id(self.job_id, self.run_id, self.attempt, self.status)

    def knows(self, run_id: str) -> bool:
        """Whether this run id was submitted before (one of the newest 20, or the run in waiting)."""
        return run_id in self.run_ids or (self.next_run is not None and self.next_run.run_id == run_id)

    def with_run_id(self, run_id: str) -> tuple[str, ...]:
        """The remembered run ids with one more."""
        return (*(known for known in self.run_ids if known != run_id), run_id)[-limits.KEPT_RUN_IDS :]

    def with_attempt(self, entry: AttemptEntry) -> tuple[AttemptEntry, ...]:
        """The history with one more ended attempt."""
        return (*self.attempts, entry)[-limits.KEPT_ATTEMPTS :]

    def changed(self, **fields: Any) -> JobRecord:
        """A copy with some fields replaced."""
        return replace(self, **fields)


_TIMES = ("submitted_at", "updated_at", "queued_at", "started_at", "finished_at")
_TEXTS = (
    "run_id", "queue", "queue_address", "status_reason", "worker_id", "command_id", "output", "stdout_uri",
    "stderr_uri", "pending", "cancel_requested", "body", "body_uri", "body_sha256",
)  # fmt: skip
_SPEC_FIELDS = tuple(info.alias or name for name, info in JobSpec.model_fields.items())


def to_item(record: JobRecord) -> dict[str, Any]:
    """The record as a flat item of plain types; empty fields are left out. Index keys are derived here."""
    item: dict[str, Any] = {**record.spec.to_plain(), "status": str(record.status)}
    if record.spec.stage is not None:
        # As text: a user's parameters may nest deeper than DynamoDB's 32 levels, or hold any JSON number.
        item["stage"] = json.dumps(item["stage"], ensure_ascii=False)
    item |= {name: value for name in _TEXTS if (value := getattr(record, name))}
    item |= {name: to_text(value) for name in _TIMES if (value := getattr(record, name)) is not None}
    item |= {
        "attempt": record.attempt,
        "losses": record.losses,
        "retries": f"{record.retries} of {record.spec.retry}",
        "run_ids": list(record.run_ids),
    }
    if record.unsent:
        item["unsent"] = record.unsent
    if record.raw:
        item["raw"] = True
    if record.exit_code is not None:
        item["exit_code"] = record.exit_code
    if record.metrics:
        item["metrics"] = dict(record.metrics)
    if record.attempts:
        item["attempts"] = [entry.to_plain() for entry in record.attempts]
    if record.next_run is not None:
        item["next_run"] = record.next_run.run_id
        item["next_spec"] = json.dumps(record.next_run.spec.to_plain(), ensure_ascii=False)
    return item | _index_keys(record)


def _index_keys(record: JobRecord) -> dict[str, str]:
    """Keys of the two sparse, sharded indexes: by state (queued, live, ended) and by pending effect."""
    shard = names.shard(record.job_id)
    if record.is_terminal:
        kind, since = "ended", record.finished_at
    elif record.is_live:
        kind, since = "live", record.started_at
    else:
        kind, since = "queued", record.queued_at
    keys = {"state_shard": f"{kind}#{shard}", "state_at": to_text(since or record.updated_at)}
    if record.pending:
        keys |= {"pending_shard": f"pending#{shard}", "pending_at": to_text(record.updated_at)}
    return keys


def from_item(item: Mapping[str, Any]) -> JobRecord:
    """The record that :func:`to_item` wrote; items read from DynamoDB hold ``Decimal`` for numbers."""
    fields = {name: item[name] for name in _SPEC_FIELDS if name in item}
    if "stage" in fields:
        fields["stage"] = json.loads(fields["stage"])
    spec = JobSpec.restore(fields)
    waiting = item.get("next_run")
    times: dict[str, Any] = {name: to_time(item[name]) if item.get(name) else None for name in _TIMES}
    return JobRecord(
        spec=spec,
        status=Status(item["status"]),
        attempt=int(item.get("attempt", 1)),
        losses=int(item.get("losses", 0)),
        unsent=int(item.get("unsent", 0)),
        raw=bool(item.get("raw", False)),
        exit_code=int(item["exit_code"]) if item.get("exit_code") is not None else None,
        metrics=item.get("metrics", {}),
        attempts=tuple(_entry(entry) for entry in item.get("attempts", ())),
        next_run=NextRun(waiting, JobSpec.restore(json.loads(item["next_spec"]))) if waiting else None,
        run_ids=tuple(item.get("run_ids", ())),
        **{name: item.get(name, "") for name in _TEXTS},
        **times,
    )


def _entry(plain: Mapping[str, Any]) -> AttemptEntry:
    fields: dict[str, Any] = {name: plain[name] for name in AttemptEntry.__slots__ if name in plain}
    fields |= {name: int(fields[name]) for name in ("attempt", "exit_code") if name in fields}
    return AttemptEntry(**fields)
