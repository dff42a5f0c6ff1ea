"""Stacks as AWS shows them and a laptop cannot: slow, paged, half failed, busy, refused."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, NoCredentialsError, NoRegionError
from botocore.stub import ANY, Stubber

from sched_plugins.deploy.account import Account, translated
from sched_plugins.deploy.stack import OPERATION_SECONDS, Change, ChangeSet, Stack, StackEvent, StackState
from sched_plugins.errors import (
    DeployError,
    InvalidSettings,
    LaptopStackError,
    NotPermitted,
    SchedulerError,
    ServiceError,
)

ARN = "arn:aws:cloudformation:eu-west-1:123456789012:stack/sim/1"
SET = "arn:aws:cloudformation:eu-west-1:123456789012:changeSet/sched-1/2"
PLAN = ChangeSet(SET, ARN, leaves_shell=False, changes=())
NONE_LEFT = "The submitted information didn't contain changes. Submit different information to create a change set."
START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account() -> Account:
    return Account(boto3.Session("test", "test", region_name="eu-west-1"))


@pytest.fixture
def aws(account: Account) -> Iterator[Stubber]:
    with Stubber(account.client("cloudformation")) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def stack(account: Account, clock: Clock) -> Stack:
    return Stack(account, "sim", sleep=clock.sleep, clock=lambda: clock.now)


def event(number: int, resource: str, status: str, reason: str = "", kind: str = "AWS::SQS::Queue") -> dict[str, Any]:
    return {
        "StackId": ARN,
        "StackName": "sim",
        "EventId": f"e{number}",
        "LogicalResourceId": resource,
        "ResourceType": "AWS::CloudFormation::Stack" if resource == "sim" else kind,
        "ResourceStatus": status,
        "ResourceStatusReason": reason,
        "Timestamp": START + timedelta(seconds=number),
    }


def state(status: str = "CREATE_COMPLETE", **more: Any) -> dict[str, Any]:
    return {"StackName": "sim", "StackId": ARN, "StackStatus": status, "CreationTime": START, **more}


def expect_events(aws: Stubber, *events: dict[str, Any], token: str | None = None, after: str | None = None) -> None:
    """One page of events, which AWS gives the newest first."""
    answer: dict[str, Any] = {"StackEvents": list(reversed(events))}
    asked = {"StackName": ARN}
    if token:
        answer["NextToken"] = token
    if after:
        asked["NextToken"] = after
    aws.add_response("describe_stack_events", answer, asked)


def expect_execution(aws: Stubber) -> None:
    expect_events(aws, event(0, "sim", "REVIEW_IN_PROGRESS"))
    aws.add_response("execute_change_set", {}, {"ChangeSetName": SET})


def expect_plan(aws: Stubber, status: str, reason: str = "", changes: list[Any] | None = None) -> None:
    aws.add_response("create_change_set", {"Id": SET, "StackId": ARN}, None)
    described = {"ChangeSetName": "c", "Status": status, "StatusReason": reason, "Changes": changes or []}
    aws.add_response("describe_change_set", described, {"ChangeSetName": SET})


def test_events_come_once_each_in_order_over_pages_and_polls(stack: Stack, aws: Stubber, clock: Clock) -> None:
    expect_execution(aws)
    first, second = event(1, "sim", "CREATE_IN_PROGRESS"), event(2, "Queue", "CREATE_IN_PROGRESS")
    third, last = event(3, "Queue", "CREATE_COMPLETE"), event(4, "sim", "CREATE_COMPLETE")
    expect_events(aws, first, event(0, "sim", "REVIEW_IN_PROGRESS"))
    expect_events(aws, first)  # nothing new
    expect_events(aws, third, last, token="more")
    expect_events(aws, first, second, after="more")
    outputs = [{"OutputKey": "JobQueueUrl", "OutputValue": "https://q"}]
    aws.add_response("describe_stacks", {"Stacks": [state(Outputs=outputs)]}, {"StackName": ARN})
    seen: list[StackEvent] = []
    done = stack.execute(PLAN, seen.append)
    assert done.outputs == {"JobQueueUrl": "https://q"}
    assert [(e.resource, e.status) for e in seen] == [
        ("sim", "CREATE_IN_PROGRESS"),
        ("Queue", "CREATE_IN_PROGRESS"),
        ("Queue", "CREATE_COMPLETE"),
        ("sim", "CREATE_COMPLETE"),
    ]


def test_pauses_grow_with_the_time_an_operation_takes(stack: Stack, aws: Stubber, clock: Clock) -> None:
    running = event(1, "sim", "CREATE_IN_PROGRESS")
    expect_execution(aws)
    for _ in range(90):
        expect_events(aws, running)
    expect_events(aws, running, event(2, "sim", "CREATE_COMPLETE"))
    aws.add_response("describe_stacks", {"Stacks": [state()]}, {"StackName": ARN})
    stack.execute(PLAN)
    assert clock.sleeps[0] == 0.1
    assert clock.sleeps == sorted(clock.sleeps)
    assert clock.sleeps[-1] == 5.0


def test_gives_up_following_an_operation_that_takes_for_ever(stack: Stack, aws: Stubber, clock: Clock) -> None:
    stack = Stack(stack._account, "sim", sleep=lambda _: clock.sleep(OPERATION_SECONDS), clock=lambda: clock.now)
    expect_execution(aws)
    expect_events(aws, event(1, "sim", "CREATE_IN_PROGRESS"))
    with pytest.raises(DeployError, match=r"not done after 60 minutes; AWS goes on with it\. Run the same command"):
        stack.execute(PLAN)


def test_failure_names_the_first_resource_that_failed_by_itself(stack: Stack, aws: Stubber) -> None:
    expect_execution(aws)
    expect_events(
        aws,
        event(1, "sim", "CREATE_IN_PROGRESS"),
        event(2, "Table", "CREATE_FAILED", "Resource creation cancelled"),
        event(3, "Queue", "CREATE_FAILED", "A queue already exists with the same name."),
        event(4, "Role", "CREATE_FAILED", "later, and no reason"),
        event(5, "sim", "CREATE_FAILED", "The following resource(s) failed to create: [Table, Queue, Role]."),
    )
    expect_events(aws, event(6, "sim", "ROLLBACK_IN_PROGRESS"), event(7, "sim", "ROLLBACK_COMPLETE"))
    with pytest.raises(
        DeployError,
        match=r"'sim' is ROLLBACK_COMPLETE: Queue \(AWS::SQS::Queue\): A queue already exists with the same name\. "
        r"Everything it had made was deleted again\. Correct this and deploy again\.",
    ):
        stack.execute(PLAN)


def test_failure_before_any_resource_takes_the_reason_from_the_validation(stack: Stack, aws: Stubber) -> None:
    expect_execution(aws)
    expect_events(aws, event(5, "sim", "CREATE_FAILED", "Validation failed."), event(6, "sim", "ROLLBACK_COMPLETE"))
    old, new = (
        {
            "LogicalResourceId": name,
            "ResourceType": "T",
            "ValidationStatusReason": "bad",
            "Timestamp": event(at, "", "")["Timestamp"],
        }
        for name, at in (("Old", 1), ("New", 5))
    )
    expected = {"StackName": ARN, "Filters": {"FailedEvents": True}}
    aws.add_response("describe_events", {"OperationEvents": [new, old]}, expected)
    with pytest.raises(DeployError, match=r"is ROLLBACK_COMPLETE: New \(T\): bad\. Everything"):
        stack.execute(PLAN)


def test_failure_without_any_detail_keeps_the_stacks_own_reason(stack: Stack, aws: Stubber) -> None:
    expect_execution(aws)
    expect_events(aws, event(1, "sim", "UPDATE_ROLLBACK_FAILED", "Role is gone"))
    aws.add_client_error("describe_events", "AccessDenied")
    with pytest.raises(DeployError, match=r"Role is gone\. .*continue-update-rollback --stack-name sim"):
        stack.execute(PLAN)


def test_failed_deletion_names_what_stays(stack: Stack, aws: Stubber) -> None:
    expect_events(aws, event(0, "sim", "CREATE_COMPLETE"))
    aws.add_response("delete_stack", {}, {"StackName": ARN})
    expect_events(
        aws,
        event(1, "sim", "DELETE_IN_PROGRESS"),
        event(2, "Bucket", "DELETE_FAILED", "The bucket is not empty.", "AWS::S3::Bucket"),
        event(3, "sim", "DELETE_FAILED", "The following resource(s) failed to delete: [Bucket]."),
    )
    with pytest.raises(
        DeployError, match=r"Bucket \(AWS::S3::Bucket\): The bucket is not empty\. .*`sched destroy sim`"
    ):
        stack.delete(StackState.of(state()))


def test_plan_lists_the_changes_of_all_pages(stack: Stack, aws: Stubber, clock: Clock) -> None:
    def change(action: str, resource: str, *targets: dict[str, str], **more: str) -> dict[str, Any]:
        details = [{"Target": target} for target in targets]
        what = {"Action": action, "LogicalResourceId": resource, "ResourceType": "AWS::SQS::Queue", "Details": details}
        return {"Type": "Resource", "ResourceChange": {**what, **more}}

    aws.add_response(
        "create_change_set",
        {"Id": SET, "StackId": ARN},
        {
            "StackName": "sim",
            "ChangeSetName": ANY,
            "ChangeSetType": "UPDATE",
            "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
            "Parameters": [{"ParameterKey": "A", "UsePreviousValue": True}],
            "Tags": [{"Key": "team", "Value": "cfd"}],
            "TemplateBody": "{}",
        },
    )
    asked = {"ChangeSetName": SET}
    aws.add_response("describe_change_set", {"Status": "CREATE_IN_PROGRESS"}, asked)
    targets = ({"Attribute": "Properties", "Name": "QueueName"}, {"Attribute": "Tags"}, {"Attribute": "Tags"})
    modify = change("Modify", "Queue", *targets, Replacement="True")
    aws.add_response("describe_change_set", {"Status": "CREATE_COMPLETE", "Changes": [modify], "NextToken": "n"}, asked)
    rest = {"Status": "CREATE_COMPLETE", "Changes": [change("Add", "Other")]}
    aws.add_response("describe_change_set", rest, {**asked, "NextToken": "n"})
    previous = [{"ParameterKey": "A", "UsePreviousValue": True}]
    plan = stack.plan({"TemplateBody": "{}"}, previous, {"team": "cfd"}, StackState.of(state()))
    assert plan is not None
    assert plan.changes == (
        Change("Modify", "Queue", "AWS::SQS::Queue", "True", ("QueueName", "Tags")),
        Change("Add", "Other", "AWS::SQS::Queue"),
    )
    assert not plan.leaves_shell
    assert len(clock.sleeps) == 1


@pytest.mark.parametrize("reason", [NONE_LEFT, "No updates are to be performed."])
def test_plan_without_changes_is_discarded(stack: Stack, aws: Stubber, reason: str) -> None:
    expect_plan(aws, "FAILED", reason)
    aws.add_response("delete_change_set", {}, {"ChangeSetName": SET, "StackName": ARN})
    assert stack.plan({"TemplateBody": "{}"}, [], {}, StackState.of(state())) is None


def test_refused_plan_says_why_and_takes_its_empty_stack_away(stack: Stack, aws: Stubber) -> None:
    expect_plan(aws, "FAILED", "Transform AWS::Serverless-2016-10-31 failed with: no such runtime")
    found = {"LogicalResourceId": "Queue", "ResourceType": "T", "ValidationStatusReason": "no such name"}
    aws.add_response(
        "describe_events", {"OperationEvents": [found]}, {"ChangeSetName": SET, "Filters": {"FailedEvents": True}}
    )
    aws.add_response("delete_change_set", {}, None)
    aws.add_response("describe_stacks", {"Stacks": [state("REVIEW_IN_PROGRESS")]}, {"StackName": ARN})
    aws.add_response("delete_stack", {}, {"StackName": ARN})
    with pytest.raises(DeployError, match=r"no such runtime; Queue \(T\): no such name\. Nothing was changed\."):
        stack.plan({"TemplateBody": "{}"}, [], {}, None)


def test_discarding_leaves_a_stack_that_came_to_life_meanwhile(stack: Stack, aws: Stubber) -> None:
    aws.add_response("delete_change_set", {}, None)
    aws.add_response("describe_stacks", {"Stacks": [state("CREATE_IN_PROGRESS")]}, None)
    stack.discard(ChangeSet(SET, ARN, leaves_shell=True, changes=()))


def test_waits_for_what_someone_else_is_doing(stack: Stack, aws: Stubber, clock: Clock) -> None:
    for status in ("UPDATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_COMPLETE"):
        aws.add_response("describe_stacks", {"Stacks": [state(status)]}, {"StackName": "sim"})
    settled = stack.settled()
    assert settled is not None
    assert settled.status == "UPDATE_COMPLETE"
    assert len(clock.sleeps) == 2


@pytest.mark.parametrize("status", ["REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE"])
def test_waits_for_nothing_where_nothing_is_done(stack: Stack, aws: Stubber, clock: Clock, status: str) -> None:
    aws.add_response("describe_stacks", {"Stacks": [state(status)]}, None)
    assert stack.settled() is not None
    assert clock.sleeps == []


def test_no_stack_is_none_and_any_other_refusal_is_not(stack: Stack, aws: Stubber) -> None:
    aws.add_client_error("describe_stacks", "ValidationError", "Stack with id sim does not exist", 400)
    assert stack.state() is None
    aws.add_client_error("describe_stacks", "ValidationError", "1 validation error detected", 400)
    with pytest.raises(DeployError, match=r"DescribeStacks failed .*1 validation error"):
        stack.state()


def test_refused_caller_learns_which_action(stack: Stack, aws: Stubber) -> None:
    aws.add_client_error("describe_stacks", "AccessDenied", "User: x is not authorized", 403)
    with pytest.raises(NotPermitted, match=r"AWS refuses DescribeStacks \(AccessDenied: User: x is not authorized\)"):
        stack.state()


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (NoRegionError(), InvalidSettings, "Set AWS_DEFAULT_REGION"),
        (NoCredentialsError(), NotPermitted, "sched local env"),
        (
            EndpointConnectionError(endpoint_url="http://127.0.0.1:9/x"),
            LaptopStackError,
            r"nothing answers at http://127\.0\.0\.1:9\. .*start it with `sched local up`",
        ),
        (
            ConnectTimeoutError(endpoint_url="http://localhost:9/"),
            LaptopStackError,
            "nothing answers at http://localhost:9",
        ),
        (
            EndpointConnectionError(endpoint_url="https://aws.test/"),
            ServiceError,
            "Check the network, the region and AWS",
        ),
    ],
)
def test_what_stands_in_the_way_is_said_with_the_next_step(
    raised: Exception, expected: type[SchedulerError], message: str
) -> None:
    with pytest.raises(expected, match=f"deploying: .*{message}"), translated("deploying"):
        raise raised
