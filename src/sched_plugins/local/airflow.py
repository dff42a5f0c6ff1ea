"""A real Airflow on this machine beside a laptop stack: what ``make airflow`` starts.

``airflow standalone`` runs as a process of its own, with a home, a database and ports of its own, DAG files copied
into that home, and the connection ``aws_default`` leading to the stack. This module itself needs no Airflow.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from sched_plugins.errors import LaptopStackError, SchedulerError

from . import lifecycle, processes
from .state import StackInfo, StateFolder

SCHEDULER: Final = "sched-airflow"
"""Stack name of the scheduler that is deployed."""
START_SECONDS: Final = 300.0
"""How long Airflow may take until it answers: half a minute on two idle cores, more when it is installed newly."""
STOP_SECONDS: Final = 40.0
"""How long Airflow may take to end after SIGINT before it is killed (a dozen seconds, usually)."""
_STANDALONE: Final = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("airflow", run_name="__main__", alter_sys=True)
"""
"""``airflow``, which SIGINT ends, also where that came in ignored, as in what a shell runs in its background."""
_COMPONENTS: Final = ("metadatabase", "scheduler", "triggerer", "dag_processor")


@dataclass(frozen=True, slots=True)
class LocalAirflow:
    """An Airflow that runs.

    ``url``: where its pages are; nobody has to log in. ``home``: its ``AIRFLOW_HOME``, with ``dags/``, ``pipelines/``
    and ``airflow.log``, the output of all its processes. ``environment``: the variables with which an ``airflow``
    command is one of this Airflow's. ``stack``: the laptop stack that it uses.
    """

    url: str
    home: Path
    environment: Mapping[str, str]
    stack: StackInfo

    @property
    def log(self) -> Path:
        """The output of all its processes."""
        return self.home / "airflow.log"

    def request(self, method: str, path: str, value: Any = None, *, token: str | None = None) -> Any:
        """One call of its REST API; the answer's JSON.

        ``path``: begins with ``/``, for instance ``/api/v2/dags``. ``token``: by default a new one is fetched.
        Raises ``LaptopStackError`` with Airflow's reason when it refuses, or does not answer.
        """
        if token is None:
            token = str(self.request("GET", "/auth/token", token="")["access_token"])
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        body = None if value is None else json.dumps(value).encode()
        asked = Request(self.url + path, data=body, method=method, headers=headers)  # noqa: S310 - http, ours
        try:
            with build_opener(ProxyHandler({})).open(asked, timeout=60) as reply:
                return json.load(reply)
        except HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            raise LaptopStackError(
                f"Airflow refused {method} {path} ({error.code}): {text}. Its log is {self.log}."
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            raise LaptopStackError(f"Airflow at {self.url} does not answer: {error}. Its log is {self.log}.") from error

    def is_healthy(self) -> bool:
        """Whether every one of its components runs."""
        try:
            health = self.request("GET", "/api/v2/monitor/health", token="")
        except LaptopStackError:
            return False
        return all((health.get(name) or {}).get("status") == "healthy" for name in _COMPONENTS)


@contextlib.contextmanager
def running(
    dags: str | os.PathLike[str],
    pipelines: Sequence[str | os.PathLike[str]] = (),
    *,
    state_dir: str | os.PathLike[str] | None = None,
    settings: Mapping[str, str] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[LocalAirflow]:
    """Airflow and a laptop stack with these pipelines deployed, for the length of a ``with`` block.

    ``dags``: a folder; its ``*.py`` are copied. ``pipelines``: folders with a ``pipeline.yaml`` each; copied too, to
    ``pipelines/`` beside the folder of the DAGs. ``state_dir``: as for ``lifecycle.up``; Airflow's home is its
    ``airflow/``, made anew each time. ``settings``: more variables of Airflow's environment. ``say``: told of progress.
    A stack that ran before goes on after the block. Raises ``LaptopStackError`` when Airflow is not installed, runs
    already for this state folder, or does not start.
    """
    if find_spec("airflow") is None:
        raise LaptopStackError("Airflow is not installed. Install it with `pip install 'sched-plugins[airflow]'`.")
    folder = StateFolder.locate(state_dir)
    mark = f"{folder.mark}airflow"
    if found := processes.marked(processes.STACK_MARK, mark):
        raise LaptopStackError(
            f"an Airflow runs already for {folder.path} (process {found[0]}). Stop it with Ctrl-C where it was "
            "started or with `sched local down`, or name another folder with SCHED_LOCAL_STATE."
        )
    say("starting the laptop stack")
    with lifecycle.running(folder.path) as stack, contextlib.ExitStack() as cleanup:
        home = _home(folder.path / "airflow", Path(dags), [Path(one) for one in pipelines])
        airflow = _airflow(home, stack, mark, settings or {})
        say("starting Airflow")
        process = _start(airflow)
        cleanup.callback(_stop, process, mark, say)
        _deploy(stack, pipelines, say)
        say("waiting for Airflow")
        _wait(airflow, process)
        yield airflow


def _home(home: Path, dags: Path, pipelines: Sequence[Path]) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    (home / "dags").mkdir(parents=True)
    for file in sorted(dags.glob("*.py")):
        shutil.copy2(file, home / "dags")
    for pipeline in pipelines:
        shutil.copytree(pipeline, home / "pipelines" / pipeline.name, ignore=shutil.ignore_patterns("__pycache__"))
    return home


def _airflow(home: Path, stack: StackInfo, mark: str, settings: Mapping[str, str]) -> LocalAirflow:
    ports = _free_ports(4)
    url = f"http://127.0.0.1:{ports[0]}"
    extra = {"endpoint_url": stack.endpoint, "region_name": stack.region, "scheduler": SCHEDULER}
    connection = {"conn_type": "aws", "login": "test", "password": "test", "extra": extra}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}
    environment = inherited | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        processes.STACK_MARK: mark,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports[0]),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        # A file that has changed is read within seconds; one that has not, rarely, since reading takes processor time.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports[1]),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports[2]),
        "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(ports[3]),
        # How late a worker may see that its task has deferred; until then nothing may resume it.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "SCARF_ANALYTICS": "false",
    }
    return LocalAirflow(url=url, home=home, environment=environment | dict(settings), stack=stack)


def _free_ports(number: int) -> list[int]:
    """Ports of loopback that nobody listens on, each another one."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _start(airflow: LocalAirflow) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, so that Ctrl-C in the terminal is ours to hand on."""
    with airflow.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _STANDALONE, "standalone"],
            cwd=airflow.home, env=dict(airflow.environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def _deploy(stack: StackInfo, folders: Sequence[str | os.PathLike[str]], say: Callable[[str], None]) -> None:
    from sched_plugins import deploy, pipeline

    variables = lifecycle.environment(stack)
    before = {name: os.environ.get(name) for name in (*variables, "AWS_PROFILE", "AWS_SESSION_TOKEN")}
    for name in before:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        say(f"deploying scheduler {SCHEDULER}")
        deploy.deploy_scheduler(SCHEDULER)
        for folder in folders:
            loaded = pipeline.load(Path(folder))
            say(f"deploying pipeline {loaded.name}")
            pipeline.deploy_pipeline(loaded, SCHEDULER)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _wait(airflow: LocalAirflow, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not airflow.is_healthy():
        if process.poll() is not None or time.monotonic() > deadline:
            said = airflow.log.read_text(errors="replace").strip()[-2000:]
            raise LaptopStackError(f"Airflow did not start; {airflow.log} ends with:\n{said}")
        time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes], mark: str, say: Callable[[str], None]) -> None:
    say("stopping; this takes a dozen seconds")
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass  # It is killed below, as is what it left.
    gone = processes.kill_marked(processes.STACK_MARK, mark)
    process.wait(STOP_SECONDS)
    if not gone:
        left = processes.marked(processes.STACK_MARK, mark)
        raise LaptopStackError(f"some processes of Airflow did not end: {left}. End them by their id.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything, and stop it on Ctrl-C."""
    from rich.console import Console

    parser = argparse.ArgumentParser(
        prog="python -m sched_plugins.local.airflow", description="Airflow beside a laptop stack, until Ctrl-C."
    )
    parser.add_argument("dags", help="folder with the DAG files")
    parser.add_argument("pipelines", nargs="*", help="folders of the pipelines that they run")
    options = parser.parse_args(arguments)
    console, started = Console(soft_wrap=True, highlight=False), time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim]  {text}")

    # Also where SIGINT came in ignored, as a shell starts what runs in its background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running(options.dags, options.pipelines, say=say) as airflow:
            say(f"Airflow: [bold]{airflow.url}[/bold]  (no login is needed; Ctrl-C stops everything)")
            console.print(f"          DAG files: {airflow.home / 'dags'}\n          log: {airflow.log}")
            _until_interrupted(airflow)
    except SchedulerError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}")
        return 1
    except KeyboardInterrupt:
        pass  # While it was starting.
    say("stopped")
    return 0


def _until_interrupted(airflow: LocalAirflow) -> None:
    try:
        while True:
            time.sleep(2)
            if not processes.marked(processes.STACK_MARK, airflow.environment[processes.STACK_MARK]):
                raise LaptopStackError(f"Airflow has ended by itself. Its log is {airflow.log}.")
    except KeyboardInterrupt:
        # Once is enough: a second Ctrl-C must not leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
