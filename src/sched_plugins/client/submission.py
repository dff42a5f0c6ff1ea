"""Submit and cancel: requests to the scheduler's functions, in batches, repeated until they are answered."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

from sched_plugins import errors
from sched_plugins.client.connection import Connection
from sched_plugins.client.retry import Backoff, Clock
from sched_plugins.client.run import Run
from sched_plugins.core import limits, names
from sched_plugins.core.job import LINUX_DOCUMENT, JobSpec, parse_spec
from sched_plugins.core.record import JobRecord
from sched_plugins.core.submission import Outcome, Submission, decide
from sched_plugins.errors import (
    Busy,
    InvalidInput,
    InvalidJob,
    JobConflict,
    SchedulerError,
    SubmissionStopped,
    Throttled,
    Unknown,
)

BATCH: Final = 100
"""Jobs in one request: what one BatchGetItem of the submit function reads."""
# AWS Lambda: a synchronous request is at most 6 MB; own: less a margin for the envelope.
BATCH_BYTES: Final = 5_000_000
CONCURRENCY: Final = 4
"""Requests that are under way at once."""
PATIENCE: Final = 60.0
"""Seconds for which throttles, lost replies and "busy" answers are tried again."""

UNKNOWN_TRIES: Final = 4
"""Tries after which a function that keeps failing, or gives no answer, is reported."""

JobLike = JobSpec | Mapping[str, Any]
_OWN_FIELDS: Final = frozenset({"queue", "run_id"})
_SPEC_FIELDS: Final = frozenset(info.alias or name for name, info in JobSpec.model_fields.items())


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of one submission."""

    job_id: str
    run_id: str
    """Of the run that serves: the submitted one, or the live one that has the same spec (EXISTING)."""
    outcome: Outcome | None
    """None when the request was refused; then ``error`` says why."""
    status: str = ""
    """Status of that run as the function saw it; empty after a conflict, which is with another run."""
    error: SchedulerError | None = None

    @property
    def run(self) -> Run:
        """What to wait for."""
        return Run(self.job_id, self.run_id)


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What became of one request to cancel."""

    job_id: str
    outcome: str
    """``cancelled``, ``requested`` (it ends when its command has) or ``ended already``; empty if refused."""
    status: str = ""
    error: SchedulerError | None = None


A = TypeVar("A")
R = TypeVar("R", Submitted, Cancellation)


def new_run_id() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


def job_entry(job: JobLike, *, run_id: str | None = None, queue: str = "") -> dict[str, Any]:
    """One job of a submit request, checked.

    Of a mapping, ``job_id`` is made up when it is missing, ``retry`` is 0 and ``ssm_document`` the shell's.

    Raises:
        InvalidJob: names every field that breaks the contract, unknown fields included.
    """
    if isinstance(job, JobSpec):
        spec, own = job, {}
    else:
        own = {name: str(value) for name, value in job.items() if name in _OWN_FIELDS}
        fields = {name: value for name, value in job.items() if name not in _OWN_FIELDS}
        if unknown := sorted(set(fields) - _SPEC_FIELDS):
            raise InvalidJob(f"{unknown[0]}: is no field of a job; the fields are {', '.join(sorted(_SPEC_FIELDS))}")
        defaults = {"job_id": f"job-{uuid.uuid4().hex[:12]}", "retry": 0, "ssm_document": LINUX_DOCUMENT}
        spec = parse_spec({**defaults, "commands": (), **fields})
    chosen = run_id or own.get("run_id") or new_run_id()
    if len(chosen.encode()) > limits.MAX_RUN_ID_BYTES:
        raise InvalidJob(f"run_id: {chosen[:40]!r}… is longer than {limits.MAX_RUN_ID_BYTES} bytes")
    entry = {**spec.to_plain(), "run_id": chosen}
    if target := queue or own.get("queue"):
        entry["queue"] = target
    return entry


def job_entries(jobs: Sequence[JobLike], run_ids: Sequence[str | None], *, queue: str = "") -> list[dict[str, Any]]:
    """The jobs of a submit request, checked.

    Raises:
        InvalidJob: as :func:`job_entry`; of several jobs it names the one.
    """
    entries = []
    for number, (job, run_id) in enumerate(zip(jobs, run_ids, strict=True)):
        try:
            entries.append(job_entry(job, run_id=run_id, queue=queue))
        except InvalidJob as error:
            if len(jobs) == 1:
                raise
            job_id = job.job_id if isinstance(job, JobSpec) else job.get("job_id")
            raise InvalidJob(f"job {job_id!r}: {error}" if job_id else f"jobs[{number}]: {error}") from None
    return entries


def refuse_conflicts(entries: Sequence[Mapping[str, Any]], records: Mapping[str, JobRecord], own_queue: str) -> None:
    """Refuse what the submit function would answer with a conflict, as far as the records tell.

    Args:
        entries: jobs of a submit request.
        records: records of jobs, by id; of a job that has none nothing is known.
        own_queue: the queue of an entry that names none.

    Raises:
        JobConflict: a job is live with another spec, or belongs to another queue.
    """
    for entry in entries:
        record = records.get(_job_id(entry))
        if record is None:
            continue
        spec = parse_spec({name: value for name, value in entry.items() if name not in _OWN_FIELDS})
        asked = Submission(spec, str(entry["run_id"]), str(entry.get("queue") or own_queue))
        decision = decide(asked, record, record.updated_at)
        if decision.outcome is Outcome.CONFLICT:
            known = {"run_id": record.run_id, "queue": record.queue, "status": record.status}
            raise JobConflict(_conflict(record.job_id, decision.reason, known))


@dataclass(frozen=True, slots=True)
class Owner:
    """The stack whose functions are asked."""

    name: str
    missing: SchedulerError
    """What to raise when there is no such stack."""


class Requests:
    """Requests to the submit and cancel functions of a scheduler or an environment.

    Args:
        connection: how to reach AWS.
        owner: whose functions are asked.
        clock: time, for the pauses between tries.
    """

    def __init__(self, connection: Connection, owner: Owner, clock: Clock) -> None:
        self._connection = connection
        self._owner = owner
        self._clock = clock
        self.patience = PATIENCE
        """Seconds for which a request is sent again that was throttled, busy or left unanswered."""
        self._stopped = False

    def stop(self) -> None:
        """Send no submission any more; one that is under way is answered. Takes no lock: for a signal's handler."""
        self._stopped = True

    def submit(self, entries: Sequence[Mapping[str, Any]], through: Owner | None = None) -> list[Submitted]:
        """Submit; the results in the order of the entries. Repeats carry the same run ids, so change nothing.

        Args:
            entries: the jobs.
            through: another stack whose function submits them.
        """
        submit = partial(self._submit_batch, through or self._owner)
        return [result for batch in self._each_batch(submit, entries) for result in batch]

    def cancel(self, job_ids: Sequence[str]) -> list[Cancellation]:
        """Cancel; the results in order. Cancelling twice is no error."""
        return [result for batch in self._each_batch(self._cancel_batch, job_ids) for result in batch]

    def request_cancel(self, job_ids: Sequence[str]) -> None:
        """Ask Lambda to have jobs cancelled some time; the answers are lost."""

        def send(sent: Sequence[str]) -> list[None]:
            payload = json.dumps({"job_ids": sent}).encode()
            function = names.function(self._owner.name, "cancel")
            with self._connection.doing("cancel jobs", self._owner.missing):
                self._connection.client("lambda").invoke(FunctionName=function, InvocationType="Event", Payload=payload)
            return []

        for _ in self._each_batch(send, job_ids):
            pass

    def _each_batch(self, send: Callable[[Sequence[Any]], list[Any]], entries: Sequence[Any]) -> Iterator[list[Any]]:
        batches = list(_batches(entries))
        if len(batches) == 1:
            yield send(batches[0])
        elif batches:
            with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="sched-submit") as pool:
                yield from pool.map(send, batches)

    def _submit_batch(self, owner: Owner, entries: Sequence[Mapping[str, Any]]) -> list[Submitted]:
        def send(sent: Sequence[Mapping[str, Any]]) -> list[Submitted]:
            if self._stopped:
                raise SubmissionStopped(f"the submission of {len(sent)} jobs was stopped before AWS took them")
            answers = self._invoke(owner, "submit", {"jobs": sent}, len(sent))
            return [_submitted(entry, answer) for entry, answer in zip(sent, answers, strict=True)]

        def failed(entry: Mapping[str, Any], error: SchedulerError) -> Submitted:
            return Submitted(_job_id(entry), str(entry["run_id"]), None, error=error)

        return self._until_answered(entries, send, failed, lambda: self._stopped)

    def _cancel_batch(self, job_ids: Sequence[str]) -> list[Cancellation]:
        def send(sent: Sequence[str]) -> list[Cancellation]:
            answers = self._invoke(self._owner, "cancel", {"job_ids": sent}, len(sent))
            return [_cancelled(job_id, answer) for job_id, answer in zip(sent, answers, strict=True)]

        def failed(job_id: str, error: SchedulerError) -> Cancellation:
            return Cancellation(job_id, "", error=error)

        return self._until_answered(job_ids, send, failed)

    def _until_answered(
        self,
        asked: Sequence[A],
        send: Callable[[Sequence[A]], list[R]],
        failed: Callable[[A, SchedulerError], R],
        is_over: Callable[[], bool] = lambda: False,
    ) -> list[R]:
        """Send, and send again what was throttled, busy or left unanswered; the last answer to each, in order."""
        backoff = Backoff(self.patience, self._clock)
        results: dict[int, R] = {}
        open_, unknown = list(range(len(asked))), 0
        while True:
            sent = [asked[index] for index in open_]
            try:
                answers = send(sent)
            except SchedulerError as error:
                answers = [failed(one, error) for one in sent]
            results |= zip(open_, answers, strict=True)
            open_ = [index for index in open_ if isinstance(results[index].error, Busy | Throttled | Unknown)]
            unknown += any(isinstance(results[index].error, Unknown) for index in open_)
            if not open_ or unknown >= UNKNOWN_TRIES or not backoff.wait(is_over):
                return [results[index] for index in range(len(asked))]

    def _invoke(
        self, owner: Owner, role: str, request: Mapping[str, Any], expected: int
    ) -> Sequence[Mapping[str, Any]]:
        function, what = names.function(owner.name, role), f"{role} jobs"
        answer = invoke(self._connection, function, request, what, owner.missing)
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != expected:
            raise Unknown(f"cannot {what}: function {function} gave {str(answer)[:200]!r}, not {expected} results")
        return results


def invoke(
    connection: Connection, function: str, request: Mapping[str, Any], what: str, missing: SchedulerError
) -> dict[str, Any]:
    """Call a function of a stack and return its answer.

    Raises:
        InvalidInput: the request cannot be written as JSON; nothing was sent.
        Unknown: the function failed, or gave something else than a JSON object.
    """
    try:
        payload = json.dumps(request, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"cannot {what}: {error}") from None
    with connection.doing(what, missing):
        reply = connection.client("lambda").invoke(FunctionName=function, Payload=payload)
        body = reply["Payload"].read()
    try:
        answer = json.loads(body or b"null")
    except ValueError:
        answer = None
    if reply.get("FunctionError") or not isinstance(answer, dict):
        said = answer.get("errorMessage") if isinstance(answer, dict) else body[:200].decode(errors="replace")
        raise Unknown(f"cannot {what}: function {function} failed: {said}. Its log group is /aws/lambda/{function}.")
    return answer


def _batches(entries: Sequence[Any]) -> Iterator[Sequence[Any]]:
    batch: list[Any] = []
    size = 0
    for entry in entries:
        length = len(json.dumps(entry, ensure_ascii=False, default=str).encode(errors="replace"))
        if batch and (len(batch) == BATCH or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += length
    if batch:
        yield batch


def _job_id(entry: Mapping[str, Any]) -> str:
    return str(entry.get("job_id", ""))


def _submitted(entry: Mapping[str, Any], answer: Mapping[str, Any]) -> Submitted:
    job_id, asked = _job_id(entry), str(entry["run_id"])
    if "error" in answer:
        return Submitted(job_id, asked, None, error=told_error(answer["error"]))
    outcome = Outcome(answer["outcome"])
    result = Submitted(str(answer.get("job_id") or job_id), asked, outcome, str(answer.get("status") or ""))
    reason = str(answer.get("reason") or "")
    if outcome is Outcome.EXISTING:
        return replace(result, run_id=str(answer.get("run_id") or asked))
    if outcome is Outcome.CONFLICT:
        return replace(result, status="", error=JobConflict(_conflict(job_id, reason, answer)))
    if outcome is Outcome.BUSY:
        return replace(result, error=Busy(f"job {job_id!r}: {reason or 'an earlier run is still being published'}"))
    return result


def _conflict(job_id: str, reason: str, answer: Mapping[str, Any]) -> str:
    """Why a job was refused, and which run of which queue has its id."""
    told = reason or f"job {job_id!r} is live with another spec"
    run_id, queue = (str(answer.get(name) or "") for name in ("run_id", "queue"))
    where = f" in queue {queue!r}" if queue else ""
    return f"{told} (its run {run_id!r}{where} is {answer.get('status') or 'unknown'})" if run_id else told


def _cancelled(job_id: str, answer: Mapping[str, Any]) -> Cancellation:
    if "error" in answer:
        return Cancellation(job_id, "", error=told_error(answer["error"]))
    return Cancellation(job_id, str(answer["outcome"]), str(answer.get("status") or ""))


def told_error(told: Any) -> SchedulerError:
    """The exception that a function told of by its name."""
    if isinstance(told, SchedulerError):
        return told
    kind = getattr(errors, str(told.get("type", "")), None)
    message = str(told.get("message", "")) or "the function gave no reason"
    if isinstance(kind, type) and issubclass(kind, SchedulerError):
        return kind(message)
    return Unknown(message)
