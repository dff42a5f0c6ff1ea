"""The states of a job and the moves between them, as data."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Status(StrEnum):
    """Where a job is."""

    QUEUED = "QUEUED"
    """Accepted; its message is in the queue, or will be put there by the outbox."""
    STARTING = "STARTING"
    """Held by a worker's slot; its command is being sent."""
    RUNNING = "RUNNING"
    """Systems Manager has accepted its command."""
    SUCCEEDED = "SUCCEEDED"
    """Ended with exit code 0 and, if asked for, the success string in stdout."""
    FAILED = "FAILED"
    """Ended otherwise, with no retries left."""
    CANCELLED = "CANCELLED"
    """Ended because somebody asked for it."""
    REJECTED = "REJECTED"
    """A message that was no valid job; it never ran."""


LIVE: Final = frozenset({Status.STARTING, Status.RUNNING})
TERMINAL: Final = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.REJECTED})


class Event(StrEnum):
    """What moves a job."""

    SUBMITTED = "submitted"
    CLAIMED = "claimed"
    RAW_CLAIMED = "raw message claimed"
    COMMAND_ACCEPTED = "command accepted"
    REFUSED_JOB = "refused for the job's own fault"
    REFUSED_WORKER = "refused for the worker's fault"
    SUCCEEDED = "command ended well"
    FAILED_RETRY = "command ended badly, retries left"
    FAILED_FINAL = "command ended badly, none left"
    LOST = "worker lost"
    LOST_FINAL = "worker lost once too often"
    CANCELLED = "cancelled"
    REJECTED = "message refused"


class Transition(NamedTuple):
    """One permitted move; ``source`` is None when there was no record."""

    source: Status | None
    event: Event
    target: Status


def _transitions() -> frozenset[Transition]:
    moves = [
        Transition(None, Event.SUBMITTED, Status.QUEUED),
        Transition(None, Event.RAW_CLAIMED, Status.STARTING),
        Transition(None, Event.REJECTED, Status.REJECTED),
        Transition(Status.QUEUED, Event.CLAIMED, Status.STARTING),
        Transition(Status.QUEUED, Event.CANCELLED, Status.CANCELLED),
        Transition(Status.STARTING, Event.COMMAND_ACCEPTED, Status.RUNNING),
        Transition(Status.STARTING, Event.REFUSED_JOB, Status.FAILED),
        Transition(Status.STARTING, Event.REFUSED_WORKER, Status.QUEUED),
        Transition(Status.STARTING, Event.REFUSED_WORKER, Status.FAILED),
    ]
    for live in sorted(LIVE):
        moves += [
            Transition(live, Event.SUCCEEDED, Status.SUCCEEDED),
            Transition(live, Event.FAILED_RETRY, Status.QUEUED),
            Transition(live, Event.FAILED_FINAL, Status.FAILED),
            Transition(live, Event.LOST, Status.QUEUED),
            Transition(live, Event.LOST_FINAL, Status.FAILED),
            Transition(live, Event.CANCELLED, Status.CANCELLED),
        ]
    for ended in sorted(TERMINAL - {Status.REJECTED}):
        moves += [
            Transition(ended, Event.SUBMITTED, Status.QUEUED),
            Transition(ended, Event.RAW_CLAIMED, Status.STARTING),
        ]
    return frozenset(moves)


TRANSITIONS: Final = _transitions()
"""Every permitted move. Within a run no move leaves a terminal state: the two that do begin a new run."""


def permitted(source: Status | None, target: Status) -> bool:
    """Whether some event moves a job from ``source`` to ``target``."""
    return any(move.source == source and move.target == target for move in TRANSITIONS)


class SlotState(StrEnum):
    """Where a worker's slot is."""

    FREE = "FREE"
    """May claim a job."""
    HELD = "HELD"
    """Holds exactly one job."""
    RETIRING = "RETIRING"
    """Claims no more and does not count as busy; its worker is being terminated."""


class Verdict(StrEnum):
    """What a worker's execution does next."""

    NEXT = "next"
    """Ask for the next job."""
    RETIRE = "retire"
    """Terminate the worker."""
    RENEW = "renew"
    """Hand over to the worker's next execution, because this one's history is nearly full."""
    STOP = "stop"
    """End, and leave the worker alone: a later execution has taken over."""
