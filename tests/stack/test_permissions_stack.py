"""Every function has the permissions that it needs: the shipped templates with their policies enforced."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from deployed import PATIENCE, SCHEDULER, DeployedStack, deployed
from fleet_client import eventually

from sched_plugins.core import names
from sched_plugins.local import control, lifecycle
from sched_plugins.local.state import StackInfo

ENVIRONMENT = "guarded"
BUCKET = names.bucket(ENVIRONMENT, "000000000000")


@contextmanager
def enforcing(folder: Path, *, settings: dict[str, Any]) -> Iterator[StackInfo]:
    """A laptop stack that enforces policies."""
    script = Path(__file__).with_name("enforcing_server.py")
    with (folder / "output").open("w") as output:
        server = subprocess.Popen(
            [sys.executable, str(script), "--state-dir", str(folder), "--settings", json.dumps(settings)],
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield eventually(lambda: lifecycle.status(folder), PATIENCE)
    finally:
        lifecycle.down(folder)
        server.wait()


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedStack]:
    folder = tmp_path_factory.mktemp("guarded")
    with deployed(folder, {ENVIRONMENT: {"MaxWorkers": 2}}, server=enforcing) as client:
        yield client


def spec(job_id: str, *commands: str) -> dict[str, Any]:
    return {
        "job_id": job_id, "run_id": str(uuid4()), "retry": 1, "job_success_string": "",
        "ssm_document": "AWS-RunShellScript", "commands": list(commands),
    }  # fmt: skip


def lines(stack: DeployedStack, name: str) -> set[str]:
    path = Path(stack.info.state_dir) / name
    return set(path.read_text().splitlines()) if path.exists() else set()


def test_each_function_may_do_what_it_does_and_the_denied_are_noticed(stack: DeployedStack) -> None:
    # Every way through the system: a message, a retry, a rejection kept in S3, an upload, submissions, both
    # cancellations, a lost worker, an attached one, and the sweep.
    stack.send_job(
        "message", 'test "$SCHED_ATTEMPT" = 2; echo "seen $?"; seq 1 9000', retry="1", job_success_string="seen 0"
    )
    stack.send_text("x" * 200_000)
    first = stack.worker()
    assert stack.ended("message")["attempt"] == 2
    stack.s3.put_object(Bucket=BUCKET, Key="folder/run.sh", Body=b"#!/bin/sh\necho made > out.txt\n")
    assert stack.ended(f"s3://{BUCKET}/folder/run.sh")["status"] == "SUCCEEDED"
    manifest = {"Bucket": BUCKET, "Prefix": "folder/_sched/SUCCEEDED.json"}
    eventually(lambda: stack.s3.list_objects_v2(**manifest)["KeyCount"], PATIENCE)
    stack.call(names.function(ENVIRONMENT, "submit"), {"jobs": [spec("inside", "true")]})
    assert stack.ended("inside")["status"] == "SUCCEEDED"
    stack.gone(first)
    submitted = [spec("running", "sleep 300"), spec("waiting", "true"), spec("lost", "sleep 300")]
    for job in submitted[:2]:
        stack.call(f"{SCHEDULER}-submit", {"jobs": [job]})
    second = stack.worker()
    stack.running("running")
    stack.call(f"{SCHEDULER}-cancel", {"job_ids": ["waiting", "running"]})
    assert stack.ended("running")["status"] == "CANCELLED"
    stack.gone(second)
    stack.call(f"{SCHEDULER}-submit", {"jobs": submitted[2:]})
    third = stack.launch()
    stack.ec2.create_tags(Resources=[third], Tags=[{"Key": SCHEDULER, "Value": f"{SCHEDULER}-job-queue"}])
    answer = stack.call(f"{SCHEDULER}-start", {"worker_id": third, "queue": f"{SCHEDULER}-job-queue"})
    assert "error" not in answer
    stack.running("lost")
    control.interrupt(stack.info, third)
    eventually(lambda: stack.record("lost").get("losses") == 1, PATIENCE)
    stack.call(f"{SCHEDULER}-cancel", {"job_ids": ["lost"]})
    assert stack.ended("lost")["status"] == "CANCELLED"
    stack.call(names.function(ENVIRONMENT, "cancel"), {"job_ids": ["inside"]})
    stack.call(names.function(ENVIRONMENT, "scale"), {})
    eventually(lambda: stack.sweep() and not stack.slots(), PATIENCE)
    assert lines(stack, "denied") == set()
    functions = {line.split()[0] for line in lines(stack, "asked")}
    assert functions == {
        *(f"{SCHEDULER}-{name}" for name in
          ("start", "ready", "claim", "observe", "reap", "sweep", "outbox", "retire", "submit", "cancel")),
        *(f"{ENVIRONMENT}-{name}" for name in ("trigger", "scale", "submit", "cancel")),
    }  # fmt: skip


def test_a_role_without_a_permission_is_refused(stack: DeployedStack) -> None:
    iam = stack.client("iam")
    [role] = [
        one["RoleName"] for one in iam.list_roles()["Roles"] if one["RoleName"].startswith(f"{SCHEDULER}-SubmitRole")
    ]
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        iam.delete_role_policy(RoleName=role, PolicyName=name)
    answer = stack.lambda_.invoke(FunctionName=f"{SCHEDULER}-submit", Payload=b'{"jobs": []}')
    assert "FunctionError" not in answer, "nothing was asked of DynamoDB"
    with pytest.raises(AssertionError, match="dynamodb:BatchGetItem"):
        stack.call(f"{SCHEDULER}-submit", {"jobs": [spec("refused", "true")]})
    assert f"{SCHEDULER}-submit dynamodb:BatchGetItem" in str(lines(stack, "denied"))
