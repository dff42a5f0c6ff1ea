"""The shipped environment template on a laptop stack: uploads become jobs, and workers come and go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from deployed import PATIENCE, SCHEDULER, DeployedStack, deployed
from fleet_client import eventually

from sched_plugins.core import names

FIRST, SECOND = "drop", "next"
ACCOUNT = "000000000000"
BUCKET, NEXT_BUCKET = names.bucket(FIRST, ACCOUNT), names.bucket(SECOND, ACCOUNT)
MAXIMUM = 2
COPY = b"#!/bin/sh\ncp in.txt out.txt\necho copied\n"
AWKWARD = "a b+c/ü 'q' \"d\" $(touch x); {{ssm:x}} &%41"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedStack]:
    environments: dict[str, dict[str, Any]] = {
        FIRST: {"MaxWorkers": MAXIMUM, "Retry": 1, "SuccessString": "copied", "OutputBuckets": NEXT_BUCKET},
        SECOND: {
            "MaxWorkers": 1,
            "TriggerSuffix": "_sched/SUCCEEDED.json",
            "StageExecutable": f"s3://{NEXT_BUCKET}/executables/count.sh",
            "StageParameters": '{"word": "out"}',
        },
    }
    with deployed(tmp_path_factory.mktemp("environment"), environments) as client:
        client.s3.put_object(Bucket=NEXT_BUCKET, Key="executables/count.sh", Body=b"#!/bin/sh\nls > seen.txt\n")
        yield client


def group(stack: DeployedStack, environment: str) -> dict[str, Any]:
    found = stack.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[names.group(environment)])
    described: dict[str, Any] = found["AutoScalingGroups"][0]
    return described


def empty(stack: DeployedStack, environment: str) -> bool:
    described = group(stack, environment)
    return described["DesiredCapacity"] == 0 and not described["Instances"]


def put(stack: DeployedStack, folder: str, script: bytes = COPY) -> str:
    """Upload a job's folder, its executable last; returns the job's id."""
    stack.s3.put_object(Bucket=BUCKET, Key=f"{folder}/in.txt", Body=folder.encode())
    stack.s3.put_object(Bucket=BUCKET, Key=f"{folder}/run.sh", Body=script)
    return f"s3://{BUCKET}/{folder}/run.sh"


def keys(stack: DeployedStack, bucket: str, prefix: str) -> set[str]:
    listed = stack.s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return {item["Key"].removeprefix(prefix) for item in listed}


def test_uploads_run_and_the_group_goes_from_zero_to_its_maximum_and_back(stack: DeployedStack) -> None:
    assert empty(stack, FIRST)
    folders = [f"many/{AWKWARD}-{number}" for number in range(4)]
    jobs = [put(stack, folder, COPY + b"sleep 3\n") for folder in folders]
    eventually(lambda: group(stack, FIRST)["DesiredCapacity"] == MAXIMUM, PATIENCE)
    for job_id, folder in zip(jobs, folders, strict=True):
        record = stack.ended(job_id)
        assert (record["status"], record["retries"]) == ("SUCCEEDED", "0 of 1"), record
        assert record["results_uri"] == f"s3://{NEXT_BUCKET}/{folder}/"
        body = stack.s3.get_object(Bucket=NEXT_BUCKET, Key=f"{folder}/out.txt")["Body"].read()
        assert body.decode() == folder
    eventually(lambda: empty(stack, FIRST), PATIENCE)
    assert len(stack.slots()) == 0 or {slot["state"] for slot in stack.slots()} <= {"RETIRING", "HELD", "FREE"}


def test_a_success_starts_the_next_stage_by_its_manifest_alone(stack: DeployedStack) -> None:
    assert stack.ended(put(stack, "chained"))["status"] == "SUCCEEDED"
    job_id = f"s3://{NEXT_BUCKET}/chained/_sched/SUCCEEDED.json"
    record = stack.ended(job_id)
    assert record["status"] == "SUCCEEDED"
    assert record["queue"] == names.job_queue(SECOND)
    assert {"out.txt", "seen.txt"} <= keys(stack, NEXT_BUCKET, "chained/")
    seen = stack.s3.get_object(Bucket=NEXT_BUCKET, Key="chained/seen.txt")["Body"].read().decode()
    assert "out.txt" in seen.split()
    # What the second stage wrote starts nothing: the manifest is its own.
    eventually(lambda: empty(stack, SECOND), PATIENCE)
    assert stack.record(job_id)["attempt"] == 1


def test_a_failure_starts_nothing_and_its_files_are_kept_apart(stack: DeployedStack) -> None:
    job_id = put(stack, "failing", b"#!/bin/sh\ncp in.txt out.txt\necho not so\n")
    record = stack.ended(job_id)
    assert (record["status"], record["retries"]) == ("FAILED", "1 of 1")
    assert "does not contain" in record["status_reason"]
    assert stack.told(f"{FIRST}-job-queue-failed", job_id)["status"] == "FAILED"
    assert "_sched/SUCCEEDED.json" not in keys(stack, NEXT_BUCKET, "failing/")
    broken = stack.ended(put(stack, "broken", b"#!/bin/sh\necho part > out.txt\nexit 3\n"))
    assert (broken["status"], broken["exit_code"]) == ("FAILED", 3)
    assert keys(stack, NEXT_BUCKET, "broken/") == {f"_sched/attempts/{n}/out.txt" for n in (1, 2)}


def test_copies_and_multipart_uploads_start_jobs_too(stack: DeployedStack) -> None:
    stack.s3.create_bucket(Bucket="elsewhere")
    for name, body in (("in.txt", b"copied in"), ("run.sh", COPY)):
        stack.s3.put_object(Bucket="elsewhere", Key=f"f/{name}", Body=body)
        stack.s3.copy_object(Bucket=BUCKET, Key=f"copy/{name}", CopySource={"Bucket": "elsewhere", "Key": f"f/{name}"})
    stack.s3.put_object(Bucket=BUCKET, Key="parts/in.txt", Body=b"in parts")
    upload = stack.s3.create_multipart_upload(Bucket=BUCKET, Key="parts/run.sh")["UploadId"]
    place = {"Bucket": BUCKET, "Key": "parts/run.sh", "UploadId": upload}
    part = stack.s3.upload_part(**place, PartNumber=1, Body=COPY)
    stack.s3.complete_multipart_upload(**place, MultipartUpload={"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]})
    for folder in ("copy", "parts"):
        assert stack.ended(f"s3://{BUCKET}/{folder}/run.sh")["status"] == "SUCCEEDED"


def test_a_newer_upload_is_a_new_run(stack: DeployedStack) -> None:
    job_id = put(stack, "again")
    first = stack.ended(job_id)
    put(stack, "again")
    eventually(lambda: stack.record(job_id)["run_id"] != first["run_id"], PATIENCE)
    second = stack.ended(job_id)
    assert second["status"] == "SUCCEEDED"
    assert second["run_ids"] == [first["run_id"], second["run_id"]]


def test_a_submitted_stage_gets_workers_at_once_and_only_its_own_queue(stack: DeployedStack) -> None:
    eventually(lambda: empty(stack, FIRST), PATIENCE)
    stack.s3.put_object(Bucket=BUCKET, Key="submitted/in.txt", Body=b"submitted")
    stack.s3.put_object(Bucket=BUCKET, Key="programs/copy", Body=COPY)
    stage = {
        "executable": f"s3://{BUCKET}/programs/copy",
        "inputs": [f"s3://{BUCKET}/submitted/"],
        "outputs": [f"s3://{BUCKET}/submitted-results/"],
    }
    foreign = {
        "job_id": "foreign", "run_id": "r", "queue": f"{SCHEDULER}-job-queue", "retry": 0, "job_success_string": "",
        "ssm_document": "AWS-RunShellScript", "commands": ["true"],
    }  # fmt: skip
    jobs = [{"job_id": "stage", "run_id": str(uuid4()), "stage_job": stage}, foreign]
    accepted, refused = stack.call(names.function(FIRST, "submit"), {"jobs": jobs})["results"]
    assert group(stack, FIRST)["DesiredCapacity"] == 1
    assert (accepted["outcome"], refused["error"]["type"]) == ("accepted", "NotPermitted")
    assert stack.ended("stage")["status"] == "SUCCEEDED"
    assert "out.txt" in keys(stack, BUCKET, "submitted-results/")
    answer = stack.call(names.function(SECOND, "cancel"), {"job_ids": ["stage"]})["results"]
    assert "error" in answer[0], "another environment's job"


def test_at_rest_no_worker_and_no_upload_is_left(stack: DeployedStack) -> None:
    for environment in (FIRST, SECOND):
        eventually(lambda: empty(stack, environment), PATIENCE)  # noqa: B023 - called at once
        for queue in ("uploads", "uploads-dead-letters", "job-queue"):
            assert stack.messages(f"{environment}-{queue}") == []
    eventually(lambda: stack.sweep() and not stack.slots(), PATIENCE)
