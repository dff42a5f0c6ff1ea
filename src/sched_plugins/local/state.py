"""The state folder of a laptop stack: where its files are and what is written in them."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

#: Environment variable that names the state folder; without it, ``.sched-local`` in the current folder.
STATE_VARIABLE = "SCHED_LOCAL_STATE"
DEFAULT_FOLDER = ".sched-local"
#: The account MiniStack answers for when a key is not itself a 12-digit account number.
ACCOUNT = "000000000000"
REGION = "us-east-1"


@dataclass(frozen=True)
class StackInfo:
    """A running laptop stack.

    ``pid`` and ``started`` (see ``processes.start_time``) identify the server, ``guard_pid`` and
    ``guard_started`` the watcher that ends its children. ``already_running`` is true when ``up`` found it so.
    """

    endpoint: str
    port: int
    pid: int
    started: str
    guard_pid: int
    guard_started: str
    state_dir: str
    log_file: str
    region: str = REGION
    account: str = ACCOUNT
    started_at: str = ""
    already_running: bool = field(default=False, compare=False)

    def as_running(self) -> StackInfo:
        """The same stack, found running."""
        return replace(self, already_running=True)


class StateFolder:
    """Paths and records under one folder. Reading never fails because of what a crash left behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "stack.json"
        self.lock = path / "lock"
        self.last_port = path / "last-port"
        self.log = path / "server.log"
        self.instances = path / "instances"
        self.scratch = path / "tmp"
        self.home = path / "home"

    @classmethod
    def locate(cls, state_dir: str | os.PathLike[str] | None = None) -> StateFolder:
        """The folder named by ``state_dir``, else by ``SCHED_LOCAL_STATE``, else ``./.sched-local``."""
        named = state_dir or os.environ.get(STATE_VARIABLE) or DEFAULT_FOLDER
        return cls(Path(named).expanduser().resolve())

    @property
    def mark(self) -> str:
        """What the stack mark of every process of this folder starts with, whichever start it was."""
        return f"{self.path}#"

    def create(self) -> None:
        """Make the folder, with a ``.gitignore`` so that nothing of it is ever committed."""
        self.path.mkdir(parents=True, exist_ok=True)
        ignore = self.path / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def read(self) -> StackInfo | None:
        """The recorded stack; None if there is none or the record is not readable."""
        try:
            stored: dict[str, Any] = json.loads(self.record.read_text())
            return StackInfo(**{key: stored[key] for key in StackInfo.__annotations__ if key in stored})
        except (OSError, ValueError, TypeError, AttributeError):
            return None

    def write(self, info: StackInfo) -> None:
        """Record ``info`` in one step: a reader sees the old record or the new one, never half of one."""
        descriptor, name = tempfile.mkstemp(dir=self.path, prefix=".stack-")
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(info), file, indent=1)
        Path(name).replace(self.record)
        self.last_port.write_text(str(info.port))

    def port_of_last_stack(self) -> int:
        """The port of this folder's last stack, so that shells which know it go on working; 0 if none."""
        try:
            port = int(self.last_port.read_text())
        except (OSError, ValueError):
            return 0
        return port if 0 < port < 65536 else 0

    def forget(self) -> None:
        """Remove the record."""
        self.record.unlink(missing_ok=True)
