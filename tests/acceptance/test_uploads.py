"""Many jobs by uploading folders: workers come, as many as are allowed, and go again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from account import Account, eventually
from conftest import MAX_WORKERS

FOLDERS = 200
COPIED_FOLDERS = int(os.environ.get("SCHED_TEST_COPIED_FOLDERS", "16"))
SCRIPT = b"#!/bin/sh\nset -e\ncp input.txt output.txt\n"


@pytest.fixture(scope="module")
def bucket(account: Account, environment: str) -> str:
    outputs = account.client("cloudformation").describe_stacks(StackName=environment)["Stacks"][0]["Outputs"]
    return next(str(one["OutputValue"]) for one in outputs if one["OutputKey"] == "BucketName")


@contextmanager
def sampling(account: Account, environment: str) -> Iterator[list[int]]:
    """The number of the environment's workers, looked at several times a second."""
    samples: list[int] = []
    stop = threading.Event()

    def look() -> None:
        autoscaling = account.client("autoscaling")
        while not stop.wait(0.2):
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


def upload(s3: Any, bucket: str, prefix: str, count: int) -> list[str]:
    """What a user's script does: each folder's input first, its executable last."""
    for number in range(count):
        folder = f"{prefix}/folder-{number:03}"
        s3.put_object(Bucket=bucket, Key=f"{folder}/input.txt", Body=f"input {number}\n".encode())
        s3.put_object(Bucket=bucket, Key=f"{folder}/run.sh", Body=SCRIPT)
    return [f"{prefix}/folder-{number:03}" for number in range(count)]


def content(s3: Any, bucket: str, prefix: str) -> dict[str, bytes]:
    """Every object below a prefix."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [one["Key"] for page in pages for one in page.get("Contents", [])]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def check(account: Account, bucket: str, folders: list[str]) -> None:
    """Every folder's job succeeded at the first attempt, and the folder holds its output."""
    jobs = account.ended(*(f"s3://{bucket}/{folder}/run.sh" for folder in folders))
    assert {(job["status"], job["attempt"]) for job in jobs.values()} == {("SUCCEEDED", 1)}
    prefix = f"{folders[0].partition('/')[0]}/"
    found = content(account.client("s3"), bucket, prefix)
    outputs = {key: body for key, body in found.items() if key.endswith("/output.txt")}
    assert outputs == {f"{folder}/output.txt": f"input {i}\n".encode() for i, folder in enumerate(folders)}
    files = ["_sched/SUCCEEDED.json", "input.txt", "output.txt", "run.sh"]
    assert sorted(found) == sorted(f"{folder}/{file}" for folder in folders for file in files)


def test_two_hundred_uploaded_folders_end_with_their_outputs_and_workers_come_and_go(
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


@pytest.mark.parametrize("verb", ["cp", "sync"])
def test_folders_copied_from_another_bucket_do_the_same(
    account: Account, environment: str, bucket: str, verb: str, tmp_path: Path
) -> None:
    queue, s3, source = account.trio(environment), account.client("s3"), f"source-of-{verb}"
    s3.create_bucket(Bucket=source)
    folders = upload(s3, source, f"copied-by-{verb}", COPIED_FOLDERS)
    with sampling(account, environment) as workers:
        recursive = ["--recursive"] if verb == "cp" else []
        account.aws("s3", verb, *recursive, f"s3://{source}", f"s3://{bucket}", "--only-show-errors")
        check(account, bucket, folders)
        eventually(lambda: not account.alive(queue) and workers[-1] == 0)
    assert max(workers) == min(MAX_WORKERS, COPIED_FOLDERS)
