"""The templates are valid, keep the contracts that other parts rely on, and protect what they hold."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint
from shipped import INFRA, KINDS, of_type, packaged, template

from sched_plugins.aws import tables
from sched_plugins.core import limits, names
from sched_plugins.deploy.template import Kind

CHECKOV = Path(sys.prefix) / "checkov" / "bin" / "checkov"

# What checkov asks for and these templates do without, and why.
NOT_ASKED_FOR = {
    "CKV_AWS_18": "access logs of a bucket need another bucket; CloudTrail tells the same where it is wanted",
    "CKV_AWS_21": "results of many GiB that a retry overwrites would all be kept; runs name their inputs by ETag",
    "CKV_AWS_27": "the queues are encrypted with keys that SQS manages, which the check does not know",
    "CKV_AWS_111": "the agent's actions cannot be limited to an instance that is not known beforehand",
    "CKV_AWS_115": "reserving concurrency fails in accounts with a small quota; every function may run at once",
    "CKV_AWS_116": "what an event leaves undone the sweep does; streams and queues have failure destinations",
    "CKV_AWS_117": "the functions call AWS's public endpoints alone",
    "CKV_AWS_119": "DynamoDB encrypts with its own key; a customer's would cost and every reader would need it",
    "CKV_AWS_158": "CloudWatch encrypts logs with its own key",
    "CKV_AWS_173": "the variables are names, no secrets; Lambda encrypts them with its own key",
}
FUNCTIONS: dict[Kind, set[str]] = {
    "scheduler": {
        "start", "ready", "claim", "observe", "reap", "sweep", "outbox", "retire", "submit", "cancel",
    },
    "environment": {"trigger", "scale", "submit", "cancel"},
}  # fmt: skip
OUTPUTS: dict[Kind, set[str]] = {
    "scheduler": {
        "SchedulerName", "JobQueueUrl", "FinishedQueueUrl", "FailedQueueUrl", "JobTableName", "SlotTableName",
        "OutputBucketName", "StateMachineArn", "WorkerInstanceProfile", "SubmitFunctionName", "CancelFunctionName",
        "StartFunctionName", "JobTableReaderPolicyArn", "SubmitterPolicyArn",
    },
    "environment": {
        "EnvironmentName", "SchedulerName", "BucketName", "JobQueueUrl", "FinishedQueueUrl", "FailedQueueUrl",
        "AutoScalingGroupName", "SubmitFunctionName", "CancelFunctionName", "SubmitterPolicyArn", "ReaderPolicyArn",
    },
}  # fmt: skip
ACCOUNT = "123456789012"


def resolved(value: Any, stack: str = "demo") -> str:
    """A name in a template, for a stack called ``demo``."""
    if value == {"Ref": "AWS::StackName"}:
        return stack
    return str(value["Fn::Sub"]).replace("${AWS::StackName}", stack).replace("${AWS::AccountId}", ACCOUNT)


@pytest.mark.lint
@pytest.mark.parametrize("kind", KINDS)
def test_cfn_lint_finds_nothing(kind: Kind) -> None:
    found = lint(json.dumps(packaged(kind)), config=ManualArgs(regions=["us-east-1", "eu-central-1"]))
    assert [str(match) for match in found] == []


@pytest.mark.lint
@pytest.mark.skipif(not CHECKOV.exists(), reason="checkov is not installed; `make lint` installs it")
def test_checkov_finds_nothing_that_is_not_reasoned_away(tmp_path: Path) -> None:
    found = subprocess.run(
        [
            str(CHECKOV), "--framework", "cloudformation", "--skip-download",
            "--quiet", "--compact", "--output", "json", "--file", *map(str, sorted(INFRA.glob("*.yaml"))),
        ],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LOG_LEVEL": "ERROR"},
    )  # fmt: skip
    report = json.loads(found.stdout)
    assert report["summary"]["passed"] > 100
    failed = {check["check_id"] for check in report["results"]["failed_checks"]}
    assert failed == set(NOT_ASKED_FOR), "a new finding, or a reason that is needed no more"


@pytest.mark.parametrize("kind", KINDS)
def test_functions_have_their_names_their_handlers_and_a_role_each(kind: Kind) -> None:
    functions = of_type(kind, "AWS::Serverless::Function")
    assert {resolved(one["FunctionName"]) for one in functions.values()} == {
        names.function("demo", name) for name in FUNCTIONS[kind]
    }
    roles = [one["Role"]["Fn::GetAtt"][0] for one in functions.values()]
    assert len(set(roles)) == len(functions)
    for one in functions.values():
        module, _, name = one["Handler"].rpartition(".")
        assert resolved(one["FunctionName"]) == names.function("demo", module.rpartition(".")[2])
        assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("kind", KINDS)
def test_no_arn_is_of_one_partition_alone(kind: Kind) -> None:
    text = json.dumps(packaged(kind))
    assert "arn:${AWS::Partition}:" in text
    assert re.findall(r"arn:(?!\$\{(?:AWS::)?Partition\}:|\*:)[^\"]*", text) == []


@pytest.mark.parametrize("kind", KINDS)
def test_queues_have_the_contracts_names_and_lose_nothing_in_silence(kind: Kind) -> None:
    queues = of_type(kind, "AWS::SQS::Queue")
    named = {resolved(one["QueueName"]) for one in queues.values()}
    trio = names.job_queue("demo")
    assert {trio, names.finished_queue(trio), names.failed_queue(trio)} < named
    for one in queues.values():
        assert one["SqsManagedSseEnabled"] is True
        assert one["MessageRetentionPeriod"] == 14 * 24 * 3600
    redrive = queues["JobQueue"]["RedrivePolicy"]
    assert redrive["maxReceiveCount"] == 10
    requeue = template("scheduler")["Parameters"]["RequeueAfterSeconds"]
    assert requeue["Default"] == limits.REQUEUE_AFTER
    assert requeue["MaxValue"] < queues["JobQueue"]["MessageRetentionPeriod"]


@pytest.mark.parametrize("kind", KINDS)
def test_buckets_are_private_and_speak_tls_alone(kind: Kind) -> None:
    policies = of_type(kind, "AWS::S3::BucketPolicy").values()
    for name, bucket in of_type(kind, "AWS::S3::Bucket").items():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
        [deny] = [p["PolicyDocument"]["Statement"][0] for p in policies if p["Bucket"] == {"Ref": name}]
        assert (deny["Effect"], deny["Principal"]) == ("Deny", "*")
        assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        assert len(deny["Resource"]) == 2


def test_tables_have_the_keys_and_indexes_that_the_adapters_ask_for() -> None:
    jobs, slots = of_type("scheduler", "AWS::DynamoDB::Table").values()
    assert resolved(jobs["TableName"]) == names.job_table("demo")
    assert resolved(slots["TableName"]) == names.slot_table("demo")

    def keys(one: dict[str, Any]) -> list[str]:
        return [key["AttributeName"] for key in one["KeySchema"]]

    assert keys(jobs) == ["job_id"]
    assert keys(slots) == ["slot_id"]
    indexes = {one["IndexName"]: one for table in (jobs, slots) for one in table["GlobalSecondaryIndexes"]}
    assert keys(indexes[tables.STATE_INDEX]) == ["state_shard", "state_at"]
    assert keys(indexes[tables.PENDING_INDEX]) == ["pending_shard", "pending_at"]
    assert keys(indexes[tables.QUEUE_INDEX]) == ["queue", "state"]
    assert tuple(indexes[tables.STATE_INDEX]["Projection"]["NonKeyAttributes"]) == tables.STATE_PROJECTION
    for table in (jobs, slots):
        assert table["StreamSpecification"]["StreamViewType"] == "NEW_IMAGE"
        assert table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"] is True


def test_a_bad_stream_record_neither_blocks_the_others_nor_vanishes() -> None:
    outbox = of_type("scheduler", "AWS::Serverless::Function")["OutboxFunction"]
    assert set(outbox["Events"]) == {"Jobs", "Slots"}
    for name, field in (("Jobs", "pending"), ("Slots", "wake")):
        mapping = outbox["Events"][name]["Properties"]
        assert mapping["BisectBatchOnFunctionError"] is True
        assert 0 < mapping["MaximumRetryAttempts"] < 20
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert mapping["DestinationConfig"]["OnFailure"]["Destination"] == {"Fn::GetAtt": ["OutboxFailures", "Arn"]}
        assert mapping["StartingPosition"] == "TRIM_HORIZON"
        [one] = mapping["FilterCriteria"]["Filters"]
        assert json.loads(one["Pattern"])["dynamodb"]["NewImage"] == {field: {"S": [{"exists": True}]}}


def test_events_reach_their_functions() -> None:
    patterns: dict[str, list[Any]] = {}
    for name, function in of_type("scheduler", "AWS::Serverless::Function").items():
        for event in function.get("Events", {}).values():
            if event["Type"] == "EventBridgeRule":
                patterns.setdefault(name, []).append(event["Properties"]["Pattern"])
    states = {name: pattern[0]["detail"]["state"] for name, pattern in patterns.items() if name != "ObserveFunction"}
    assert states == {
        "StartFunction": ["running"],
        "ReapFunction": ["shutting-down", "stopping", "stopped", "terminated"],
    }
    assert patterns["StartFunction"][1]["detail-type"] == ["EC2 Spot Instance Interruption Warning"]
    [observed] = patterns["ObserveFunction"]
    # What is not over: whatever else Systems Manager may say is looked at.
    [status] = observed["detail"]["status"]
    assert status == {"anything-but": ["Pending", "InProgress", "Delayed", "Cancelling"]}


@pytest.mark.parametrize("kind", KINDS)
def test_logs_are_not_kept_for_ever(kind: Kind) -> None:
    groups = of_type(kind, "AWS::Logs::LogGroup")
    assert groups
    assert all(group["RetentionInDays"] == {"Ref": "LogRetentionDays"} for group in groups.values())
    functions = template(kind)["Globals"]["Function"]
    assert functions["LoggingConfig"]["LogGroup"] == {"Ref": "FunctionLogs"}


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_contract_and_exported(kind: Kind) -> None:
    outputs = template(kind)["Outputs"]
    assert set(outputs) >= OUTPUTS[kind]
    for name, output in outputs.items():
        assert resolved(output["Export"]["Name"]) == f"demo-{name}"


def test_an_environment_imports_only_what_its_scheduler_exports() -> None:
    text = (INFRA / "resource-automation.yaml").read_text()
    imported = set(re.findall(r"\$\{SchedulerName\}-(\w+)", text))
    assert imported
    assert imported <= set(template("scheduler")["Outputs"])


def test_the_environments_names_are_those_that_the_rules_derive() -> None:
    [bucket] = of_type("environment", "AWS::S3::Bucket").values()
    [group] = of_type("environment", "AWS::AutoScaling::AutoScalingGroup").values()
    assert resolved(bucket["BucketName"]) == names.bucket("demo", ACCOUNT)
    assert resolved(group["AutoScalingGroupName"]) == names.group("demo")
    assert bucket["NotificationConfiguration"]["EventBridgeConfiguration"]["EventBridgeEnabled"] is True


def test_workers_come_from_zero_protected_and_tagged() -> None:
    [group] = of_type("environment", "AWS::AutoScaling::AutoScalingGroup").values()
    assert group["MinSize"] == "0"
    assert "DesiredCapacity" not in group, "an update of the stack would reset it under the workers"
    assert group["NewInstancesProtectedFromScaleIn"] is True
    worker = {
        "Key": {"Ref": "SchedulerName"},
        "Value": {"Fn::GetAtt": ["JobQueue", "QueueName"]},
        "PropagateAtLaunch": True,
    }
    assert worker in group["Tags"]
    [launch] = of_type("environment", "AWS::EC2::LaunchTemplate").values()
    data = launch["LaunchTemplateData"]
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["BlockDeviceMappings"][0]["Ebs"]["Encrypted"] is True
    assert {spec["ResourceType"] for spec in data["TagSpecifications"]} == {"instance", "volume"}


def test_names_of_the_longest_allowed_stack_fit_their_services() -> None:
    longest = names.check_stack_name("a" * 31)
    environment = {**of_type("environment", "AWS::S3::Bucket"), **of_type("scheduler", "AWS::S3::Bucket")}
    assert all(len(resolved(bucket["BucketName"], longest)) <= 63 for bucket in environment.values())
    for kind in KINDS:
        for function in of_type(kind, "AWS::Serverless::Function").values():
            assert len(resolved(function["FunctionName"], longest)) <= 64


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_select_nothing_from_a_list_that_may_be_empty(kind: Kind) -> None:
    """Fn::Select fails the whole stack where there is nothing to select; joining an empty list gives an empty text."""
    assert "Fn::Select" not in json.dumps(template(kind)["Conditions"])
