"""Events: what PutEvents is asked, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_wire import SETTINGS, Reply, Wire, make_clients, refusal, reply
from botocore.exceptions import ReadTimeoutError

from sched_plugins.aws.answers import AccessRefused
from sched_plugins.aws.clients import TRIES
from sched_plugins.aws.events import EventBridgeEvents
from sched_plugins.core import limits
from sched_plugins.errors import Refused, ServiceError, Throttled, Unknown


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def scripted(*replies: Reply | Exception) -> tuple[EventBridgeEvents, Wire]:
    """Events whose requests meet these replies."""
    clients = make_clients()
    return EventBridgeEvents(SETTINGS, clients), Wire(clients.events, *replies)


def accepted(request: Any) -> Any:
    """PutEvents that accepts every entry."""
    entries = json.loads(request.body)["Entries"]
    return reply({"FailedEntryCount": 0, "Entries": [{"EventId": str(n)} for n, _ in enumerate(entries)]})(request)


def test_every_event_is_published_in_batches_of_ten() -> None:
    events, wire = scripted(accepted, accepted, accepted)
    details = [{"job_id": f"jöb-{number}", "attempt": number} for number in range(21)]
    assert events.publish(details) == [None] * 21
    sent = [entry for body in wire.bodies for entry in body["Entries"]]
    assert [len(body["Entries"]) for body in wire.bodies] == [10, 10, 1]
    assert [json.loads(entry["Detail"]) for entry in sent] == details
    assert {(entry["Source"], entry["DetailType"], entry["EventBusName"]) for entry in sent} == {
        ("sched-plugins", "Scheduler Job State Change", "default")
    }


def test_batches_keep_to_the_size_that_eventbridge_counts() -> None:
    events, wire = scripted(accepted, accepted)
    half, big = {"x": "é" * (limits.MAX_EVENT_BYTES // 4)}, {"x": "y" * limits.MAX_EVENT_BYTES}
    outcomes = events.publish([half, big, half])
    assert [type(outcome) for outcome in outcomes] == [type(None), Refused, type(None)]
    assert len(wire.requests) == 2


def test_each_event_has_its_own_outcome() -> None:
    entries = [
        {"EventId": "1"},
        {"ErrorCode": "ThrottlingException"},
        {"ErrorCode": "InternalFailure"},
        {"ErrorCode": "MalformedDetail"},
        {"ErrorCode": "NotAuthorizedForDetailTypeException"},
        {},
    ]
    events, _ = scripted(reply({"FailedEntryCount": 4, "Entries": entries}))
    kinds = [type(outcome) for outcome in events.publish([{}] * 6)]
    assert kinds == [type(None), Throttled, Unknown, Refused, Refused, Unknown]


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        ([ReadTimeoutError(endpoint_url="https://aws")] * TRIES, Unknown),
        ([refusal("ThrottlingException")] * TRIES, Throttled),
        ([refusal("ResourceNotFoundException", "Event bus x does not exist.")], Refused),
        ([refusal("AccessDeniedException")], AccessRefused),
        ([reply({"Entries": []})], Unknown),
    ],
)
def test_a_failed_call_fails_its_events_only(replies: list[Any], kind: type[ServiceError]) -> None:
    events, wire = scripted(accepted, *replies)
    kinds = [type(outcome) for outcome in events.publish([{}] * 11)]
    assert kinds == [type(None)] * 10 + [kind]
    assert wire.is_done()


def test_nothing_to_publish_is_no_call() -> None:
    events, _ = scripted()
    assert list(events.publish([])) == []
