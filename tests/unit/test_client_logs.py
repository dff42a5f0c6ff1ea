"""What a job wrote: while it runs, over its retries, and afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from client_stack import REGION, ClientStack, client_stack, service

from sched_plugins.client import LogChunk, Status
from sched_plugins.core import limits
from sched_plugins.core.wrapper.trailer import TRAILER
from sched_plugins.errors import InvalidInput, JobNotFound, NotFound, NotPermitted, WaitTimeout


class Ssm:
    """Plays GetCommandInvocation: what a command has written so far."""

    def __init__(self) -> None:
        self.written: dict[str, tuple[str, str]] = {}
        self.meta = SimpleNamespace()

    def get_command_invocation(self, CommandId: str, InstanceId: str) -> dict[str, Any]:  # noqa: N803
        if CommandId not in self.written:
            raise ClientError({"Error": {"Code": "InvocationDoesNotExist"}}, "GetCommandInvocation")
        out, err = self.written[CommandId]
        return {"StandardOutputContent": out, "StandardErrorContent": err}


class Logged(ClientStack):
    """A stack whose commands write what a test says."""

    ssm: Ssm

    def store(self, key: str, text: str) -> str:
        service("s3").put_object(Bucket="out", Key=key, Body=text.encode())
        return f"s3://out/{key}"

    def run(self, command_id: str, attempt: int = 1) -> None:
        """The job's attempt has begun."""
        self.change("a", status=Status.RUNNING, command_id=command_id, worker_id="i-1", attempt=attempt)

    def read(self, **options: Any) -> str:
        return "".join(chunk.text for chunk in self.client.logs("a", **options))


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Logged]:
    with client_stack(monkeypatch) as found:
        found.__class__ = Logged
        assert isinstance(found, Logged)
        service("s3").create_bucket(Bucket="out", CreateBucketConfiguration={"LocationConstraint": REGION})
        found.ssm = found.client.connection._clients["ssm"] = Ssm()
        found.client.submit({"job_id": "a", "commands": ["x"], "retry": 3})
        yield found


def test_a_queued_job_has_written_nothing(stack: Logged) -> None:
    assert stack.read() == ""
    with pytest.raises(JobNotFound, match="'b'"):
        list(stack.client.logs("b"))


def test_a_running_job_is_told_of_by_systems_manager(stack: Logged) -> None:
    stack.run("c-1")
    assert stack.read() == "", "just after a send Systems Manager does not know it"
    stack.ssm.written["c-1"] = ("so far\n", f"warning\n{TRAILER}eyJ9\n")
    assert stack.read() == "so far\n"
    assert stack.read(stream="stderr") == "warning\n"


def test_an_ended_job_is_read_whole_from_s3(stack: Logged) -> None:
    text = "x" * (limits.MIB - 1) + "é" * 10 + "\nend\n"
    stack.end("a", attempts=stack.attempts("a", stack.store("c-1/stdout", text)))
    assert stack.read() == text, "a character on the border of two pieces is whole"


def test_the_trailer_of_stderr_is_not_shown(stack: Logged) -> None:
    uri = stack.store("c-1/stdout", "out")
    stack.store("c-1/stderr", f"first\nsecond, {TRAILER}in a line\n{TRAILER}eyJ9\n")
    stack.end("a", attempts=stack.attempts("a", uri))
    assert stack.read(stream="stderr") == f"first\nsecond, {TRAILER}in a line\n"


def test_output_that_was_not_stored_is_shown_from_the_record(stack: Logged) -> None:
    stack.end("a", output="the tail\n", attempts=stack.attempts("a", "s3://out/none/stdout"))
    assert stack.read() == "the tail\n"
    assert stack.read(stream="stderr") == ""


def test_any_attempt_can_be_shown(stack: Logged) -> None:
    uris = [stack.store(f"c-{number}/stdout", f"try {number}") for number in (1, 2, 3)]
    stack.end("a", Status.FAILED, attempt=3, attempts=stack.attempts("a", *uris))
    assert (stack.read(), stack.read(attempt=1)) == ("try 3", "try 1")
    with pytest.raises(NotFound, match="no attempt 7; it has 1, 2, 3"):
        stack.read(attempt=7)
    with pytest.raises(InvalidInput, match="leave attempt out"):
        stack.read(attempt=1, follow=True)


def test_following_shows_everything_once_through_retries(stack: Logged) -> None:
    def first_writes() -> None:
        stack.run("c-1")
        stack.ssm.written["c-1"] = ("one\n", "")

    def first_goes_on() -> None:
        stack.ssm.written["c-1"] = ("one\ntwo\n", "")

    def first_fails() -> None:
        stack.attempt_1 = stack.store("c-1/stdout", "one\ntwo\nthree\n")  # type: ignore[attr-defined]
        stack.change("a", status=Status.QUEUED, attempt=2, attempts=stack.attempts("a", stack.attempt_1))  # type: ignore[attr-defined]

    def second_writes() -> None:
        stack.run("c-2", attempt=2)
        stack.ssm.written["c-2"] = ("one\nagain\n", "")

    def second_ends() -> None:
        uri = stack.store("c-2/stdout", "one\nagain\ndone\n")
        stack.end("a", attempts=stack.attempts("a", stack.attempt_1, uri))  # type: ignore[attr-defined]

    stack.clock.then = [first_writes, lambda: None, first_goes_on, first_fails, second_writes, second_ends]
    states: list[str] = []
    chunks = list(
        stack.client.logs("a", follow=True, on_change=lambda job: states.append(f"{job.status}{job.attempt}"))
    )
    assert chunks == [
        LogChunk(1, "one\n"),
        LogChunk(1, "two\n"),
        LogChunk(1, "three\n"),
        LogChunk(2, "one\nagain\n"),
        LogChunk(2, "done\n"),
    ]
    assert states == ["QUEUED1", "RUNNING1", "QUEUED2", "RUNNING2", "SUCCEEDED2"]


def test_following_shows_attempts_that_end_between_two_looks(stack: Logged) -> None:
    """Attempts of a warm worker may end 140 ms apart: less than between two looks, or before the first one."""
    uris = [stack.store(f"c-{number}/stdout", "try\n") for number in (1, 2, 3)]
    run_id = stack.client.get("a").run_id

    def shown() -> list[LogChunk]:
        return list(stack.client.logs("a", follow=True, run_id=run_id))

    stack.change("a", status=Status.QUEUED, attempt=2, attempts=stack.attempts("a", uris[0]))
    stack.clock.then = [
        lambda: stack.end("a", Status.FAILED, attempt=3, attempts=stack.attempts("a", *uris)),
    ]
    assert shown() == [LogChunk(number, "try\n") for number in (1, 2, 3)], "the first ended before the first look"
    assert shown() == [LogChunk(number, "try\n") for number in (1, 2, 3)], "all ended before the first look"


def test_following_goes_on_where_systems_manager_cuts(stack: Logged) -> None:
    whole = "".join(f"line {number}\n" for number in range(5000))
    cut = whole[: limits.API_STDOUT_CHARACTERS - 24] + "\n--output truncated--"

    def running() -> None:
        stack.run("c-1")
        stack.ssm.written["c-1"] = (cut, "")

    def ends() -> None:
        stack.end("a", attempts=stack.attempts("a", stack.store("c-1/stdout", whole)))

    stack.clock.then = [running, lambda: None, lambda: None, ends]
    assert stack.read(follow=True) == whole


def test_following_without_permission_to_ask_shows_it_in_the_end(stack: Logged) -> None:
    def denied(**_: str) -> dict[str, Any]:
        raise ClientError({"Error": {"Code": "AccessDeniedException"}}, "GetCommandInvocation")

    def ends() -> None:
        stack.end("a", attempts=stack.attempts("a", stack.store("c-1/stdout", "all of it")))

    stack.ssm.get_command_invocation = denied  # type: ignore[method-assign, assignment]
    stack.run("c-1")
    with pytest.raises(NotPermitted):
        stack.read()
    stack.clock.then = [lambda: None, ends]
    assert stack.read(follow=True) == "all of it"


def test_following_an_ended_job_shows_its_last_attempt(stack: Logged) -> None:
    uris = [stack.store(f"c-{number}/stdout", f"try {number}") for number in (1, 2)]
    stack.end("a", attempt=2, attempts=stack.attempts("a", *uris))
    assert stack.read(follow=True) == "try 2"


def test_following_ends_when_another_run_begins(stack: Logged) -> None:
    def again() -> None:
        stack.end("a")
        stack.client.submit({"job_id": "a", "commands": ["y"]})

    stack.clock.then = [again]
    assert stack.read(follow=True) == ""


def test_following_can_be_given_up(stack: Logged) -> None:
    with pytest.raises(WaitTimeout, match="after 10 s job 'a' had not ended"):
        stack.read(follow=True, timeout=10)
    assert 10 <= stack.clock.seconds < 12
