"""A real Airflow on this machine beside a laptop stack: what ``make airflow`` starts.

``airflow standalone`` runs as a process of its own, with a home, a database and ports of its own, and the connection
``aws_default`` leading to the stack. This module itself needs no Airflow.

What is whose, and how long it lasts:

* DAG files are read where they are, and nothing here writes to their folder.
* The home, ``airflow/`` in the state folder, outlasts a restart: the database with all DAG runs, the task logs,
  ``airflow.cfg`` with its keys, the address. Who wants a fresh Airflow deletes it while none runs.
* The stack, its jobs and its buckets begin anew with each start, unless the stack ran before and so goes on after:
  then a deferred task finds its job again. Otherwise it is told that its job is gone, and a retry submits it anew.
  All is deployed before Airflow starts, which goes on at once with the runs that it knows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
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
from .companion import deploy_on, end_all, free_ports, interrupt, interrupt_once, until_interrupted
from .state import StackInfo, StateFolder

SCHEDULER: Final = "sched-airflow"
"""Stack name of the scheduler that is deployed."""
ENVIRONMENT: Final = "solver"
"""Stack name of the environment that is deployed for one's own jobs, since a scheduler alone has no workers."""
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
_NEVER_TAKEN: Final = ("AIRFLOW__DATABASE__", "AIRFLOW__SECRETS__", "AIRFLOW__WORKERS__SECRETS_BACKEND")
"""Variables that would lead it to the database or the credentials of another Airflow begin with these."""
_COMPONENTS: Final = ("metadatabase", "scheduler", "triggerer", "dag_processor")


@dataclass(frozen=True, slots=True)
class LocalAirflow:
    """An Airflow that runs.

    ``url``: where its pages are; nobody has to log in. ``home``: its ``AIRFLOW_HOME``, with its database, task logs and
    ``airflow.log``, the output of all its processes. ``dags``: the folder of the DAG files. ``environment``: the
    variables with which an ``airflow`` command is one of this Airflow's. ``stack``: the laptop stack that it uses.
    """

    url: str
    home: Path
    dags: Path
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

    ``dags``: the folder of the DAG files; what is added or changed there while Airflow runs is read within seconds.
    ``pipelines``: folders with a ``pipeline.yaml`` each. ``state_dir``: as for ``lifecycle.up``; Airflow's home is its
    ``airflow/``, which lasts. ``settings``: more variables of Airflow's environment; they go ahead of what is only a
    default here, but not of what makes this Airflow one of its own: home, database, DAG folder, addresses.
    ``say``: told of progress. A stack that ran before goes on after the block. Raises ``LaptopStackError`` when there
    is no such folder of DAGs, or when Airflow is not installed, runs already for this state folder, or does not start.
    """
    if find_spec("airflow") is None:
        raise LaptopStackError("Airflow is not installed. Install it with `pip install '.[airflow]'` in a checkout.")
    if not Path(dags).is_dir():
        raise LaptopStackError(f"there is no folder {str(dags)!r}; name the one with the DAG files.")
    folder = StateFolder.locate(state_dir)
    mark = f"{folder.mark}airflow"
    if found := processes.marked(processes.STACK_MARK, mark):
        raise LaptopStackError(
            f"an Airflow runs already for {folder.path} (process {found[0]}). Stop it with Ctrl-C where it was "
            "started or with `sched local down`, or name another folder with SCHED_LOCAL_STATE."
        )
    say("starting the laptop stack")
    with lifecycle.running(folder.path) as stack, contextlib.ExitStack() as cleanup:
        home = folder.path / "airflow"
        home.mkdir(exist_ok=True)
        airflow = _airflow(home, Path(dags).resolve(), stack, mark, settings or {})
        deploy_on(stack, SCHEDULER, ENVIRONMENT, pipelines, say)
        say("starting Airflow")
        process = _start(airflow)
        cleanup.callback(_stop, process, mark, say)
        _wait(airflow, process)
        yield airflow


def settings_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Airflow's options (``AIRFLOW__<SECTION>__<OPTION>``) among these variables of a shell.

    Not those of the database and of secrets: they may be those of an Airflow that others work with.
    """
    return {
        name: value
        for name, value in variables.items()
        if name.startswith("AIRFLOW__") and not name.startswith(_NEVER_TAKEN)
    }


def _airflow(home: Path, dags: Path, stack: StackInfo, mark: str, settings: Mapping[str, str]) -> LocalAirflow:
    ports = free_ports(home / "last-port", 4)
    url = f"http://127.0.0.1:{ports[0]}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))}
    own = _own(home, dags, stack, mark, url, ports)
    return LocalAirflow(url, home, dags, inherited | _defaults(home, dags, settings) | dict(settings) | own, stack)


def _own(home: Path, dags: Path, stack: StackInfo, mark: str, url: str, ports: Sequence[int]) -> dict[str, str]:
    """What makes it an Airflow of its own, on loopback; no setting goes ahead of it."""
    extra = {"endpoint_url": stack.endpoint, "region_name": stack.region, "scheduler": SCHEDULER}
    connection = {"conn_type": "aws", "login": "test", "password": "test", "extra": extra}
    return {
        processes.STACK_MARK: mark,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(ports[0]),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports[1]),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports[2]),
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(ports[3]),
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _defaults(home: Path, dags: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """What suits one machine; settings go ahead of it."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        # A file that has changed is read within seconds; one that has not, rarely, since reading takes processor time.
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True",
        # For those who name the SchedulerExecutor. Its workers are processes of this machine.
        "AIRFLOW__SCHED_EXECUTOR__ENVIRONMENT": ENVIRONMENT,
        "AIRFLOW__SCHED_EXECUTOR__PYTHON": sys.executable,
        "AIRFLOW__SCHED_EXECUTOR__SCHEDULER": SCHEDULER,
        "AIRFLOW__SCHED_EXECUTOR__WORKER_ENVIRONMENT": json.dumps(_on_workers(home, dags, settings)),
        # How late a worker may see that its task has deferred; until then nothing may resume it.
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "SCARF_ANALYTICS": "false",
    }


def _on_workers(home: Path, dags: Path, settings: Mapping[str, str]) -> dict[str, str]:
    """What tasks that run as jobs find here: DAGs, and the folder of the logs.

    And which executors there are, since a DAG that names another one cannot be read.
    """
    executor = "AIRFLOW__CORE__EXECUTOR"
    chosen = {executor: settings[executor]} if executor in settings else {}
    shared = {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
    return {**shared, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **chosen}


def _start(airflow: LocalAirflow) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, so that Ctrl-C in the terminal is ours to hand on."""
    if airflow.log.exists():
        airflow.log.replace(airflow.log.with_suffix(".log.1"))
    with airflow.log.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _STANDALONE, "standalone"],
            cwd=airflow.home, env=dict(airflow.environment), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


def _wait(airflow: LocalAirflow, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not airflow.is_healthy():
        if process.poll() is not None or time.monotonic() > deadline:
            said = airflow.log.read_text(errors="replace").strip()[-2000:]
            raise LaptopStackError(
                f"Airflow did not start; {airflow.log} ends with:\n{said}\nIf what an earlier one has left is the "
                f"reason, delete {airflow.home}: it is made anew, without the DAG runs."
            )
        time.sleep(0.5)


def _stop(process: subprocess.Popen[bytes], mark: str, say: Callable[[str], None]) -> None:
    say(f"stopping; this takes a dozen seconds, and {STOP_SECONDS:g} where a task runs for longer")
    interrupt(process, STOP_SECONDS)
    end_all(mark, "Airflow", process)


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

    interrupt_once()
    try:
        settings = settings_of(os.environ)
        with running(options.dags, options.pipelines, settings=settings, say=say) as airflow:
            taken = [name for name, value in settings.items() if airflow.environment[name] == value]
            say(f"Airflow: [bold]{airflow.url}[/bold]  (no login is needed; Ctrl-C stops everything)")
            console.print(f"          DAG files: {airflow.dags}  (read there; add yours)\n          log: {airflow.log}")
            console.print(f"          for `airflow` commands: export AIRFLOW_HOME={airflow.home}")
            if taken:
                console.print(f"          taken from the environment: {', '.join(sorted(taken))}")
            until_interrupted(lambda: _check(airflow))
    except SchedulerError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}")
        return 1
    except KeyboardInterrupt:
        pass  # While it was starting.
    say("stopped")
    return 0


def _check(airflow: LocalAirflow) -> None:
    if not processes.marked(processes.STACK_MARK, airflow.environment[processes.STACK_MARK]):
        raise LaptopStackError(f"Airflow has ended by itself. Its log is {airflow.log}.")


if __name__ == "__main__":
    sys.exit(main())
