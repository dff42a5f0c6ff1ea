"""Queues: on moto where SQS's own behaviour matters, on scripted replies where errors do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aws_wire import SETTINGS, Reply, Wire, make_clients, refusal, reply
from botocore.exceptions import ReadTimeoutError
from moto import mock_aws

from sched_plugins.aws.batches import batches
from sched_plugins.aws.clients import TRIES
from sched_plugins.aws.queues import ABSENCE_REMEMBERED, SqsQueues
from sched_plugins.core import limits
from sched_plugins.errors import InvalidInput, NotPermitted, QueueNotFound, Refused, ServiceError, Throttled, Unknown

LOST = ReadTimeoutError(endpoint_url="https://aws")
URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/q"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


@pytest.fixture
def sqs() -> Iterator[Any]:
    """A client of moto's SQS with a queue ``q``."""
    with mock_aws():
        client = make_clients().sqs()
        client.create_queue(QueueName="q")
        yield client


def arn_of(sqs: Any, name: str) -> str:
    """The ARN of a queue."""
    url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
    return str(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])


@pytest.mark.usefixtures("sqs")
def test_messages_are_sent_received_released_and_deleted() -> None:
    queues = SqsQueues(SETTINGS, make_clients())
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert queues.receive("q") == []
    assert queues.send("q", ["one", "zwei – ü"]) == [None, None]
    assert queues.waiting("q") == 2
    found = queues.receive("q", 0, 25)
    assert sorted(message.body for message in found) == ["one", "zwei – ü"]
    assert all(before <= message.sent_at <= before + timedelta(minutes=1) for message in found)
    assert all(message.source == "" and message.message_id for message in found)
    assert queues.waiting("q") == 0
    queues.release("q", found[0].receipt)
    queues.delete("q", found[1].receipt)
    [again] = queues.receive("q", 0, 10)
    assert again.body == found[0].body


def test_a_queue_is_found_by_name_arn_and_url(sqs: Any) -> None:
    queues = SqsQueues(SETTINGS, make_clients())
    for number, address in enumerate(["q", arn_of(sqs, "q"), sqs.get_queue_url(QueueName="q")["QueueUrl"]], 1):
        assert queues.send(address, ["x"]) == [None]
        assert queues.waiting("q") == number


@pytest.mark.usefixtures("sqs")
def test_a_queue_in_another_region_is_reached_there() -> None:
    clients = make_clients()
    far = clients.sqs("ap-southeast-2")
    url = far.create_queue(QueueName="far")["QueueUrl"]
    queues = SqsQueues(SETTINGS, clients)
    for address in (arn_of(far, "far"), url):
        assert queues.send(address, ["x"]) == [None]
    assert int(far.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"][
        "ApproximateNumberOfMessages"]) == 2  # fmt: skip
    with pytest.raises(QueueNotFound):
        queues.waiting("far")


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://sqs.us-gov-west-1.amazonaws.com/1/q", "us-gov-west-1"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://eu-central-2.queue.amazonaws.com/1/q", "eu-central-2"),
        ("https://sqs-fips.us-east-2.amazonaws.com/1/q", "us-east-2"),
        ("https://sqs.us-east-2.api.aws/1/q", "us-east-2"),
        ("https://queue.amazonaws.com/1/q", ""),
        ("http://127.0.0.1:4566/000000000000/q", ""),
    ],
)
def test_the_region_of_a_url(url: str, region: str) -> None:
    clients = make_clients()
    wire = Wire(clients.sqs(region), reply({"Attributes": {"ApproximateNumberOfMessages": "3"}}))
    assert SqsQueues(SETTINGS, clients).waiting(url) == 3
    [body] = wire.bodies
    assert body["QueueUrl"] == url


@pytest.mark.parametrize("queue", ["", "arn:aws:sqs:eu-west-1:q", "arn:aws:sns:eu-west-1:1:q", "https://host/q"])
def test_what_is_no_address_is_said_to_be_none(queue: str) -> None:
    with pytest.raises(InvalidInput, match=r"ARN|URL"):
        SqsQueues(SETTINGS, make_clients()).waiting(queue)


@pytest.mark.usefixtures("sqs")
def test_a_missing_queue_is_named() -> None:
    queues = SqsQueues(SETTINGS, make_clients())
    with pytest.raises(QueueNotFound, match="'nobody'"):
        queues.receive("nobody")
    [outcome] = queues.send("nobody", ["x"])
    assert isinstance(outcome, QueueNotFound)


@pytest.mark.usefixtures("sqs")
def test_siblings_are_the_schedulers_own_until_the_queue_has_some() -> None:
    clients, now = make_clients(), [0.0]
    queues = SqsQueues(SETTINGS, clients, monotonic=lambda: now[0])
    assert queues.siblings("q") == ("sim-job-queue-finished", "sim-job-queue-failed")
    clients.sqs().create_queue(QueueName="q-finished")
    now[0] += ABSENCE_REMEMBERED + 1
    assert queues.siblings("q") == ("sim-job-queue-finished", "sim-job-queue-failed")
    clients.sqs().create_queue(QueueName="q-failed")
    now[0] += ABSENCE_REMEMBERED - 1
    assert queues.siblings("q") == ("sim-job-queue-finished", "sim-job-queue-failed")
    now[0] += 2
    assert queues.siblings("q") == ("q-finished", "q-failed")
    url = clients.sqs().get_queue_url(QueueName="q-finished")["QueueUrl"]
    clients.sqs().delete_queue(QueueUrl=url)
    assert isinstance(queues.send("q-finished", ["x"])[0], QueueNotFound)
    assert queues.siblings("q") == ("sim-job-queue-finished", "sim-job-queue-failed")


@pytest.mark.parametrize("region", ["us-east-1", ""])
def test_siblings_that_may_not_be_looked_up(region: str) -> None:
    """Elsewhere AWS hides so whether they exist, and the scheduler's own serve; at home it is a fault to be told."""
    clients = make_clients()
    Wire(clients.sqs(region), refusal("AccessDenied"))
    queues = SqsQueues(SETTINGS, clients)
    if region:
        own = ("sim-job-queue-finished", "sim-job-queue-failed")
        assert queues.siblings(f"arn:aws:sqs:{region}:123456789012:q") == own
    else:
        with pytest.raises(NotPermitted):
            queues.siblings("q")


def scripted(*replies: Reply | Exception) -> tuple[SqsQueues, Wire]:
    """Queues whose requests meet these replies; the queue is given by its URL, so none asks for that."""
    clients = make_clients()
    return SqsQueues(SETTINGS, clients), Wire(clients.sqs("eu-west-1"), *replies)


def test_a_known_queue_is_not_looked_up_again() -> None:
    clients = make_clients()
    found = reply({"Attributes": {"ApproximateNumberOfMessages": "0"}})
    wire = Wire(clients.sqs(), reply({"QueueUrl": URL}), found, found)
    queues = SqsQueues(SETTINGS, clients)
    queues.waiting("q")
    queues.waiting("q")
    assert wire.is_done()


def test_a_queue_of_another_account_is_asked_for_by_its_owner() -> None:
    clients = make_clients()
    empty = reply({"Attributes": {"ApproximateNumberOfMessages": "0"}})
    wire = Wire(clients.sqs("us-east-2"), reply({"QueueUrl": "https://theirs"}), empty)
    SqsQueues(SETTINGS, clients).waiting("arn:aws:sqs:us-east-2:210987654321:theirs")
    assert wire.bodies[0] == {"QueueName": "theirs", "QueueOwnerAWSAccountId": "210987654321"}
    assert wire.bodies[1]["QueueUrl"] == "https://theirs"


def sent(*failed: dict[str, Any], forgotten: tuple[int, ...] = ()) -> Reply:
    """SendMessageBatch that answers for all but what failed or was forgotten."""

    def answered(request: Any) -> Any:
        odd = {entry["Id"] for entry in failed} | {str(index) for index in forgotten}
        ids = [entry["Id"] for entry in json.loads(request.body)["Entries"] if entry["Id"] not in odd]
        told = [{"Id": one, "MessageId": "m", "MD5OfMessageBody": ""} for one in ids]
        return reply({"Successful": told, "Failed": list(failed)})(request)

    return answered


def test_each_message_of_a_batch_has_its_own_outcome() -> None:
    failures = [
        {"Id": "1", "Code": "InvalidMessageContents", "SenderFault": True},
        {"Id": "3", "Code": "InternalError", "SenderFault": False},
        {"Id": "4", "Code": "RequestThrottled", "SenderFault": True},
    ]
    queues, _ = scripted(sent(*failures, forgotten=(5,)))
    outcomes = queues.send(URL, [str(number) for number in range(7)])
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [type(None), Refused, type(None), Unknown, Throttled, Unknown, type(None)]


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ([LOST] * TRIES, Unknown),
        ([refusal("RequestThrottled")] * TRIES, Throttled),
        ([refusal("InvalidMessageContents")], Refused),
    ],
)
def test_a_failed_batch_fails_its_own_messages_only(replies: list[Any], kind: type[ServiceError]) -> None:
    queues, wire = scripted(sent(), *replies)
    outcomes = queues.send(URL, ["x"] * 12)
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 10 + [kind] * 2
    assert wire.is_done()


def test_a_message_too_large_is_refused_and_the_others_are_sent() -> None:
    big, half = "x" * (limits.MAX_MESSAGE_BYTES + 1), "é" * (limits.MAX_MESSAGE_BYTES // 4 + 1)
    queues, wire = scripted(sent(), sent())
    outcomes = queues.send(URL, ["a", half, big, half, "b"])
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), Refused, type(None), type(None)]
    assert [[len(entry["MessageBody"]) for entry in body["Entries"]] for body in wire.bodies] == [
        [1, len(half)], [len(half), 1],
    ]  # fmt: skip


def test_nothing_to_send_is_no_call() -> None:
    queues, _ = scripted()
    assert list(queues.send(URL, [])) == []


def test_a_wrong_receipt_is_not_taken_for_a_deletion() -> None:
    queues, _ = scripted(refusal("ReceiptHandleIsInvalid"))
    with pytest.raises(Refused):
        queues.delete(URL, "receipt")


def test_releasing_what_nobody_holds_is_done() -> None:
    queues, _ = scripted(refusal("AWS.SimpleQueueService.MessageNotInflight"), refusal("InvalidParameterValue"))
    queues.release(URL, "receipt")
    with pytest.raises(Refused):
        queues.release(URL, "receipt", 99_999)


def test_a_dead_letter_names_where_it_came_from_and_waits_are_bounded() -> None:
    source = "arn:aws:sqs:eu-west-1:123456789012:sim-job-queue"
    message = {
        "MessageId": "m", "Body": "{}", "ReceiptHandle": "r",
        "Attributes": {"SentTimestamp": "1767323045678", "DeadLetterQueueSourceArn": source},
    }  # fmt: skip
    queues, wire = scripted(reply({"Messages": [message]}))
    [found] = queues.receive(URL, 60, 50)
    assert found.source == source
    assert found.sent_at == datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
    [body] = wire.bodies
    assert (body["WaitTimeSeconds"], body["MaxNumberOfMessages"]) == (20, 10)
    assert set(body["MessageSystemAttributeNames"]) == {"SentTimestamp", "DeadLetterQueueSourceArn"}


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1, 1, 1, 1], [[0, 1, 2], [3]]),
        ([6, 4, 1], [[0, 1], [2]]),
        ([11, 10, 11, 1], [[1], [3]]),
    ],
)
def test_batches_keep_to_count_and_size(sizes: list[int], expected: list[list[int]]) -> None:
    assert list(batches(sizes, 3, 10)) == expected
