"""A work pool as its users meet it: secrets, values that cannot be, flows from anywhere."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from deployed import SCHEDULER, DeployedStack
from fleet_client import eventually
from prefect import flow
from prefect.client.schemas.actions import WorkPoolUpdate
from prefect.client.schemas.objects import WorkPoolStorageConfiguration
from prefect.exceptions import PrefectHTTPStatusError
from prefect.filesystems import LocalFileSystem
from prefect_stack import ENVIRONMENT
from worker_stack import Pool, WorkerProcess, alive, working

from sched_plugins.client import EnvironmentClient, SchedulerClient
from sched_plugins.core import names
from sched_plugins.prefect import serverless_scheduler

KEY = "pnu_planted-api-key-of-this-test"
AUTH = "admin:planted-auth-string"
OWN = "planted-variable-of-a-deployment"
SECRETS = (KEY, AUTH, OWN)
PLANTED = ("planted-to-be-found-in-a-command", "planted-to-be-found-in-a-variable")
PREFECT_KINDS: dict[str, dict[str, Any]] = {
    "logs": {"limit": 200, "sort": "TIMESTAMP_DESC"},
    "artifacts": {"limit": 200, "sort": "CREATED_DESC"},
    "events": {"limit": 50},
}
"""What Prefect shows of runs, and how the newest of each is asked for."""
NO_WORKERS = f"{SCHEDULER}-job-queue"
_PACKED = re.compile(rb"H4sI[A-Za-z0-9+/=]{40,}")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, prefect_and_stack: DeployedStack) -> Pool:
    return Pool(tmp_path_factory.mktemp("pool"), prefect_and_stack)


@pytest.fixture(scope="module")
def worker(pool: Pool) -> Iterator[WorkerProcess]:
    with working(pool, PREFECT_API_KEY=KEY, PREFECT_API_AUTH_STRING=AUTH) as found:
        yield found


def found_in(data: bytes, secrets: Sequence[str]) -> set[str]:
    """Which of the secrets are in some data, or in what is packed in it as scripts of jobs are."""
    found = {secret for secret in secrets if secret.encode() in data}
    for packed in _PACKED.findall(data):
        try:
            found |= found_in(gzip.decompress(base64.b64decode(packed)), secrets)
        except (binascii.Error, OSError, EOFError):
            continue
    return found


class Search:
    """Looks wherever something of a job is kept or shown."""

    def __init__(self, pool: Pool, *texts: Path, secrets: Sequence[str] = SECRETS) -> None:
        self.stack = pool.stack
        self.pool = pool
        self.texts = texts
        self.secrets = secrets
        kinds = ("queues", "tables", "commands", "S3", "files", *PREFECT_KINDS)
        self.found: dict[str, set[str]] = {kind: set() for kind in kinds}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the machines' files and at all processes' command lines, for the length of a block."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.05):
                for path in (*_files(Path(self.stack.info.state_dir) / "instances"), *_command_lines()):
                    self.look_at_file(path)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def look_at_queues(self, job_id: str) -> None:
        """Look at what waits in all queues, and leave it there, until this job is among it."""

        def look() -> bool:
            told = ""
            for url in self.stack.sqs.list_queues()["QueueUrls"]:
                got = self.stack.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)
                told += json.dumps(got.get("Messages", []), default=str)
            self._look_at("queues", told.encode())
            return job_id in told

        eventually(look, 60)

    def look_at_file(self, path: Path) -> None:
        """Look at a file, which may be gone."""
        try:
            self._look_at("files", path.read_bytes())
        except OSError:
            return

    def look(self) -> None:
        """Look at what stays."""
        for table in (names.job_table(SCHEDULER), names.slot_table(SCHEDULER)):
            items = self.stack.dynamodb.scan(TableName=table)["Items"]
            self._look_at("tables", json.dumps(items).encode())
        for command in self.stack.ssm.list_commands()["Commands"]:
            told = [command]
            for instance in command.get("InstanceIds", ()):
                asked = {"CommandId": command["CommandId"], "InstanceId": instance}
                told.append(self.stack.ssm.get_command_invocation(**asked))
            self._look_at("commands", json.dumps(told, default=str).encode())
        for bucket in self.stack.s3.list_buckets()["Buckets"]:
            for entry in self.stack.s3.list_objects_v2(Bucket=bucket["Name"]).get("Contents", ()):
                body = self.stack.s3.get_object(Bucket=bucket["Name"], Key=entry["Key"])["Body"].read()
                self._look_at("S3", body)
        for kind, asked in PREFECT_KINDS.items():
            self._look_at(kind, self.pool.client.request("POST", f"/{kind}/filter", json=asked).content)
        for path in (*self.texts, *_files(Path(self.stack.info.state_dir))):
            self.look_at_file(path)

    def _look_at(self, kind: str, data: bytes) -> None:
        self.found[kind] |= found_in(data, self.secrets)


def _files(folder: Path) -> Iterator[Path]:
    for where, _, names_ in os.walk(folder):
        yield from (Path(where) / name for name in names_)


def _command_lines() -> Iterator[Path]:
    return Path("/proc").glob("[0-9]*/cmdline")


def test_no_secret_is_in_queue_table_command_history_logs_or_files(pool: Pool, worker: WorkerProcess) -> None:
    search = Search(pool, worker.log)
    with search.watching():
        [run] = pool.start(pool.standin(1.0, queue=NO_WORKERS, env={"OWN": OWN}))
        eventually(lambda: pool.record(run).get("status") == "QUEUED", 90)
        search.look_at_queues(f"prefect-{run.id}")
        assert len(pool.secrets(run)) == 1
        pool.stack.worker(NO_WORKERS)
        pool.becomes(run, "COMPLETED", seconds=90)
        pool.stack.ended(f"prefect-{run.id}")
    logs_of_run = {"logs": {"flow_run_id": {"any_": [str(run.id)]}}}
    eventually(lambda: bool(pool.client.request("POST", "/logs/filter", json=logs_of_run).json()), 30)
    search.look()
    assert search.found == {kind: set() for kind in search.found}
    eventually(lambda: not pool.secrets(run), 60)


def test_the_search_finds_a_secret_that_is_planted(pool: Pool) -> None:
    command, variable = PLANTED
    search = Search(pool, secrets=PLANTED)
    client = SchedulerClient(SCHEDULER)
    with search.watching():
        told = client.submit({"commands": [f"echo {command}; sleep 1"], "environment": {"OWN": variable}})
        search.look_at_queues(told.job_id)
        pool.stack.worker(NO_WORKERS)
        client.wait(told, timeout=90)
    plant_in_prefect(pool, command)
    everywhere = {
        "queues": set(PLANTED), "tables": set(PLANTED), "commands": set(PLANTED), "S3": {command},
        "files": set(PLANTED), "logs": {command}, "artifacts": {command}, "events": {command},
    }  # fmt: skip

    def look() -> bool:
        search.look()
        return search.found["events"] != set()  # Prefect writes them a moment later

    eventually(look, 30)
    assert search.found == everywhere


def plant_in_prefect(pool: Pool, secret: str) -> None:
    """Write a text wherever Prefect shows what runs tell."""
    now = datetime.now(UTC).isoformat()
    log = {"name": "a logger", "level": 20, "message": f"level=INFO {secret}", "timestamp": now}
    event = {
        "id": str(uuid4()), "occurred": now, "event": "planted", "resource": {"prefect.resource.id": f"a.{secret}"},
    }  # fmt: skip
    pool.client.request("POST", "/logs/", json=[log])
    pool.client.request("POST", "/artifacts/", json={"key": "planted", "type": "markdown", "data": secret})
    pool.client.request("POST", "/events", json=[event])


def test_values_that_cannot_be_are_refused_with_the_next_step(pool: Pool, worker: WorkerProcess) -> None:
    with pytest.raises(PrefectHTTPStatusError, match=r"409|422"):
        pool.standin(timeout_seconds=0)
    refused = {
        "no-such-place": ({"environment": "no-such-place"}, "there is no environment 'no-such-place'"),
        "stack name": ({"environment": "No Stack"}, "'No Stack' cannot be a stack name"),
        "variable": ({"env": {"a b": "x"}}, "env has 'a b', which cannot be a variable"),
        "queue": ({"queue": "no-such-queue"}, "no-such-queue"),
    }
    runs = {name: pool.start(pool.standin(**variables))[0] for name, (variables, _) in refused.items()}
    for name, run in runs.items():
        done = pool.becomes(run, "CRASHED", "FAILED", "COMPLETED", seconds=90)
        assert done.state.is_crashed()
        assert refused[name][1] in str(done.state.message), done.state.message
        assert pool.record(run) == {}
        assert pool.secrets(run) == []
    assert worker.process.poll() is None


def adhoc(test: Any) -> Any:
    """Let Prefect's own warnings about flows that are submitted from anywhere pass."""
    for ignored in ("ignore:Ad-hoc flow submission:FutureWarning", "ignore:unclosed transport:ResourceWarning"):
        test = pytest.mark.filterwarnings(ignored)(test)
    return test


@pytest.fixture(scope="module")
def bundles(pool: Pool) -> Pool:
    """The pool with storage for bundles."""
    bucket = EnvironmentClient(ENVIRONMENT).bucket
    pool.client.update_work_pool(
        pool.name,
        WorkPoolUpdate(
            storage_configuration=WorkPoolStorageConfiguration(
                bundle_upload_step={"prefect_aws.bundles.upload": {"bucket": bucket}},
                bundle_execution_step={"prefect_aws.bundles.execute": {"bucket": bucket}},
            )
        ),
    )
    return pool


@adhoc
def test_a_decorated_flow_runs_as_a_job_wherever_it_is_called(bundles: Pool) -> None:
    LocalFileSystem(basepath=str(bundles.folder / "results")).save(bundles.name)

    @serverless_scheduler(work_pool=bundles.name, launcher=[sys.executable], env={"COLOUR": "green"})
    @flow(persist_result=True, result_storage=f"local-file-system/{bundles.name}")
    def where_am_i(number: int) -> tuple[int, int, str]:
        return os.getpid(), number + 1, os.environ["COLOUR"]

    pid, number, colour = where_am_i(41)
    assert (number, colour) == (42, "green")
    assert pid != os.getpid()
    eventually(lambda: not alive(pid))
    listed = EnvironmentClient(ENVIRONMENT).list()
    [job] = [job for job in listed if job.spec.tags.get("prefect_flow_name") == "where-am-i"]
    assert job.status == "SUCCEEDED"
    run = bundles.client.read_flow_run(UUID(job.spec.tags["prefect_flow_run_id"]))
    assert run.infrastructure_pid == job.job_id
    assert bundles.secrets(run) == []


@adhoc
def test_submit_does_not_wait_and_the_pools_worker_tells_of_a_crash(bundles: Pool) -> None:
    @serverless_scheduler(work_pool=bundles.name, launcher=[sys.executable], python="/no/such/python")
    @flow
    def unheard() -> None: ...

    future = unheard.submit()
    run = bundles.client.read_flow_run(future.flow_run_id)
    assert run.state is not None
    assert run.state.is_pending()
    assert run.infrastructure_pid == f"prefect-{run.id}"
    bundles.stack.ended(f"prefect-{run.id}")
    assert bundles.state(run) == "PENDING"
    # Nobody tells Prefect of the end but a worker of the pool, which finds what its submitter has left alone.
    with working(bundles):
        done = bundles.becomes(run, "CRASHED", seconds=90)
    assert f"Job 'prefect-{run.id}' ended FAILED" in str(done.state.message)
