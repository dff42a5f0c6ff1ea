"""Runs wrapped commands as the Systems Manager agent does: a script file, ``sh -c``, a process group of its own."""

from __future__ import annotations

import base64
import gzip
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sched_plugins.core.job import parse_spec
from sched_plugins.core.wrapper import AttemptContext, Trailer, command_parameters, read_trailer

BASH = Path("/bin/bash")
TOO_LONG = 30.0  # a wait that never ends is a failure, not a measurement


def spec_fields(**fields: Any) -> dict[str, Any]:
    return {"job_id": "job", "retry": 0, "ssm_document": "AWS-RunShellScript", "commands": [], **fields}


def context(run_id: str = "run", attempt: int = 1, start_by: int | None = None, job_id: str = "job") -> AttemptContext:
    return AttemptContext(job_id, run_id, attempt, "queue", int(time.time()) + 600 if start_by is None else start_by)


def repacked(lines: list[str], change: Callable[[str], str]) -> list[str]:
    """The same command with its packed script changed: a shorter wait, another shell."""

    def repack(line: str) -> str:
        if not line.startswith("p="):
            return change(line)
        script = gzip.decompress(base64.b64decode(line[2:])).decode()
        assert change(script)
        return "p=" + base64.b64encode(gzip.compress(change(script).encode())).decode()

    return [repack(line) for line in lines]


def unpacked(lines: list[str]) -> str:
    (packed,) = (line[2:] for line in lines if line.startswith("p="))
    return gzip.decompress(base64.b64decode(packed)).decode()


@dataclass
class Ended:
    code: int
    stdout: bytes
    stderr: bytes

    @property
    def trailer(self) -> Trailer | None:
        return read_trailer(self.stderr.decode(errors="replace"))


@dataclass
class Worker:
    """A directory that a command takes for its instance."""

    root: Path
    shell: Path | None = None
    """Another shell in the place of /bin/sh."""
    environment: dict[str, str] = field(default_factory=dict)
    change: Callable[[str], str] = str
    scripts: int = 0

    def __post_init__(self) -> None:
        self.state.mkdir(parents=True)
        self.work.mkdir()
        self.environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "SCHED_STATE_DIR": str(self.state),
            "SCHED_WORK_DIR": str(self.work),
        } | self.environment

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def start(self, *commands: str, at: AttemptContext | None = None, **fields: Any) -> subprocess.Popen[bytes]:
        spec = parse_spec(spec_fields(commands=list(commands), **fields))
        lines = repacked(command_parameters(spec, at or context())["commands"], self._change)
        self.scripts += 1
        script = self.root / f"_script-{self.scripts}.sh"
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o700)
        return subprocess.Popen(
            ["sh", "-c", str(script)],
            env=self.environment,
            cwd=self.root,
            process_group=0,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *commands: str, at: AttemptContext | None = None, **fields: Any) -> Ended:
        return end_of(self.start(*commands, at=at, **fields))

    def _change(self, text: str) -> str:
        text = self.change(text)
        return text.replace("/bin/sh", str(self.shell)) if self.shell else text


def end_of(process: subprocess.Popen[bytes]) -> Ended:
    try:
        stdout, stderr = process.communicate(timeout=TOO_LONG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return Ended(process.returncode, stdout, stderr)


def as_sh(directory: Path, shell: Path) -> Path:
    """A shell under the name sh, by which it knows that it should be a POSIX one."""
    directory.mkdir(parents=True, exist_ok=True)
    link = directory / "sh"
    link.symlink_to(shell)
    return link


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + TOO_LONG
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def pids(folder: Path, *names: str) -> list[int]:
    """The process ids that a job's processes wrote to files."""
    files = [folder / name for name in names]
    until(lambda: all(file.exists() and file.read_text().endswith("\n") for file in files), f"{names} are written")
    return [int(file.read_text()) for file in files]


@contextmanager
def reaped(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Whatever the test finds, nothing is left."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def contents(path: Path) -> bytes:
    """Those of a file of a process, which may be gone by now."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
