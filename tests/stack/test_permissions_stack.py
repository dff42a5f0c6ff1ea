"""Every function has the permissions that it needs: the shipped templates with their policies enforced."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest
from deployed import PATIENCE, SCHEDULER, DeployedStack, deployed
from fleet_client import eventually

from sched_plugins import deploy
from sched_plugins.client import EnvironmentClient, SchedulerClient, Status
from sched_plugins.core import names
from sched_plugins.errors import NotPermitted
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


POLICIES = {
    ("scheduler", "reader"): "JobTableReaderPolicyArn",
    ("scheduler", "submitter"): "SubmitterPolicyArn",
    ("environment", "reader"): "ReaderPolicyArn",
    ("environment", "submitter"): "SubmitterPolicyArn",
}


def user(stack: DeployedStack, kind: str, what: str) -> boto3.Session:
    """Somebody with one of the exported policies and nothing else."""
    found = deploy.find_scheduler(SCHEDULER) if kind == "scheduler" else deploy.find_environment(ENVIRONMENT)
    iam, name = stack.client("iam"), f"{kind}-{what}-{uuid4()}"
    iam.create_user(UserName=name)
    iam.attach_user_policy(UserName=name, PolicyArn=found.outputs[POLICIES[kind, what]])
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return boto3.Session(key["AccessKeyId"], key["SecretAccessKey"], region_name=stack.info.region)


CLIENTS: dict[str, Callable[[boto3.Session], SchedulerClient | EnvironmentClient]] = {
    "scheduler": lambda session: SchedulerClient(SCHEDULER, session=session),
    "environment": lambda session: EnvironmentClient(ENVIRONMENT, session=session),
}


@pytest.fixture(scope="module")
def jobs(stack: DeployedStack) -> Iterator[tuple[str, str]]:
    """Ids of a job of the environment that has ended, with results and no stderr, and of one that runs."""
    environment = EnvironmentClient(ENVIRONMENT)
    stack.s3.put_object(Bucket=BUCKET, Key="read/run.sh", Body=b"#!/bin/sh\necho hello | tee out.txt\n")
    ended, live = f"s3://{BUCKET}/read/run.sh", f"live-{uuid4()}"
    assert stack.ended(ended)["status"] == "SUCCEEDED"
    environment.submit(spec(live, "echo begun; sleep 600"))
    stack.running(live)
    yield ended, live
    environment.cancel(live)
    stack.ended(live)


@pytest.mark.parametrize("kind", ["scheduler", "environment"])
def test_a_reader_reads_everything_and_changes_nothing(
    stack: DeployedStack, jobs: tuple[str, str], kind: str, tmp_path: Path
) -> None:
    ended, live = jobs
    session = user(stack, kind, "reader")
    client = CLIENTS[kind](session)
    assert client.get(ended).status is Status.SUCCEEDED
    assert client.wait(ended, timeout=PATIENCE).status is Status.SUCCEEDED
    assert {ended, live} <= {job.job_id for job in client.list(limit=100)}
    assert "hello\n" in "".join(chunk.text for chunk in client.logs(ended))
    assert "".join(chunk.text for chunk in client.logs(ended, stream="stderr")) == ""
    assert "".join(chunk.text for chunk in client.logs(live)) in ("", "begun\n")
    [worker] = [one for one in client.workers() if one.job_id == live]
    assert worker.instance_state == "running"
    queues = {queue.name: queue for queue in SchedulerClient(SCHEDULER, session=session).queues()}
    assert queues[names.job_queue(ENVIRONMENT)].workers_busy == 1
    assert names.job_queue(SCHEDULER) in queues
    if isinstance(client, EnvironmentClient):
        client.results(ended, tmp_path)
        assert (tmp_path / "out.txt").read_text() == "hello\n"
        with pytest.raises(NotPermitted):
            client.upload(tmp_path, "run.sh", prefix="refused")
    for refused in (lambda: client.submit(spec("refused", "true")), lambda: client.cancel(live)):
        with pytest.raises(NotPermitted, match="lambda:InvokeFunction"):
            refused()


@pytest.mark.parametrize("kind", ["scheduler", "environment"])
def test_a_submitter_submits_uploads_and_cancels(stack: DeployedStack, kind: str, tmp_path: Path) -> None:
    session = user(stack, kind, "submitter")
    client = CLIENTS[kind](session)
    job_id = f"submitted-{uuid4()}"
    assert client.submit(spec(job_id, "sleep 600")).error is None
    assert client.cancel(job_id).error is None
    assert stack.ended(job_id)["status"] == "CANCELLED"
    with pytest.raises(NotPermitted):
        client.get(job_id)
    if isinstance(client, EnvironmentClient):
        (tmp_path / "run.sh").write_text("#!/bin/sh\n")
        uploaded = client.upload(tmp_path, "run.sh", prefix="submitter")
        assert stack.ended(uploaded.job_id)["status"] == "SUCCEEDED"


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
