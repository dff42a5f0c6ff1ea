"""What errors prove: through real clients, so that botocore's retries and exceptions take part."""

from __future__ import annotations

from typing import Any

import pytest
from aws_wire import Wire, make_clients, refusal, reply
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    ReadTimeoutError,
)

from sched_plugins.aws import answers
from sched_plugins.aws.answers import AccessRefused, answer, classify, code_of, lost_replies
from sched_plugins.aws.clients import TRIES
from sched_plugins.errors import NotPermitted, Refused, ServiceError, Throttled, Unknown

LOST = ReadTimeoutError(endpoint_url="https://aws")
CLOSED = ConnectionClosedError(endpoint_url="https://aws", request=None)
NOT_SENT = ConnectTimeoutError(endpoint_url="https://aws", error="timeout")
THROTTLE = refusal("ThrottlingException")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def ask(*replies: Any) -> tuple[Exception, Wire]:
    """The error of a DynamoDB call whose tries meet these replies."""
    client = make_clients().dynamodb
    wire = Wire(client, *replies)
    with pytest.raises(answers.ERRORS) as caught:
        client.describe_table(TableName="table")
    return caught.value, wire


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ([THROTTLE] * TRIES, Throttled),
        ([refusal("ProvisionedThroughputExceededException")] * TRIES, Throttled),
        ([refusal("TransactionConflictException")], Throttled),
        ([refusal("SlowDown", status=503)] * TRIES, Throttled),
        ([refusal("NewThrottle", status=429)], Throttled),
        ([NOT_SENT] * TRIES, Throttled),
        ([EndpointConnectionError(endpoint_url="https://aws")] * TRIES, Throttled),
        ([refusal("ValidationException")], Refused),
        ([refusal("ResourceNotFoundException")], Refused),
        ([refusal("AccessDeniedException")], AccessRefused),
        ([refusal("ExpiredTokenException")], AccessRefused),
        ([refusal("InternalServerError", status=500)] * TRIES, Unknown),
        ([refusal("ServiceUnavailable", status=503)] * TRIES, Unknown),
        ([reply("<html>bad gateway</html>", 502)] * TRIES, Unknown),
        ([refusal("TransactionInProgressException")] * TRIES, Unknown),
        ([LOST] * TRIES, Unknown),
        ([CLOSED] * TRIES, Unknown),
        # The last reply alone would say "not done"; an earlier try may have been carried out.
        ([LOST, *[THROTTLE] * (TRIES - 1)], Unknown),
        ([refusal("InternalServerError", status=500), *[THROTTLE] * (TRIES - 1)], Unknown),
        ([THROTTLE, LOST, *[NOT_SENT] * (TRIES - 2)], Unknown),
        ([LOST, refusal("ValidationException")], Unknown),
        ([LOST, refusal("AccessDeniedException")], Unknown),
        # Tries that certainly came to nothing leave the last reply its meaning.
        ([THROTTLE, NOT_SENT, refusal("ValidationException")], Refused),
    ],
)
def test_what_the_tries_of_a_call_prove(replies: list[Any], kind: type[ServiceError]) -> None:
    error, wire = ask(*replies)
    assert type(answer(error, "DescribeTable")) is kind
    assert wire.is_done()


@pytest.mark.parametrize(
    ("replies", "lost"),
    [
        ([refusal("ValidationException")], 0),
        ([THROTTLE, refusal("ValidationException")], 0),
        ([NOT_SENT, refusal("ValidationException")], 0),
        ([LOST, refusal("ValidationException")], 1),
        ([LOST, CLOSED, refusal("ValidationException")], 2),
        ([LOST, *[NOT_SENT] * (TRIES - 1)], 1),
    ],
)
def test_lost_replies_are_counted(replies: list[Any], lost: int) -> None:
    error, _ = ask(*replies)
    assert lost_replies(error) == lost


def test_a_lost_reply_does_not_stain_the_next_call() -> None:
    client = make_clients().dynamodb
    Wire(client, LOST, reply(), refusal("ValidationException"))
    client.describe_table(TableName="table")
    with pytest.raises(ClientError) as caught:
        client.describe_table(TableName="table")
    assert classify(caught.value) is Refused


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NoCredentialsError(), AccessRefused),
        (NoRegionError(), Refused),
        (ParamValidationError(report="bad"), Refused),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), Unknown),
    ],
)
def test_errors_without_a_reply(error: Exception, kind: type[ServiceError]) -> None:
    assert classify(error) is kind


def test_a_refused_caller_is_told_by_both_its_names() -> None:
    error, _ = ask(refusal("AccessDeniedException", "not authorized to perform: dynamodb:DescribeTable"))
    told = answer(error, "DescribeTable of 'jobs'")
    assert isinstance(told, NotPermitted)
    assert isinstance(told, Refused)
    assert "DescribeTable of 'jobs'" in str(told)
    assert "dynamodb:DescribeTable" in str(told)


def test_the_prefix_of_sqs_codes_is_left_out() -> None:
    error = ClientError({"Error": {"Code": "AWS.SimpleQueueService.NonExistentQueue", "Message": ""}}, "SendMessage")
    assert code_of(error) == "NonExistentQueue"
