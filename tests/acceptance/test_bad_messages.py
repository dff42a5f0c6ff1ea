"""Messages that are no jobs: each ends on the failed queue with a reason, and none stops a worker."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from account import Account, Trio

KIB = 1024
GOOD: dict[str, Any] = {
    "job_id": "bad/good",
    "retry": "1",
    "job_success_string": " ",
    "ssm_document": "AWS-RunShellScript",
    "commands": ["echo good"],
}
NOISE = "".join(chr(33 + (i * 7919) % 94) for i in range(900 * KIB))
BAD: dict[str, tuple[str, str]] = {
    "not JSON": ("{'job_id': 'bad'", "the message is not JSON"),
    "JSON but no object": ('["echo"]', "the message is JSON but not an object"),
    "field missing": (json.dumps({k: v for k, v in GOOD.items() if k != "commands"}), "commands"),
    "spec over 64 KiB": (json.dumps(GOOD | {"job_id": "bad/large", "commands": ["#" * 65 * KIB]}), "65,536"),
    "noise": (NOISE, "the message is 921,600 bytes long"),
    "negative retry": (json.dumps(GOOD | {"job_id": "bad/retry", "retry": "-1"}), "retry"),
    "timeout of three days": (json.dumps(GOOD | {"job_id": "bad/time", "timeout_seconds": 259_200}), "timeout_seconds"),
}
UNKNOWN = "No-Such-Document"


@pytest.fixture(scope="module")
def queue(account: Account) -> Trio:
    return account.trio("bad")


@pytest.fixture(scope="module")
def message_ids(account: Account, queue: Trio) -> dict[str, str]:
    """All bad messages, then a good one, on one queue with one worker; the good one's job has ended."""
    sqs = account.client("sqs")
    sent = {
        name: sqs.send_message(QueueUrl=queue.url, MessageBody=body)["MessageId"] for name, (body, _) in BAD.items()
    }
    account.send(queue, **(GOOD | {"job_id": "bad/document", "ssm_document": UNKNOWN, "retry": "3"}))
    account.send(queue, **GOOD)
    account.launch(queue)
    account.ended("bad/document", "bad/good", *(f"rejected/{message_id}" for message_id in sent.values()))
    return sent


@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_ends_on_the_failed_queue_with_its_reason_and_its_body(
    account: Account, queue: Trio, message_ids: dict[str, str], name: str
) -> None:
    body, reason = BAD[name]
    message_id = message_ids[name]
    told = account.told_of(queue.failed, f"rejected/{message_id}")
    assert (told["status"], told["run_id"], told["queue"]) == ("REJECTED", message_id, queue.name)
    assert reason in told["status_reason"]
    if len(body) <= 64 * KIB:
        assert told["body"] == body
        return
    assert told["body"] == body[: 4 * KIB]
    assert told["body_sha256"] == hashlib.sha256(body.encode()).hexdigest()
    bucket, _, key = told["body_uri"].removeprefix("s3://").partition("/")
    assert account.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read().decode() == body


def test_an_unknown_document_fails_the_job_without_a_retry(
    account: Account, queue: Trio, message_ids: dict[str, str]
) -> None:
    told = account.told_of(queue.failed, "bad/document")
    assert (told["status"], told["attempt"], told["retries"]) == ("FAILED", 1, "0 of 3")
    assert UNKNOWN in told["status_reason"]


def test_the_worker_goes_on_to_the_next_job(account: Account, queue: Trio, message_ids: dict[str, str]) -> None:
    job = account.record("bad/good")
    assert (job["status"], job["output"], job["retries"]) == ("SUCCEEDED", "good\n", "0 of 1")
    assert account.record("bad/document")["worker_id"] == job["worker_id"]
    assert account.waiting(queue.url) == 0
    assert account.told_of(queue.finished, "bad/good")["status"] == "SUCCEEDED"
