"""Plays AWS's part at the end of the wire, so that botocore's own retries and parsers take part in a test."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Any

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings

REGION = "eu-west-1"
SETTINGS = Settings(
    name="sim",
    job_table="sim-job-monitoring",
    slot_table="sim-worker-slots",
    state_machine_arn="arn:aws:states:eu-west-1:123456789012:stateMachine:sim-worker",
    output_bucket="sim-output",
    dead_letters="sim-dead-letters",
)

Reply = Callable[[AWSPreparedRequest], AWSResponse]


class _Raw(BytesIO):
    def stream(self, *_: Any, **__: Any) -> Any:
        yield self.read()


@cache
def _session() -> boto3.Session:
    # One for all tests: it reads the services' descriptions, and that takes longer than a test.
    return boto3.Session(region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")


def make_clients() -> Clients:
    """Fresh clients, with credentials of no account."""
    return Clients(_session())


def reply(body: Any = None, status: int = 200, **headers: str) -> Reply:
    """A reply; a body that is no text becomes JSON."""
    text = body if isinstance(body, str) else json.dumps({} if body is None else body)
    return lambda request: AWSResponse(request.url, status, headers, _Raw(text.encode()))


def refusal(code: str, message: str = "no", status: int = 400, **more: Any) -> Reply:
    """An error in the JSON protocols; ``more`` are fields beside code and message."""
    return reply({"__type": f"com.amazonaws#{code}", "message": message, **more}, status)


class Wire:
    """Answers the requests of one client in turn, and keeps them; an exception among the replies is raised."""

    def __init__(self, client: Any, *replies: Reply | Exception) -> None:
        self.requests: list[AWSPreparedRequest] = []
        self._replies = list(replies)
        client.meta.events.register("before-send", self._answer)

    def _answer(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        self.requests.append(request)
        assert self._replies, f"one request more than there are replies: {request.url} {request.body!r}"
        following = self._replies.pop(0)
        if isinstance(following, Exception):
            raise following
        return following(request)

    @property
    def bodies(self) -> list[Any]:
        """What was sent, from JSON."""
        return [json.loads(request.body) for request in self.requests]

    def is_done(self) -> bool:
        """Whether every reply was asked for."""
        return not self._replies
