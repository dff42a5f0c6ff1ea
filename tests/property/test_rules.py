"""Properties of the rules, for any input."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, assume, given, settings

from sched_plugins.core import conclude, limits, message, names, submission, worker
from sched_plugins.core import record as records
from sched_plugins.core import slot as slots
from sched_plugins.core import write as writes
from sched_plugins.core.claim import Round, Start
from sched_plugins.core.claim import decide as decide_claim
from sched_plugins.core.job import JobSpec, parse_spec
from sched_plugins.core.judge import End, Failed, Invocation, Lost, SeekInOutput, Succeeded, judge
from sched_plugins.core.message import JobMessage
from sched_plugins.core.record import AttemptEntry, JobRecord, NextRun, to_text, to_time
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState, Status, Verdict, permitted
from sched_plugins.core.submission import Outcome, Submission
from sched_plugins.errors import InvalidJob

QUICK = settings(
    max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
FEW = settings(QUICK, max_examples=40)
"""For whole records, which take long to draw."""

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PRINTABLE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
NO_NUL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
MOMENTS = st.integers(0, 10**10).map(lambda milliseconds: BEGINNING + timedelta(milliseconds=milliseconds))
URIS = st.builds("s3://bucket/{}".format, NO_NUL)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
STAGES = st.fixed_dictionaries(
    {"executable": st.just("s3://bucket/run.sh"), "output": URIS.map("{}/".format)},
    optional={
        "inputs": st.lists(URIS.map("{}/".format), max_size=1),
        "stage_parameters": st.dictionaries(TEXT, JSON, max_size=3),
        "overrides": st.dictionaries(TEXT, st.dictionaries(TEXT, JSON, max_size=2), max_size=2),
        "writer": TEXT,
    },
)
COMMON = {
    "job_id": PRINTABLE,
    "retry": st.integers(0, limits.MAX_RETRY) | st.integers(0, limits.MAX_RETRY).map(str),
    "job_success_string": TEXT,
    "timeout_seconds": st.integers(1, limits.MAX_JOB_TIMEOUT),
    "environment": st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), NO_NUL, max_size=3),
    "results_uri": st.just("") | URIS,
    "group_id": st.just("") | PRINTABLE,
    "tags": st.dictionaries(TEXT, TEXT, max_size=3),
}
DOCUMENT = st.just("AWS-RunShellScript")
LINES = st.lists(NO_NUL, max_size=3).map(lambda lines: [*lines, "true"])
FIELDS = st.fixed_dictionaries(COMMON | {"ssm_document": DOCUMENT, "commands": LINES}) | st.fixed_dictionaries(
    COMMON | {"ssm_document": DOCUMENT, "commands": st.just([]), "stage": STAGES}
)
SPECS = FIELDS.map(parse_spec)
ENTRIES = st.builds(
    AttemptEntry, attempt=st.integers(1, 99), status_reason=TEXT.filter(bool), worker_id=TEXT,
    exit_code=st.none() | st.integers(-1, 255), stdout_uri=TEXT,
)  # fmt: skip
RECORDS = st.builds(
    JobRecord, spec=SPECS, run_id=PRINTABLE, status=st.sampled_from(Status), queue=PRINTABLE, submitted_at=MOMENTS,
    updated_at=MOMENTS, attempt=st.integers(1, 60), losses=st.integers(0, 6), status_reason=TEXT, worker_id=TEXT,
    command_id=TEXT, exit_code=st.none() | st.integers(-1, 255), output=TEXT, stdout_uri=TEXT, stderr_uri=TEXT,
    metrics=st.dictionaries(PRINTABLE, st.integers(), max_size=2), attempts=st.lists(ENTRIES, max_size=3).map(tuple),
    queued_at=st.none() | MOMENTS, started_at=st.none() | MOMENTS, finished_at=st.none() | MOMENTS, pending=TEXT,
    cancel_requested=TEXT, next_run=st.none() | st.builds(NextRun, PRINTABLE, SPECS),
    run_ids=st.lists(PRINTABLE, max_size=4).map(tuple), body=TEXT, body_uri=TEXT, body_sha256=TEXT,
)  # fmt: skip
SLOTS = st.builds(
    Slot, slot_id=PRINTABLE, worker_id=PRINTABLE, queue=PRINTABLE, state=st.sampled_from(SlotState),
    execution=st.integers(1, 999), execution_at=MOMENTS, ticket=TEXT, token=TEXT, job_id=TEXT, run_id=TEXT,
    attempt=st.integers(0, 60), claimed_at=st.none() | MOMENTS, start_by=st.none() | MOMENTS,
    lease_until=st.none() | MOMENTS, look_at=st.none() | MOMENTS, absent_since=st.none() | MOMENTS,
    missing_since=st.none() | MOMENTS, asked_at=st.none() | MOMENTS,
    wake=st.none() | st.builds(Wake, PRINTABLE, st.sampled_from(Verdict)), draining=TEXT,
    streak=st.lists(TEXT, max_size=3).map(tuple),
)  # fmt: skip
ENDS = (
    st.just(Succeeded())
    | st.builds(Failed, TEXT, st.integers(1, 255), final=st.booleans())
    | st.builds(Lost, TEXT, retire=st.booleans())
)


@QUICK
@given(FIELDS)
def test_a_spec_survives_its_plain_form_and_json(fields: dict[str, Any]) -> None:
    spec = parse_spec(fields)
    assert parse_spec(json.loads(json.dumps(spec.to_plain()))) == spec
    assert JobSpec.restore(spec.to_plain()) == spec


@FEW
@given(RECORDS)
def test_a_record_survives_its_item(record: JobRecord) -> None:
    item = records.to_item(record)
    assert records.from_item(item) == record
    assert records.to_item(records.from_item(item)) == item


@QUICK
@given(SLOTS)
def test_a_slot_survives_its_item(slot: Slot) -> None:
    assert slots.from_item(slots.to_item(slot)) == slot


@FEW
@given(RECORDS)
def test_a_composed_message_is_read_back(record: JobRecord) -> None:
    read = message.parse(message.compose(record))
    assert (read.spec, read.run_id, read.attempt) == (record.spec, record.run_id, record.attempt)


@QUICK
@given(TEXT | JSON.map(json.dumps) | FIELDS.map(json.dumps))
def test_a_message_is_read_or_refused_with_a_short_reason(body: str) -> None:
    reason = ""
    try:
        read = message.parse(body)
        assert len(json.dumps(read.spec.to_plain(), ensure_ascii=False).encode()) <= limits.MAX_SPEC_BYTES
    except InvalidJob as error:
        reason = str(error)
    assert len(reason) <= limits.MAX_REASON_BYTES + 100


@FEW
@given(RECORDS, st.text(st.characters(exclude_categories=["Cs"]), max_size=200).map(lambda text: text * 400))
def test_a_finished_message_stays_under_its_limit(record: JobRecord, body: str) -> None:
    rejected = message.rejection("message-1", body, "demo-job-queue", body, BEGINNING, BEGINNING)
    for told in (record, rejected):
        assert len(message.dump(message.finished(told, "sched")).encode()) <= limits.MAX_FINISHED_MESSAGE_BYTES


@FEW
@given(RECORDS, RECORDS)
def test_a_write_turns_the_one_item_into_the_other(before: JobRecord, after: JobRecord) -> None:
    after = after.changed(spec=after.spec.model_copy(update={"job_id": before.job_id}))
    made = writes.job("test", before, after)
    assert made.applied(records.to_item(before)) == records.to_item(after)


@QUICK
@given(MOMENTS, MOMENTS)
def test_times_as_text_sort_as_times_do(one: datetime, other: datetime) -> None:
    assert (to_text(one) < to_text(other)) == (one < other)
    assert to_time(to_text(one)) == one


@FEW
@given(RECORDS, SLOTS, ENDS)
def test_an_end_moves_a_live_job_as_the_table_of_states_says(record: JobRecord, slot: Slot, end: End) -> None:
    live = record.changed(status=Status.RUNNING, losses=min(record.losses, record.attempt - 1, limits.MAX_LOSSES))
    assume(live.retries <= live.spec.retry)
    after = conclude.conclude(live, slot, end, BEGINNING)
    job = after.job
    assert permitted(live.status, job.status)
    assert job.attempt - live.attempt == (1 if job.status is Status.QUEUED else 0)
    assert job.losses - live.losses in (0, 1)
    assert job.retries <= job.spec.retry
    assert job.run_id == live.run_id
    assert job.pending == job.event_id
    assert (job.status is Status.SUCCEEDED) <= isinstance(end, Succeeded)
    assert after.slot.state in (SlotState.FREE, SlotState.RETIRING)
    assert not after.slot.job_id


@QUICK
@given(st.integers(0, 6), st.lists(ENDS, min_size=1, max_size=40))
def test_a_job_that_ends_badly_for_ever_is_failed_in_the_end(retry: int, ends: list[End]) -> None:
    spec = parse_spec({"job_id": "a", "retry": retry, "ssm_document": "AWS-RunShellScript", "commands": ["false"]})
    job = submission.new_run(Submission(spec, "run-1", "demo-job-queue"), None, BEGINNING)
    slot = worker.new_slot("i-1", "demo-job-queue", BEGINNING)[0]
    tries = 0
    while not job.is_terminal:
        end = ends[tries % len(ends)]
        assume(not isinstance(end, Succeeded))
        tries += 1
        job = conclude.conclude(job.changed(status=Status.RUNNING), slot, end, BEGINNING).job
    assert job.attempt == tries
    assert tries <= 1 + retry + limits.MAX_LOSSES
    assert job.retries <= retry
    assert len(job.attempts) == tries


@FEW
@given(RECORDS | st.none(), SPECS, PRINTABLE, PRINTABLE, st.booleans())
def test_a_submission_never_touches_a_live_run(
    record: JobRecord | None, spec: JobSpec, run_id: str, queue: str, keep: bool
) -> None:
    if record is not None:
        spec = spec.model_copy(update={"job_id": record.job_id})
        queue = record.queue
    decision = submission.decide(Submission(spec, run_id, queue, keep), record, BEGINNING)
    if decision.write is not None:
        stored = records.to_item(record) if record is not None else None
        after = decision.write.applied(stored)
        assert after is not None
        assert decision.write.permitted(stored)
        assert records.from_item(after) == decision.record
    if record is not None and not record.is_terminal and decision.record is not None:
        assert (decision.record.run_id, decision.record.status) == (record.run_id, record.status)
    if decision.outcome is Outcome.ACCEPTED:
        assert record is None or (record.is_terminal and not record.pending)


@FEW
@given(RECORDS | st.none(), SPECS, st.booleans(), st.integers(1, 60))
def test_a_message_starts_only_what_waits(record: JobRecord | None, spec: JobSpec, own: bool, attempt: int) -> None:
    slot = worker.new_slot("i-1", record.queue if record is not None else "demo-job-queue", BEGINNING)[0]
    if record is not None:
        spec = spec.model_copy(update={"job_id": record.job_id})
    read = JobMessage(spec, record.run_id, attempt) if own and record is not None else JobMessage(spec)
    decision = decide_claim(read, "message-1", record, slot, Round(slot.slot_id, "token", 1), BEGINNING)
    if isinstance(decision, Start):
        assert record is None or record.status is Status.QUEUED or (record.is_terminal and not record.pending)
        assert decision.slot.holds(decision.job.job_id, decision.job.run_id, decision.job.attempt)
        assert all(
            write.permitted(item)
            for write, item in zip(
                decision.writes, (record and records.to_item(record), slots.to_item(slot)), strict=True
            )
        )


@QUICK
@given(
    st.sampled_from(
        ["Pending", "InProgress", "Delayed", "Cancelling", "Success", "Failed", "TimedOut", "Cancelled", "?"]
    ),
    st.sampled_from(["", "Success", "Failed", "DeliveryTimedOut", "ExecutionTimedOut", "Undeliverable", "Terminated"]),
    st.integers(-1, 256),
    st.sampled_from(["", "word", "no", "x" * limits.API_STDOUT_CHARACTERS]),
    st.sampled_from([None, True, False]),
)
def test_success_is_never_concluded_from_less_than_its_proof(
    status: str, details: str, code: int, stdout: str, found: bool | None
) -> None:
    spec = parse_spec({"job_id": "word", "retry": 0, "ssm_document": "AWS-RunShellScript", "commands": ["echo word"],
                       "job_success_string": "word"})  # fmt: skip
    answer = Invocation("word", "i-1", "word", status, details, code, stdout, "word")
    judged = judge(answer, spec, found=found)
    if isinstance(judged, Succeeded):
        assert (status, code) == ("Success", 0)
        assert stdout == "word" or (found and len(stdout) > 100)
    if isinstance(judged, SeekInOutput):
        assert (status, code, found) == ("Success", 0, None)


@QUICK
@given(st.integers(0, 50), st.integers(0, 100), st.integers(0, 10_000), st.integers(0, 50))
def test_workers_wanted_are_never_fewer_and_never_too_many(maximum: int, busy: int, waiting: int, desired: int) -> None:
    wanted = worker.wanted(maximum, busy, waiting, desired)
    assert wanted >= desired
    assert wanted <= max(maximum, desired)
    assert wanted == max(desired, min(maximum, busy + waiting))
    assert worker.wanted(maximum, busy, waiting, wanted) == wanted


TICKET = st.tuples(st.integers(1, 999_999), st.integers(0, 9_999_999), st.integers(0, 9_999))


@QUICK
@given(TICKET, TICKET)
def test_tickets_sort_as_their_numbers_do(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    assert (names.ticket(*one) < names.ticket(*other)) == (one < other)
    assert names.ticket(*one) <= worker.LATEST


@QUICK
@given(st.text(), st.integers(0, 50))
def test_cut_text_fits_and_is_part_of_the_whole(text: str, maximum: int) -> None:
    whole = text.encode(errors="replace").decode()
    head, end = names.clip(text, maximum), names.tail(text, maximum) if maximum else ""
    assert len(head.encode()) <= maximum
    assert len(end.encode()) <= maximum
    assert whole.startswith(head)
    assert whole.endswith(end)


@QUICK
@given(st.lists(PRINTABLE, min_size=1, max_size=60))
def test_the_newest_run_ids_are_remembered_once(run_ids: list[str]) -> None:
    spec = parse_spec({"job_id": "a", "retry": 0, "ssm_document": "AWS-RunShellScript", "commands": ["true"]})
    record = submission.new_run(Submission(spec, run_ids[0], "demo-job-queue"), None, BEGINNING)
    for run_id in run_ids[1:]:
        record = submission.new_run(Submission(spec, run_id, "demo-job-queue"), record, BEGINNING)
    assert record.run_ids[-1] == run_ids[-1]
    assert len(record.run_ids) == len(set(record.run_ids)) <= limits.KEPT_RUN_IDS


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_parameters_that_json_lacks_are_refused(value: float) -> None:
    with pytest.raises(InvalidJob):
        parse_spec(
            {
                "job_id": "a",
                "retry": 0,
                "ssm_document": "AWS-RunShellScript",
                "commands": [],
                "stage": {"executable": "/x", "output": "s3://bucket/", "overrides": {"mesh": {"h": value}}},
            }
        )
