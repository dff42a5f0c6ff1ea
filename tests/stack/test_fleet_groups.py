"""Auto Scaling groups: what a template or a call asks for becomes instances, and ends again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fleet_client import FleetClient, eventually, fleet

TEMPLATE: dict[str, Any] = {
    "Resources": {
        "Template": {
            "Type": "AWS::EC2::LaunchTemplate",
            "Properties": {
                "LaunchTemplateData": {
                    "ImageId": "ami-1",
                    "TagSpecifications": [
                        {"ResourceType": "instance", "Tags": [{"Key": "from-template", "Value": "1"}]}
                    ],
                }
            },
        },
        "Group": {
            "Type": "AWS::AutoScaling::AutoScalingGroup",
            "Properties": {
                "AutoScalingGroupName": "stacked-group",
                "MinSize": "0",
                "MaxSize": "4",
                "AvailabilityZones": ["us-east-1a"],
                "MixedInstancesPolicy": {
                    "LaunchTemplate": {
                        "LaunchTemplateSpecification": {
                            "LaunchTemplateId": {"Ref": "Template"},
                            "Version": {"Fn::GetAtt": ["Template", "LatestVersionNumber"]},
                        },
                        "Overrides": [{"InstanceType": "c5.large"}, {"InstanceType": "c5a.large"}],
                    },
                    "InstancesDistribution": {
                        "OnDemandPercentageAboveBaseCapacity": 0,
                        "SpotAllocationStrategy": "price-capacity-optimized",
                    },
                },
                "Tags": [
                    {"Key": "my-scheduler", "Value": "my-queue", "PropagateAtLaunch": True},
                    {"Key": "group-only", "Value": "1", "PropagateAtLaunch": False},
                ],
            },
        },
    }
}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetClient]:
    with fleet(tmp_path_factory.mktemp("groups")) as client:
        yield client


@pytest.fixture
def group(aws: FleetClient) -> Iterator[str]:
    """A group of its own, made by a call, with room for four."""
    name = "called-group"
    aws.ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": "ami-1"})
    aws.autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=0,
        MaxSize=4,
        AvailabilityZones=["us-east-1a"],
        LaunchTemplate={"LaunchTemplateName": name, "Version": "$Latest"},
        Tags=[{"Key": "sched", "Value": "q", "PropagateAtLaunch": True}],
    )
    yield name
    if described(aws, name):
        aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName=name, ForceDelete=True)
    eventually(lambda: live(aws, name) == set())
    aws.ec2.delete_launch_template(LaunchTemplateName=name)


def described(aws: FleetClient, name: str) -> dict[str, Any]:
    found = aws.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"]
    return found[0] if found else {}


def in_service(aws: FleetClient, name: str) -> list[str]:
    members = described(aws, name)["Instances"]
    return [item["InstanceId"] for item in members if item["LifecycleState"] == "InService"]


def live(aws: FleetClient, name: str) -> set[str]:
    filters = [
        {"Name": "tag:aws:autoscaling:groupName", "Values": [name]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "shutting-down"]},
    ]
    found = aws.ec2.describe_instances(Filters=filters)["Reservations"]
    return {item["InstanceId"] for reservation in found for item in reservation["Instances"]}


def scale(aws: FleetClient, name: str, desired: int) -> list[str]:
    aws.autoscaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=desired)
    eventually(lambda: len(in_service(aws, name)) == desired and len(live(aws, name)) == desired)
    return in_service(aws, name)


def test_a_group_from_a_template_scales_and_its_instances_have_all_its_tags(aws: FleetClient) -> None:
    name = "stacked-group"
    aws.cloudformation.create_stack(StackName="workers", TemplateBody=json.dumps(TEMPLATE))
    aws.cloudformation.get_waiter("stack_create_complete").wait(
        StackName="workers", WaiterConfig={"Delay": 1, "MaxAttempts": 20}
    )
    assert described(aws, name)["Instances"] == []
    made = scale(aws, name, 2)
    shown = aws.ec2.describe_instances(InstanceIds=made[:1])["Reservations"][0]["Instances"][0]
    assert (shown["InstanceType"], shown["InstanceLifecycle"]) == ("c5.large", "spot")
    tags = {tag["Key"]: tag["Value"] for tag in shown["Tags"]}
    assert tags.items() >= {
        ("my-scheduler", "my-queue"), ("from-template", "1"), ("aws:autoscaling:groupName", name),
    }  # fmt: skip
    assert "group-only" not in tags
    policy = described(aws, name)["MixedInstancesPolicy"]
    assert [item["InstanceType"] for item in policy["LaunchTemplate"]["Overrides"]] == ["c5.large", "c5a.large"]
    aws.cloudformation.delete_stack(StackName="workers")
    eventually(lambda: live(aws, name) == set())
    assert described(aws, name) == {}


def test_a_lost_instance_is_replaced_and_one_taken_out_is_not(aws: FleetClient, group: str) -> None:
    first, second = scale(aws, group, 2)
    aws.ec2.terminate_instances(InstanceIds=[first])
    eventually(lambda: len(in_service(aws, group)) == 2 and first not in in_service(aws, group))
    activity = aws.autoscaling.terminate_instance_in_auto_scaling_group(
        InstanceId=second, ShouldDecrementDesiredCapacity=True
    )["Activity"]
    assert activity["AutoScalingGroupName"] == group
    eventually(lambda: second not in live(aws, group))
    assert described(aws, group)["DesiredCapacity"] == 1
    (third,) = in_service(aws, group)
    aws.autoscaling.terminate_instance_in_auto_scaling_group(InstanceId=third, ShouldDecrementDesiredCapacity=False)
    eventually(lambda: in_service(aws, group) not in ([], [third]))
    assert described(aws, group)["DesiredCapacity"] == 1


def test_scale_in_spares_protected_instances(aws: FleetClient, group: str) -> None:
    made = scale(aws, group, 3)
    protected = made[0]
    aws.autoscaling.set_instance_protection(
        InstanceIds=[protected], AutoScalingGroupName=group, ProtectedFromScaleIn=True
    )
    aws.autoscaling.set_desired_capacity(AutoScalingGroupName=group, DesiredCapacity=0)
    eventually(lambda: live(aws, group) == {protected})
    shown = aws.autoscaling.describe_auto_scaling_instances(InstanceIds=[protected, "i-0"])
    (member,) = shown["AutoScalingInstances"]
    assert (member["AutoScalingGroupName"], member["ProtectedFromScaleIn"]) == (group, True)
    aws.autoscaling.set_instance_protection(
        InstanceIds=[protected], AutoScalingGroupName=group, ProtectedFromScaleIn=False
    )
    eventually(lambda: live(aws, group) == set())


def test_new_instances_are_protected_when_the_group_says_so(aws: FleetClient, group: str) -> None:
    aws.autoscaling.update_auto_scaling_group(
        AutoScalingGroupName=group, NewInstancesProtectedFromScaleIn=True, MaxSize=1, DesiredCapacity=1
    )
    eventually(lambda: len(in_service(aws, group)) == 1)
    assert described(aws, group)["Instances"][0]["ProtectedFromScaleIn"] is True
    aws.autoscaling.update_auto_scaling_group(AutoScalingGroupName=group, MaxSize=0)
    assert described(aws, group)["DesiredCapacity"] == 0
    assert len(live(aws, group)) == 1


@pytest.mark.parametrize(
    ("action", "arguments", "code"),
    [
        ("set_desired_capacity", {"DesiredCapacity": 5}, "ValidationError"),
        ("set_desired_capacity", {"AutoScalingGroupName": "none", "DesiredCapacity": 1}, "ValidationError"),
        ("update_auto_scaling_group", {"MinSize": 5}, "ValidationError"),
        ("update_auto_scaling_group", {"DesiredCapacity": 5}, "ValidationError"),
        ("set_instance_protection", {"InstanceIds": ["i-0"], "ProtectedFromScaleIn": True}, "ValidationError"),
        ("create_auto_scaling_group", {"MinSize": 0, "MaxSize": 1}, "AlreadyExists"),
        ("create_auto_scaling_group", {"MinSize": 2, "MaxSize": 1}, "ValidationError"),
    ],
)
def test_wrong_requests_raise_what_auto_scaling_raises(
    aws: FleetClient, group: str, action: str, arguments: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError) as raised:
        getattr(aws.autoscaling, action)(**{"AutoScalingGroupName": group, **arguments})
    assert raised.value.response["Error"]["Code"] == code


def test_an_instance_of_no_group_cannot_be_taken_out_of_one(aws: FleetClient) -> None:
    for instance in (aws.launch(), "i-0123456789abcdef0"):
        with pytest.raises(ClientError, match="Instance Id not found"):
            aws.autoscaling.terminate_instance_in_auto_scaling_group(
                InstanceId=instance, ShouldDecrementDesiredCapacity=True
            )


def test_the_minimum_stands_in_the_way_of_a_decrement(aws: FleetClient, group: str) -> None:
    aws.autoscaling.update_auto_scaling_group(AutoScalingGroupName=group, MinSize=1)
    eventually(lambda: len(in_service(aws, group)) == 1)
    with pytest.raises(ClientError, match="violate group's min size"):
        aws.autoscaling.terminate_instance_in_auto_scaling_group(
            InstanceId=in_service(aws, group)[0], ShouldDecrementDesiredCapacity=True
        )
    assert described(aws, group)["DesiredCapacity"] == 1


def test_a_group_with_instances_is_deleted_only_by_force(aws: FleetClient, group: str) -> None:
    scale(aws, group, 1)
    with pytest.raises(aws.autoscaling.exceptions.ResourceInUseFault):
        aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName=group)
    aws.autoscaling.delete_auto_scaling_group(AutoScalingGroupName=group, ForceDelete=True)
    eventually(lambda: live(aws, group) == set())
    assert described(aws, group) == {}


def test_groups_are_found_by_tag(aws: FleetClient, group: str) -> None:
    def names(*values: str) -> list[str]:
        filters = [{"Name": "tag:sched", "Values": list(values)}]
        found = aws.autoscaling.describe_auto_scaling_groups(Filters=filters)["AutoScalingGroups"]
        return [item["AutoScalingGroupName"] for item in found]

    assert names("q") == [group]
    assert names("other") == []
