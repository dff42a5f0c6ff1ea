"""What a command's answer proves about an attempt: success, failure, loss, or nothing yet.

Unknown is unknown: a missing, failed or contradictory answer is never success and never failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sched_plugins.core import limits
from sched_plugins.core.job import JobSpec
from sched_plugins.core.wrapper import ALREADY_STARTED, EXIT_REMAPPED, NOT_PREPARED, STARTED_TOO_LATE, read_trailer


@dataclass(frozen=True, slots=True)
class Invocation:
    """Systems Manager's answer about one command on one worker (GetCommandInvocation)."""

    command_id: str
    worker_id: str
    comment: str
    status: str
    """``Status``: Pending, InProgress, Delayed, Success, Cancelled, TimedOut, Failed, Cancelling."""
    details: str
    """``StatusDetails``, which tells the kinds of TimedOut and Failed apart."""
    exit_code: int
    """``ResponseCode``; -1 while there is none."""
    stdout: str = ""
    """At most 24,000 characters of stdout."""
    stderr: str = ""
    """At most 8,000 characters of stderr."""
    stdout_uri: str = ""
    """S3 address of the whole of stdout; there is no object when it is empty."""
    stderr_uri: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        """Whether Systems Manager says that nothing more will happen."""
        return self.status in _OVER

    @property
    def stdout_is_whole(self) -> bool:
        """Whether ``stdout`` is certainly all of it: shorter than the limit, counted in bytes to be safe."""
        return len(self.stdout.encode()) < limits.API_STDOUT_CHARACTERS - _MARKER_ROOM and "\ufffd" not in self.stdout

    @property
    def stderr_is_whole(self) -> bool:
        """Whether ``stderr`` is certainly all of it."""
        return len(self.stderr.encode()) < limits.API_STDERR_CHARACTERS - _MARKER_ROOM


# Room for the marker that Systems Manager appends to cut output.
_MARKER_ROOM: Final = 100
_OVER: Final = frozenset({"Success", "Cancelled", "TimedOut", "Failed"})
# StatusDetails of commands that never ran, or whose worker went away: no fault of the job.
_WORKER_FAULT: Final = frozenset(
    {"DeliveryTimedOut", "Undeliverable", "Terminated", "InvalidPlatform", "AccessDenied", "RateExceeded"}
)


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The attempt ended well."""

    exit_code: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt ended badly, by the job's own doing."""

    reason: str
    exit_code: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    final: bool = False
    """Trying again cannot help, whatever retries are left."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The attempt is over through no fault of the job."""

    reason: str
    retire: bool = False
    """The worker is not to be used again."""
    unsent: bool = False
    """Its command was certainly never sent: no sign of a bad worker, and never a reason to end the job."""


@dataclass(frozen=True, slots=True)
class NotOver:
    """The command may still be running."""


@dataclass(frozen=True, slots=True)
class SeekInOutput:
    """Exit code 0, but whether the success string is in stdout only the whole of it can tell."""


@dataclass(frozen=True, slots=True)
class SeekTrailer:
    """The wrapper's last line of stderr is needed, and the answer's stderr was cut before it."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """The answer contradicts itself, or is of a kind not known: nothing may be concluded."""

    reason: str


End = Succeeded | Failed | Lost
Judgement = End | NotOver | SeekInOutput | SeekTrailer | Contradiction


def judge(answer: Invocation, spec: JobSpec, *, found: bool | None = None, stderr_tail: str | None = None) -> Judgement:
    """What the answer proves.

    Args:
        answer: the command's answer.
        spec: what was asked for.
        found: whether the success string was found in the whole of stdout; None: not sought yet.
        stderr_tail: the end of the whole of stderr; None: not read.
    """
    if not answer.is_over:
        return NotOver()
    details = answer.details.replace(" ", "")
    if details in _WORKER_FAULT:
        return Lost(f"Systems Manager could not run the command on {answer.worker_id}: {answer.details}", retire=True)
    if answer.status == "Cancelled":
        return Lost("the command was cancelled, but not through the scheduler")
    if answer.status == "TimedOut":
        return Failed(
            f"the command ran longer than its execution timeout of {spec.execution_timeout:,} s", answer.exit_code
        )
    if spec.is_wrapped and not answer.stderr_is_whole and stderr_tail is None:
        return SeekTrailer()
    trailer = read_trailer(stderr_tail if stderr_tail is not None else answer.stderr) if spec.is_wrapped else None
    metrics = dict(trailer.metrics) if trailer else {}
    if answer.status == "Success" and answer.exit_code == 0:
        if not spec.success_string:
            return Succeeded(metrics=metrics)
        if spec.success_string in answer.stdout and answer.stdout_is_whole:
            return Succeeded(metrics=metrics)
        if answer.stdout_is_whole:
            return _no_success_string(spec, metrics)
        if found is None:
            return SeekInOutput()
        return Succeeded(metrics=metrics) if found else _no_success_string(spec, metrics)
    if answer.status == "Failed" and answer.exit_code != 0:
        if not spec.is_wrapped:
            return Failed(f"exit code {answer.exit_code}", answer.exit_code)
        return _failure(answer, trailer.exit_code if trailer else None, trailer.reason if trailer else "", metrics)
    return Contradiction(f"status {answer.status} ({answer.details}) with exit code {answer.exit_code}")


def _no_success_string(spec: JobSpec, metrics: dict[str, Any]) -> Failed:
    return Failed(f"exit code 0, but stdout does not contain {spec.success_string[:200]!r}", 0, metrics)


def _failure(answer: Invocation, real_code: int | None, reason: str, metrics: dict[str, Any]) -> End:
    if answer.exit_code == ALREADY_STARTED:
        return Lost("the worker's agent was restarted while the job ran")
    if answer.exit_code == STARTED_TOO_LATE:
        return Lost("the command reached the worker too late", retire=True)
    if answer.exit_code == NOT_PREPARED:
        return Lost(f"the worker could not prepare the attempt: {reason or 'no reason given'}")
    code = real_code if answer.exit_code == EXIT_REMAPPED and real_code is not None else answer.exit_code
    return Failed(reason or f"exit code {code}", code, metrics)
