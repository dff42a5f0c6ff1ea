"""The server process of a laptop stack: ``python -m sched_plugins.local.server --state-dir DIR --port N``.

One process on one loopback port: the fleet in front of MiniStack. It holds a lock on its state folder for
as long as it lives, ends what an earlier server may have left behind before it starts, and takes all its
children with it, however it ends.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from . import processes
from .state import ACCOUNT, REGION, StackInfo, StateFolder

#: Exit codes that ``lifecycle.up`` explains.
EXIT_LOCKED, EXIT_PORT_IN_USE = 3, 4
#: How long requests in flight may take to finish at the end, in seconds (long polls are cut off).
GRACEFUL_SECONDS = 0.2
_KEEP_ALIVE_SECONDS = 75


def main(argv: list[str] | None = None) -> int:
    """Run the server until it gets SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="sched_plugins.local.server", description="Laptop stack server.")
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--port", type=int, default=0, help="0: as last time, or a free one")
    parser.add_argument("--settings", default="{}", help="fleet settings as JSON")
    options = parser.parse_args(argv)
    folder = StateFolder.locate(options.state_dir)
    folder.create()
    os.chdir(folder.path)
    lock = folder.lock.open("w")  # held as long as the process lives
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return EXIT_LOCKED
    _clean(folder)
    listener = _listen(options.port or folder.port_of_last_stack())
    if listener is None and not options.port:
        listener = _listen(0)
    if listener is None:
        return EXIT_PORT_IN_USE
    mark = folder.mark + secrets.token_hex(8)
    guard_pid, _keep = processes.guard(mark)
    port = listener.getsockname()[1]
    _set_environment(folder, port, mark)
    info = StackInfo(
        endpoint=f"http://127.0.0.1:{port}",
        port=port,
        pid=os.getpid(),
        started=processes.start_time(os.getpid()) or "",
        guard_pid=guard_pid,
        guard_started=processes.start_time(guard_pid) or "",
        state_dir=str(folder.path),
        log_file=str(folder.log),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    _raise_file_limit()
    asyncio.run(_serve(folder, info, mark, listener, json.loads(options.settings)))
    return 0


def _raise_file_limit() -> None:
    """Allow as many open connections as the system does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _clean(folder: StateFolder) -> None:
    """End what an earlier server left running, and remove what it left on disk."""
    processes.kill_marked(processes.STACK_MARK, folder.mark, prefix=True)
    folder.forget()
    for left in (folder.instances, folder.scratch, folder.home):
        shutil.rmtree(left, ignore_errors=True)
    for left in folder.path.glob(".stack-*"):
        left.unlink(missing_ok=True)
    for made in (folder.instances, folder.scratch, folder.home):
        made.mkdir(parents=True, exist_ok=True)


def _listen(port: int) -> socket.socket | None:
    """A socket on loopback only; None if the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.close()
        return None
    return listener


def _set_environment(folder: StateFolder, port: int, mark: str) -> None:
    """Make the environment that MiniStack reads and that the functions it runs inherit.

    Set before MiniStack is imported; replaces the whole environment, so that nothing of the user's shell
    (profiles, proxies, Python paths) reaches a function.
    """
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ}
    programs = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    os.environ.clear()
    os.environ.update(kept)
    os.environ.update(
        {
            "PATH": os.pathsep.join(programs),
            "HOME": str(folder.home),
            "TMPDIR": str(folder.scratch),
            "GATEWAY_PORT": str(port),
            "MINISTACK_ACCOUNT_ID": ACCOUNT,
            "MINISTACK_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
            "LOG_LEVEL": "WARNING",
            "LAMBDA_EXECUTOR": "local",
            "STATE_DIR": str(folder.scratch / "ministack"),
            "S3_DATA_DIR": str(folder.scratch / "s3"),
            # Listeners and helpers that this stack has no use for; the last keeps Docker out of the way.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "DOCKER_HOST": f"unix://{folder.scratch}/no-docker.sock",
            processes.STACK_MARK: mark,
        }
    )


async def _serve(
    folder: StateFolder, info: StackInfo, mark: str, listener: socket.socket, settings: dict[str, Any]
) -> None:
    from .fleet import emulator
    from .fleet.app import FleetApp
    from .fleet.control import Control
    from .fleet.fleet import Fleet
    from .fleet.settings import Settings

    chosen = Settings()
    chosen.update(settings)
    fleet = Fleet(folder.instances, info.endpoint, mark, chosen)
    control = Control(fleet, {"pid": info.pid, "port": info.port, "state_dir": info.state_dir})
    application = FleetApp(emulator.application(), fleet, control)
    emulator.install_http_fixes()
    emulator.name_function_errors()
    emulator.fail_tasks_with_their_function()
    emulator.start_functions_fast(folder.scratch / "code")
    config: Any = import_module("hypercorn.config").Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.keep_alive_timeout = _KEEP_ALIVE_SECONDS
    config.graceful_timeout = GRACEFUL_SECONDS
    config.loglevel = "WARNING"
    config.accesslog = None
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.set_exception_handler(lambda loop, context: _report(loop, context, ending=stopped.is_set()))
    folder.write(info)
    await import_module("hypercorn.asyncio").serve(application, config, shutdown_trigger=stopped.wait)
    folder.forget()
    processes.kill_marked(processes.STACK_MARK, mark)
    # Threads of MiniStack may still wait for something, and nothing of theirs is worth waiting for.
    os._exit(0)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any], *, ending: bool) -> None:
    """Log what failed in the event loop, but not the connections that the server's own end cuts off."""
    if not (ending and isinstance(context.get("exception"), asyncio.CancelledError)):
        loop.default_exception_handler(context)


if __name__ == "__main__":
    sys.exit(main())
