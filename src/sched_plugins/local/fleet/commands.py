"""Commands: what was asked, of which instances, and how each invocation stands."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .documents import Document

#: Statuses in which an invocation stays (CommandInvocation in the Systems Manager API).
TERMINAL = frozenset({"Success", "Failed", "Cancelled", "TimedOut"})
#: "The first 24,000 characters written by the plugin to stdout", "The first 8,000 … to stderr"
#: (GetCommandInvocation); "the first 2,500 characters" (CommandPlugin.Output).
STDOUT_LIMIT, STDERR_LIMIT, PLUGIN_LIMIT = 24_000, 8_000, 2_500
TRUNCATED = "\n---Output truncated---"
#: How many commands are kept. Systems Manager keeps them for 30 days.
KEPT_COMMANDS = 10_000


@dataclass
class StepResult:
    """How one step of a document ended on an instance."""

    name: str
    output_path: str
    exit_code: int = -1
    status: str = "Pending"
    stdout: str = ""
    stderr: str = ""
    started: datetime | None = None
    ended: datetime | None = None


@dataclass
class Invocation:
    """A command on one instance."""

    command: Command
    instance_id: str
    status: str = "Pending"
    details: str = "Pending"
    results: list[StepResult] = field(default_factory=list)
    cancel_requested: bool = False
    task: asyncio.Task[None] | None = None
    reruns: int = 0

    @property
    def terminal(self) -> bool:
        """Whether its status is final."""
        return self.status in TERMINAL


@dataclass
class Command:
    """One SendCommand."""

    account: str
    region: str
    document: Document
    parameters: dict[str, Any]
    bound: dict[str, Any]
    comment: str
    timeout_seconds: int
    bucket: str
    prefix: str
    instance_ids: list[str]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    requested: datetime = field(default_factory=lambda: datetime.now(UTC))
    requested_clock: float = field(default_factory=time.monotonic)
    invocations: dict[str, Invocation] = field(default_factory=dict)
    reported: str = "Pending"

    def __post_init__(self) -> None:
        self.invocations = {item: Invocation(self, item) for item in self.instance_ids}

    @property
    def status(self) -> str:
        """The invocations' statuses in one."""
        states = {item.status for item in self.invocations.values()}
        for status in ("InProgress", "Cancelling", "Pending", "Delayed"):
            if status in states:
                return "InProgress" if status == "Pending" and states - {"Pending"} else status
        for status in ("Failed", "TimedOut", "Cancelled"):
            if status in states:
                return status
        return "Success"

    @property
    def expires(self) -> float:
        """When it expires if nobody takes it or answers, in seconds since the epoch."""
        return self.requested.timestamp() + self.timeout_seconds + self._execution_timeout

    @property
    def _execution_timeout(self) -> int:
        try:
            return int(str(self.bound.get("executionTimeout", "3600")))
        except ValueError:
            return 3600

    def event(self) -> dict[str, Any]:
        """What its events say about it."""
        return {
            "command-id": self.id,
            "document-name": self.document.name,
            "expire-after": iso(datetime.fromtimestamp(self.expires, UTC)),
            "parameters": self.parameters,
            "requested-date-time": iso(self.requested),
        }


class Commands:
    """All commands, oldest first."""

    def __init__(self) -> None:
        self._all: dict[str, Command] = {}
        self._on: dict[str, dict[str, Command]] = {}

    def add(self, command: Command) -> None:
        """Keep a new command, and forget the oldest one beyond ``KEPT_COMMANDS`` if it has ended."""
        self._all[command.id] = command
        for instance_id in command.instance_ids:
            self._on.setdefault(instance_id, {})[command.id] = command
        if len(self._all) > KEPT_COMMANDS:
            oldest = next(iter(self._all.values()))
            if oldest.status in TERMINAL:
                del self._all[oldest.id]
                for instance_id in oldest.instance_ids:
                    del self._on[instance_id][oldest.id]

    def get(self, account: str, region: str, command_id: str) -> Command | None:
        """A command of one account and region."""
        found = self._all.get(command_id)
        return found if found and (found.account, found.region) == (account, region) else None

    def all(self, account: str, region: str, instance_id: str | None = None) -> list[Command]:
        """The commands of one account and region, or of one instance there, newest first."""
        chosen = self._all if instance_id is None else self._on.get(instance_id, {})
        return [item for item in reversed(chosen.values()) if (item.account, item.region) == (account, region)]

    def open_on(self, instance_id: str) -> list[Invocation]:
        """Invocations on an instance that are not final."""
        found = [item.invocations[instance_id] for item in self._on.get(instance_id, {}).values()]
        return [item for item in found if not item.terminal]


def iso(moment: datetime) -> str:
    """A moment as Systems Manager writes it: UTC, milliseconds, ``Z``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def cut(text: str, limit: int) -> str:
    """The first ``limit`` characters, the last of which say so when something is missing."""
    return text if len(text) <= limit else text[: limit - len(TRUNCATED)] + TRUNCATED
