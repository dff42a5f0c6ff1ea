"""Instances: launched, described, tagged, stopped and really ended, with the events AWS sends."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fleet_client import FleetClient, eventually, fleet

from sched_plugins.errors import LaptopStackError
from sched_plugins.local import lifecycle, processes


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetClient]:
    with fleet(tmp_path_factory.mktemp("instances")) as client:
        yield client


def described(aws: FleetClient, **query: Any) -> list[dict[str, Any]]:
    found = aws.ec2.describe_instances(**query)
    return [item for reservation in found["Reservations"] for item in reservation["Instances"]]


def ids(instances: list[dict[str, Any]]) -> set[str]:
    return {item["InstanceId"] for item in instances}


def test_an_instance_is_pending_first_and_then_running_with_what_was_asked_for(aws: FleetClient) -> None:
    started = aws.ec2.run_instances(
        ImageId="ami-12345678",
        InstanceType="c5.large",
        MinCount=2,
        MaxCount=3,
        InstanceMarketOptions={"MarketType": "spot"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "sched & co", "Value": "<queue>"}]}],
    )["Instances"]
    assert [item["State"]["Name"] for item in started] == ["pending"] * 3
    eventually(lambda: all(aws.state(item["InstanceId"]) == "running" for item in started))
    shown = described(aws, InstanceIds=[started[0]["InstanceId"]])[0]
    assert shown["InstanceType"] == "c5.large"
    assert shown["InstanceLifecycle"] == "spot"
    assert shown["Tags"] == [{"Key": "sched & co", "Value": "<queue>"}]
    assert shown["Placement"]["AvailabilityZone"].startswith("us-east-1")


def test_filters_choose_by_tag_id_and_state_and_a_wildcard(aws: FleetClient) -> None:
    one, other = aws.launch(role="filter-a", only="x"), aws.launch(role="filter-b")
    aws.ec2.terminate_instances(InstanceIds=[other])

    def chosen(*filters: tuple[str, list[str]]) -> set[str]:
        return ids(described(aws, Filters=[{"Name": name, "Values": values} for name, values in filters]))

    assert chosen(("tag:role", ["filter-*"])) == {one, other}
    assert chosen(("tag:role", ["filter-a", "filter-z"])) == {one}
    assert chosen(("tag-key", ["only"])) == {one}
    assert chosen(("instance-id", [one, other]), ("instance-state-name", ["running", "pending"])) == {one}
    assert chosen(("tag:role", ["nobody"])) == set()
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        chosen(("colour", ["red"]))


def test_pages_hold_every_instance_once(aws: FleetClient) -> None:
    made = {aws.launch(role="pages") for _ in range(3)}
    pages = aws.ec2.get_paginator("describe_instances").paginate(
        Filters=[{"Name": "tag:role", "Values": ["pages"]}], PaginationConfig={"PageSize": 2}
    )
    found = [[item["Instances"][0]["InstanceId"] for item in page["Reservations"]] for page in pages]
    assert [len(page) for page in found] == [2, 1]
    assert {*found[0], *found[1]} == made


def test_status_shows_running_instances_unless_all_are_asked_for(aws: FleetClient) -> None:
    instance = aws.launch()
    shown = aws.ec2.describe_instance_status(InstanceIds=[instance])["InstanceStatuses"]
    assert [(item["InstanceState"]["Name"], item["InstanceStatus"]["Status"]) for item in shown] == [("running", "ok")]
    aws.ec2.terminate_instances(InstanceIds=[instance])
    assert aws.ec2.describe_instance_status(InstanceIds=[instance])["InstanceStatuses"] == []
    everything = aws.ec2.describe_instance_status(InstanceIds=[instance], IncludeAllInstances=True)
    assert len(everything["InstanceStatuses"]) == 1


def test_wrong_ids_raise_what_ec2_raises(aws: FleetClient) -> None:
    for wrong, code in (("i-0123456789abcdef0", "NotFound"), ("i-xyz", "Malformed"), ("worker", "Malformed")):
        for action in (aws.ec2.describe_instances, aws.ec2.terminate_instances, aws.ec2.stop_instances):
            with pytest.raises(ClientError) as raised:
                action(InstanceIds=[wrong])
            assert raised.value.response["Error"]["Code"] == f"InvalidInstanceID.{code}"
    for arguments, code in (
        ({"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "DryRun": True}, "DryRunOperation"),
        ({"MinCount": 1, "MaxCount": 1}, "MissingParameter"),
        ({"ImageId": "ami-1", "MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        (
            {"MinCount": 1, "MaxCount": 1, "LaunchTemplate": {"LaunchTemplateName": "none"}},
            "InvalidLaunchTemplateId.NotFound",
        ),
    ):
        with pytest.raises(ClientError) as raised:
            aws.ec2.run_instances(**arguments)
        assert raised.value.response["Error"]["Code"] == code


def test_a_repeated_client_token_starts_nothing_new(aws: FleetClient) -> None:
    arguments = {"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "ClientToken": "once"}
    first = ids(aws.ec2.run_instances(**arguments)["Instances"])
    assert ids(aws.ec2.run_instances(**arguments)["Instances"]) == first


def test_a_launch_template_gives_type_tags_and_profile_and_the_request_wins(aws: FleetClient) -> None:
    def tags(**values: str) -> list[dict[str, Any]]:
        return [{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in values.items()]}]

    template = aws.ec2.create_launch_template(
        LaunchTemplateName="workers",
        LaunchTemplateData={
            "ImageId": "ami-old",
            "InstanceType": "m5.large",
            "UserData": base64.b64encode(b"exit 1").decode(),
            "TagSpecifications": tags(sched="q", stage="mesh"),
        },
    )["LaunchTemplate"]
    aws.ec2.create_launch_template_version(
        LaunchTemplateName="workers",
        LaunchTemplateData={"ImageId": "ami-new", "TagSpecifications": tags(sched="new")},
    )
    by_default = aws.ec2.run_instances(
        LaunchTemplate={"LaunchTemplateId": template["LaunchTemplateId"]},
        MinCount=1,
        MaxCount=1,
        TagSpecifications=tags(stage="simulate"),
    )["Instances"][0]
    assert (by_default["ImageId"], by_default["InstanceType"]) == ("ami-old", "m5.large")
    shown = {tag["Key"]: tag["Value"] for tag in by_default["Tags"]}
    assert (shown["sched"], shown["stage"]) == ("q", "simulate")
    assert shown["aws:ec2launchtemplate:id"] == template["LaunchTemplateId"]
    newest = aws.ec2.run_instances(
        LaunchTemplate={"LaunchTemplateName": "workers", "Version": "$Latest"}, MinCount=1, MaxCount=1
    )["Instances"][0]
    assert newest["ImageId"] == "ami-new"


def test_tags_are_created_described_and_deleted(aws: FleetClient) -> None:
    instance = aws.launch(keep="1", drop="2")
    aws.ec2.create_tags(Resources=[instance], Tags=[{"Key": "added", "Value": "3"}])
    aws.ec2.delete_tags(Resources=[instance], Tags=[{"Key": "drop"}])
    wanted = {"keep": "1", "added": "3"}
    listed = aws.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [instance]}])["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in listed} == wanted
    assert {tag["Key"]: tag["Value"] for tag in described(aws, InstanceIds=[instance])[0]["Tags"]} == wanted
    assert ids(described(aws, Filters=[{"Name": "tag:added", "Values": ["3"]}])) == {instance}


def test_a_stopped_instance_starts_again_with_its_files(aws: FleetClient) -> None:
    instance = aws.launch()
    aws.run(instance, "echo kept > file")
    change = aws.ec2.stop_instances(InstanceIds=[instance])["StoppingInstances"][0]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "stopping")
    eventually(lambda: aws.state(instance) == "stopped")
    with pytest.raises(aws.ssm.exceptions.InvalidInstanceId):
        aws.send(instance, "true")
    aws.ec2.start_instances(InstanceIds=[instance])
    eventually(lambda: aws.state(instance) == "running")
    assert aws.run(instance, "cat file")["StandardOutputContent"] == "kept\n"


def test_each_change_of_state_is_an_event_as_ec2_sends_it(aws: FleetClient) -> None:
    with aws.watching({"source": ["aws.ec2"], "detail-type": ["EC2 Instance State-change Notification"]}) as seen:
        instance = aws.launch()
        aws.ec2.terminate_instances(InstanceIds=[instance])
        eventually(lambda: len(seen()) == 4)
        assert [event["detail"]["state"] for event in seen()] == [
            "pending", "running", "shutting-down", "terminated",
        ]  # fmt: skip
        event = seen()[1]
    assert event.pop("id")
    assert event.pop("time").endswith("Z")
    assert event == {
        "version": "0",
        "source": "aws.ec2",
        "account": aws.info.account,
        "region": "us-east-1",
        "resources": [f"arn:aws:ec2:us-east-1:{aws.info.account}:instance/{instance}"],
        "detail-type": "EC2 Instance State-change Notification",
        "detail": {"instance-id": instance, "state": "running"},
    }


#: Starts processes that leave their session and parent, as a daemon does, and one that forgets its variables.
DAEMON = "setsid sh -c 'sleep 300 & sleep 300' >/dev/null 2>&1 & env -i sh -c 'sleep 300 & sleep 300'"


def sleepers(aws: FleetClient, instance: str) -> list[int]:
    names = {pid: Path(f"/proc/{pid}/comm") for pid in aws.processes(instance)}
    return [pid for pid, file in names.items() if file.exists() and file.read_text() == "sleep\n"]


def test_terminate_ends_every_process_and_removes_the_folder(aws: FleetClient) -> None:
    instance = aws.launch()
    aws.send(instance, DAEMON)
    eventually(lambda: len(sleepers(aws, instance)) == 4)
    left = [(pid, processes.start_time(pid)) for pid in sleepers(aws, instance)]
    change = aws.ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert change["CurrentState"]["Name"] == "shutting-down"
    eventually(lambda: aws.state(instance) == "terminated")
    assert [process for process in left if processes.is_alive(*process)] == []
    assert not aws.folder(instance).exists()
    again = aws.ec2.terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert again["PreviousState"]["Name"] == again["CurrentState"]["Name"] == "terminated"


def test_an_interruption_warns_and_then_takes_the_instance_away(aws: FleetClient) -> None:
    instance = aws.launch()
    aws.send(instance, DAEMON)
    eventually(lambda: len(sleepers(aws, instance)) == 4)
    with aws.watching({"source": ["aws.ec2"], "detail": {"instance-id": [instance]}}) as seen:
        lifecycle.interrupt(instance, aws.info.state_dir, warning_seconds=0.3)
        warning = eventually(seen)[0]
        assert warning["detail-type"] == "EC2 Spot Instance Interruption Warning"
        assert warning["detail"] == {"instance-id": instance, "instance-action": "terminate"}
        assert warning["resources"] == [f"arn:aws:ec2:us-east-1a:instance/{instance}"]
        eventually(lambda: len(seen()) == 3)
    assert aws.state(instance) == "terminated"
    assert aws.processes(instance) == []
    reason = described(aws, InstanceIds=[instance])[0]["StateReason"]
    assert reason["Code"] == "Server.SpotInstanceTermination"
    with pytest.raises(LaptopStackError, match="is terminated"):
        lifecycle.interrupt(instance, aws.info.state_dir)
    with pytest.raises(LaptopStackError, match="no instance 'i-0'"):
        lifecycle.interrupt("i-0", aws.info.state_dir)


def test_accounts_and_regions_do_not_see_each_others_instances(aws: FleetClient) -> None:
    import boto3

    instance = aws.launch()
    other = boto3.client(
        "ec2", endpoint_url=aws.info.endpoint, region_name="eu-west-1",
        aws_access_key_id="test", aws_secret_access_key="test",
    )  # fmt: skip
    assert other.describe_instances()["Reservations"] == []
    with pytest.raises(ClientError, match="NotFound"):
        other.terminate_instances(InstanceIds=[instance])


def test_a_state_machine_reaches_the_same_instances(aws: FleetClient) -> None:
    instance = aws.launch()
    terminate = {
        "Type": "Task",
        "Resource": "arn:aws:states:::aws-sdk:ec2:terminateInstances",
        "Arguments": {"InstanceIds": [instance]},
        "End": True,
    }
    machine = {"QueryLanguage": "JSONata", "StartAt": "Terminate", "States": {"Terminate": terminate}}
    states = aws.client("stepfunctions")
    arn = states.create_state_machine(
        name="ends", definition=json.dumps(machine), roleArn=f"arn:aws:iam::{aws.info.account}:role/any"
    )["stateMachineArn"]
    execution = states.start_execution(stateMachineArn=arn)["executionArn"]
    eventually(lambda: states.describe_execution(executionArn=execution)["status"] != "RUNNING")
    output = json.loads(states.describe_execution(executionArn=execution)["output"])
    assert output["TerminatingInstances"][0]["CurrentState"]["Name"] == "shutting-down"
    eventually(lambda: aws.state(instance) == "terminated")


def test_the_aws_command_line_starts_an_instance(aws: FleetClient, tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "aws"
    command = [
        str(program), "ec2", "run-instances", "--image-id", "ami-1", "--instance-type", "t3.micro", "--count", "1",
        "--tag-specifications", "ResourceType=instance,Tags=[{Key=my-scheduler,Value=my-queue}]",
        "--query", "Instances[0].InstanceId", "--output", "text",
    ]  # fmt: skip
    environ = {**lifecycle.environment(aws.info), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    found = described(aws, Filters=[{"Name": "tag:my-scheduler", "Values": ["my-queue"]}])
    assert ids(found) == {done.stdout.strip()}
