"""Many jobs by uploading folders: workers come, as many as are allowed, and go again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from account import Account, eventually
from conftest import MAX_WORKERS

FOLDERS = int(os.environ.get("SCHED_TEST_UPLOADED_FOLDERS", "32"))
# More cost time alone: SCHED_TEST_UPLOADED_FOLDERS=200 is the size that users ask about.
COPIED_FOLDERS = int(os.environ.get("SCHED_TEST_COPIED_FOLDERS", "12"))
SCRIPT = b"#!/bin/sh\nset -e\ncp input.txt output.txt\n"


@pytest.fixture(scope="module")
def bucket(account: Account, environment: str) -> str:
    outputs = account.client("cloudformation").describe_stacks(StackName=environment)["Stacks"][0]["Outputs"]
    return next(str(one["OutputValue"]) for one in outputs if one["OutputKey"] == "BucketName")


@contextmanager
def sampling(account: Account, environment: str) -> Iterator[list[int]]:
    """The number of the environment's workers, looked at twice a second."""
    samples: list[int] = []
    stop = threading.Event()

    def look() -> None:
        autoscaling = account.client("autoscaling")
        while not stop.wait(0.5):
            [group] = autoscaling.describe_auto_scaling_groups(
                AutoScalingGroupNames=[f"{environment}-autoscaling-group"]
            )["AutoScalingGroups"]
            samples.append(len(group["Instances"]))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def upload(s3: Any, bucket: str, prefix: str, count: int, script: bytes = SCRIPT) -> list[str]:
    """What a user's script does: each folder's input first, its executable last."""
    for number in range(count):
        folder = f"{prefix}/folder-{number:03}"
        s3.put_object(Bucket=bucket, Key=f"{folder}/input.txt", Body=f"input {number}\n".encode())
        s3.put_object(Bucket=bucket, Key=f"{folder}/run.sh", Body=script)
    return [f"{prefix}/folder-{number:03}" for number in range(count)]


def keys(s3: Any, bucket: str, prefix: str) -> set[str]:
    """Every key below a prefix."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return {one["Key"] for page in pages for one in page.get("Contents", [])}


def check(account: Account, bucket: str, folders: list[str]) -> None:
    """Every folder's job succeeded at the first attempt, and the folder holds its output and its manifest."""
    jobs = account.ended(*(f"s3://{bucket}/{folder}/run.sh" for folder in folders))
    assert {(job["status"], job["attempt"]) for job in jobs.values()} == {("SUCCEEDED", 1)}
    s3, prefix = account.client("s3"), f"{folders[0].partition('/')[0]}/"
    files = ["_sched/SUCCEEDED.json", "input.txt", "output.txt", "run.sh"]
    wanted = {f"{folder}/{file}" for folder in folders for file in files}
    eventually(lambda: keys(s3, bucket, prefix) >= wanted)
    assert keys(s3, bucket, prefix) == wanted
    for number, folder in enumerate(folders):
        assert s3.get_object(Bucket=bucket, Key=f"{folder}/output.txt")["Body"].read() == f"input {number}\n".encode()


def test_uploaded_folders_end_with_their_outputs_and_workers_come_and_go(
    account: Account, environment: str, bucket: str
) -> None:
    queue = account.trio(environment)
    eventually(lambda: not account.alive(queue))
    with sampling(account, environment) as workers:
        eventually(lambda: workers)
        folders = upload(account.client("s3"), bucket, "uploaded", FOLDERS)
        check(account, bucket, folders)
        eventually(lambda: not account.alive(queue) and workers[-1] == 0)
    assert (workers[0], max(workers), workers[-1]) == (0, MAX_WORKERS, 0)
    finished = {f"s3://{bucket}/{folder}/run.sh" for folder in folders}
    eventually(lambda: finished <= {one["job_id"] for one in account.told(queue.finished)})


def test_folders_copied_from_another_bucket_do_the_same(account: Account, environment: str, bucket: str) -> None:
    queue, s3, source = account.trio(environment), account.client("s3"), "folders-of-another-team"
    s3.create_bucket(Bucket=source)
    folders = upload(s3, source, "copied", COPIED_FOLDERS, SCRIPT + b"sleep 8\n")
    with sampling(account, environment) as workers:
        eventually(lambda: workers and workers[-1] == 0)
        before = len(workers) - 1
        account.aws("s3", "cp", "--recursive", f"s3://{source}", f"s3://{bucket}", "--only-show-errors")
        check(account, bucket, folders)
        eventually(lambda: not account.alive(queue) and workers[-1] == 0)
    assert (workers[before], max(workers), workers[-1]) == (0, MAX_WORKERS, 0)
