"""Commands: what a refusal to send proves, and what Systems Manager's answers come to."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from aws_wire import SETTINGS, Reply, Wire, make_clients, refusal, reply
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from sched_plugins.aws.answers import AccessRefused
from sched_plugins.aws.clients import TRIES
from sched_plugins.aws.commands import RunCommands
from sched_plugins.core import names
from sched_plugins.core.judge import Invocation
from sched_plugins.errors import Refused, ServiceError, Throttled, Unknown
from sched_plugins.ports import Command, RefusedForJob, RefusedForWorker

AWS = "https://aws"
ID = "c0ffee00-0000-4000-8000-000000000001"
COMMENT = names.comment("job", "run", 1)
COMMAND = Command("i-1", "AWS-RunShellScript", {"commands": ("echo",), "executionTimeout": ("60",)}, COMMENT, 60)
OWN = replace(COMMAND, document="Own-Document", parameters={"size": ["1"], "colour": ["red"]})
SENT = reply({"Command": {"CommandId": ID}})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def sending(*replies: Reply | Exception) -> tuple[RunCommands, Wire]:
    """Commands whose SendCommand meets these replies."""
    clients = make_clients()
    return RunCommands(SETTINGS, clients), Wire(clients.ssm_once, *replies)


def asking(*replies: Reply | Exception) -> tuple[RunCommands, Wire]:
    """Commands whose other requests meet these replies."""
    clients = make_clients()
    return RunCommands(SETTINGS, clients), Wire(clients.ssm, *replies)


def test_a_command_is_sent_as_it_is_meant() -> None:
    commands, wire = sending(SENT)
    assert commands.send(COMMAND) == ID
    assert wire.bodies == [
        {
            "InstanceIds": ["i-1"],
            "DocumentName": "AWS-RunShellScript",
            "Parameters": {"commands": ["echo"], "executionTimeout": ["60"]},
            "Comment": COMMENT,
            "TimeoutSeconds": 60,
            "OutputS3BucketName": "sim-output",
            "OutputS3KeyPrefix": "commands",
            "CloudWatchOutputConfig": {"CloudWatchOutputEnabled": False},
        }
    ]
    assert wire.requests[0].headers["Connection"] in ("close", b"close")


@pytest.mark.parametrize(
    ("met", "kind"),
    [
        *[
            (refusal(code), RefusedForJob)
            for code in (
                "InvalidDocument", "InvalidDocumentVersion", "InvalidParameters", "UnsupportedPlatformType",
                "MaxDocumentSizeExceeded", "DuplicateInstanceId", "ValidationException",
            )
        ],
        (refusal("InvalidInstanceId"), RefusedForWorker),
        (refusal("ThrottlingException"), Throttled),
        (refusal("Throttling"), Throttled),
        (refusal("TooManyRequestsException", status=429), Throttled),
        (EndpointConnectionError(endpoint_url=AWS), Throttled),
        (ConnectTimeoutError(endpoint_url=AWS), Throttled),
        (refusal("AccessDeniedException"), AccessRefused),
        (refusal("ExpiredTokenException"), AccessRefused),
        (NoCredentialsError(), AccessRefused),
        (refusal("InvalidOutputFolder"), Refused),
        (refusal("InternalServerError", status=500), Unknown),
        (refusal("ServiceUnavailable", status=503), Unknown),
        (refusal("SomethingNew"), Unknown),
        (reply("<html/>", 502), Unknown),
        (reply("not json"), Unknown),
        (ReadTimeoutError(endpoint_url=AWS), Unknown),
        (ConnectionClosedError(endpoint_url=AWS, request=None), Unknown),
    ],
)  # fmt: skip
def test_a_command_is_sent_once_whatever_comes_back(met: Any, kind: type[ServiceError]) -> None:
    commands, wire = sending(met)
    with pytest.raises(ServiceError) as caught:
        commands.send(COMMAND)
    assert type(caught.value) is kind
    assert len(wire.requests) == 1


def test_what_boto3_itself_refuses_was_not_sent() -> None:
    commands, wire = sending()
    wrong: Any = {"commands": [1]}
    with pytest.raises(RefusedForJob):
        commands.send(replace(COMMAND, parameters=wrong))
    assert wire.requests == []


def describing(*names_: str) -> Reply:
    """DescribeDocument of a document with these parameters."""
    return reply({"Document": {"Name": "d", "Parameters": [{"Name": name, "Type": "String"} for name in names_]}})


def test_only_declared_parameters_are_sent() -> None:
    clients, now = make_clients(), [0.0]
    commands = RunCommands(SETTINGS, clients, monotonic=lambda: now[0])
    described = Wire(clients.ssm, describing("colour", "other"), describing("size"))
    sent = Wire(clients.ssm_once, SENT, SENT, SENT)
    commands.send(OWN)
    commands.send(OWN)
    now[0] += 301
    commands.send(OWN)
    assert [body["Parameters"] for body in sent.bodies] == [{"colour": ["red"]}, {"colour": ["red"]}, {"size": ["1"]}]
    assert [body["Name"] for body in described.bodies] == ["Own-Document"] * 2


@pytest.mark.parametrize(
    ("met", "kind"),
    [
        ([refusal("InvalidDocument")], RefusedForJob),
        ([refusal("AccessDeniedException")], AccessRefused),
        # Nothing was sent, so even an answer that never came proves that the command was not.
        ([ReadTimeoutError(endpoint_url=AWS)] * TRIES, Throttled),
        ([refusal("InternalServerError", status=500)] * TRIES, Throttled),
    ],
)
def test_a_document_that_cannot_be_read_is_not_run(met: list[Any], kind: type[ServiceError]) -> None:
    clients = make_clients()
    Wire(clients.ssm, *met)
    sent = Wire(clients.ssm_once)
    with pytest.raises(ServiceError) as caught:
        RunCommands(SETTINGS, clients).send(OWN)
    assert type(caught.value) is kind
    assert sent.requests == []


PATH = f"commands/{ID}/i-1/awsrunShellScript/0.awsrunShellScript"
ANSWER = {
    "CommandId": ID, "InstanceId": "i-1", "Comment": COMMENT, "PluginName": "aws:runShellScript",
    "Status": "Failed", "StatusDetails": "Failed", "ResponseCode": 3,
    "ExecutionStartDateTime": "2026-01-02T03:04:05.678Z", "ExecutionEndDateTime": "2026-01-02T04:04:05+01:00",
    "StandardOutputContent": "out", "StandardErrorContent": "err",
    "StandardOutputUrl": f"https://s3.eu-west-1.amazonaws.com/sim-output/{PATH}/stdout",
    "StandardErrorUrl": f"https://sim-output.s3.eu-west-1.amazonaws.com/{PATH}/stderr",
}  # fmt: skip
FOUND = Invocation(
    ID, "i-1", COMMENT, "Failed", "Failed", 3, "out", "err",
    f"s3://sim-output/{PATH}/stdout", f"s3://sim-output/{PATH}/stderr",
    datetime(2026, 1, 2, 3, 4, 5, 678000, UTC), datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
)  # fmt: skip


def test_an_answer_is_read() -> None:
    commands, wire = asking(reply(ANSWER))
    assert commands.invocation(ID, "i-1") == FOUND
    assert wire.bodies == [{"CommandId": ID, "InstanceId": "i-1"}]


def test_a_command_in_progress_has_no_times_and_no_output() -> None:
    early = {
        "Status": "InProgress", "StatusDetails": "InProgress", "ResponseCode": -1, "ExecutionStartDateTime": "",
        "ExecutionEndDateTime": "", "StandardOutputUrl": "", "StandardErrorUrl": "", "StandardOutputContent": "",
    }  # fmt: skip
    commands, _ = asking(reply(ANSWER | early))
    found = commands.invocation(ID, "i-1")
    assert found is not None
    assert (found.started_at, found.finished_at, found.stdout_uri, found.exit_code) == (None, None, "", -1)
    assert not found.is_over


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("https://s3.amazonaws.com/sim-output/a/stdout", "s3://sim-output/a/stdout"),
        ("https://s3-eu-west-1.amazonaws.com/sim-output/a/stdout", "s3://sim-output/a/stdout"),
        ("https://s3.dualstack.eu-west-1.amazonaws.com/sim-output/a/stdout", "s3://sim-output/a/stdout"),
        ("https://sim-output.s3.amazonaws.com/a/stdout", "s3://sim-output/a/stdout"),
        ("https://sim-output.s3-eu-west-1.amazonaws.com/a/stdout", "s3://sim-output/a/stdout"),
        ("https://other.dots.s3.cn-north-1.amazonaws.com.cn/a%20b/stdout", "s3://other.dots/a b/stdout"),
        ("http://127.0.0.1:4566/sim-output/a/stdout", "s3://sim-output/a/stdout"),
        ("http://sim-output.localhost:4566/a/stdout", "s3://sim-output/a/stdout"),
        ("s3://sim-output/a/stdout", "s3://sim-output/a/stdout"),
    ],
)
def test_addresses_of_every_style_are_understood(url: str, uri: str) -> None:
    commands, _ = asking(reply(ANSWER | {"StandardOutputUrl": url}))
    found = commands.invocation(ID, "i-1")
    assert found is not None
    assert found.stdout_uri == uri


def test_only_the_services_own_word_is_absence() -> None:
    commands, _ = asking(refusal("InvocationDoesNotExist"), refusal("InvalidCommandId"))
    assert commands.invocation(ID, "i-1") is None
    with pytest.raises(Refused):
        commands.invocation(ID, "i-1")
    commands, _ = asking(*[refusal("InternalServerError", status=500)] * TRIES)
    with pytest.raises(Unknown):
        commands.invocation(ID, "i-1")


def steps(status: str, *codes: int) -> Reply:
    """ListCommandInvocations of a document with several steps."""
    plugins = [{"Name": f"step{number}", "ResponseCode": code} for number, code in enumerate(codes)]
    whole = {"CommandId": ID, "InstanceId": "i-1", "Status": status, "StatusDetails": status}
    return reply({"CommandInvocations": [whole | {"CommandPlugins": plugins}]})


@pytest.mark.parametrize(
    ("first", "listed", "step", "status"),
    [
        (refusal("InvalidPluginName"), steps("Failed", 0, 3, 4), "step1", "Failed"),
        (reply(ANSWER | {"ResponseCode": -1}), steps("Failed", 0, 3), "step1", "Failed"),
        (
            reply(ANSWER | {"ResponseCode": -1, "Status": "Success", "StatusDetails": "Success"}),
            steps("Success", 0, 0), "step1", "Success",
        ),
    ],
)  # fmt: skip
def test_of_several_steps_the_first_failed_or_the_last_speaks(
    first: Reply, listed: Reply, step: str, status: str
) -> None:
    commands, wire = asking(first, listed, reply(ANSWER | {"Status": "Success", "StatusDetails": "Success"}))
    found = commands.invocation(ID, "i-1")
    assert found is not None
    assert (found.status, found.details, found.exit_code) == (status, status, 3)
    assert wire.bodies[1]["Details"] is True
    assert wire.bodies[2]["PluginName"] == step


def test_a_command_that_never_ran_is_not_asked_for_steps() -> None:
    never = {"Status": "TimedOut", "StatusDetails": "DeliveryTimedOut", "ResponseCode": -1}
    commands, wire = asking(reply(ANSWER | never))
    found = commands.invocation(ID, "i-1")
    assert found is not None
    assert (found.status, found.details, found.exit_code) == ("TimedOut", "DeliveryTimedOut", -1)
    assert wire.is_done()


def listing(*commands: tuple[str, str, float], more: str = "") -> Reply:
    """ListCommands."""
    listed = [{"CommandId": one, "Comment": comment, "RequestedDateTime": at} for one, comment, at in commands]
    return reply({"Commands": listed, **({"NextToken": more} if more else {})})


def test_the_newest_command_with_the_comment_is_found() -> None:
    commands, wire = asking(
        listing(("c-9", "other", 9.0), more="next"), listing(("c-5", COMMENT, 5.0), ("c-3", COMMENT, 3.0), more="last")
    )
    assert commands.find("i-1", COMMENT) == "c-5"
    assert [body["InstanceId"] for body in wire.bodies] == ["i-1", "i-1"]


def test_looking_back_has_an_end() -> None:
    pages = [listing(*[("c", "other", 1.0)] * 50, more=f"page {number}") for number in range(10)]
    commands, wire = asking(*pages)
    assert commands.find("i-1", COMMENT) is None
    assert wire.is_done()


def test_a_search_that_failed_found_nothing_out() -> None:
    commands, _ = asking(listing(more="next"), *[refusal("ThrottlingException")] * TRIES)
    with pytest.raises(Throttled):
        commands.find("i-1", COMMENT)


def test_commands_in_progress_are_ours_in_either_state() -> None:
    second = names.comment("job", "run", 2)
    commands, wire = asking(
        listing((ID, COMMENT, 1.0), ("c-2", "patching", 2.0), more="next"), listing(), listing(("c-3", second, 3.0))
    )
    assert commands.in_progress() == {COMMENT, second}
    asked = [[one["value"] for one in body["Filters"]] for body in wire.bodies]
    assert asked == [["Pending"], ["Pending"], ["InProgress"]]


def test_a_cancellation_names_command_and_worker() -> None:
    commands, wire = asking(reply(), refusal("InvalidInstanceId"))
    commands.cancel(ID, "i-1")
    assert wire.bodies == [{"CommandId": ID, "InstanceIds": ["i-1"]}]
    with pytest.raises(Refused):
        commands.cancel(ID, "i-1")


@pytest.mark.parametrize(
    ("met", "online"),
    [
        (reply({"InstanceInformationList": [{"InstanceId": "i-1", "PingStatus": "Online"}]}), True),
        (reply({"InstanceInformationList": [{"InstanceId": "i-1", "PingStatus": "ConnectionLost"}]}), False),
        (reply({"InstanceInformationList": []}), False),
        (refusal("InvalidInstanceId"), False),
    ],
)
def test_whether_an_agent_answers(met: Reply, online: bool) -> None:
    commands, _ = asking(met)
    assert commands.is_online("i-1") is online


def test_an_agent_that_could_not_be_asked_for_is_not_offline() -> None:
    commands, _ = asking(*[refusal("ThrottlingException")] * TRIES)
    with pytest.raises(Throttled):
        commands.is_online("i-1")
