"""What the command's exit code tells."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from sched_plugins import errors


class ExitCode(IntEnum):
    """Exit codes of ``sched``."""

    SUCCEEDED = 0
    """Done; with a wait, every job succeeded."""
    FAILED = 1
    """A job failed or was rejected, or the command could not be carried out."""
    USAGE = 2
    """Wrong usage, or a value that cannot be."""
    TIMED_OUT = 3
    """The wait ended before the job did; the job goes on."""
    NOT_FOUND = 4
    """No such job, scheduler, environment, queue or results."""
    CANCELLED = 5
    """A job was cancelled."""
    INTERRUPTED = 130
    """Ctrl-C: 128 + SIGINT, as shells tell it."""


_BY_ERROR: tuple[tuple[type[errors.SchedulerError], ExitCode], ...] = (
    (errors.InvalidInput, ExitCode.USAGE),
    (errors.WaitTimeout, ExitCode.TIMED_OUT),
    (errors.NotFound, ExitCode.NOT_FOUND),
)
_BY_STATUS = {"SUCCEEDED": ExitCode.SUCCEEDED, "CANCELLED": ExitCode.CANCELLED}


def of_error(error: errors.SchedulerError) -> ExitCode:
    """The exit code of an error."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), ExitCode.FAILED)


def of_statuses(statuses: Iterable[str]) -> ExitCode:
    """The exit code of jobs that have ended: of several that ended differently, FAILED before CANCELLED."""
    codes = {_BY_STATUS.get(str(status), ExitCode.FAILED) for status in statuses}
    for code in (ExitCode.FAILED, ExitCode.CANCELLED):
        if code in codes:
            return code
    return ExitCode.SUCCEEDED


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """The exit code of several steps: the first that went wrong."""
    return next((code for code in codes if code is not ExitCode.SUCCEEDED), ExitCode.SUCCEEDED)
