"""How the instances of functions get their code and their process, faster than MiniStack does it by itself.

MiniStack unpacks the whole archive for each instance, and each imports and compiles everything anew: half a second of
a core each, and most of what a laptop stack does under load.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import IO, Any

from . import preload


class SharedCode:
    """Unpacks an archive once, and gives every instance a link to that copy; on AWS code is read-only as well.

    Args:
        folder: where the copies are, each in a folder named by the archive's SHA-256.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unpacking = threading.Lock()

    def archive(self) -> type[zipfile.ZipFile]:
        """A ``ZipFile`` whose ``extractall`` does so; the folder to unpack into has to exist and be empty."""
        shared = self

        class Archive(zipfile.ZipFile):
            def extractall(self, path: Any = None, members: Any = None, pwd: bytes | None = None) -> None:
                if members is not None or not self.filename:
                    super().extractall(path, members, pwd)
                    return
                copy = shared._folder / hashlib.sha256(Path(self.filename).read_bytes()).hexdigest()
                with shared._unpacking:
                    if not copy.exists():
                        half = copy.with_suffix(".part")
                        super().extractall(half, pwd=pwd)
                        half.rename(copy)
                Path(path).rmdir()
                Path(path).symlink_to(copy, target_is_directory=True)

        return Archive


class Forks:
    """Starts instances of the scheduler's functions from processes that have imported their code already."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forking: dict[Path, tuple[socket.socket, subprocess.Popen[bytes]]] = {}

    def popen(self, command: list[str], **options: Any) -> Any:
        """As ``subprocess.Popen``; forked if it is a Python function with the scheduler's code, and Linux runs it."""
        code = Path(options.get("cwd") or "/").resolve()
        if command[0] != sys.executable or not hasattr(os, "pidfd_open") or not (code / "sched_plugins").is_dir():
            return subprocess.Popen(command, **options)
        message = json.dumps(
            {"program": command[1], "folder": str(options["cwd"]), "environment": options["env"]}
        ).encode()
        (read_in, write_in), (read_out, write_out), (read_err, write_err) = os.pipe(), os.pipe(), os.pipe()
        try:
            with self._lock:
                channel = self._forking[code][0] if code in self._forking else self._start(code)
                try:
                    socket.send_fds(channel, [message], [read_in, write_out, write_err])
                    answer = channel.recv(32)
                except OSError:
                    answer = b""
                if not answer:  # it was killed: the next one starts anew
                    channel, process = self._forking.pop(code)
                    channel.close()
                    process.wait()
                    for stream in (write_in, read_out, read_err):
                        os.close(stream)
                    return subprocess.Popen(command, **options)
                return Fork(int(answer), write_in, read_out, read_err)
        finally:
            for stream in (read_in, write_out, write_err):
                os.close(stream)

    def close(self) -> None:
        """End the processes that fork; those that they have forked go on."""
        with self._lock:
            while self._forking:
                _, (channel, process) = self._forking.popitem()
                channel.close()
                process.wait()

    def _start(self, code: Path) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, preload.LONGEST_MESSAGE)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, preload.__file__, str(theirs.fileno()), str(code)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._forking[code] = ours, process
        return ours


class Fork:
    """A process that someone else has forked, with as much of ``subprocess.Popen`` as MiniStack uses of it."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._looking = threading.Lock()
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle, self.returncode = -1, -1
        self.stdin: IO[str] = os.fdopen(stdin, "w", buffering=1)
        self.stdout: IO[str] = os.fdopen(stdout)
        self.stderr: IO[str] = os.fdopen(stderr)

    def poll(self) -> int | None:
        """None while it runs; its true exit code is known to its parent only."""
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises ``TimeoutExpired``."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("function", timeout or 0)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with self._looking:
            if self.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._handle, number)

    def _ended(self, seconds: float | None) -> int | None:
        with self._looking:
            if self.returncode is None:
                waiting = select.poll()
                waiting.register(self._handle, select.POLLIN)
                if waiting.poll(None if seconds is None else 1000 * seconds):
                    os.close(self._handle)
                    self.returncode = -1
            return self.returncode
