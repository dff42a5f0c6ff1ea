"""A real Airflow whose tasks run as jobs on a laptop stack: API server, DAG processor and scheduler, each a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).parents[1] / "stack"))

from deployed import SCHEDULER, DeployedStack, deployed
from fleet_client import eventually as at_once

SOURCE = Path(__file__).parents[2] / "src"
EXECUTOR = "sched_plugins.airflow.executors.scheduler_executor.SchedulerExecutor"
JWT_SECRET = "a-secret-of-this-test-and-of-nothing-else-that-is-64-bytes-long-or-more"
PATIENCE = 180.0
"""Seconds; starting Airflow takes half a minute on two idle cores."""


def eventually(look: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """The first true value that ``look`` returns; it looks rarely, because Airflow and the stack need both cores."""

    def look_again() -> Any:
        value = look()
        if not value:
            time.sleep(0.3)
        return value

    return at_once(look_again, seconds)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Airflow:
    """Airflow's processes and its REST API."""

    def __init__(self, home: Path, stack: DeployedStack, settings: Mapping[str, str]) -> None:
        home.mkdir(parents=True)
        self.home = home
        self.stack = stack
        self.port = free_port()
        self.dags = home / "dags"
        self.dags.mkdir()
        self.logs = home / "processes"
        self.logs.mkdir()
        worker_home = home / "worker"
        worker_home.mkdir()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token = ""
        url = f"http://127.0.0.1:{self.port}"
        for_all = {
            "PYTHONPATH": str(SOURCE),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            **for_all,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTOR": f"Jobs:{EXECUTOR},LocalExecutor",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            # More than any test's tasks; the LocalExecutor beside ours starts as many processes.
            "AIRFLOW__CORE__PARALLELISM": "64",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": JWT_SECRET,
            "AIRFLOW__API_AUTH__JWT_LEEWAY": "0",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
            "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "256",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(free_port()),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            # How soon the tasks of one that was killed are adopted. On a loaded machine one that lives may say so as
            # rarely as that, and would adopt its own tasks again and again.
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__SCHED_EXECUTOR__SCHEDULER": SCHEDULER,
            # Its workers start when a test launches them, and not before.
            "AIRFLOW__SCHED_EXECUTOR__ENVIRONMENT": SCHEDULER,
            "AIRFLOW__SCHED_EXECUTOR__PYTHON": sys.executable,
            "AIRFLOW__SCHED_EXECUTOR__POLL_INTERVAL": "0.3",
            "AIRFLOW__SCHED_EXECUTOR__CONN_ID": "",
            "AIRFLOW__SCHED_EXECUTOR__WORKER_ENVIRONMENT": json.dumps({**for_all, "AIRFLOW_HOME": str(worker_home)}),
            **settings,
        }

    def run(self, *command: str) -> str:
        """Run an ``airflow`` command to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *command],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *command: str, **variables: str) -> None:
        """Start an ``airflow`` process."""
        with (self.logs / f"{command[0]}.log").open("ab") as log:
            self._processes[command[0]] = subprocess.Popen(
                [sys.executable, "-m", "airflow", *command],
                env=self.environment | variables,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a process and all that it started."""
        process = self._processes.pop(name)
        try:
            os.killpg(process.pid, number)
            process.wait(30)
        except ProcessLookupError:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)

    def close(self) -> None:
        """End all processes."""
        for name in list(self._processes):
            self.kill(name)

    @contextmanager
    def scheduling(self, **variables: str) -> Iterator[None]:
        """With a scheduler, which ends properly, for the length of a block."""
        self.start("scheduler", **variables)
        try:
            yield
        finally:
            self.kill("scheduler", signal.SIGTERM)

    def log(self, name: str) -> str:
        """What a process has written."""
        path = self.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def api(self, method: str, path: str, value: Any = None) -> Any:
        """One call of the REST API."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        body = None if value is None else json.dumps(value).encode()
        asked = Request(f"http://127.0.0.1:{self.port}{path}", data=body, method=method, headers=headers)
        with urlopen(asked, timeout=30) as reply:
            return json.load(reply)

    def healthy(self) -> bool:
        """Whether the API server answers."""
        try:
            self._token = self.api("GET", "/auth/token")["access_token"]
        except (URLError, OSError):
            return False
        return True

    def trigger(self, dag_id: str) -> str:
        """Start a run of a DAG, once Airflow knows the DAG; its id."""

        def known() -> str:
            assert not (errors := self.api("GET", "/api/v2/importErrors")["import_errors"]), errors
            assert all(one.poll() is None for one in self._processes.values()), self.log("scheduler")[-5000:]
            try:
                found = self.api("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})
            except URLError:
                return ""
            return str(found["dag_run_id"])

        return str(eventually(known, PATIENCE))

    def state(self, dag_id: str, run_id: str) -> str:
        """State of a run."""
        return str(self.api("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def ended(self, dag_id: str, run_id: str) -> str:
        """State of a run once it is over."""
        eventually(lambda: self.state(dag_id, run_id) in ("success", "failed"), PATIENCE)
        return self.state(dag_id, run_id)

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=500"
        found: list[dict[str, Any]] = self.api("GET", path)["task_instances"]
        return found


@contextmanager
def airflow_on_jobs(
    folder: Path, dags: Mapping[str, str], *, settings: Mapping[str, str] | None = None
) -> Iterator[Airflow]:
    """Airflow with these DAG files, without its scheduler yet, and a laptop stack, for the length of a block."""
    with ExitStack() as cleanup:
        stack = cleanup.enter_context(deployed(folder / "stack"))
        airflow = Airflow(folder / "airflow", stack, settings or {})
        cleanup.callback(airflow.close)
        for name, text in dags.items():
            (airflow.dags / name).write_text(text)
        airflow.run("db", "migrate")
        airflow.start("api-server", "--host", "127.0.0.1", "--port", str(airflow.port), "--workers", "1")
        airflow.start("dag-processor")
        eventually(airflow.healthy, PATIENCE)
        yield airflow
