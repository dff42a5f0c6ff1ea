"""What an error of an AWS call means to a user."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from botocore import exceptions as botocore
from botocore.exceptions import ClientError

from sched_plugins.client import Connection, SchedulerClient
from sched_plugins.client.failures import explain
from sched_plugins.errors import (
    InvalidSettings,
    JobNotFound,
    LaptopStackError,
    NotFound,
    NotPermitted,
    Refused,
    SchedulerError,
    Throttled,
    Unknown,
)


def answered(code: str, status: int = 400, message: str = "why") -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "Call")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (answered("ThrottlingException"), Throttled, "Try again in a moment"),
        (answered("SlowDown", 503), Throttled, "Try again"),
        (answered("AccessDeniedException"), NotPermitted, "submitter or reader policy"),
        (answered("403", 403, ""), NotPermitted, "AWS answered 403. Ask"),
        (answered("ExpiredToken"), NotPermitted, "Sign in"),
        (answered("UnrecognizedClientException"), NotPermitted, "choose a profile"),
        (answered("InternalServerError", 500), Unknown, "Try again"),
        (answered("ResourceNotFoundException"), NotFound, "Check the name, the region and the account"),
        (answered("NoSuchBucket", 404), NotFound, "NoSuchBucket"),
        (answered("ValidationException", 400, "bad"), Refused, "AWS answered ValidationException: bad."),
        (botocore.NoCredentialsError(), NotPermitted, "Unable to locate credentials. Sign in"),
        (botocore.NoRegionError(), InvalidSettings, "no AWS region is set; give one"),
        (botocore.EndpointConnectionError(endpoint_url="https://x"), Unknown, "Check the network"),
        (botocore.ReadTimeoutError(endpoint_url="https://x"), Unknown, "Try again"),
        (botocore.ConnectionClosedError(endpoint_url="https://x"), Unknown, "Try again"),
        (botocore.ParamValidationError(report="bad"), Refused, "bad"),
    ],
)  # fmt: skip
def test_errors_name_the_doing_and_the_next_step(error: Any, kind: type[SchedulerError], said: str) -> None:
    told = explain(error, "read job 'a'", "region eu-west-1", loopback=False, missing=None)
    assert type(told) is kind
    assert str(told).startswith("cannot read job 'a'")
    assert said in str(told)
    assert "\n" not in str(told)


def test_what_is_missing_is_told_as_the_caller_knows_it() -> None:
    missing = JobNotFound("no such job")
    assert explain(answered("NoSuchKey"), "x", "y", loopback=False, missing=missing) is missing


def test_a_laptop_stack_that_is_not_running_is_told_at_once(monkeypatch: pytest.MonkeyPatch, free_port: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port}")
    client = SchedulerClient("sim", session=_session())
    with pytest.raises(LaptopStackError, match=rf"nothing answers in .*127.0.0.1:{free_port}.*sched local up"):
        client.get("a")


def test_an_answer_without_credentials_tells_how_to_get_those_of_the_laptop() -> None:
    told = explain(botocore.NoCredentialsError(), "x", "y", loopback=True, missing=None)
    assert 'eval "$(sched local env)"' in str(told)


@pytest.mark.parametrize(
    ("endpoint", "loopback"),
    [("http://127.0.0.1:4566", True), ("http://localhost:1", True), ("http://[::1]:1", True),
     ("https://sqs.example.com", False), ("", False)],
)  # fmt: skip
def test_which_endpoints_are_on_this_machine(monkeypatch: pytest.MonkeyPatch, endpoint: str, loopback: bool) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    connection = Connection(session=_session(), endpoint_url=endpoint or None)
    assert connection.is_loopback is loopback
    tries = connection.client("sqs").meta.config.retries["total_max_attempts"]
    assert tries == (2 if loopback else 5), "one that is not running is told at once"


def test_a_region_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(InvalidSettings, match="no AWS region is set"):
        Connection()
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert Connection().region == "eu-west-3"
    assert Connection(region="eu-west-1").region == "eu-west-1"


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(InvalidSettings, match=r"\(nobody\) could not be found; `aws configure list-profiles`"):
        Connection(profile="nobody")


def test_connections_that_reach_the_same_are_equal() -> None:
    assert Connection(region="eu-west-1").identity == Connection(region="eu-west-1").identity
    assert Connection(region="eu-west-1").identity != Connection(region="eu-west-2").identity
    assert Connection(session=_session()).identity != Connection(region="eu-west-1").identity


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _session() -> Any:
    from client_stack import session

    return session()


def test_a_client_can_be_had_while_the_same_thread_makes_another() -> None:
    """As a signal's handler asks for one: whatever thread it interrupts must not wait for itself."""
    found: list[Any] = []

    class Interrupted:
        region_name = "eu-west-1"

        def client(self, service: str, **settings: Any) -> str:
            if service == "ssm":
                found.append(connection.client("lambda"))
            return service

    connection = Connection(session=Interrupted())
    thread = threading.Thread(target=lambda: found.append(connection.client("ssm")), daemon=True)
    thread.start()
    thread.join(10)
    assert found == ["lambda", "ssm"]
