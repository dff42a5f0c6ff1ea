"""The tables: on moto where DynamoDB's own behaviour matters, on scripted replies where errors do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aws_tables import create_tables
from aws_wire import SETTINGS, Reply, Wire, make_clients, refusal, reply
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import ReadTimeoutError
from moto import mock_aws

from sched_plugins.aws.clients import TRIES
from sched_plugins.aws.items import to_attribute
from sched_plugins.aws.tables import STATE_PROJECTION, DynamoTables
from sched_plugins.core import conclude, limits, submission, worker, write
from sched_plugins.core.job import parse_spec
from sched_plugins.core.judge import Succeeded
from sched_plugins.core.record import JobRecord, to_item
from sched_plugins.core.state import SlotState, Status
from sched_plugins.core.submission import Submission
from sched_plugins.core.write import Table, Write
from sched_plugins.errors import Refused, ServiceError, Throttled, Unknown
from sched_plugins.ports import ConditionFailed, TransactionFailed

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
LOST = ReadTimeoutError(endpoint_url="https://aws")
JOB = Write("plan", Table.JOBS, "job", {"status": "QUEUED"}, (), (write.absent("job_id"),))
SLOT = Write("slot", Table.SLOTS, "slot", {"state": "FREE"}, (), (write.equals("state", "HELD"),))
DROP = Write("drop", Table.SLOTS, "slot", {}, (), (write.equals("state", "RETIRING"),), delete=True)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture
def tables() -> Iterator[DynamoTables]:
    """On moto."""
    with mock_aws():
        clients = make_clients()
        create_tables(clients.dynamodb, SETTINGS)
        yield DynamoTables(SETTINGS, clients)


def new_job(job_id: str, now: datetime = NOW) -> tuple[JobRecord, Write]:
    """A fresh record and the write that stores it."""
    fields = {"job_id": job_id, "retry": 0, "ssm_document": "AWS-RunShellScript", "commands": ["true"]}
    decision = submission.decide(Submission(parse_spec(fields), "run", "q"), None, now)
    assert decision.record is not None
    assert decision.write is not None
    return decision.record, decision.write


def test_a_record_is_written_read_and_changed(tables: DynamoTables) -> None:
    record, first = new_job("s3://bucket/a b.sh")
    assert tables.job(record.job_id) is None
    tables.write(first)
    assert tables.job(record.job_id) == record
    settled, second = submission.settle(record, NOW)
    tables.write(second)
    assert tables.job(record.job_id) == settled
    assert settled.pending == ""


def test_a_failed_condition_changes_nothing(tables: DynamoTables) -> None:
    record, first = new_job("job")
    tables.write(first)
    with pytest.raises(ConditionFailed) as caught:
        tables.write(new_job("job", LATER)[1])
    assert caught.value.write.name == "submit.first"
    assert tables.job("job") == record


def test_a_slot_lives_and_is_dropped(tables: DynamoTables) -> None:
    slot, created = worker.new_slot("i-1", "q", NOW)
    tables.write(created)
    assert tables.slot(slot.slot_id) == slot
    with pytest.raises(ConditionFailed):
        tables.write(worker.drop(slot))
    retiring, retired = worker.retire(slot, "9")
    tables.write(retired)
    tables.write(worker.drop(retiring))
    assert tables.slot(slot.slot_id) is None
    with pytest.raises(ConditionFailed):
        tables.write(worker.drop(retiring))


def test_a_transaction_is_all_or_nothing_and_names_what_failed(tables: DynamoTables) -> None:
    record, created = new_job("job")
    slot, slotted = worker.new_slot("i-1", "q", NOW)
    tables.transact([created, slotted])
    running = record.changed(status=Status.RUNNING, pending="")
    held = slot.changed(state=SlotState.HELD, job_id="job", run_id="run", attempt=1, token="t")
    tables.write(write.job("run", record, running))
    ended = conclude.conclude(running, held, Succeeded(), NOW)
    with pytest.raises(TransactionFailed) as caught:
        tables.transact(ended.writes)
    assert caught.value.failed == ("conclude.slot",)
    assert tables.job("job") == running
    tables.write(write.slot("hold", slot, held))
    tables.transact(ended.writes)
    assert (tables.job("job"), tables.slot(slot.slot_id)) == (ended.job, ended.slot)


def test_each_write_has_its_own_outcome(tables: DynamoTables) -> None:
    writes = [new_job(f"job-{number}")[1] for number in range(20)]
    tables.write(writes[7])
    outcomes = tables.write_each(writes)
    assert [type(outcome) for outcome in outcomes] == [
        ConditionFailed if number == 7 else type(None) for number in range(20)
    ]
    assert set(tables.jobs([f"job-{number}" for number in range(20)])) == {f"job-{number}" for number in range(20)}
    assert list(tables.write_each([])) == []


def test_many_records_are_read_in_batches(tables: DynamoTables, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DYNAMODB_BATCH_GET", 5)
    ids = [f"job-{number:03}" for number in range(13)]
    tables.write_each([new_job(job_id)[1] for job_id in ids])
    found = tables.jobs([*ids, "absent", ids[0]])
    assert sorted(found) == ids
    assert all(found[job_id].job_id == job_id for job_id in ids)
    assert tables.jobs([]) == {}


def test_what_is_pending_and_queued_is_listed_from_every_shard(tables: DynamoTables) -> None:
    old = [new_job(f"old-{number}", NOW - timedelta(hours=1)) for number in range(12)]
    tables.write_each([created for _, created in [*old, new_job("young")]])
    settled, write_settled = submission.settle(old[0][0], NOW)
    tables.write(write_settled)
    cancelled, write_cancelled = conclude.cancel_queued(old[1][0], LATER)
    tables.write(write_cancelled)
    names = {record.job_id for record, _ in old}
    assert {record.job_id for record in tables.pending(NOW)} == names - {settled.job_id, cancelled.job_id}
    assert {record.job_id for record in tables.queued(NOW)} == names - {cancelled.job_id}
    assert {record.job_id for record in tables.pending(LATER + timedelta(1))} == names - {settled.job_id} | {"young"}


def test_slots_are_listed_and_counted(tables: DynamoTables) -> None:
    slots = [worker.new_slot(f"i-{number}", "q", NOW) for number in range(5)]
    tables.write_each([created for _, created in slots])
    tables.write(worker.new_slot("i-other", "arn:aws:sqs:eu-west-1:1:q", NOW)[1])
    tables.write(worker.retire(slots[0][0], "9")[1])
    assert {slot.slot_id for slot in tables.slots()} == {f"i-{number}-0" for number in range(5)} | {"i-other-0"}
    assert tables.slots_of("q") == {SlotState.FREE: 4, SlotState.RETIRING: 1}
    assert tables.slots_of("arn:aws:sqs:eu-west-1:1:q") == {SlotState.FREE: 1}
    assert tables.slots_of("none") == {}


def test_the_index_of_states_holds_what_it_promises() -> None:
    ended, _ = conclude.cancel_queued(new_job("job")[0], NOW)
    spec = parse_spec({**ended.spec.to_plain(), "group_id": "g"})
    item = to_item(ended.changed(worker_id="i-1", exit_code=1, spec=spec))
    assert set(STATE_PROJECTION) <= set(item)


def scripted(*replies: Reply | Exception) -> tuple[DynamoTables, Wire]:
    """Tables whose requests meet these replies."""
    clients = make_clients()
    wire = Wire(clients.dynamodb, *replies)
    return DynamoTables(SETTINGS, clients, sleep=lambda _: None), wire


def sent_id(request: AWSPreparedRequest) -> str:
    """The write id in a request."""
    body: Any = json.loads(request.body)
    update = body["TransactItems"][-1].get("Update") if "TransactItems" in body else body
    places = {field: place for place, field in update["ExpressionAttributeNames"].items()}
    expression = update["UpdateExpression"].removeprefix("SET ").partition(" REMOVE ")[0]
    assigned = dict(part.split(" = ") for part in expression.split(", "))
    return str(update["ExpressionAttributeValues"][assigned[places["write_id"]]]["S"])


def condition_failed(item: dict[str, Any] | None = None, *, ours: bool = False) -> Reply:
    """A failed condition, with the stored item; ours: one that carries the request's own write id."""

    def answered(request: AWSPreparedRequest) -> AWSResponse:
        stored = {"write_id": {"S": sent_id(request)}} if ours else item
        return refusal("ConditionalCheckFailedException", **({"Item": stored} if stored else {}))(request)

    return answered


OTHERS = {"write_id": {"S": "another"}}
THROTTLE = refusal("ThrottlingException")


@pytest.mark.parametrize(
    ("plan", "replies", "outcome"),
    [
        (JOB, [LOST, condition_failed(ours=True)], None),
        (JOB, [refusal("InternalServerError", status=500), condition_failed(ours=True)], None),
        (JOB, [condition_failed(OTHERS)], ConditionFailed),
        (JOB, [THROTTLE, condition_failed(OTHERS)], ConditionFailed),
        # It may have been carried out, and then overwritten by another writer.
        (JOB, [LOST, condition_failed(OTHERS)], Unknown),
        (JOB, [LOST, *[THROTTLE] * (TRIES - 1)], Unknown),
        (JOB, [LOST] * TRIES, Unknown),
        (JOB, [THROTTLE] * TRIES, Throttled),
        (JOB, [refusal("ValidationException", "Item size has exceeded the maximum allowed size")], Refused),
        (DROP, [LOST, condition_failed()], None),
        (DROP, [condition_failed()], ConditionFailed),
        (DROP, [THROTTLE, condition_failed()], ConditionFailed),
        (DROP, [LOST, condition_failed(OTHERS)], Unknown),
    ],
)
def test_a_write_recognises_its_own_lost_reply(
    plan: Write, replies: list[Any], outcome: type[Exception] | None
) -> None:
    tables, wire = scripted(*replies)
    [found] = tables.write_each([plan])
    assert found is None if outcome is None else type(found) is outcome
    assert wire.is_done()
    assert len({request.body for request in wire.requests}) == 1


def cancelled(*reasons: dict[str, Any] | None, ours: bool = False) -> Reply:
    """A cancelled transaction."""

    def answered(request: AWSPreparedRequest) -> AWSResponse:
        told = [{"Code": "None"} if reason is None else dict(reason) for reason in reasons]
        if ours:
            told[-1]["Item"] = {"write_id": {"S": sent_id(request)}}
        return refusal("TransactionCanceledException", "cancelled", CancellationReasons=told)(request)

    return answered


CONDITION = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": OTHERS}
CONFLICT = {"Code": "TransactionConflict", "Message": "ongoing"}


@pytest.mark.parametrize(
    ("replies", "failed"),
    [
        ([cancelled(None, CONDITION)], ("slot",)),
        ([cancelled(CONDITION, CONDITION)], ("plan", "slot")),
        ([cancelled(CONDITION, CONFLICT)], ("plan",)),
        ([cancelled(CONFLICT, None)], ()),
        ([cancelled({"Code": "ThrottlingError"}, None)], ()),
        ([cancelled({"Code": "ProvisionedThroughputExceeded"}, None)], ()),
    ],
)
def test_only_a_failed_condition_is_proof(replies: list[Any], failed: tuple[str, ...]) -> None:
    tables, _ = scripted(*replies)
    with pytest.raises(TransactionFailed) as caught:
        tables.transact([JOB, SLOT])
    assert caught.value.failed == failed


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ([LOST, reply()], None),
        ([LOST, cancelled(None, CONDITION, ours=True)], None),
        ([cancelled({"Code": "ValidationError", "Message": "Item size has exceeded"}, None)], Refused),
        ([refusal("ValidationException", "too many actions")], Refused),
        ([THROTTLE] * TRIES, Throttled),
        ([LOST] * TRIES, Unknown),
        ([LOST, *[THROTTLE] * (TRIES - 1)], Unknown),
        ([refusal("TransactionInProgressException")] * TRIES, Unknown),
    ],
)
def test_a_transaction_is_repeated_under_one_token(replies: list[Any], outcome: type[ServiceError] | None) -> None:
    tables, wire = scripted(*replies)
    if outcome is None:
        tables.transact([JOB, SLOT])
    else:
        with pytest.raises(outcome) as caught:
            tables.transact([JOB, SLOT])
        assert type(caught.value) is outcome
    assert wire.is_done()
    [token] = {body["ClientRequestToken"] for body in wire.bodies}
    assert token == sent_id(wire.requests[0])


def test_no_two_writes_share_an_id() -> None:
    tables, wire = scripted(reply(), reply(), reply(), reply())
    tables.write(JOB)
    tables.write(JOB)
    tables.transact([JOB, SLOT])
    tables.transact([JOB, SLOT])
    assert len({sent_id(request) for request in wire.requests}) == 4


def _batch(found: list[str], left: list[str]) -> Reply:
    def item(job_id: str) -> dict[str, Any]:
        return {name: to_attribute(value) for name, value in to_item(new_job(job_id)[0]).items()}

    keys = [{"job_id": {"S": job_id}} for job_id in left]
    return reply({
        "Responses": {SETTINGS.job_table: [item(job_id) for job_id in found]},
        "UnprocessedKeys": {SETTINGS.job_table: {"Keys": keys}} if left else {},
    })  # fmt: skip


def test_keys_left_unread_are_read_again() -> None:
    tables, wire = scripted(_batch(["a"], ["b", "c"]), _batch(["b"], ["c"]), _batch(["c"], []))
    assert set(tables.jobs(["a", "b", "c", "b"])) == {"a", "b", "c"}
    asked = [body["RequestItems"][SETTINGS.job_table] for body in wire.bodies]
    assert [len(request["Keys"]) for request in asked] == [3, 2, 1]
    assert all(request["ConsistentRead"] for request in asked)


def test_keys_left_unread_for_ever_are_a_throttle_and_not_absent() -> None:
    tables, _ = scripted(*[_batch([], ["a"])] * 8)
    with pytest.raises(Throttled):
        tables.jobs(["a"])


def test_what_an_index_lists_too_long_is_not_believed() -> None:
    listed = reply({"Items": [{"job_id": {"S": "a"}}, {"job_id": {"S": "gone"}}], "Count": 2})
    nothing = reply({"Items": [], "Count": 0})
    tables, wire = scripted(listed, _batch(["a"], []), nothing, nothing, nothing)
    assert list(tables.queued(NOW - timedelta(hours=1))) == []
    assert wire.is_done()


def test_an_item_of_another_making_is_refused_and_named() -> None:
    tables, _ = scripted(reply({"Item": {"job_id": {"S": "odd"}}}))
    with pytest.raises(Refused, match="odd"):
        tables.job("odd")


def test_reads_are_strongly_consistent() -> None:
    tables, wire = scripted(reply(), reply(), reply({"Items": [], "Count": 0}))
    assert tables.job("a") is None
    assert tables.slot("a") is None
    assert list(tables.slots()) == []
    assert all(body["ConsistentRead"] for body in wire.bodies)


def test_a_read_that_fails_is_not_absence() -> None:
    tables, _ = scripted(*[refusal("InternalServerError", status=500)] * TRIES)
    with pytest.raises(Unknown):
        tables.job("a")
