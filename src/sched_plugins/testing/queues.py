"""SQS as it behaves on a bad day: repeated, out of order, still there after a delete."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sched_plugins.core import limits, names
from sched_plugins.errors import QueueNotFound, Refused
from sched_plugins.ports import Message
from sched_plugins.testing.clock import VirtualClock

ARN = "arn:aws:sqs:eu-central-1:000000000000:"
"""Beginning of the address by which a dead letter names the queue that it came from."""


@dataclass
class Stored:
    """One message in a queue."""

    message_id: str
    body: str
    sent_at: datetime
    visible_at: datetime
    receipt: str = ""
    """Of the latest receive; an older receipt deletes nothing."""
    receives: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that was ever sent to a queue."""

    queue: str
    message_id: str
    body: str


class MemoryQueues:
    """The ``Queues`` port, in memory.

    Attributes:
        sent: every message that was ever sent, in order.
        visibility: seconds for which a received message is hidden.
        max_receives: after so many receives a message of a job queue goes to the dead-letter queue.
        newest_first: receive in the reverse order.
    """

    def __init__(
        self,
        clock: VirtualClock,
        scheduler: str,
        dead_letters: str,
        *,
        visibility: float = 60.0,
        max_receives: int = 10,
    ) -> None:
        self.sent: list[Sent] = []
        self.visibility = visibility
        self.max_receives = max_receives
        self.newest_first = False
        self._clock = clock
        self._scheduler = scheduler
        self._dead_letters = dead_letters
        self._numbers = itertools.count(1)
        self._queues: dict[str, list[Stored]] = {dead_letters: []}
        self.create_trio(names.job_queue(scheduler))

    def create_trio(self, job_queue: str) -> None:
        """Make a job queue with its finished and failed queues."""
        for name in (job_queue, names.finished_queue(job_queue), names.failed_queue(job_queue)):
            self.create(name)

    def create(self, name: str) -> None:
        """Make one queue."""
        self._queues.setdefault(name, [])

    def stored(self, queue: str) -> Sequence[Stored]:
        """What is in a queue, received or not."""
        name = names.queue_name(queue)
        if name not in self._queues:
            raise QueueNotFound(f"no queue is called {name!r}; create it first")
        return self._queues[name]

    def job_queues(self) -> Sequence[str]:
        """Names of the queues that jobs wait in."""
        return [name for name in self._queues if name.endswith(names.JOB_QUEUE)]

    def receive(self, queue: str, wait: int = 0, maximum: int = 1) -> Sequence[Message]:
        """Up to ``maximum`` messages, after at most ``wait`` seconds."""
        if not 1 <= maximum <= limits.SQS_BATCH or not 0 <= wait <= limits.MAX_SQS_WAIT:
            raise Refused(f"cannot receive {maximum} messages in {wait} s")
        self._bury(names.queue_name(queue))
        self._clock.wait_for(lambda: bool(self._visible(queue)), wait)
        self._bury(names.queue_name(queue))
        return [self._hand_out(message) for message in self._visible(queue)[:maximum]]

    def _visible(self, queue: str) -> list[Stored]:
        now = self._clock.now()
        visible = [message for message in self.stored(queue) if message.visible_at <= now]
        return visible[::-1] if self.newest_first else visible

    def _hand_out(self, message: Stored) -> Message:
        message.receives += 1
        message.receipt = f"receipt-{next(self._numbers)}"
        message.visible_at = self._clock.now() + timedelta(seconds=self.visibility)
        return Message(message.message_id, message.body, message.receipt, message.sent_at, message.source)

    def _bury(self, name: str) -> None:
        if not name.endswith(names.JOB_QUEUE):
            return
        for message in [one for one in self._visible(name) if one.receives >= self.max_receives]:
            self._queues[name].remove(message)
            self._queues[self._dead_letters].append(replace(message, receives=0, receipt="", source=f"{ARN}{name}"))

    def delete(self, queue: str, receipt: str) -> None:
        """Take a message away; a receipt that is no longer the latest takes nothing away."""
        stored = self._queues[names.queue_name(queue)]
        stored[:] = [message for message in stored if message.receipt != receipt]

    def release(self, queue: str, receipt: str, delay: int = 0) -> None:
        """Let a message be received again after ``delay`` seconds."""
        for message in self.stored(queue):
            if message.receipt == receipt:
                message.visible_at = self._clock.now() + timedelta(seconds=delay)

    def send(self, queue: str, bodies: Sequence[str], delay: int = 0) -> Sequence[Exception | None]:
        """Send; the outcome of each body."""
        outcomes: list[Exception | None] = []
        for body in bodies:
            size = len(body.encode(errors="replace"))
            if size > limits.MAX_MESSAGE_BYTES:
                outcomes.append(Refused(f"a message of {size:,} bytes is larger than SQS takes"))
                continue
            self.put(queue, body, delay)
            outcomes.append(None)
        return outcomes

    def put(self, queue: str, body: str, delay: int = 0) -> str:
        """Send one message, and return its id."""
        message_id, now = f"message-{next(self._numbers)}", self._clock.now()
        name = names.queue_name(queue)
        self.stored(name)
        self._queues[name].append(Stored(message_id, body, now, now + timedelta(seconds=delay)))
        self.sent.append(Sent(name, message_id, body))
        return message_id

    def waiting(self, queue: str) -> int:
        """How many messages wait to be received."""
        return len(self._visible(queue))

    def siblings(self, queue: str) -> tuple[str, str]:
        """The finished and the failed queue of a job queue; the scheduler's own where it has none."""
        name = names.queue_name(queue)
        pair = names.finished_queue(name), names.failed_queue(name)
        if all(one in self._queues for one in pair):
            return pair
        own = names.job_queue(self._scheduler)
        return names.finished_queue(own), names.failed_queue(own)

    def deliver_again(self, sent: Sent) -> None:
        """A copy of a message appears, with the id of the first, whatever became of that one."""
        now = self._clock.now()
        self._queues[sent.queue].append(Stored(sent.message_id, sent.body, now, now))
