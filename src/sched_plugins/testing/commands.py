"""Systems Manager Run Command in virtual time: agents that take commands, run them, and tell of it, or do not."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sched_plugins.core import limits
from sched_plugins.core.job import LINUX_DOCUMENT, WINDOWS_DOCUMENT
from sched_plugins.core.judge import Invocation
from sched_plugins.core.slot import Slot
from sched_plugins.core.wrapper import ALREADY_STARTED, STARTED_TOO_LATE
from sched_plugins.errors import Refused
from sched_plugins.ports import Command, InstanceState, RefusedForJob, RefusedForWorker
from sched_plugins.testing.clock import VirtualClock
from sched_plugins.testing.objects import Body, MemoryObjects
from sched_plugins.testing.workers import Instance, MemoryWorkers

DELIVERY = 0.5
"""Seconds until an agent that answers takes a command."""
KILLING = 1.0
"""Seconds between a request to cancel and the end of a command that heeds it."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a job does once its commands start."""

    seconds: float = 10.0
    exit_code: int = 0
    stdout: str = ""
    stderr: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    heeds_cancel: bool = True
    output_delay: float = 0.0
    """Seconds after the end until its output is in S3."""
    refused: type[Refused] | None = None
    """What Systems Manager says instead of taking the command."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Which attempt a command is, and when its wrapper stops starting it: what the generated script carries."""

    job_id: str
    run_id: str
    attempt: int
    start_by: datetime


@dataclass
class Process:
    """One start of a job's commands on a worker."""

    attempt: Attempt
    worker_id: str
    started_at: datetime
    ended_at: datetime | None = None


@dataclass
class Run:
    """One command as Systems Manager knows it."""

    command_id: str
    command: Command
    sent_at: datetime
    behaviour: Behaviour
    attempt: Attempt | None
    status: str = "Pending"
    details: str = "Pending"
    exit_code: int = -1
    stdout: str = ""
    stderr: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    process: Process | None = None
    starts: int = 0
    """How often the agent began with the document."""

    @property
    def is_wrapped(self) -> bool:
        """Whether it runs inside the scheduler's wrapper."""
        return self.command.document in (LINUX_DOCUMENT, WINDOWS_DOCUMENT)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.finished_at is not None


class MemoryCommands:
    """The ``Commands`` port, in memory.

    Attributes:
        runs: every command that was ever sent, by id.
        processes: every start of a job's own commands.
        behave: what an attempt does; by default it succeeds after 10 s.
        documents: names of the documents that there are.
        listeners: called with a command whose status changed to an end.
        unknown_for: seconds after a send for which ``invocation`` knows nothing of it.
        listing_lag: seconds for which listings lag behind.
    """

    def __init__(self, clock: VirtualClock, workers: MemoryWorkers, objects: MemoryObjects) -> None:
        self.runs: dict[str, Run] = {}
        self.processes: list[Process] = []
        self.behave: Callable[[Attempt], Behaviour] = lambda _: Behaviour()
        self.documents = {LINUX_DOCUMENT, WINDOWS_DOCUMENT}
        self.listeners: list[Callable[[Run], None]] = []
        self.unknown_for = 0.2
        self.listing_lag = 2.0
        self._clock = clock
        self._workers = workers
        self._objects = objects
        self._attempts: dict[str, Attempt] = {}
        self._markers: set[str] = set()
        self._numbers = itertools.count(1)
        workers.state_listeners.append(self._instance_changed)

    def expect(self, comment: str, slot: Slot) -> None:
        """Tell which attempt the command with this comment is: the simulation reads no generated script."""
        self._attempts[comment] = Attempt(slot.job_id, slot.run_id, slot.attempt, slot.start_by or self._clock.now())

    def send(self, command: Command) -> str:
        """Send a command, and return its id.

        Raises:
            RefusedForJob: unknown document, or the attempt's behaviour asks for it.
            RefusedForWorker: no agent answers there.
        """
        attempt = self._attempts.get(command.comment)
        behaviour = self.behave(attempt) if attempt is not None else Behaviour()
        if command.document not in self.documents:
            raise RefusedForJob(f"document {command.document!r} does not exist")
        if len(command.comment) > limits.MAX_COMMENT_CHARACTERS or command.delivery_timeout < 30:
            raise RefusedForJob("Systems Manager takes no such comment or delivery timeout")
        if behaviour.refused is not None:
            raise behaviour.refused("as the behaviour asks for")
        instance = self._workers.instances.get(command.worker_id)
        if instance is None or not instance.agent_answers:
            raise RefusedForWorker(f"InvalidInstanceId: {command.worker_id}")
        run = Run(f"command-{next(self._numbers)}", command, self._clock.now(), behaviour, attempt)
        self.runs[run.command_id] = run
        self._clock.after(DELIVERY, lambda: self._deliver(run))
        self._clock.after(command.delivery_timeout, lambda: self._undelivered(run))
        return run.command_id

    def _deliver(self, run: Run) -> None:
        instance = self._workers.instances[run.command.worker_id]
        if instance.agent_answers and not run.is_over:
            run.status = run.details = "InProgress"
            run.started_at = self._clock.now()
            self._begin(run)

    def _undelivered(self, run: Run) -> None:
        if run.started_at is None and not run.is_over:
            self._end(run, "TimedOut", "DeliveryTimedOut", -1)

    def _begin(self, run: Run) -> None:
        """The agent runs the document, perhaps not for the first time."""
        run.starts += 1
        if run.is_wrapped and run.attempt is not None:
            if run.command.comment in self._markers:
                self._end(run, "Failed", "Failed", ALREADY_STARTED)
                return
            if self._clock.now() > run.attempt.start_by:
                self._end(run, "Failed", "Failed", STARTED_TOO_LATE)
                return
            self._markers.add(run.command.comment)
        if run.attempt is not None:
            run.process = Process(run.attempt, run.command.worker_id, self._clock.now())
            self.processes.append(run.process)
        start = run.starts
        self._clock.after(run.behaviour.seconds, lambda: self._exited(run, start))

    def _exited(self, run: Run, start: int) -> None:
        if run.is_over or run.starts != start or self._process_ended(run):
            return
        if not self._workers.instances[run.command.worker_id].agent_answers:
            self._kill(run)  # It ended by itself, on an instance that can tell nobody.
            return
        code = run.behaviour.exit_code
        run.stdout, run.stderr = run.behaviour.stdout, run.behaviour.stderr + self._trailer(run)
        self._end(run, "Success" if code == 0 else "Failed", "Success" if code == 0 else "Failed", code)

    def _trailer(self, run: Run) -> str:
        if not run.is_wrapped or not run.behaviour.metrics:
            return ""
        fields = {"exit_code": run.behaviour.exit_code, "reason": "", "metrics": dict(run.behaviour.metrics)}
        return f"\nsched-trailer: {base64.b64encode(json.dumps(fields).encode()).decode()}\n"

    def _process_ended(self, run: Run) -> bool:
        return run.process is not None and run.process.ended_at is not None

    def _end(self, run: Run, status: str, details: str, exit_code: int) -> None:
        run.status, run.details, run.exit_code = status, details, exit_code
        run.finished_at = self._clock.now()
        self._kill(run)
        visible = self._clock.now() + timedelta(seconds=run.behaviour.output_delay)
        for kind, text in (("stdout", run.stdout), ("stderr", run.stderr)):
            if text:
                self._objects.stored[self._uri(run, kind)] = Body(text.encode(), {}, visible)
        for listener in self.listeners:
            listener(run)

    def _kill(self, run: Run) -> None:
        if run.process is not None and run.process.ended_at is None:
            run.process.ended_at = self._clock.now()

    def _uri(self, run: Run, kind: str) -> str:
        return f"s3://sched-output/commands/{run.command_id}/{run.command.worker_id}/{kind}"

    def _of_worker(self, worker_id: str) -> list[Run]:
        return [run for run in self.runs.values() if run.command.worker_id == worker_id and not run.is_over]

    def _instance_changed(self, instance: Instance) -> None:
        """What ran on an instance is gone once it is terminated, and not before; Systems Manager is not told."""
        if instance.state in (InstanceState.TERMINATED, InstanceState.STOPPED):
            for run in self._of_worker(instance.worker_id):
                self._kill(run)

    def restart_agent(self, worker_id: str) -> None:
        """The agent is restarted: what it ran is killed, and every document in progress is run again."""
        for run in self._of_worker(worker_id):
            if run.started_at is not None and not self._process_ended(run):
                self._kill(run)
                self._clock.after(DELIVERY, lambda run=run: self._rerun(run))  # type: ignore[misc]

    def _rerun(self, run: Run) -> None:
        if not run.is_over and self._workers.instances[run.command.worker_id].agent_answers:
            self._begin(run)

    def contradict(self, worker_id: str) -> None:
        """Commands in progress end with an answer that contradicts itself: failed, with exit code 0."""
        for run in self._of_worker(worker_id):
            self._end(run, "Failed", "Failed", 0)

    def invocation(self, command_id: str, worker_id: str) -> Invocation | None:
        """The answer about a command; None while Systems Manager does not know it."""
        run = self.runs.get(command_id)
        if run is None or run.command.worker_id != worker_id:
            return None
        if self._clock.now() < run.sent_at + timedelta(seconds=self.unknown_for):
            return None
        over = run.is_over
        return Invocation(
            command_id=command_id,
            worker_id=worker_id,
            comment=run.command.comment,
            status=run.status,
            details=run.details,
            exit_code=run.exit_code,
            stdout=_cut(run.stdout, limits.API_STDOUT_CHARACTERS),
            stderr=_cut(run.stderr, limits.API_STDERR_CHARACTERS),
            stdout_uri=self._uri(run, "stdout") if over else "",
            stderr_uri=self._uri(run, "stderr") if over else "",
            started_at=run.started_at,
            finished_at=run.finished_at,
        )

    def _listed(self) -> list[Run]:
        then = self._clock.now() - timedelta(seconds=self.listing_lag)
        return [run for run in self.runs.values() if run.sent_at <= then]

    def find(self, worker_id: str, comment: str) -> str | None:
        """The id of the worker's command with this comment, newest first; None if none is listed."""
        for run in reversed(self._listed()):
            if run.command.worker_id == worker_id and run.command.comment == comment:
                return run.command_id
        return None

    def in_progress(self) -> set[str]:
        """Comments of all commands that are not over; one just sent may be missing, one just ended still listed."""
        then = self._clock.now() - timedelta(seconds=self.listing_lag)
        listed = self._listed()
        return {run.command.comment for run in listed if run.finished_at is None or run.finished_at > then}

    def cancel(self, command_id: str, worker_id: str) -> None:
        """Ask for the command to end; nothing guarantees that it does."""
        run = self.runs.get(command_id)
        if run is None or run.is_over or run.command.worker_id != worker_id:
            return
        if run.started_at is None:
            self._end(run, "Cancelled", "Cancelled", -1)
        elif run.behaviour.heeds_cancel and self._workers.instances[worker_id].agent_answers:
            self._clock.after(KILLING, lambda: self._cancelled(run))

    def _cancelled(self, run: Run) -> None:
        if not run.is_over and self._workers.instances[run.command.worker_id].agent_answers:
            self._end(run, "Cancelled", "Cancelled", 143)

    def is_online(self, worker_id: str) -> bool:
        """Whether the worker's agent answers."""
        instance = self._workers.instances.get(worker_id)
        return instance is not None and instance.agent_answers


def _cut(text: str, maximum: int) -> str:
    return text if len(text) <= maximum else f"{text[:maximum]}\n---Output truncated---"
