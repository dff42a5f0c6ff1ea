"""What the rules need from the world.

Every method may raise :class:`~sched_plugins.errors.Throttled` (definitely not done; try again later),
:class:`~sched_plugins.errors.Refused` (definitely not done; trying again will not help) or
:class:`~sched_plugins.errors.Unknown` (perhaps done, perhaps not). Reads that say ``None`` say that the
thing was looked for and is not there; a read that could not be made raises.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from sched_plugins.core.judge import Invocation
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import SlotState
from sched_plugins.core.write import Write
from sched_plugins.errors import Refused, SchedulerError


class ConditionFailed(SchedulerError):
    """A conditional write changed nothing, because something it relied on is no longer so.

    A table never raises this for a caller's own write whose reply was lost: each write carries an id of its
    own, which the table compares with the stored one.
    """

    def __init__(self, write: Write) -> None:
        super().__init__(f"write {write.name!r} of {write.key!r} changed nothing: a condition no longer holds")
        self.write = write


class TransactionFailed(SchedulerError):
    """A transaction changed nothing.

    Attributes:
        failed: names of the writes whose own condition failed. Empty if the transaction was refused for
            another reason (a conflict with another transaction, a throttle), which proves nothing about
            the conditions.
    """

    def __init__(self, failed: Sequence[str], reason: str) -> None:
        super().__init__(f"the transaction changed nothing: {reason}")
        self.failed = tuple(failed)


class RefusedForJob(Refused):
    """Systems Manager will not run this command anywhere: unknown document, bad parameters."""


class RefusedForWorker(Refused):
    """Systems Manager will not run commands on this worker (``InvalidInstanceId``)."""


class Unreadable(Refused):
    """A stored item cannot be understood: a newer version wrote it, or nobody of ours.

    Attributes:
        key: its job id or slot id.
    """

    def __init__(self, key: str, error: Exception) -> None:
        super().__init__(
            f"the item {key!r} is none that this version of the scheduler wrote ({type(error).__name__}: {error}); "
            "deploy the version that did, or repair or delete it"
        )
        self.key = key


BROKEN_ITEM = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading an item of another making may raise."""


class Tables(Protocol):
    """The two tables. Reads by key are strongly consistent; the listings follow within seconds.

    To read one item that cannot be understood raises :class:`Unreadable`; among many it stands in the item's place,
    so that one such item keeps nobody from the others.
    """

    def job(self, job_id: str) -> JobRecord | None:
        """The record, or None if there is none."""

    def jobs(self, job_ids: Sequence[str]) -> Mapping[str, JobRecord | Unreadable]:
        """The records of those that exist; batched."""

    def slot(self, slot_id: str) -> Slot | None:
        """The slot, or None if there is none."""

    def write(self, write: Write) -> None:
        """Carry out one conditional write.

        Raises:
            ConditionFailed: nothing changed, because a condition does not hold.
        """

    def write_each(self, writes: Sequence[Write]) -> Sequence[Exception | None]:
        """Carry out independent writes, several at once; the outcome of each, in order."""

    def transact(self, writes: Sequence[Write]) -> None:
        """Carry out all the writes, or none.

        Raises:
            TransactionFailed: nothing changed.
        """

    def pending(self, before: datetime) -> Iterator[JobRecord | Unreadable]:
        """Records whose effect has been pending since before that moment."""

    def queued(self, before: datetime) -> Iterator[JobRecord | Unreadable]:
        """Records that have been QUEUED since before that moment."""

    def slots(self) -> Iterator[Slot | Unreadable]:
        """All slots."""

    def slots_of(self, queue: str) -> Mapping[SlotState, int]:
        """How many slots of a queue are in each state; those in a state not known here are left out."""


@dataclass(frozen=True, slots=True)
class Message:
    """A received SQS message."""

    message_id: str
    body: str
    receipt: str
    sent_at: datetime
    source: str = ""
    """Of a dead letter: the queue that it came from."""


class Queues(Protocol):
    """The queues, by name, ARN or URL."""

    def receive(self, queue: str, wait: int = 0, maximum: int = 1) -> Sequence[Message]:
        """Up to ``maximum`` messages, after at most ``wait`` seconds."""

    def delete(self, queue: str, receipt: str) -> None:
        """Take a message away; one that is gone already is taken away."""

    def release(self, queue: str, receipt: str, delay: int = 0) -> None:
        """Let a message be received again after ``delay`` seconds."""

    def send(self, queue: str, bodies: Sequence[str], delay: int = 0) -> Sequence[Exception | None]:
        """Send in batches, to be received after ``delay`` seconds or later; the outcome of each body, in order."""

    def waiting(self, queue: str) -> int:
        """About how many messages wait to be received."""

    def siblings(self, queue: str) -> tuple[str, str]:
        """The finished and the failed queue of a job queue; the scheduler's own where it has none."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command to send once."""

    worker_id: str
    document: str
    parameters: Mapping[str, Sequence[str]]
    comment: str
    """Identifies the attempt, at most 100 characters."""
    delivery_timeout: int
    """Seconds within which the worker's agent must take it."""


class Commands(Protocol):
    """Systems Manager Run Command."""

    def send(self, command: Command) -> str:
        """Send with one total attempt, and return the command id.

        Raises:
            RefusedForJob: definitely not sent, for the job's own fault.
            RefusedForWorker: definitely not sent, for the worker's fault.
            Throttled: definitely not sent.
            Unknown: anything else.
        """

    def invocation(self, command_id: str, worker_id: str) -> Invocation | None:
        """The answer about a command; None while Systems Manager does not know it (it is eventually consistent)."""

    def find(self, worker_id: str, comment: str) -> str | None:
        """The id of the worker's command with this comment, newest first; None if none is listed."""

    def in_progress(self) -> set[str]:
        """Comments of all commands that are not over; one just sent may be missing."""

    def cancel(self, command_id: str, worker_id: str) -> None:
        """Ask for the command to end; nothing guarantees that it does."""

    def is_online(self, worker_id: str) -> bool:
        """Whether the worker's agent answers."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One S3 object."""

    key: str
    size: int
    etag: str


class Objects(Protocol):
    """Amazon S3."""

    def contains(self, uri: str, needle: str) -> bool | None:
        """Whether the object contains the text, read in overlapping chunks; None if there is no object.

        Raises:
            Refused: the object is larger than 5 GiB.
        """

    def tail(self, uri: str, size: int) -> str | None:
        """The last ``size`` bytes of the object; None if there is no object."""

    def listing(self, folder: str, maximum: int) -> Sequence[StoredObject]:
        """Objects below a folder address, at most ``maximum``; keys are relative to the folder."""

    def put(self, uri: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Store an object."""

    def metadata(self, uri: str) -> Mapping[str, str] | None:
        """The metadata of an object, and its ``etag``; None if there is no object."""

    def store_rejected(self, message_id: str, body: str) -> str:
        """Keep the whole body of a rejected message; returns its address."""


class InstanceState(StrEnum):
    """EC2's states, and GONE for an instance that EC2 no longer knows."""

    PENDING = "pending"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    STOPPING = "stopping"
    STOPPED = "stopped"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Worker:
    """An instance that the scheduler's tag, or a slot, names."""

    worker_id: str
    queue: str
    """The tag's value; empty for an instance without the tag."""
    state: InstanceState


class Workers(Protocol):
    """Amazon EC2 and Auto Scaling."""

    def tagged(self) -> Iterator[Worker]:
        """Instances that carry the scheduler's tag and are pending or running."""

    def described(self, worker_ids: Sequence[str]) -> Mapping[str, Worker]:
        """Those instances; one that EC2 does not know is GONE. One such answer proves nothing: EC2's answers are
        eventually consistent, and may lack an instance that lives."""

    def protect(self, worker_id: str, protected: bool) -> None:
        """Scale-in protection, for a worker of an Auto Scaling group; otherwise nothing."""

    def terminate(self, worker_id: str) -> None:
        """Terminate; of a group, with its desired capacity lowered by one. Terminating twice is no error."""

    def capacity(self, group: str) -> tuple[int, int]:
        """Desired and maximum capacity of an Auto Scaling group."""

    def set_capacity(self, group: str, desired: int) -> None:
        """Ask for so many workers."""


class Executions(Protocol):
    """The worker state machine."""

    def start(self, slot: Slot) -> None:
        """Start the slot's execution of its present number; "already exists" is success."""

    def running(self) -> set[str]:
        """Names of the running executions; one just started may be missing."""

    def wake(self, wake: Wake) -> bool:
        """Complete a task token with its verdict. False: the token is dead, and nobody waits for it."""


class Events(Protocol):
    """Amazon EventBridge."""

    def publish(self, details: Sequence[Mapping[str, Any]]) -> Sequence[Exception | None]:
        """Publish job state changes, in batches; the outcome of each, in order."""


class Clock(Protocol):
    """Time."""

    def now(self) -> datetime:
        """The present moment in UTC."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything that a use case may touch."""

    scheduler: str
    """The scheduler's stack name."""
    dead_letters: str
    """The dead-letter queue that every job queue of the scheduler redrives to."""
    tables: Tables
    queues: Queues
    commands: Commands
    objects: Objects
    workers: Workers
    executions: Executions
    events: Events
    clock: Clock
