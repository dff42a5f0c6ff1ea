"""Operating system processes: who they are, which belong to us, and how to end them for certain.

A process is known by its id and start time together, because ids are reused. What belongs to the stack or
to one instance carries a variable in its environment; children inherit it, also those that left their
process group with ``setsid``, so nothing that was started from here can hide.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

#: Variable that every process started by a stack carries: ``<state folder>#<token of that start>``.
STACK_MARK = "SCHED_LOCAL_STACK"
#: Variable that every process of an instance carries: its instance id.
INSTANCE_MARK = "SCHED_INSTANCE_ID"
#: Variable that every process of a command carries: its command id.
COMMAND_MARK = "SCHED_COMMAND_ID"

_PROC = Path("/proc")
_STATE_FIELD, _PARENT_FIELD, _START_FIELD = (
    0,
    1,
    19,
)  # counted from the field after the command name in /proc/<pid>/stat


def start_time(pid: int) -> str | None:
    """When process ``pid`` started, in a form to compare for equality only; None if there is none.

    A zombie (ended, not yet collected by its parent) counts as gone.
    """
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[_STATE_FIELD] in "ZX" else fields[_START_FIELD]


def supported() -> bool:
    """Whether this system shows what the stack must see of its processes (Linux's ``/proc``)."""
    return (_PROC / "self" / "environ").exists() and hasattr(os, "pidfd_open")


def is_alive(pid: int, started: str | None) -> bool:
    """Whether the very process that was recorded as (``pid``, ``started``) still runs."""
    return started is not None and start_time(pid) == started


def marked(name: str, value: str, *, prefix: bool = False) -> list[int]:
    """Ids of the processes whose environment has ``name=value`` (or starts with it, if ``prefix``).

    Their descendants are among them, also those that were started with an environment of their own.
    """
    wanted = f"{name}={value}".encode()
    own = os.getpid()
    found: set[int] = set()
    children: dict[int, list[int]] = {}
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit() or int(entry.name) == own:
            continue
        try:
            variables = (_PROC / entry.name / "environ").read_bytes().split(b"\0")
            fields = (_PROC / entry.name / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[_STATE_FIELD] in "ZX":
            continue
        children.setdefault(int(fields[_PARENT_FIELD]), []).append(int(entry.name))
        if any(item.startswith(wanted) if prefix else item == wanted for item in variables):
            found.add(int(entry.name))
    unseen = list(found)
    while unseen:
        below = [pid for pid in children.get(unseen.pop(), []) if pid not in found]
        found.update(below)
        unseen += below
    return sorted(found)


def kill_marked(name: str, value: str, *, prefix: bool = False, seconds: float = 5.0) -> bool:
    """SIGKILL every process marked ``name=value`` until none is left; False if some outlive ``seconds``.

    Looks again after each round, because a process may have started another while it was being ended.
    """
    deadline = time.monotonic() + seconds
    pause = 0.0
    while found := marked(name, value, prefix=prefix):
        for pid in found:
            send(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(0.05, pause + 0.002)
    return True


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; a process that is gone or not ours is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill_group(pid: int) -> None:
    """SIGKILL the process group that ``pid`` leads; one that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.02) -> bool:
    """Poll ``condition`` until it is true; False if it is still false after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def guard(mark: str) -> tuple[int, int]:
    """Fork a watcher that ends everything marked ``STACK_MARK=mark`` once this process is gone.

    The watcher sleeps on a pipe whose other end only this process holds, so it wakes however this process
    ends, SIGKILL included. Call it before starting threads. Returns the watcher's process id and the pipe's
    end to keep open.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reading)
        return pid, writing
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.closerange(3, reading)
        os.closerange(reading + 1, 256)
        os.read(reading, 1)
        kill_marked(STACK_MARK, mark)
    finally:
        os._exit(0)
