"""Every policy of the templates gives what is needed, on what it is needed for."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from policy_sentry.querying.actions import get_action_data
from shipped import KINDS, Statement, of_type, statements

from sched_plugins.deploy.template import Kind

# Actions on "*" that AWS could limit, and why they are not.
UNLIMITED = {
    "ec2:DescribeInstances": "the reference lists no resource; a filter finds the tag",
    "cloudformation:DescribeStacks": "a list of all stacks, which tells the environments, is asked on all",
    "ssm:UpdateInstanceInformation": "the agent speaks for its own instance, which the role does not know beforehand",
    "ssm:GetDocument": "workers run any document that a job may name",
    "ssm:DescribeDocument": "as GetDocument",
    "ssm:DescribeAssociation": "the agent asks for its own instance's",
    "ssm:ListInstanceAssociations": "the agent asks for its own instance's",
    "ssm:UpdateAssociationStatus": "the agent tells of its own instance's",
    "ssm:UpdateInstanceAssociationStatus": "the agent tells of its own instance's",
    "logs:DescribeLogGroups": "Step Functions needs it on all, see its guide, \"Logging using CloudWatch Logs\"",
}  # fmt: skip


@cache
def rows(action: str) -> list[dict[str, Any]]:
    """What AWS's service authorization reference says of an action."""
    service, name = action.split(":")
    found = get_action_data(service, name)
    return found[service] if found else []


def granted(kind: Kind) -> list[Statement]:
    """Statements that allow something to a role or user."""
    return [one for one in statements(kind) if one.effect == "Allow" and one.principal is None]


@pytest.mark.parametrize("kind", KINDS)
def test_actions_are_named_and_exist(kind: Kind) -> None:
    for statement in granted(kind):
        for action in statement.actions:
            assert "*" not in action, statement.where
            # The agent's own channels are not in every edition of the reference.
            assert rows(action) or action.startswith(("ssmmessages:", "ec2messages:")), (statement.where, action)


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_cannot_be_limited_is_unlimited(kind: Kind) -> None:
    for statement in granted(kind):
        if "*" not in statement.resources:
            continue
        for action in statement.actions:
            limitable = any(row["resource_arn_format"] != "*" for row in rows(action))
            assert not limitable or action in UNLIMITED, (statement.where, action)


def test_every_exception_is_used() -> None:
    used = {
        action
        for kind in KINDS
        for statement in granted(kind)
        if "*" in statement.resources
        for action in statement.actions
    }
    assert set(UNLIMITED) <= used


@pytest.mark.parametrize("kind", KINDS)
def test_no_policy_of_aws_itself_is_attached(kind: Kind) -> None:
    for role in of_type(kind, "AWS::IAM::Role").values():
        assert "arn:aws:iam::aws:policy" not in str(role.get("ManagedPolicyArns"))
        [trust] = role["AssumeRolePolicyDocument"]["Statement"]
        assert set(trust["Principal"]) == {"Service"}


def test_only_instances_and_groups_with_the_schedulers_tag_are_touched() -> None:
    touching = {
        "ec2:TerminateInstances",
        "autoscaling:TerminateInstanceInAutoScalingGroup",
        "autoscaling:SetInstanceProtection",
        "ssm:SendCommand",
    }
    seen = set()
    for statement in granted("scheduler"):
        machines = [one for one in statement.resources if "instance/" in str(one) or "autoScalingGroup" in str(one)]
        if machines and touching & set(statement.actions):
            seen |= touching & set(statement.actions)
            [(operator, keys)] = statement.condition.items()
            [(key, value)] = keys.items()
            assert (operator, value) == ("StringLike", "*")
            assert key.lower().endswith("resourcetag/${aws::stackname}"), statement.where
    assert seen == touching


def test_an_environment_scales_and_submits_for_itself_alone() -> None:
    for statement in granted("environment"):
        if "autoscaling:SetDesiredCapacity" in statement.actions:
            [resource] = statement.resources
            assert resource["Fn::Sub"].endswith("autoScalingGroupName/${AWS::StackName}-autoscaling-group")
        if statement.where.startswith("SubmitterPolicy."):
            # Each is this stack's own function, bucket or queue, or the stack.
            assert "ImportValue" not in str(statement.resources), statement.where
            assert "dynamodb" not in str(statement.actions), statement.where


def test_jobs_can_read_their_environments_workloads_alone_and_write_no_manifests() -> None:
    reading = [
        (statement.where, str(statement.resources))
        for kind in KINDS
        for statement in granted(kind)
        if any(action.startswith(("ssm:GetParameter", "secretsmanager:")) for action in statement.actions)
    ]
    [(where, resources)] = reading
    assert where == "WorkerRole.TakeWorkloads"
    assert resources.count(":parameter/") == resources.count(":parameter/sched/${AWS::StackName}/workloads/*") == 1
    [denied] = [one for one in statements("environment") if one.where == "WorkerRole.WriteNoManifests"]
    assert denied.effect == "Deny"
    assert denied.resources[0]["Fn::Sub"].endswith("*_sched/SUCCEEDED.json")


def test_who_gives_workloads_cannot_read_them() -> None:
    given = [one for one in granted("environment") if one.where.startswith("ExecutorPolicy.")]
    actions = {action for statement in given for action in statement.actions}
    assert "ssm:PutParameter" in actions
    assert not actions & {"ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath", "kms:Decrypt"}
    allowed = ("${AWS::StackName}/workloads/*", "WorkloadKeyArn", "'SubmitFunction', 'Arn'")
    for statement in given:
        assert statement.resources == ("*",) or any(one in str(statement.resources) for one in allowed)


def test_a_key_for_workloads_is_used_through_parameter_store_alone() -> None:
    uses = [one for one in granted("environment") if any(action.startswith("kms:") for action in one.actions)]
    assert {one.where for one in uses} == {"WorkerRole.DecryptWorkloads", "ExecutorPolicy.EncryptWorkloads"}
    for statement in uses:
        assert statement.condition["StringEquals"]["kms:ViaService"]["Fn::Sub"].startswith("ssm.")


def test_no_role_of_a_worker_has_all_of_a_service() -> None:
    workers = ("WorkerRole.", "AgentPolicy.")
    for kind in KINDS:
        for statement in granted(kind):
            if statement.where.startswith(workers) and any(action.startswith("s3:") for action in statement.actions):
                assert "*" not in statement.resources
                assert all(len(str(resource)) > len("arn:aws:s3:::*") for resource in statement.resources)
