"""A work pool on the laptop stack, real worker processes that serve it, and flow runs for them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import prefect
from deployed import PATIENCE, SCHEDULER, DeployedStack
from fleet_client import eventually
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling, Running, Scheduled
from prefect_stack import ENVIRONMENT

from sched_plugins.prefect.laptop import with_defaults
from sched_plugins.prefect.worker.worker import SchedulerWorker

STANDIN = Path(__file__).parent / "standin_flow.py"
"""What a job runs instead of ``prefect flow-run execute``, which takes ten seconds."""
FLOWS = """
import os, time
from pathlib import Path
from prefect import flow, runtime

@flow
def real(name: str = "you", seconds: float = 0.0) -> str:
    Path(os.environ["SEEN"]).write_text(f"{os.getpid()} {os.environ['COLOUR']} {name}")
    time.sleep(seconds)
    if name == "nobody":
        raise ValueError("nobody is there")
    return "hello " + name

@flow
def counted(ran: str, seconds: float, way: str) -> None:
    with Path(ran).open("a") as file:
        file.write(f"{runtime.flow_run.id} {os.getpid()}\\n")
    time.sleep(seconds)
    if way == "failed":
        raise ValueError(way)
    if way != "completed":
        os._exit(int(way))
"""


@prefect.task
def _starts() -> None:
    """Stands for a task that starts a flow run."""


@prefect.flow
def _inner() -> None:
    """Stands for a flow within another one's process."""


class Pool:
    """A work pool, and what its flow runs leave behind."""

    def __init__(self, folder: Path, stack: DeployedStack, **defaults: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.stack = stack
        self.name = f"pool-{uuid4().hex[:8]}"
        self.ran = folder / "ran"
        (folder / "flows.py").write_text(FLOWS)
        variables = {
            "scheduler": SCHEDULER, "environment": ENVIRONMENT, "python": sys.executable, "timeout_seconds": 600,
            **defaults,
        }  # fmt: skip
        template = with_defaults(SchedulerWorker.get_default_base_job_template(), variables)
        self.client: SyncPrefectClient = get_client(sync_client=True)
        self.client.create_work_pool(
            WorkPoolCreate(name=self.name, type=SchedulerWorker.type, base_job_template=template)
        )
        self._deployments: dict[str, UUID] = {}

    def deployment(
        self, entrypoint: str = "flows.py:real", parameters: dict[str, Any] | None = None, **job_variables: Any
    ) -> UUID:
        """A deployment of the pool with these variables."""
        flow_id = self.client.create_flow_from_name(entrypoint.partition(":")[2])
        return self.client.create_deployment(
            flow_id=flow_id,
            name=f"d-{uuid4().hex[:8]}",
            work_pool_name=self.name,
            entrypoint=entrypoint,
            path=str(self.folder),
            parameters=parameters,
            job_variables=job_variables,
        )

    def standin(self, seconds: float = 0.0, way: str = "completed", **variables: Any) -> UUID:
        """A deployment whose flow runs are over in a moment, or after so many seconds."""
        command = f"exec {sys.executable} {STANDIN} {self.ran} {seconds} {way}"
        return self.deployment(command=command, **variables)

    def counted(self, seconds: float = 0.0, way: str = "completed") -> UUID:
        """The same, but what runs is a flow, by Prefect's own program."""
        return self.deployment("flows.py:counted", parameters={"ran": str(self.ran), "seconds": seconds, "way": way})

    def start(self, deployment: UUID, count: int = 1, **options: Any) -> list[FlowRun]:
        """Flow runs that are due now."""
        return [
            self.client.create_flow_run_from_deployment(deployment, state=Scheduled(), **options) for _ in range(count)
        ]

    def within(self, parent: FlowRun) -> UUID:
        """A task run of a flow run, for another flow run that it starts."""
        return self.client.create_task_run(_starts, flow_run_id=parent.id, dynamic_key=uuid4().hex, state=Running()).id

    def subflow(self, parent: FlowRun) -> FlowRun:
        """A flow run that goes on in the process of another one."""
        return self.client.create_flow_run(_inner, parent_task_run_id=self.within(parent), state=Running())

    def read(self, run: FlowRun) -> FlowRun:
        """A flow run as it is now."""
        return self.client.read_flow_run(run.id)

    def state(self, run: FlowRun) -> str:
        """Type of a flow run's state."""
        found = self.read(run).state
        assert found is not None
        return str(found.type.value)

    def becomes(self, run: FlowRun, *states: str, seconds: float = PATIENCE) -> FlowRun:
        """A flow run once it is in one of these states."""

        def look() -> bool:
            time.sleep(0.1)
            return self.state(run) in states

        eventually(look, seconds)
        return self.read(run)

    def cancel(self, run: FlowRun) -> None:
        """Cancel a flow run as a user does."""
        self.client.set_flow_run_state(run.id, Cancelling())

    def ran_runs(self) -> list[tuple[str, int]]:
        """Flow run id and process of each execution of a stand-in."""
        if not self.ran.exists():
            return []
        lines = [line.split() for line in self.ran.read_text().splitlines()]
        return [(line[0], int(line[1])) for line in lines if len(line) == 2]

    def record(self, run: FlowRun) -> dict[str, Any]:
        """The record of a flow run's job; empty while there is none."""
        return self.stack.record(f"prefect-{run.id}")

    def secrets(self, *runs: FlowRun) -> list[str]:
        """Names of the secrets of these flow runs."""
        pages = self.stack.client("ssm").get_paginator("describe_parameters").paginate()
        found = [one["Name"] for page in pages for one in page["Parameters"]]
        return [name for name in found if any(str(run.id) in name for run in runs)]


class WorkerProcess:
    """``prefect worker start``, in a process of its own."""

    def __init__(self, pool: Pool, *arguments: str, name: str = "", **variables: str) -> None:
        self.name = name or f"w-{uuid4().hex[:6]}"
        self.log = pool.folder / f"{self.name}-{uuid4().hex[:4]}.log"
        command = [
            sys.executable, "-m", "prefect", "worker", "start", "--pool", pool.name, "--type", SchedulerWorker.type,
            "--name", self.name, *arguments,
        ]  # fmt: skip
        settings = {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_CLIENT_MAX_RETRIES": "5", **variables}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env={**os.environ, **settings}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(30)

    def close(self) -> None:
        """End it properly."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError(self.text()) from None

    def text(self) -> str:
        """What it has written."""
        return self.log.read_text(errors="replace")


@contextmanager
def working(pool: Pool, *arguments: str, **variables: str) -> Iterator[WorkerProcess]:
    """A worker for the length of a block."""
    worker = WorkerProcess(pool, *arguments, **variables)
    try:
        yield worker
    except BaseException:
        print(worker.text()[-6000:])
        raise
    finally:
        worker.close()


def alive(pid: int) -> bool:
    """Whether a process is there, and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
