"""Deploying to a running stack: plans, updates, failures, refusals, and taking everything away again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from fleet_client import eventually

from sched_plugins import deploy
from sched_plugins.client import EnvironmentClient, SchedulerClient, Status
from sched_plugins.deploy import Archive, StackEvent, deployment
from sched_plugins.deploy import template as templates
from sched_plugins.deploy.account import Account
from sched_plugins.deploy.artifacts import bucket_name
from sched_plugins.errors import (
    Conflict,
    DeployError,
    EnvironmentNotFound,
    InvalidSettings,
    NotFound,
    SchedulerNotFound,
)
from sched_plugins.local import lifecycle
from sched_plugins.local.state import ACCOUNT

SMALL = Path(__file__).parent / "small_templates"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with lifecycle.running(tmp_path_factory.mktemp("state")) as info:
        yield lifecycle.environment(info)


@pytest.fixture
def aws(endpoint: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The laptop stack as the shell's AWS; whatever a test deploys is taken away after it."""
    for name, value in endpoint.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    yield
    for one in reversed(deploy.list_stacks()):
        deploy.destroy(one.name, delete_data=True)


@pytest.fixture(scope="module")
def archive() -> Archive:
    return deploy.functions_archive()


@pytest.fixture(autouse=True)
def one_archive(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same package in every deployment, though someone may be editing a file."""
    monkeypatch.setattr(deployment, "functions_archive", lambda _: archive)


@pytest.fixture
def small(aws: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates with little in them."""
    monkeypatch.setattr(templates, "folder", lambda: SMALL)


def stack_events(name: str) -> int:
    return len(boto3.client("cloudformation").describe_stack_events(StackName=name)["StackEvents"])


def names_of_everything() -> dict[str, Any]:
    """Whatever a destroyed stack might leave, but for the artifact bucket, which serves the next deployment."""
    buckets = {bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]}
    return {
        "buckets": buckets - {bucket_name(Account())},
        "tables": boto3.client("dynamodb").list_tables()["TableNames"],
        "queues": boto3.client("sqs").list_queues().get("QueueUrls", []),
        "functions": boto3.client("lambda").list_functions()["Functions"],
        "machines": boto3.client("stepfunctions").list_state_machines()["stateMachines"],
        "parameters": boto3.client("ssm").describe_parameters()["Parameters"],
        "groups": boto3.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"],
        "rules": boto3.client("events").list_rules()["Rules"],
        "log groups": boto3.client("logs").describe_log_groups()["logGroups"],
        "roles": [role["RoleName"] for role in boto3.client("iam").list_roles()["Roles"] if role["Path"] == "/"],
        "stacks": deploy.list_stacks(),
    }


def test_deploys_functions_and_machine_that_work_and_tells_each_step(small: None) -> None:
    planned: list[Any] = []
    events: list[StackEvent] = []
    done = deploy.deploy_scheduler("sim", on_plan=planned.append, on_event=events.append)
    assert done.outcome == "created"
    assert done.outputs["SchedulerName"] == "sim"
    assert planned == [done.changes]
    assert {change.action for change in done.changes} == {"Add"}
    finished = {event.resource for event in events if event.status == "CREATE_COMPLETE"}
    roles = {"SiblingsRole", "WorkerRole"}
    assert finished == {"sim", "Table", "Queue", "Bucket", "Siblings", "Worker", *roles}
    assert (events[0].resource, events[-1].resource, events[-1].status) == ("sim", "sim", "CREATE_COMPLETE")

    # The packaged code runs: Lambda calls core.names.finished_queue(event, context), which takes one argument.
    answer = boto3.client("lambda").invoke(FunctionName="sim-siblings", Payload=json.dumps("a-job-queue"))
    assert "finished_queue() takes 1 positional argument" in json.load(answer["Payload"])["errorMessage"]
    steps = boto3.client("stepfunctions")
    started = steps.start_execution(
        stateMachineArn=done.outputs["StateMachineArn"], input=json.dumps({"number": 21, "linger": 0})
    )
    arn = started["executionArn"]
    ended = eventually(lambda: (e := steps.describe_execution(executionArn=arn))["status"] != "RUNNING" and e)
    output = json.loads(ended["output"])
    assert output["twice"] == 42
    assert output["siblings"].endswith(":function:sim-siblings")


def test_plan_changes_nothing_and_a_second_deployment_finds_nothing_to_do(small: None) -> None:
    planned = deploy.deploy_scheduler("sim", plan_only=True)
    assert planned.outcome == "planned"
    assert {change.resource for change in planned.changes} >= {"Queue", "Siblings", "SiblingsRole", "Worker"}
    assert deploy.list_stacks() == []
    with pytest.raises(SchedulerNotFound):
        deploy.find_scheduler("sim")

    deploy.deploy_scheduler("sim")
    before = stack_events("sim")
    again = deploy.deploy_scheduler("sim")
    assert (again.outcome, again.changes, again.outputs["SchedulerName"]) == ("unchanged", (), "sim")
    planned = deploy.deploy_scheduler("sim", {"requeue-after-seconds": 90}, plan_only=True)
    (change,) = planned.changes
    assert (change.action, change.resource, change.replacement, change.details) == (
        "Modify",
        "Queue",
        "False",
        ("VisibilityTimeout",),
    )
    assert stack_events("sim") == before
    assert deploy.find_scheduler("sim").parameters["RequeueAfterSeconds"] == "60"


def test_a_changed_parameter_is_applied_and_kept_and_the_code_is_uploaded_once(small: None) -> None:
    deploy.deploy_scheduler("sim", {"RequeueAfterSeconds": 90}, tags={"team": "cfd"})
    done = deploy.deploy_scheduler("sim", {"RequeueAfterSeconds": 120})
    assert done.outcome == "updated"
    url = done.outputs["JobQueueUrl"]
    sqs = boto3.client("sqs")
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
    assert attributes == {"VisibilityTimeout": "120"}
    assert deploy.deploy_scheduler("sim").outcome == "unchanged"
    assert sqs.list_queue_tags(QueueUrl=url)["Tags"].items() >= {"team": "cfd", "sched:scheduler": "sim"}.items()
    bucket = bucket_name(Account())
    objects = boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    assert len([entry for entry in objects if entry["Key"].endswith(".zip")]) == 1


def test_artifact_bucket_is_private_encrypted_and_tls_only(small: None) -> None:
    deploy.deploy_scheduler("sim", plan_only=True)
    s3, bucket = boto3.client("s3"), f"sched-artifacts-{ACCOUNT}-us-east-1"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert set(statement["Resource"]) == {f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"}
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)


def test_a_long_template_is_read_from_the_artifact_bucket(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MAX_TEMPLATE_BODY", 100)
    assert deploy.deploy_scheduler("sim").outcome == "created"
    assert deploy.deploy_scheduler("sim").outcome == "unchanged"


def test_failed_creation_names_resource_and_reason_and_the_next_one_starts_afresh(small: None) -> None:
    boto3.client("s3").create_bucket(Bucket="taken")
    try:
        with pytest.raises(DeployError, match=r"'sim' is ROLLBACK_COMPLETE: Twin \(AWS::S3::Bucket\): .*already"):
            deploy.deploy_scheduler("sim", {"Blocker": "taken"})
        with pytest.raises(SchedulerNotFound, match=r"'sim' is not ready: .* ROLLBACK_COMPLETE.*deploy scheduler sim`"):
            deploy.deploy_environment("flow", scheduler="sim")
        # What failed is not remembered: the parameter has its default again.
        assert deploy.deploy_scheduler("sim").outcome == "created"
        with pytest.raises(DeployError, match=r"UPDATE_ROLLBACK_COMPLETE: Twin .* The stack is as it was before"):
            deploy.deploy_scheduler("sim", {"Blocker": "taken"})
        assert deploy.deploy_scheduler("sim").outcome == "unchanged"
    finally:
        boto3.client("s3").delete_bucket(Bucket="taken")


def test_environment_needs_its_scheduler_and_both_are_found(small: None) -> None:
    with pytest.raises(
        SchedulerNotFound, match=r"no stack of the name 'sim' in region us-east-1.*deploy scheduler sim`"
    ):
        deploy.deploy_environment("flow", scheduler="sim")
    deploy.deploy_scheduler("sim")
    done = deploy.deploy_environment("flow", scheduler="sim", parameters={"max_workers": 2})
    assert done.outputs["BucketName"] == f"flow-{ACCOUNT}-drop-job-files"
    assert deploy.find_scheduler("sim").outputs["JobQueueUrl"]
    assert deploy.find_environment("flow").scheduler == "sim"
    assert [(one.name, one.kind, one.usable) for one in deploy.list_stacks()] == [
        ("sim", "scheduler", True),
        ("flow", "environment", True),
    ]
    with pytest.raises(SchedulerNotFound, match="a stack, but no scheduler, of the name 'flow'"):
        deploy.deploy_environment("mesh", scheduler="flow")
    with pytest.raises(EnvironmentNotFound, match="a stack, but no environment, of the name 'sim'"):
        deploy.find_environment("sim")
    with pytest.raises(InvalidSettings, match="'flow' exists already, and it is the environment of scheduler 'sim'"):
        deploy.deploy_scheduler("flow")


@pytest.mark.parametrize(
    ("name", "parameters", "tags", "message"),
    [
        ("Sim", {}, {}, "'Sim' cannot be a stack name"),
        ("sim", {"Blocked": "x"}, {}, "Did you mean Blocker"),
        ("sim", {"RequeueAfterSeconds": 0}, {}, "--requeue-after-seconds: '0' is less than 1"),
        ("sim", {}, {"aws:x": "y"}, "cannot be a tag"),
        ("sim", {}, {"sched:scheduler": "other"}, "is set by sched itself"),
    ],
)
def test_refuses_before_it_calls_aws(
    name: str, parameters: dict[str, Any], tags: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "folder", lambda: SMALL)
    monkeypatch.setattr(Account, "client", lambda *_: pytest.fail("AWS was called"))
    with pytest.raises(InvalidSettings, match=message):
        deploy.deploy_scheduler(name, parameters, tags=tags)


def test_leaves_the_stacks_of_others_alone(small: None) -> None:
    cloudformation = boto3.client("cloudformation")
    body = json.dumps({"Resources": {"Q": {"Type": "AWS::SQS::Queue"}}})
    cloudformation.create_stack(StackName="theirs", TemplateBody=body)
    cloudformation.get_waiter("stack_create_complete").wait(StackName="theirs", WaiterConfig={"Delay": 1})
    try:
        with pytest.raises(InvalidSettings, match="'theirs' exists already, and it is not one that sched deployed"):
            deploy.deploy_scheduler("theirs")
        with pytest.raises(NotFound, match="a stack, but no scheduler or environment, of the name 'theirs'"):
            deploy.destroy("theirs", delete_data=True)
        assert deploy.list_stacks() == []
    finally:
        cloudformation.delete_stack(StackName="theirs")


def test_destroy_takes_nothing_that_was_not_agreed_to_and_then_everything(small: None) -> None:
    before = names_of_everything()
    deploy.deploy_scheduler("sim")
    environment = deploy.deploy_environment("flow", scheduler="sim")
    with pytest.raises(Conflict, match=r"serves 1 environment\(s\): flow\. Destroy them first: `sched destroy flow`"):
        deploy.destroy("sim", delete_data=True)

    s3, bucket = boto3.client("s3"), environment.outputs["BucketName"]
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for key in ("a", "a", "b c"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    s3.delete_object(Bucket=bucket, Key="a")
    s3.delete_object(Bucket=bucket, Key="b c")  # nothing is to be seen, and yet there is something
    with pytest.raises(Conflict, match=f"the bucket '{bucket}' of the environment 'flow' holds objects"):
        deploy.destroy("flow")
    assert deploy.find_environment("flow").usable
    events: list[StackEvent] = []
    assert deploy.destroy("flow", delete_data=True, on_event=events.append).kind == "environment"
    assert events[-1].status == "DELETE_COMPLETE"

    table = boto3.resource("dynamodb").Table("sim-job-monitoring")
    table.put_item(Item={"job_id": "j"})
    with pytest.raises(Conflict, match="the table 'sim-job-monitoring' holds job records"):
        deploy.destroy("sim")
    table.delete_item(Key={"job_id": "j"})
    assert deploy.destroy("sim").kept == (("AWS::DynamoDB::Table", "sim-job-monitoring"),)
    boto3.client("dynamodb").delete_table(TableName="sim-job-monitoring")
    with pytest.raises(NotFound, match=r"no stack of the name 'sim' .*There is no scheduler and no environment there"):
        deploy.destroy("sim")
    assert names_of_everything() == before


def test_destroy_with_data_takes_what_the_template_keeps(small: None) -> None:
    before = names_of_everything()
    deploy.deploy_scheduler("sim")
    boto3.resource("dynamodb").Table("sim-job-monitoring").put_item(Item={"job_id": "j"})
    assert deploy.destroy("sim", delete_data=True).kept == ()
    assert names_of_everything() == before


def test_destroy_ends_workers_only_when_agreed(small: None) -> None:
    machine = deploy.deploy_scheduler("sim").outputs["StateMachineArn"]
    ec2, steps = boto3.client("ec2"), boto3.client("stepfunctions")
    worker = ec2.run_instances(ImageId="ami-1", InstanceType="c7i.large", MinCount=1, MaxCount=1)["Instances"][0]
    worker_id = worker["InstanceId"]
    execution = steps.start_execution(
        stateMachineArn=machine, name=f"{worker_id}-0-1", input=json.dumps({"number": 1, "linger": 600})
    )["executionArn"]
    eventually(lambda: steps.list_executions(stateMachineArn=machine, statusFilter="RUNNING")["executions"])
    with pytest.raises(Conflict, match=r"has 1 worker\(s\) at work\. Wait until they have ended"):
        deploy.destroy("sim")
    assert steps.describe_execution(executionArn=execution)["status"] == "RUNNING"
    deploy.destroy("sim", delete_data=True)

    def instance_state() -> str:
        described = ec2.describe_instances(InstanceIds=[worker_id])["Reservations"][0]["Instances"][0]
        return str(described["State"]["Name"])

    eventually(lambda: instance_state() == "terminated")


# The shipped templates.

SCHEDULER_OUTPUTS = {
    "SchedulerName",
    "JobQueueUrl",
    "FinishedQueueUrl",
    "FailedQueueUrl",
    "JobTableName",
    "SlotTableName",
    "OutputBucketName",
    "StateMachineArn",
    "WorkerInstanceProfile",
    "SubmitFunctionName",
    "CancelFunctionName",
    "StartFunctionName",
    "JobTableReaderPolicyArn",
    "SubmitterPolicyArn",
}
ENVIRONMENT_OUTPUTS = {
    "EnvironmentName",
    "SchedulerName",
    "BucketName",
    "JobQueueUrl",
    "FinishedQueueUrl",
    "FailedQueueUrl",
    "AutoScalingGroupName",
    "SubmitFunctionName",
    "CancelFunctionName",
    "SubmitterPolicyArn",
    "ReaderPolicyArn",
}


def group_of(name: str) -> dict[str, Any]:
    answer = boto3.client("autoscaling").describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    group: dict[str, Any] = answer["AutoScalingGroups"][0]
    return group


def in_service(name: str) -> list[str]:
    return [m["InstanceId"] for m in group_of(name)["Instances"] if m["LifecycleState"] == "InService"]


def test_shipped_templates_from_first_deployment_to_nothing_left(aws: None) -> None:
    before = names_of_everything()
    scheduler = deploy.deploy_scheduler("sim", tags={"team": "cfd"})
    assert scheduler.outputs.keys() >= SCHEDULER_OUTPUTS
    assert deploy.deploy_scheduler("sim").outcome == "unchanged"

    environment = deploy.deploy_environment("flow", scheduler="sim", parameters={"max-workers": 2})
    assert environment.outputs.keys() >= ENVIRONMENT_OUTPUTS
    assert deploy.deploy_environment("flow", scheduler="sim").outcome == "unchanged"
    assert group_of(environment.outputs["AutoScalingGroupName"])["MaxSize"] == 2

    planned = deploy.deploy_environment("flow", scheduler="sim", parameters={"max-workers": 3}, plan_only=True)
    assert "AWS::AutoScaling::AutoScalingGroup" in {change.type for change in planned.changes}
    assert group_of(environment.outputs["AutoScalingGroupName"])["MaxSize"] == 2
    changed = deploy.deploy_environment("flow", scheduler="sim", parameters={"max-workers": 3})
    assert changed.outcome == "updated"
    assert group_of(environment.outputs["AutoScalingGroupName"])["MaxSize"] == 3

    for one in (scheduler, environment):
        for function in (one.outputs["SubmitFunctionName"], one.outputs["CancelFunctionName"]):
            answer = boto3.client("lambda").invoke(
                FunctionName=function, Payload=json.dumps({"jobs": [], "job_ids": []})
            )
            assert json.load(answer["Payload"]) == {"results": []}

    deploy.destroy("flow", delete_data=True)
    deploy.destroy("sim", delete_data=True)
    assert names_of_everything() == before


def test_destroying_an_environment_ends_its_protected_workers_only_when_agreed(aws: None) -> None:
    deploy.deploy_scheduler("sim")
    name = deploy.deploy_environment("flow", scheduler="sim").outputs["AutoScalingGroupName"]
    scaling, ec2 = boto3.client("autoscaling"), boto3.client("ec2")
    scaling.set_desired_capacity(AutoScalingGroupName=name, DesiredCapacity=2)
    members = eventually(lambda: (m := in_service(name))[1:] and m)
    scaling.set_instance_protection(AutoScalingGroupName=name, InstanceIds=members, ProtectedFromScaleIn=True)
    with pytest.raises(Conflict, match=r"the environment 'flow' has 2 worker\(s\) at work"):
        deploy.destroy("flow")
    assert len(group_of(name)["Instances"]) == 2
    deploy.destroy("flow", delete_data=True)
    states = {
        instance["State"]["Name"]
        for reservation in ec2.describe_instances(InstanceIds=members)["Reservations"]
        for instance in reservation["Instances"]
    }
    assert states <= {"shutting-down", "terminated"}


def test_destroying_an_environment_leaves_no_job_waiting_for_ever(aws: None) -> None:
    deploy.deploy_scheduler("sim", {"EmptyQueueWaitSeconds": 1})
    deploy.deploy_environment("flow", scheduler="sim")
    scheduler, environment = SchedulerClient("sim"), EnvironmentClient("flow")
    elsewhere = scheduler.submit({"job_id": "elsewhere", "commands": ["true"]})
    environment.submit({"job_id": "running", "commands": ["sleep 600"]})
    eventually(lambda: scheduler.get("running").status == "RUNNING", 60)
    boto3.client("autoscaling").update_auto_scaling_group(AutoScalingGroupName="flow-autoscaling-group", MaxSize=1)
    waiting = [environment.submit({"job_id": f"waiting-{n}", "commands": ["sleep 600"]}).job_id for n in range(4)]
    with pytest.raises(Conflict, match=r"'flow' has \d job\(s\) that have not ended \('running', .*--cancel-jobs"):
        deploy.destroy("flow")
    assert deploy.find_environment("flow").usable
    assert not {job.job_id for job in scheduler.list(statuses={Status.CANCELLED})}, "a refusal changes nothing"
    done = deploy.destroy("flow", cancel_jobs=True)
    assert set(done.cancelled) == {"running", *waiting}
    assert {str(scheduler.get(job_id).status) for job_id in done.cancelled} == {"CANCELLED"}
    assert scheduler.get(elsewhere.job_id).status == "QUEUED"
    assert [one.name for one in deploy.list_stacks()] == ["sim"]


def test_a_message_that_is_no_record_yet_is_not_lost_in_silence(aws: None) -> None:
    deploy.deploy_scheduler("sim")
    url = deploy.deploy_environment("flow", scheduler="sim").outputs["JobQueueUrl"]
    boto3.client("sqs").send_message(QueueUrl=url, MessageBody="{}")
    with pytest.raises(Conflict, match=r"has 1 message\(s\) in 'flow-job-queue'"):
        deploy.destroy("flow")
    assert deploy.destroy("flow", cancel_jobs=True).cancelled == ()


def test_a_package_can_be_launched_without_this_package(aws: None, tmp_path: Path) -> None:
    written = deploy.package(tmp_path / "bundle")
    deploy.package(tmp_path / "bundle")  # replaces the first
    s3, cloudformation = boto3.client("s3"), boto3.client("cloudformation")
    s3.create_bucket(Bucket="shared")
    s3.upload_file(str(written.archive), "shared", "here/code.zip")
    s3.upload_file(str(written.scheduler), "shared", "template.yaml")
    try:
        cloudformation.create_stack(
            StackName="theirs",
            TemplateURL=f"{s3.meta.endpoint_url}/shared/template.yaml",
            Parameters=[
                {"ParameterKey": "CodeBucket", "ParameterValue": "shared"},
                {"ParameterKey": "CodeKey", "ParameterValue": "here/code.zip"},
            ],
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
        )
        cloudformation.get_waiter("stack_create_complete").wait(StackName="theirs", WaiterConfig={"Delay": 1})
        found = deploy.find_scheduler("theirs")
        assert found.parameters["PythonRuntime"] == written.target.runtime
        answer = boto3.client("lambda").invoke(
            FunctionName=found.outputs["SubmitFunctionName"], Payload=json.dumps({"jobs": []})
        )
        assert json.load(answer["Payload"]) == {"results": []}
    finally:
        deploy.destroy("theirs", delete_data=True)
        for entry in s3.list_objects_v2(Bucket="shared").get("Contents", []):
            s3.delete_object(Bucket="shared", Key=entry["Key"])
        s3.delete_bucket(Bucket="shared")


def test_a_package_does_not_replace_someone_elses_folder(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions/precious.txt").write_text("x")
    with pytest.raises(DeployError, match=r"functions is there and was not written by sched\. Choose another folder"):
        deploy.package(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["functions"]
