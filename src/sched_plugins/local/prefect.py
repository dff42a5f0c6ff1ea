"""A real Prefect server on this machine beside a laptop stack: what ``make prefect`` and ``make demo`` start.

The server runs as a process of its own, with a home, a database and a port of its own; so does the worker of the work
pool ``laptop``. This module itself needs no Prefect.

What is whose, and how long it lasts:

* Flows are read where they are, and nothing here writes to their folder.
* The home, ``prefect/`` in the state folder, outlasts a restart: the database with all flow runs, artifacts, blocks and
  deployments, the address. Who wants a fresh Prefect deletes it while none runs.
* The stack, its jobs and its buckets begin anew with each start, unless the stack ran before and so goes on after.
* The job template of pool ``laptop`` is written at each start, so that it fits this checkout. One's own settings belong
  to deployments (``job_variables``), or to a pool of one's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from sched_plugins.errors import LaptopStackError, SchedulerError

from . import lifecycle, processes
from .companion import Say, deploy_on, end_all, free_ports, interrupt, interrupt_once, until_interrupted
from .state import StackInfo, StateFolder

SCHEDULER: Final = "sched-prefect"
"""Stack name of the scheduler that is deployed."""
ENVIRONMENT: Final = "solver"
"""Stack name of the environment whose workers run flows, and one's own jobs."""
WORK_POOL: Final = "laptop"
"""Name of the work pool, and of the block with the scheduler."""
START_SECONDS: Final = 180.0
"""How long the server, the worker or the deployments may take (a dozen seconds on two idle cores)."""
STOP_SECONDS: Final = 5.0
"""How long the worker, and then the server, may take to end after SIGINT before it is killed (a second, usually)."""
_PREFECT: Final = ("-m", "sched_plugins.local.prefect_command")
_TRIES: Final = 20
"""How often a call is made that the server is too busy for."""
_SCHEDULER: Final = "SCHED_SCHEDULER"
"""Variable that names the scheduler of tasks that name none."""
_NEVER_TAKEN: Final = (
    "PREFECT__", "PREFECT_API_", "PREFECT_CLIENT_CUSTOM_HEADERS", "PREFECT_CLOUD_", "PREFECT_HOME", "PREFECT_PROFILE",
    "PREFECT_SERVER_API_", "PREFECT_SERVER_DATABASE_", "PREFECT_SERVER_UI_API_URL", "PREFECT_UI_API_URL",
)  # fmt: skip
"""Variables that would lead it to the server, database or credentials of another Prefect begin with these."""


@dataclass(frozen=True, slots=True)
class LocalPrefect:
    """A Prefect server that runs.

    ``url``: where its pages are; nobody has to log in. ``home``: its ``PREFECT_HOME``, with its database and the logs.
    ``environment``: the variables with which a flow or a ``prefect`` command uses this server, and boto3 the stack.
    ``stack``: the laptop stack beside it. ``started``: its processes: the server, then, where there is one, the worker.
    """

    url: str
    home: Path
    environment: Mapping[str, str]
    stack: StackInfo
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def log(self) -> Path:
        """The output of the server."""
        return self.home / "server.log"

    @property
    def shell_file(self) -> Path:
        """What a shell reads, with ``.``, to use this server and the stack."""
        return self.home / "env.sh"

    def request(self, method: str, path: str, value: Any = None) -> Any:
        """One call of its REST API; the answer's JSON, None if it is empty. Repeated where the server is too busy.

        ``path``: below ``/api``, for instance ``/work_pools/laptop``. Raises ``LaptopStackError`` with Prefect's reason
        when it refuses, or does not answer.
        """
        body = None if value is None else json.dumps(value).encode()
        headers = {"Content-Type": "application/json"}
        asked = Request(f"{self.url}/api{path}", data=body, method=method, headers=headers)  # noqa: S310 - http, ours
        for tries_left in reversed(range(_TRIES)):
            try:
                with build_opener(ProxyHandler({})).open(asked, timeout=120) as reply:
                    text = reply.read()
                return json.loads(text) if text else None
            except HTTPError as error:
                with error:
                    said = error.read().decode(errors="replace")
                if error.code == HTTPStatus.SERVICE_UNAVAILABLE and tries_left:
                    time.sleep(1)
                    continue
                raise LaptopStackError(
                    f"Prefect refused {method} {path} ({error.code}): {said}. Its log is {self.log}."
                ) from error
            except (OSError, HTTPException, ValueError) as error:
                raise LaptopStackError(
                    f"Prefect at {self.url} does not answer: {error}. Its log is {self.log}."
                ) from error
        raise AssertionError("the last try returns or raises")

    def is_healthy(self) -> bool:
        """Whether the server answers."""
        try:
            return self.request("GET", "/health") is True
        except LaptopStackError:
            return False

    def has_worker(self) -> bool:
        """Whether a worker of the work pool is online."""
        with contextlib.suppress(LaptopStackError):
            found = self.request("POST", f"/work_pools/{WORK_POOL}/workers/filter", {})
            return any(one["status"] == "ONLINE" for one in found)
        return False


@contextlib.contextmanager
def running(
    pipelines: Sequence[str | os.PathLike[str]] = (),
    *,
    flows: str | os.PathLike[str] | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    settings: Mapping[str, str] | None = None,
    say: Say = lambda _: None,
) -> Iterator[LocalPrefect]:
    """A Prefect server and a laptop stack with these pipelines deployed, for the length of a ``with`` block.

    ``pipelines``: folders with a ``pipeline.yaml`` each. ``flows``: a folder with a ``prefect.yaml``: its deployments
    are made, with the work pool ``laptop`` and a worker that runs them; without it there are only the server and the
    stack, for flows that are called. ``state_dir``: as for ``lifecycle.up``; Prefect's home is its ``prefect/``, which
    lasts. ``settings``: more variables of Prefect's environment; they go ahead of what is only a default here, but not
    of what makes this Prefect one of its own: home, database, addresses. ``say``: told of progress.

    A stack that ran before goes on after the block. Raises ``LaptopStackError`` when there is no such ``prefect.yaml``,
    or when Prefect is not installed, runs already for this state folder, or does not start.
    """
    if find_spec("prefect") is None:
        raise LaptopStackError("Prefect is not installed. Install it with `pip install '.[prefect]'` in a checkout.")
    if flows is not None and not (Path(flows) / "prefect.yaml").is_file():
        raise LaptopStackError(f"there is no prefect.yaml in {str(flows)!r}; name the folder that has one.")
    folder = StateFolder.locate(state_dir)
    mark = f"{folder.mark}prefect"
    if found := processes.marked(processes.STACK_MARK, mark):
        raise LaptopStackError(
            f"a Prefect runs already for {folder.path} (process {found[0]}). Stop it with Ctrl-C where it was "
            "started or with `sched local down`, or name another folder with SCHED_LOCAL_STATE."
        )
    say("starting the laptop stack")
    with lifecycle.running(folder.path) as stack, contextlib.ExitStack() as cleanup:
        home = folder.path / "prefect"
        home.mkdir(exist_ok=True)
        prefect = _prefect(home, stack, mark, settings or {})
        cleanup.callback(_stop, prefect, mark, say)
        # It starts while the stack is being deployed: either takes a dozen seconds.
        server = _start_server(prefect, services=flows is not None)
        deploy_on(stack, SCHEDULER, ENVIRONMENT if flows is not None else "", pipelines, say)
        say("waiting for the Prefect server")
        _wait(prefect, server, "the Prefect server", prefect.log, prefect.is_healthy)
        prefect.shell_file.write_text(_shell_text(prefect))
        if flows is not None:
            _serve(prefect, Path(flows).resolve(), say)
        yield prefect


def settings_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Prefect's settings (``PREFECT_…``) among these variables of a shell.

    Not addresses, databases, profiles and keys: they may be those of a Prefect that others work with.
    """
    return {
        name: value
        for name, value in variables.items()
        if name.startswith("PREFECT_") and not name.startswith(_NEVER_TAKEN)
    }


def _prefect(home: Path, stack: StackInfo, mark: str, settings: Mapping[str, str]) -> LocalPrefect:
    [port] = free_ports(home / "last-port", 1)
    url = f"http://127.0.0.1:{port}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "AWS_"))}
    variables = inherited | _defaults() | dict(settings) | lifecycle.environment(stack) | _own(home, mark, url)
    return LocalPrefect(url, home, variables, stack)


def _own(home: Path, mark: str, url: str) -> dict[str, str]:
    """What makes it a Prefect of its own, on loopback; no setting goes ahead of it."""
    return {
        processes.STACK_MARK: mark,
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_LOCAL_STORAGE_PATH": str(home / "storage"),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        _SCHEDULER: SCHEDULER,
    }


def _defaults() -> dict[str, str]:
    """What suits one machine; settings go ahead of it."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PREFECT_API_REQUEST_TIMEOUT": "120",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # SQLite has one writer. Under load the server would answer 503 where it need only wait, or be asked again.
        "PREFECT_CLIENT_MAX_RETRIES": "20",
        "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "15",
        "PREFECT_SERVER_DATABASE_TIMEOUT": "15",
        "PREFECT_WORKER_QUERY_SECONDS": "4",
    }


def _shell_text(prefect: LocalPrefect) -> str:
    names = (
        "PREFECT_HOME",
        "PREFECT_PROFILES_PATH",
        "PREFECT_LOCAL_STORAGE_PATH",
        "PREFECT_API_URL",
        "PREFECT_CLIENT_MAX_RETRIES",
        "SCHED_SCHEDULER",
    )
    lines = [f"export {name}={shlex.quote(prefect.environment[name])}" for name in names]
    return "\n".join([*lines, lifecycle.shell_environment(prefect.stack)])


def _start(prefect: LocalPrefect, log: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that Ctrl-C in the terminal is ours to hand on."""
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=prefect.home, env=dict(prefect.environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    prefect.started.append(process)
    return process


def _start_server(prefect: LocalPrefect, *, services: bool) -> subprocess.Popen[bytes]:
    port = prefect.url.rpartition(":")[2]
    options = () if services else ("--no-services",)  # schedules and such, which a flow that is called has no use for
    command = (*_PREFECT, "server", "start", "--host", "127.0.0.1", "--port", port, *options)
    return _start(prefect, prefect.log, *command)


def _serve(prefect: LocalPrefect, flows: Path, say: Say) -> None:
    """Make the work pool, start its worker, and make the deployments meanwhile."""
    say(f"making work pool {WORK_POOL}")
    is_new = () if prefect.stack.already_running else ("--new-stack",)
    _run(prefect, prefect.home, "-m", "sched_plugins.prefect.laptop", WORK_POOL, SCHEDULER, ENVIRONMENT, *is_new)
    say("starting its worker, and deploying the flows")
    log = prefect.home / "worker.log"
    options = ("--pool", WORK_POOL, "--name", WORK_POOL, "--install-policy", "never")
    worker = _start(prefect, log, *_PREFECT, "worker", "start", *options)
    _run(prefect, flows, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "prefect.yaml")
    _wait(prefect, worker, f"the worker of pool {WORK_POOL}", log, prefect.has_worker)


def _run(prefect: LocalPrefect, folder: Path, *command: str) -> None:
    try:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder, env=dict(prefect.environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=START_SECONDS, check=False, start_new_session=True,
        )  # fmt: skip
        said, ended = done.stdout, done.returncode == 0
    except subprocess.TimeoutExpired as error:
        said, ended = error.stdout or b"", False
    if not ended:
        told = said.decode(errors="replace").strip()[-2000:]
        raise LaptopStackError(f"`{shlex.join(['python', *command])}` in {folder} did not succeed. It said:\n{told}")


def _wait(
    prefect: LocalPrefect, process: subprocess.Popen[bytes], name: str, log: Path, ready: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip()[-2000:]
            raise LaptopStackError(
                f"{name} did not start; {log} ends with:\n{said}\nIf what an earlier one has left is the reason, "
                f"delete {prefect.home}: it is made anew, without the flow runs."
            )
        time.sleep(0.25)


def _check(prefect: LocalPrefect) -> None:
    for process, name in zip(prefect.started, ("server", "worker"), strict=False):
        if process.poll() is not None:
            raise LaptopStackError(f"the Prefect {name} has ended by itself. Its log is {prefect.home / name}.log.")


def _stop(prefect: LocalPrefect, mark: str, say: Say) -> None:
    say("stopping")
    for process in reversed(prefect.started):  # the server last: the worker tells it that it goes
        interrupt(process, STOP_SECONDS)
    end_all(mark, "Prefect", *prefect.started)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything and stop it on Ctrl-C, or run a command beside it and stop when that has ended."""
    from rich.console import Console

    given = list(sys.argv[1:] if arguments is None else arguments)
    at = given.index("--") if "--" in given else len(given)
    own, command = given[:at], given[at + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m sched_plugins.local.prefect",
        description="Prefect beside a laptop stack, until Ctrl-C or the end of a command that is given after --.",
    )
    parser.add_argument("--flows", help="folder with a prefect.yaml; brings a work pool and its worker")
    parser.add_argument("pipelines", nargs="*", help="folders of the pipelines that the flows run")
    options = parser.parse_args(own)
    console, started = Console(soft_wrap=True, highlight=False), time.monotonic()

    def say(text: str) -> None:
        console.print(f"[dim]{time.monotonic() - started:6.1f} s[/dim]  {text}")

    interrupt_once()
    code = 0
    try:
        settings = settings_of(os.environ)
        with running(options.pipelines, flows=options.flows, settings=settings, say=say) as prefect:
            if command:
                say(f"Prefect: {prefect.url}")
                code = _beside(prefect, command)
            else:
                say(f"Prefect: [bold]{prefect.url}[/bold]  (no login is needed; Ctrl-C stops everything)")
                console.print(_usage(prefect, options.flows))
                if taken := sorted(name for name in settings if prefect.environment[name] == settings[name]):
                    console.print(f"          taken from the environment: {', '.join(taken)}")
                until_interrupted(lambda: _check(prefect))
    except SchedulerError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {error}")
        return 1
    except KeyboardInterrupt:
        code = 130 if command else 0  # While it was starting, or the command ran.
    say("stopped")
    return code


def _usage(prefect: LocalPrefect, flows: str | None) -> str:
    """What to type next."""
    activate = shlex.quote(str(Path(sys.executable).parent / "activate"))
    lines = [f"in another shell: . {activate} && . {shlex.quote(str(prefect.shell_file))}"]
    if flows is not None:
        deployments = prefect.request("POST", "/deployments/filter", {"sort": "NAME_ASC"})
        flow_names = {one["id"]: one["name"] for one in prefect.request("POST", "/flows/filter", {})}
        names = sorted(f"{flow_names[one['flow_id']]}/{one['name']}" for one in deployments)
        lines += [f"prefect deployment run {name} --watch" for name in names]
        lines.append(f"flows: {Path(flows).resolve()}  (`prefect deploy --all` there makes new deployments)")
        lines.append(f"scheduler {SCHEDULER}, environment {ENVIRONMENT}, work pool and block {WORK_POOL}")
    lines.append(f"logs: {prefect.home}/*.log")
    return "\n".join(f"          {line}" for line in lines)


def _beside(prefect: LocalPrefect, command: Sequence[str]) -> int:
    """Run a command to its end; its exit code. In a session of its own, so that Ctrl-C is handed on to it once."""
    process = subprocess.Popen(command, env=dict(prefect.environment), start_new_session=True)
    prefect.started.append(process)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
