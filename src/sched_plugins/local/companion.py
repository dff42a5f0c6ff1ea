"""What Airflow and Prefect have in common beside a laptop stack: ports, a scheduler deployed for them, and an end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from sched_plugins.errors import LaptopStackError

from . import lifecycle, processes
from .state import StackInfo

Say = Callable[[str], None]
"""Told of progress, a line at a time."""


def free_ports(remembered: Path, number: int) -> list[int]:
    """Ports of loopback that nobody listens on, each another one; the first is that of last time if it is free."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(number)]
        with contextlib.suppress(OSError, ValueError, OverflowError):
            last = int(remembered.read_text())
            # Connections that have just ended do not keep a port.
            sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets[0].bind(("127.0.0.1", last))
        for one in sockets:
            if not one.getsockname()[1]:
                one.bind(("127.0.0.1", 0))
        ports = [int(one.getsockname()[1]) for one in sockets]
    remembered.write_text(str(ports[0]))
    return ports


def deploy_on(
    stack: StackInfo, scheduler: str, environment: str, pipelines: Sequence[str | os.PathLike[str]], say: Say
) -> None:
    """Deploy a scheduler, an environment (none if empty) and pipelines on a laptop stack."""
    from sched_plugins import deploy, pipeline

    with _talking_to(stack):
        say(f"deploying scheduler {scheduler}")
        deploy.deploy_scheduler(scheduler)
        if environment:
            say(f"deploying environment {environment}")
            deploy.deploy_environment(environment, scheduler=scheduler)
        for folder in pipelines:
            loaded = pipeline.load(Path(folder))
            say(f"deploying pipeline {loaded.name}")
            pipeline.deploy_pipeline(loaded, scheduler)


@contextlib.contextmanager
def _talking_to(stack: StackInfo) -> Iterator[None]:
    """This process talks to the stack, for the length of a block."""
    variables = lifecycle.environment(stack)
    before = {name: os.environ.get(name) for name in (*variables, "AWS_PROFILE", "AWS_SESSION_TOKEN")}
    for name in before:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def interrupt(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Ask a process to end as Ctrl-C does, and wait for that; one that does not end is left for :func:`end_all`."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def end_all(mark: str, name: str, *started: subprocess.Popen[bytes]) -> None:
    """End what carries a mark for certain.

    Args:
        mark: value of ``processes.STACK_MARK`` in the environment of all of them.
        name: whose processes they are, for the message.
        started: those of them that this process has to collect.

    Raises:
        LaptopStackError: some did not end; tells their ids.
    """
    gone = processes.kill_marked(processes.STACK_MARK, mark)
    for process in started:
        process.wait(5)
    if not gone:
        left = processes.marked(processes.STACK_MARK, mark)
        raise LaptopStackError(f"some processes of {name} did not end: {left}. End them by their id.")


def interrupt_once() -> None:
    """Let the first Ctrl-C, SIGTERM or SIGHUP raise ``KeyboardInterrupt``; a second one leaves no process behind.

    Also where SIGINT came in ignored, as a shell starts what runs in its background.
    """
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def first(_number: int, _frame: FrameType | None) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for one in signals:
        signal.signal(one, first)


def until_interrupted(check: Callable[[], None]) -> None:
    """Return at Ctrl-C; every two seconds ``check`` raises if what runs has ended by itself."""
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(2)
            check()
