"""The executor's health check, and the client that it makes: the real handlers, on moto."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from client_stack import NAME, ClientStack, client_stack, service

pytest.importorskip("airflow")

from sched_plugins.airflow import exceptions
from sched_plugins.airflow.executors import scheduler_executor
from sched_plugins.airflow.executors.connection import connect
from sched_plugins.airflow.executors.scheduler_executor import SchedulerExecutor
from sched_plugins.airflow.executors.settings import ExecutorSettings
from sched_plugins.errors import Throttled

CALLS = (
    ("environment", "sqs", "GetQueueUrl", f"{NAME}-JobTableReaderPolicyArn"),
    ("submit", "lambda", "env-submit", "env-ExecutorPolicyArn"),
    ("cancel", "lambda", f"{NAME}-cancel", f"{NAME}-SubmitterPolicyArn"),
    ("read", "dynamodb", "GetItem", f"{NAME}-JobTableReaderPolicyArn"),
    ("read many", "dynamodb", "BatchGetItem", f"{NAME}-JobTableReaderPolicyArn"),
    ("look", "dynamodb", "Query", f"{NAME}-JobTableReaderPolicyArn"),
    ("store", "ssm", "PutParameter", "env-ExecutorPolicyArn"),
    ("delete", "ssm", "DeleteParameters", "env-ExecutorPolicyArn"),
)
"""Kinds of calls: their names, service and operation (or function), and the policy that allows them."""
NAMES = [name for name, *_ in CALLS]


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    with client_stack(monkeypatch) as found:
        # What an environment's function does beyond the scheduler's, scaling, is not asked of it here.
        found.functions.functions["env-submit"] = found.functions.functions[f"{NAME}-submit"]
        for option, value in {"SCHEDULER": NAME, "ENVIRONMENT": "env", "CONN_ID": ""}.items():
            monkeypatch.setenv(f"AIRFLOW__SCHED_EXECUTOR__{option}", value)

        def connected(settings: ExecutorSettings) -> Any:
            client = found.adopt(connect(settings))
            calls = client.connection.client("cloudformation").meta.events
            calls.register("before-call.cloudformation.DescribeStacks", found.stacks.answer)
            return client

        monkeypatch.setattr(scheduler_executor, "connect", connected)
        yield found


@pytest.fixture
def executor(stack: ClientStack) -> Iterator[SchedulerExecutor]:
    made = SchedulerExecutor()
    yield made
    made.courier.stop(10.0)


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "Any")  # type: ignore[typeddict-item]


def fail(stack: ClientStack, executor: SchedulerExecutor, aws: str, operation: str, error: Exception) -> None:
    """Let every call of an operation of AWS, or of a function, end so."""

    def failing(*_: Any, **__: Any) -> Any:
        raise error

    if aws == "lambda":
        stack.functions.functions[operation] = lambda event: error
    else:
        executor.client.connection.client(aws).meta.events.register_first(f"before-call.{aws}.{operation}", failing)


def check() -> tuple[dict[str, str], str]:
    """What `airflow sched-executor check` prints: the outcome of each call, and the last word."""
    [group] = SchedulerExecutor.get_cli_commands()
    arguments = SchedulerExecutor._get_parser().parse_args(["sched-executor", "check"])
    last = ""
    with redirect_stdout(io.StringIO()) as printed:
        try:
            group.subcommands[0].func(arguments)
        except SystemExit as end:
            last = str(end)
    # What Airflow has logged meanwhile comes first.
    head, *rows = "".join(printed.getvalue().partition("CALL ")[1:]).splitlines()
    assert head.split() == ["CALL", "ACTION", "OUTCOME"]
    if not last:
        last = rows.pop()
    return {row[:12].strip(): row[36:] for row in rows}, last


def test_it_makes_each_call_and_changes_nothing(stack: ClientStack, executor: SchedulerExecutor) -> None:
    executor.check_health()
    assert check() == (
        dict.fromkeys(NAMES, "works"),
        f"Scheduler {NAME!r} and environment 'env' can be used.",
    )
    assert stack.client.list() == []
    assert [event for name, event in stack.functions.requests if name == "env-submit"] == [{"jobs": []}] * 2
    assert service("ssm").describe_parameters()["Parameters"] == []


@pytest.mark.parametrize(("name", "aws", "operation", "policy"), CALLS)
def test_each_call_that_is_denied_keeps_airflow_from_starting(
    stack: ClientStack,
    executor: SchedulerExecutor,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    aws: str,
    operation: str,
    policy: str,
) -> None:
    fail(stack, executor, aws, operation, refused("AccessDeniedException"))
    with pytest.raises(exceptions.NotPermittedException, match=rf"(?m)^{name} \({aws}:.*AccessDenied.*'{policy}'\.$"):
        executor.start()
    monkeypatch.setattr(SchedulerExecutor, "client", executor.client)
    outcomes, last = check()
    assert [one for one, outcome in outcomes.items() if outcome != "works"] == [name]
    assert outcomes[name].startswith("NotPermitted: cannot ")
    assert policy in outcomes[name]
    assert last == f"sched-executor: Scheduler {NAME!r} and environment 'env' cannot be used; see the outcomes above"


def test_an_environment_that_does_not_exist_keeps_airflow_from_starting(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SCHED_EXECUTOR__ENVIRONMENT", "tpyo")
    told = "no environment 'tpyo' in region eu-west-1.*`sched deploy environment tpyo --scheduler sim`"
    with pytest.raises(exceptions.NotFoundException, match=told):
        SchedulerExecutor().start()


def test_an_environment_of_another_scheduler_keeps_airflow_from_starting(
    stack: ClientStack, executor: SchedulerExecutor
) -> None:
    stack.stacks.add("env", {"SchedulerName": NAME}, {})
    executor.check_health()
    stack.stacks.add("env", {"SchedulerName": "theirs"}, {})
    with pytest.raises(exceptions.InvalidRequestException, match="belongs to scheduler 'theirs', not to 'sim'; set"):
        executor.start()
    fail(stack, executor, "cloudformation", "DescribeStacks", refused("AccessDenied"))
    executor.check_health()


def test_what_jobs_there_are_does_not_matter(stack: ClientStack, executor: SchedulerExecutor) -> None:
    stack.client.submit({"job_id": "a", "commands": ["x"]})
    stack.end("a")
    asked: list[Any] = []
    calls = executor.client.connection.client("dynamodb").meta.events
    calls.register("provide-client-params.dynamodb.BatchGetItem", lambda params, **_: asked.append(params))
    executor.check_health()
    [params] = asked
    [[key]] = [table["Keys"] for table in params["RequestItems"].values()]
    assert key["job_id"]["S"].startswith("airflow-health-check-"), "no other record is read"


def test_all_that_is_wrong_is_told_at_once(stack: ClientStack, executor: SchedulerExecutor) -> None:
    fail(stack, executor, "lambda", "env-submit", refused("AccessDeniedException"))
    fail(stack, executor, "ssm", "PutParameter", refused("AccessDeniedException"))
    with pytest.raises(exceptions.NotPermittedException) as told:
        executor.start()
    first, *others = str(told.value).splitlines()
    assert "`airflow sched-executor check`" in first
    assert [one.split(" (")[0] for one in others] == ["submit", "store"]


def test_where_nothing_answers_airflow_does_not_wait_for_each_call(
    stack: ClientStack, executor: SchedulerExecutor
) -> None:
    fail(stack, executor, "sqs", "GetQueueUrl", EndpointConnectionError(endpoint_url="https://sqs"))
    with pytest.raises(exceptions.ServiceException, match="Check the network"):
        executor.start()
    assert [one.name for one in executor.health()] == ["environment"]
    assert stack.functions.requests == []


def test_without_the_check_airflow_starts_all_the_same(
    stack: ClientStack, executor: SchedulerExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SCHED_EXECUTOR__CHECK_HEALTH_ON_STARTUP", "False")
    fail(stack, executor, "sqs", "GetQueueUrl", refused("AccessDeniedException"))
    executor.start()
    assert stack.functions.requests == []


def test_a_call_that_is_throttled_holds_up_no_round(stack: ClientStack, executor: SchedulerExecutor) -> None:
    """The courier tries again in a later round, and does everything else in between."""
    for function in ("submit", "cancel"):
        fail(stack, executor, "lambda", f"{NAME}-{function}", refused("TooManyRequestsException"))
    [submitted] = executor.client.submit_many([{"job_id": "a", "commands": ["x"]}])
    [cancelled] = executor.client.cancel_many(["a"])
    assert isinstance(submitted.error, Throttled)
    assert isinstance(cancelled.error, Throttled)
    assert stack.clock.seconds == 0
    assert len(stack.functions.requests) == 2
