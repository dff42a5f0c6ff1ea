"""Life of a laptop stack: up, down, status, and what a shell or a client needs to talk to it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from sched_plugins.errors import LaptopStackError

from . import processes
from .state import STATE_VARIABLE, StackInfo, StateFolder

#: How long a new server may take until it answers, in seconds (one, on two idle cores).
START_SECONDS = 120.0
#: How long a server may take to end after SIGTERM before it is killed, in seconds.
STOP_SECONDS = 10.0
_EXIT_LOCKED, _EXIT_PORT_IN_USE = 3, 4
#: Shell text; ``unalias`` because a function cannot be defined under an alias's name.
_AWS_FUNCTION = (
    "unalias aws 2>/dev/null || true",
    'aws() { command aws ${AWS_ENDPOINT_URL:+--endpoint-url "$AWS_ENDPOINT_URL"} "$@"; }',
)


def up(
    port: int | None = None,
    state_dir: str | os.PathLike[str] | None = None,
    *,
    settings: dict[str, Any] | None = None,
    timeout: float = START_SECONDS,
) -> StackInfo:
    """Start a stack and wait until it answers; one that runs already is returned, and says so.

    ``port``: on 127.0.0.1; None takes the one that the folder's last stack had, or else a free one.
    ``settings``: of the fleet (``fleet.settings.Settings``).
    Raises ``LaptopStackError`` when the port is taken, when the stack runs on another port than the one
    asked for, when MiniStack is not installed, or when it does not answer within ``timeout`` seconds.
    """
    folder = StateFolder.locate(state_dir)
    if running := status(folder.path):
        return _same_port(running, port)
    _check_requirements()
    try:
        folder.create()
        pid = _start(folder, port or 0, settings or {})
    except OSError as error:
        raise LaptopStackError(
            f"cannot write the state folder {folder.path}: {error.strerror or error}. "
            "Name another one with SCHED_LOCAL_STATE."
        ) from error
    deadline = time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            info = folder.read()
            if info and info.pid == pid and _healthy(info):
                return info
            code = _exit_code(pid)
            if code == _EXIT_LOCKED:
                # Another `up` was faster, or an earlier server is just ending.
                if found := _wait_for_other(folder, deadline):
                    return _same_port(found, port)
                pid = _start(folder, port or 0, settings or {})
            elif code is not None:
                raise _start_failure(folder, code, port)
            time.sleep(0.02)
    except (KeyboardInterrupt, SystemExit):
        # Whoever gave up does not know of the server yet, and so could not end it.
        with contextlib.suppress(ChildProcessError):
            if _exit_code(pid) is None:
                processes.send(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        raise
    processes.send(pid, signal.SIGKILL)
    raise LaptopStackError(
        f"the stack did not answer within {timeout:g} s. Read {folder.log}, run `sched local down` and try again."
    )


def down(state_dir: str | os.PathLike[str] | None = None) -> bool:
    """Stop the stack and everything it started; false if none was running.

    Also ends what a crashed server left behind. Raises ``LaptopStackError`` if a process cannot be ended.
    """
    folder = StateFolder.locate(state_dir)
    info = folder.read()
    was_running = info is not None and processes.is_alive(info.pid, info.started)
    if info is not None and was_running:
        processes.send(info.pid, signal.SIGTERM)
        if not processes.wait_until(lambda: not processes.is_alive(info.pid, info.started), STOP_SECONDS):
            processes.send(info.pid, signal.SIGKILL)
    gone = processes.kill_marked(processes.STACK_MARK, folder.mark, prefix=True)
    if info is not None:
        gone = gone and processes.wait_until(
            lambda: (
                not processes.is_alive(info.pid, info.started)
                and not processes.is_alive(info.guard_pid, info.guard_started)
            ),
            STOP_SECONDS,
        )
        _reap(info.pid)
    folder.forget()
    if not gone:
        left = processes.marked(processes.STACK_MARK, folder.mark, prefix=True)
        raise LaptopStackError(
            f"some processes of the stack did not end: {left or (info and info.pid)}. "
            "Look at them with `ps`, and end them by their id."
        )
    return was_running


@contextlib.contextmanager
def running(
    state_dir: str | os.PathLike[str] | None = None, *, settings: dict[str, Any] | None = None
) -> Iterator[StackInfo]:
    """A stack for the length of a ``with`` block; one that ran before goes on after it."""
    info = up(state_dir=state_dir, settings=settings)
    try:
        yield info
    finally:
        if not info.already_running:
            down(info.state_dir)


def status(state_dir: str | os.PathLike[str] | None = None) -> StackInfo | None:
    """The running stack of a state folder, or None. One that does not answer counts as not running."""
    folder = StateFolder.locate(state_dir)
    info = folder.read()
    if info is None or not processes.is_alive(info.pid, info.started):
        return None
    return info.as_running() if _healthy(info) else None


def require(state_dir: str | os.PathLike[str] | None = None) -> StackInfo:
    """The running stack; raises ``LaptopStackError``, which says how to start one, if there is none."""
    info = status(state_dir)
    if info is None:
        folder = StateFolder.locate(state_dir)
        raise LaptopStackError(f"no laptop stack is running for {folder.path}. Start one with `sched local up`.")
    return info


def environment(info: StackInfo) -> dict[str, str]:
    """The variables that make boto3, the AWS CLI, s5cmd and ``sched`` talk to the stack, in whatever folder.

    Not all of the AWS CLI's version 1: see :func:`shell_environment`.
    """
    return {
        STATE_VARIABLE: info.state_dir,
        "AWS_ENDPOINT_URL": info.endpoint,
        "S3_ENDPOINT_URL": info.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": info.region,
        "AWS_REGION": info.region,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def shell_environment(info: StackInfo) -> str:
    """``environment`` as lines for ``eval "$(sched local env)"``, quoted.

    Also unsets what would win over it: a profile and a session token. And it wraps ``aws``: version 1 gives SQS, EMR
    and a few others an old address of AWS (``awscli/customizations/overridesslcommonname.py``), ahead of any variable
    or configuration file. Only ``--endpoint-url`` goes ahead of that. Of two, one's own is the later and counts.
    """
    lines = [f"export {name}={shlex.quote(value)}" for name, value in environment(info).items()]
    return "\n".join([*lines, "unset AWS_PROFILE AWS_SESSION_TOKEN", *_AWS_FUNCTION, ""])


def logs(state_dir: str | os.PathLike[str] | None = None) -> list[Path]:
    """The log files that exist: of the running or last server, then of the one before."""
    folder = StateFolder.locate(state_dir)
    return [path for path in (folder.log, folder.log.with_suffix(".log.1")) if path.exists()]


def request(info: StackInfo, method: str, path: str, value: Any = None, timeout: float = 10.0) -> dict[str, Any]:
    """One request to the stack's control page; raises ``LaptopStackError`` with its reason if refused."""
    body = None if value is None else json.dumps(value).encode()
    headers = {"Content-Type": "application/json"}
    asked = Request(info.endpoint + path, data=body, method=method, headers=headers)  # noqa: S310 - http, ours
    try:
        # Loopback never goes through a proxy.
        with build_opener(ProxyHandler({})).open(asked, timeout=timeout) as reply:
            answer: dict[str, Any] = json.load(reply)
            return answer
    except HTTPError as error:
        with error:
            text = error.read().decode(errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["error"]
        raise LaptopStackError(f"{text}. `sched local status` shows what there is.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise LaptopStackError(
            f"the stack at {info.endpoint} does not answer ({error}). Start it with `sched local up`."
        ) from error


def interrupt(
    instance_id: str, state_dir: str | os.PathLike[str] | None = None, *, warning_seconds: float = 0.0
) -> None:
    """Take an instance away as Spot does: its warning, and ``warning_seconds`` later (AWS: 120) its end.

    Raises ``LaptopStackError`` when no stack is running or it has no such live instance.
    """
    value = {"instance_id": instance_id, "warning_seconds": warning_seconds}
    request(require(state_dir), "POST", "/_sched/fleet/interrupt", value)


def describe(info: StackInfo) -> dict[str, Any]:
    """The stack as plain values, with its instances and how many calls each service has had from outside.

    Raises ``LaptopStackError`` if it does not answer.
    """
    return {**asdict(info), **request(info, "GET", "/_sched/fleet")}


def _start(folder: StateFolder, port: int, settings: dict[str, Any]) -> int:
    """Start the server in a session of its own; returns its process id.

    Not with ``subprocess``: the server outlives whoever started it, and is nobody's to wait for.
    """
    if folder.log.exists():
        folder.log.replace(folder.log.with_suffix(".log.1"))
    names = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH")
    arguments = [sys.executable, "-m", "sched_plugins.local.server", "--state-dir", str(folder.path)]
    arguments += ["--port", str(port), "--settings", json.dumps(settings)]
    log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        return os.posix_spawn(
            sys.executable,
            arguments,
            {name: os.environ[name] for name in names if name in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)
        os.close(nothing)


def _exit_code(pid: int) -> int | None:
    """Exit code of a server that this process started; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _reap(pid: int) -> None:
    """Collect an ended server, if it was this process that started it."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _healthy(info: StackInfo) -> bool:
    try:
        return request(info, "GET", "/_sched/health", timeout=5.0).get("pid") == info.pid
    except LaptopStackError:
        return False


def _same_port(info: StackInfo, port: int | None) -> StackInfo:
    if port not in (None, 0, info.port):
        raise LaptopStackError(
            f"a stack runs already for {info.state_dir}, on port {info.port} and not {port}. "
            "Stop it with `sched local down`, or name another state folder with SCHED_LOCAL_STATE."
        )
    return info.as_running()


def _wait_for_other(folder: StateFolder, deadline: float) -> StackInfo | None:
    """The stack that another process is starting; None once there is room for one of our own."""
    import fcntl

    while time.monotonic() < deadline:
        if found := status(folder.path):
            return found
        with folder.lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                time.sleep(0.05)
    return None


def _start_failure(folder: StateFolder, code: int, port: int | None) -> LaptopStackError:
    if code == _EXIT_PORT_IN_USE:
        return LaptopStackError(
            f"port {port} is in use by another program. Choose another one with `sched local up --port N`, "
            "or leave it out to get a free one."
        )
    lines = folder.log.read_text(errors="replace").strip().splitlines()[-3:] if folder.log.exists() else []
    return LaptopStackError(
        f"the server ended with exit code {code} before it answered: {' / '.join(lines) or 'no message'}. "
        f"Its log is {folder.log}."
    )


def _check_requirements() -> None:
    if not processes.supported():
        raise LaptopStackError(
            "the laptop stack needs Linux 5.3 or newer, because it follows its processes through /proc. "
            "Run it in a Linux container or virtual machine, or in WSL 2."
        )
    if find_spec("ministack") is None:
        raise LaptopStackError(
            "the laptop stack needs the package ministack. Install it with `pip install 'ministack[full]'`."
        )
