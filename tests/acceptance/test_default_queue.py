"""The original system's own example, on a worker that carries the tag; and the same for an untagged instance."""

from __future__ import annotations

import json
from typing import Any

import pytest
from account import SCHEDULER, Account, Trio, eventually

IMAGE = "ami-0abcdef1234567890"


@pytest.fixture(scope="module")
def queue(account: Account) -> Trio:
    return account.trio(SCHEDULER)


@pytest.fixture(scope="module")
def worker(account: Account, queue: Trio) -> str:
    """The two messages of the example, then an instance with the tag, by the AWS CLI; both jobs have ended."""
    sqs = account.client("sqs")
    url = sqs.get_queue_url(QueueName=f"{SCHEDULER}-job-queue")["QueueUrl"]
    for number, sought in enumerate(["Hello EVERYONE", "Hello"]):
        message = {
            "job_id": f"jobId_{number}",
            "retry": "3",
            "job_success_string": sought,
            "ssm_document": "AWS-RunShellScript",
            "commands": ["echo Hello World"],
        }
        sqs.send_message(QueueUrl=url, MessageBody=json.dumps(message))
    tags = f"ResourceType=instance,Tags=[{{Key={SCHEDULER},Value={SCHEDULER}-job-queue}}]"
    started = account.aws("ec2", "run-instances", "--image-id", IMAGE, "--count", "1", "--tag-specifications", tags)
    account.ended("jobId_0", "jobId_1")
    return str(started["Instances"][0]["InstanceId"])


def get_item(account: Account, job_id: str) -> dict[str, Any]:
    """What ``aws dynamodb get-item`` shows, without its type names."""
    key = json.dumps({"job_id": {"S": job_id}})
    shown = account.aws("dynamodb", "get-item", "--table-name", f"{SCHEDULER}-job-monitoring", "--key", key)
    return {name: next(iter(value.values())) for name, value in shown["Item"].items()}


def test_the_example_that_fails_is_tried_four_times_and_told_on_the_failed_queue(
    account: Account, queue: Trio, worker: str
) -> None:
    told = account.told_of(queue.failed, "jobId_0")
    assert (told["status"], told["retries"]) == ("FAILED", "3 of 3")
    assert told["status_reason"] == "exit code 0, but stdout does not contain 'Hello EVERYONE'"
    assert "jobId_0" not in {one["job_id"] for one in account.told(queue.finished)}
    shown = get_item(account, "jobId_0")
    assert (shown["status"], shown["retries"], shown["output"]) == ("FAILED", "3 of 3", "Hello World\n")
    assert len(shown["attempts"]) == 4


def test_the_example_that_succeeds_is_tried_once_and_told_on_the_finished_queue(
    account: Account, queue: Trio, worker: str
) -> None:
    told = account.told_of(queue.finished, "jobId_1")
    assert (told["status"], told["retries"]) == ("SUCCEEDED", "0 of 3")
    assert "jobId_1" not in {one["job_id"] for one in account.told(queue.failed)}
    shown = get_item(account, "jobId_1")
    assert (shown["status"], shown["retries"], shown["output"]) == ("SUCCEEDED", "0 of 3", "Hello World\n")


def test_an_instance_with_the_tag_runs_the_default_queues_jobs_and_ends_itself(account: Account, worker: str) -> None:
    assert {one["worker_id"] for one in account.ended("jobId_0", "jobId_1").values()} == {worker}
    eventually(lambda: account.state(worker) == "terminated")
    account.sweep()
    assert worker not in {slot["worker_id"] for slot in account.slots()}


def test_an_untagged_instance_does_the_same_once_it_is_attached(account: Account, queue: Trio, worker: str) -> None:
    eventually(lambda: account.state(worker) == "terminated")
    spare = account.launch(None)[0]
    eventually(lambda: account.state(spare) == "running")
    account.send(queue, job_id="attached", commands=["echo $SCHED_QUEUE"])
    attached = account.sched("attach", spare, "--scheduler", SCHEDULER, "--queue", queue.name)
    assert attached == {"worker_id": spare, "slot_id": f"{spare}-0"}
    ended = account.ended("attached")["attached"]
    assert (ended["status"], ended["worker_id"], ended["output"]) == ("SUCCEEDED", spare, f"{queue.name}\n")
    eventually(lambda: account.state(spare) == "terminated")
    account.sweep()
    assert spare not in {slot["worker_id"] for slot in account.slots()}
