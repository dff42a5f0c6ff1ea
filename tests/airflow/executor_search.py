"""Looks for tokens in every place where something of a job is kept or shown."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deployed import SCHEDULER
from executor_stack import Airflow

from sched_plugins.core import names

_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}")
_PACKED = re.compile(rb"H4sI[A-Za-z0-9+/=]{40,}")
Found = dict[str, set[str]]
"""Tokens by the kind of place."""


def tokens(data: bytes) -> set[str]:
    """The tokens in some data, and in what is packed in it as scripts of jobs are."""
    found = {one.decode() for one in _TOKEN.findall(data)}
    for packed in _PACKED.findall(data):
        try:
            found |= tokens(gzip.decompress(base64.b64decode(packed)))
        except (binascii.Error, OSError, EOFError):
            continue
    return found


class Search:
    """What was seen so far."""

    def __init__(self, airflow: Airflow) -> None:
        self._airflow = airflow
        self._stack = airflow.stack
        self.found: Found = {kind: set() for kind in ("queues", "tables", "commands", "S3", "logs", "processes")}

    def _look_at(self, kind: str, data: bytes) -> None:
        self.found[kind] |= tokens(data)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at all processes' command lines and at the workers' files, over and over, for the length of a block.

        Both are gone soon: a worker's folder goes with the worker.
        """
        over = threading.Event()
        stack = self._airflow.home.parent / "stack"

        def watch(kind: str, pause: float, paths: Callable[[], Iterable[Path]]) -> None:
            while not over.wait(pause):
                for path in paths():
                    self._look_at_file(kind, path)

        watched = (
            ("processes", 0.02, lambda: Path("/proc").glob("[0-9]*/cmdline")),
            ("logs", 0.2, lambda: _files(stack / "instances")),
        )
        threads = [threading.Thread(target=watch, args=one) for one in watched]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _look_at_file(self, kind: str, path: Path) -> None:
        try:
            self._look_at(kind, path.read_bytes())
        except OSError:  # Gone, or no file.
            return

    def look_at_queues(self) -> int:
        """Look at what waits in all queues, and leave it there; the number of messages."""
        seen = 0
        for url in self._stack.sqs.list_queues()["QueueUrls"]:
            got = self._stack.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
            for message in got.get("Messages", ()):
                seen += 1
                self._look_at("queues", json.dumps(message).encode())
        return seen

    def look_everywhere_else(self) -> None:
        """Look at tables, commands, buckets and files."""
        for table in (names.job_table(SCHEDULER), names.slot_table(SCHEDULER)):
            items = self._stack.dynamodb.scan(TableName=table)["Items"]
            self._look_at("tables", json.dumps(items).encode())
        ssm = self._stack.client("ssm")
        for command in ssm.list_commands()["Commands"]:
            self._look_at("commands", json.dumps(command, default=str).encode())
            for instance in command.get("InstanceIds", ()):
                asked = {"CommandId": command["CommandId"], "InstanceId": instance}
                self._look_at("commands", json.dumps(ssm.get_command_invocation(**asked), default=str).encode())
        s3 = self._stack.s3
        for bucket in s3.list_buckets()["Buckets"]:
            for entry in s3.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
                self._look_at("S3", s3.get_object(Bucket=bucket["Name"], Key=entry["Key"])["Body"].read())
        for path in _files(self._airflow.home.parent):
            # Airflow's own database is not looked at; the rest is what processes write.
            if not path.name.startswith("airflow.db"):
                self._look_at_file("logs", path)


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, though some go meanwhile."""
    for where, _, names_ in os.walk(folder):
        yield from (Path(where) / name for name in names_)
