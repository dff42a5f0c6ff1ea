"""One ``airflow standalone`` for the tests of the DAGs, as ``make airflow`` starts it, and what users do with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, build_opener

import psutil

from sched_plugins.errors import LaptopStackError
from sched_plugins.local import processes
from sched_plugins.local.airflow import STOP_SECONDS, LocalAirflow, running

TOP = Path(__file__).parents[2]
PATIENCE = 300.0
"""Seconds for a DAG run; four stages take half a minute on two idle cores."""


class Standalone:
    """What users do with Airflow, by its REST API and its command line."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self.airflow = airflow
        self._token = str(airflow.request("GET", "/auth/token", token="")["access_token"])
        self._triggerer: subprocess.Popen[bytes] | None = None

    def api(self, method: str, path: str, value: Any = None) -> Any:
        """One call of the REST API; again if SQLite was locked by another process, which undid it."""
        for _ in range(5):
            try:
                return self.airflow.request(method, f"/api/v2{path}", value, token=self._token)
            except LaptopStackError as error:
                if not (
                    isinstance(error.__cause__, HTTPError) and error.__cause__.code == HTTPStatus.INTERNAL_SERVER_ERROR
                ):
                    raise
                time.sleep(1)
        return self.airflow.request(method, f"/api/v2{path}", value, token=self._token)

    def knows(self, dag_id: str) -> None:
        """Wait until Airflow has read a DAG's file."""

        def look() -> bool:
            assert not (errors := self.api("GET", "/importErrors")["import_errors"]), errors
            try:
                return bool(self.api("GET", f"/dags/{dag_id}"))
            except LaptopStackError:
                return False

        eventually(look)

    def trigger(self, dag_id: str, **conf: Any) -> str:
        """Start a run of a DAG; its id."""
        self.knows(dag_id)
        run = self.api("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """All runs of a DAG, the oldest first."""
        found: list[dict[str, Any]] = self.api("GET", f"/dags/{dag_id}/dagRuns?order_by=run_after")["dag_runs"]
        return found

    def ended(self, dag_id: str, run_id: str) -> str:
        """State of a run once it is over."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}"

        def state() -> str:
            found = str(self.api("GET", path)["state"])
            return found if found in ("success", "failed") else ""

        return str(eventually(state))

    def tasks(self, dag_id: str, run_id: str) -> dict[tuple[str, int], str]:
        """States of a run's task instances, by task id and map index."""
        found = self.api("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances?limit=200")["task_instances"]
        return {(one["task_id"], one["map_index"]): str(one["state"]) for one in found}

    def task(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """A task instance: its ``state``, ``try_number``, ``pid`` and so on."""
        found: dict[str, Any] = self.api("GET", f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}")
        return found

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task as failed or as a success, as the buttons of its page do."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}"
        self.api("PATCH", path, {"new_state": state})

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Clear a task, whatever its state, as the button of its page does."""
        what = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, "task_ids": [task_id]}
        self.api("POST", f"/dags/{dag_id}/clearTaskInstances", what)

    def kill_triggerer(self) -> None:
        """SIGKILL the triggerer with all of its processes, and start another one, as whoever supervises it would."""
        own = processes.marked(processes.STACK_MARK, self.airflow.environment[processes.STACK_MARK])
        found = [one for one in map(psutil.Process, own) if "triggerer" in one.cmdline()]
        assert found, f"no triggerer among the processes {own}"
        below = [child for one in found for child in one.children(recursive=True)]
        pids = {one.pid for one in (*found, *below)}
        for pid in pids:
            processes.send(pid, signal.SIGKILL)
        assert processes.wait_until(lambda: not any(map(processes.start_time, pids)), STOP_SECONDS)
        if self._triggerer is not None:
            self._triggerer.wait(STOP_SECONDS)
        with (self.airflow.home / "triggerer.log").open("ab") as log:
            self._triggerer = subprocess.Popen(
                [sys.executable, "-m", "airflow", "triggerer"],
                env=dict(self.airflow.environment), cwd=self.airflow.home, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def close(self) -> None:
        """Collect the triggerer that was started here, which ends with all else of this Airflow."""
        if self._triggerer is not None:
            self._triggerer.wait(STOP_SECONDS)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """A value that a task has handed on."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true"
        return self.api("GET", path)["value"]

    def log(self, dag_id: str, run_id: str, task_id: str) -> str:
        """The log of a task's last try."""
        path = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{task_id}"
        path += f"/logs/{self.api('GET', path)['try_number']}?full_content=true"
        return "\n".join(str(line.get("event", line)) for line in self.api("GET", path)["content"])

    def s3(self, uri: str) -> bytes:
        """An object of the laptop stack."""
        url = f"{self.airflow.stack.endpoint}/{quote(uri.removeprefix('s3://'))}"
        with build_opener(ProxyHandler({})).open(url) as reply:
            found: bytes = reply.read()
        return found

    def command(self, *arguments: str, **settings: str) -> str:
        """Run an ``airflow`` command to its end; what it wrote."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self.airflow.environment | settings, cwd=self.airflow.home, capture_output=True, text=True, check=False,
            timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@contextmanager
def standalone(folder: Path) -> Iterator[Standalone]:
    """Airflow with the DAGs of this repository and their pipeline, for the length of a block."""
    paths = [str(metadata(folder / "metadata")), str(TOP / "src"), os.environ.get("PYTHONPATH", "")]
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # How long the triggers of one that was killed wait for another.
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    }
    for name in ("airflow_dags", "pipelines"):  # tests add DAGs of their own
        shutil.copytree(TOP / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    dags, pipelines = folder / "airflow_dags", [folder / "pipelines" / "cylinder_flow"]
    with ExitStack() as last, running(dags, pipelines, state_dir=folder, settings=settings) as airflow:
        found = Standalone(airflow)
        last.callback(found.close)
        yield found


def metadata(folder: Path) -> Path:
    """A folder with this package's entry points as they are now, also where an earlier version is installed."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    found = folder / "sched_plugins-0.1.0.dist-info"
    found.mkdir(parents=True)
    told = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (found / "METADATA").write_text(told)
    points = ((group, project["entry-points"][group]) for group in ("apache_airflow_provider", "airflow.plugins"))
    texts = (f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in one.items()) for group, one in points)
    (found / "entry_points.txt").write_text("".join(texts))
    return folder


def eventually(look: Any, seconds: float = PATIENCE) -> Any:
    """The first true value that ``look`` returns; it looks rarely, because Airflow and the stack need both cores."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"nothing came within {seconds:g} s"
        time.sleep(0.5)
    return value
