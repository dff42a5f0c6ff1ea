"""Runs ``sched`` in this process, its clients those of a test."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import typer.testing
from client_stack import NAME, REGION, ClientStack, client_stack, service, session

from sched_plugins.cli import clients
from sched_plugins.cli.main import app
from sched_plugins.client import EnvironmentClient, SchedulerClient, Status
from sched_plugins.core import names

BUCKET = "env-1-drop-job-files"

# The words of all commands are the same for each line, and to read them takes typer longer than most lines take.
typer.testing._get_command = cache(typer.testing._get_command)


@dataclass(frozen=True)
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str
    exception: BaseException | None

    @property
    def document(self) -> Any:
        """stdout, which must be one JSON document and nothing else."""
        return json.loads(self.out)


def sched(*words: str, stdin: str = "") -> Ran:
    """Run a command line."""
    result = typer.testing.CliRunner().invoke(app, list(words), input=stdin, prog_name="sched")
    unexpected = None if isinstance(result.exception, SystemExit) else result.exception
    return Ran(result.exit_code, result.stdout, result.stderr, unexpected)


@contextmanager
def cli_stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    """A scheduler ``sim``, and whatever environments are added, behind the command's clients."""
    saved = dict(os.environ)
    for name in ("SCHED_SCHEDULER", "SCHED_ENVIRONMENT", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    with client_stack(monkeypatch) as stack:
        monkeypatch.setattr(clients, "scheduler", lambda name: stack.adopt(SchedulerClient(name, session=session())))
        monkeypatch.setattr(
            clients, "environment", lambda name: stack.adopt(EnvironmentClient(name, session=session()))
        )
        try:
            yield stack
        finally:
            # Options set variables of the process.
            os.environ.clear()
            os.environ.update(saved)


@dataclass(frozen=True)
class _Jobs:
    """Jobs in every state, as the functions left them."""

    items: tuple[dict[str, Any], ...]
    requests: tuple[tuple[str, dict[str, Any]], ...]


_seen: list[_Jobs] = []
"""The jobs of the first stack of this process. Others get them as they are stored: to submit and to end them takes
moto longer than most tests."""


@contextmanager
def populated(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    """The same with an environment ``env``, and jobs in every state."""
    with cli_stack(monkeypatch) as found:
        service("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        outputs = {"EnvironmentName": "env", "SchedulerName": NAME, "BucketName": BUCKET}
        found.stacks.add("env", outputs, {"TriggerSuffix": ".sh"})
        found.functions.functions["env-submit"] = found.functions.functions["sim-submit"]
        dynamodb, table = service("dynamodb"), names.job_table(NAME)
        if not _seen:
            _submit_and_end(found)
            _seen.append(_Jobs(tuple(dynamodb.scan(TableName=table)["Items"]), tuple(found.functions.requests)))
        else:
            for item in _seen[0].items:
                dynamodb.put_item(TableName=table, Item=item)
            found.functions.requests += _seen[0].requests
        yield found


def _submit_and_end(stack: ClientStack) -> None:
    job_ids = ("good", "bad", "gone", "idle", "c1", "c2", "c3")
    stack.client.submit_many(
        {"job_id": job_id, "commands": ["x"], "retry": 1, "group_id": job_id} for job_id in job_ids
    )
    stack.end("good", exit_code=0, output="hello\n", attempts=stack.attempts("good", ""))
    stack.end("bad", Status.FAILED, exit_code=3, status_reason="exit code 3", attempt=2)
    stack.end("gone", Status.CANCELLED)
