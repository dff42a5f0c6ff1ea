"""The trigger that takes messages from a finished queue, for sensors and for asset watchers.

All triggers of one queue share one receiver, so that none of them takes a message that another one waits for:

- Each message is shown to all of them. A sensor *claims* the first one that it waits for; one message serves one
  sensor. An asset watcher takes part in every message.
- A message that an asset watcher took is deleted once Airflow has stored its events. A claimed one is deleted by the
  sensor's task, when it has it. Until then SQS only hides it, and shows it again if anything dies in between: messages
  come at least once.
- A message that nobody wants goes back, and is hidden for longer each time, so that it does not come round and round.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

from airflow.sdk.configuration import conf
from airflow.triggers.base import TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer
from botocore.exceptions import BotoCoreError, ClientError

from sched_plugins.airflow.exceptions import SchedulerException
from sched_plugins.airflow.hooks.scheduler import CONFIG_SECTION
from sched_plugins.airflow.triggers.base import SchedulerTrigger, failure
from sched_plugins.airflow.triggers.troubles import Troubles
from sched_plugins.client.failures import explain
from sched_plugins.client.retry import Clock
from sched_plugins.core import limits, names
from sched_plugins.errors import QueueNotFound, SchedulerError

MESSAGE: Final = "message"
HIDDEN_SECONDS: Final = 900
"""How long a received message stays hidden: longer than Airflow takes to store an event (300 s) or to resume a task."""
UNCERTAIN_SECONDS: Final = 20
"""For how long it is hidden until it is known to have arrived: a receive that is broken off may still take messages."""
BACK_AFTER: Final = 5
"""Seconds for which a message that nobody wants is hidden the first time; doubled each time."""
BACK_AFTER_AT_MOST: Final = 60

_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class FinishedMessage:
    """A message of a finished or failed queue."""

    message_id: str
    receipt_handle: str
    body: dict[str, Any]
    received: int = 1
    """How often SQS has handed it out."""
    claimed: bool = False
    """A sensor's task has been promised it."""
    takers: int = 0
    """How many asset watchers took part in it."""
    passed: int = 0
    """How many triggers have seen it and do not want it."""
    shown: bool = False
    """The triggers have been shown it."""

    @classmethod
    def of(cls, received: dict[str, Any]) -> FinishedMessage:
        """The message as SQS gives it; a body that is no JSON object is kept as text."""
        try:
            body = json.loads(received["Body"])
        except ValueError:
            body = None
        told = body if isinstance(body, dict) else {"body": received["Body"]}
        count = int(received.get("Attributes", {}).get("ApproximateReceiveCount", 1))
        return cls(received["MessageId"], received["ReceiptHandle"], told, count)

    def is_about(self, job_ids: Iterable[str], group_id: str) -> bool:
        """Whether it tells of one of these jobs, and of that group; nothing given fits everything."""
        wanted = set(job_ids)
        return (not wanted or self.body.get("job_id") in wanted) and (
            not group_id or self.body.get("group_id") == group_id
        )

    @property
    def back_after(self) -> int:
        """Seconds for which it is hidden when nobody wants it."""
        return int(min(BACK_AFTER_AT_MOST, BACK_AFTER * 2 ** min(self.received - 1, 10)))


def finished_queue(queue: str | None, owner: str) -> str:
    """The queue's name: as given, or the finished queue of a scheduler or an environment."""
    return names.queue_name(queue) if queue else names.finished_queue(names.job_queue(owner))


class FinishedJobTrigger(SchedulerTrigger):
    """
    Fire for finished jobs, as the finished queue tells of them.

    Without ``claim``, as in an asset watcher, it consumes the queue: give a watcher a queue that nobody else reads.
    Only triggers of one triggerer share what is received, those with the same connection settings that name the queue,
    the environment or the scheduler. A sensor that pokes, or whose trigger runs in another triggerer, loses messages
    to the watcher, and two watchers in two triggerers take them from each other.

    :param finished_queue: The queue; by default the finished queue of ``environment`` or else ``scheduler``. A failed
        queue (``<name>-job-queue-failed``) works as well.
    :param job_ids: Only for these jobs.
    :param group_id: Only for jobs of this group.
    :param claim: Take one message for oneself and end, as a sensor does; otherwise fire for every message, for ever.
    """

    own_fields = ("finished_queue", "job_ids", "group_id", "claim")

    def __init__(
        self,
        *,
        finished_queue: str | None = None,
        job_ids: Iterable[str] = (),
        group_id: str = "",
        claim: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.finished_queue = finished_queue
        self.job_ids = list(job_ids)
        self.group_id = group_id
        self.claim = claim

    def shared_stream_key(self) -> Hashable:
        """Get the same key for all triggers of one queue, by whichever of its names they know it."""
        return ("sched-plugins.finished", self.account, self._named_queue)

    @property
    def _named_queue(self) -> str | None:
        """The queue's name; None where only the connection may tell it, since reading that blocks."""
        if self.finished_queue:
            return finished_queue(self.finished_queue, "")
        owner = self.environment or self.scheduler
        if not owner and not self.aws_conn_id:
            owner = conf.get(CONFIG_SECTION, "default_scheduler", fallback="")
        return finished_queue(None, owner) if owner else None

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> SharedStreamProducer:
        """Make the receiver of the queue's messages."""
        return FinishedQueueProducer(cls(**kwargs))

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Fire for the messages that are wanted."""
        began = asyncio.get_running_loop().time()
        try:
            async for message in shared_stream:
                if not message.is_about(self.job_ids, self.group_id) or (self.claim and message.claimed):
                    message.passed += 1
                elif not self.claim:
                    message.takers += 1
                    yield TriggerEvent(message.body)
                else:
                    message.claimed = True
                    try:
                        await self.settle(began)
                    except BaseException:
                        message.claimed = False  # The task is not waiting any more.
                        message.passed += 1
                        raise
                    yield TriggerEvent({"status": MESSAGE, **claimed(message)})
                    return
        except (SchedulerError, SchedulerException) as error:
            if not self.claim:
                raise
            await self.settle(began)
            yield failure(error)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Receive alone, where nobody shares the queue (``dag.test()``)."""
        self._alone = True
        producer = FinishedQueueProducer(self)

        async def messages() -> AsyncIterator[FinishedMessage]:
            async for message, _ in producer.open_stream():
                yield message
                await producer.settle([message])

        try:
            async for event in self.filter_shared_stream(messages()):
                yield event
        finally:
            await producer.aclose()


def claimed(message: FinishedMessage) -> dict[str, Any]:
    """What a task has to know of the message that it may have."""
    return {"message_id": message.message_id, "receipt_handle": message.receipt_handle, "message": message.body}


class FinishedQueueProducer(SharedStreamProducer):
    """
    Receives the messages of a queue, and deletes or gives back what was received.

    :param trigger: One of the triggers that share it.
    """

    def __init__(self, trigger: FinishedJobTrigger) -> None:
        self._trigger = trigger
        self._open = AsyncExitStack()
        self._sqs: Any = None
        self._url = ""
        self._place = ""
        self._held: dict[str, FinishedMessage] = {}

    async def open_stream(self) -> AsyncIterator[tuple[FinishedMessage, FinishedMessage]]:
        """Receive for ever."""
        troubles = Troubles(Clock())
        while True:
            try:
                if self._sqs is None:
                    await self._reach()
                received = await self._call(
                    "receive_message", MaxNumberOfMessages=10, WaitTimeSeconds=limits.MAX_SQS_WAIT,
                    VisibilityTimeout=UNCERTAIN_SECONDS, MessageSystemAttributeNames=["ApproximateReceiveCount"],
                )  # fmt: skip
                await self._keep([FinishedMessage.of(one) for one in received.get("Messages", ())])
            except SchedulerError as error:
                troubles.met(error)
                await asyncio.sleep(troubles.delay)
                continue
            troubles.over()
            for message in list(self._held.values()):
                if not message.shown:
                    message.shown = True
                    yield message, message

    async def _keep(self, messages: Sequence[FinishedMessage]) -> None:
        """Hide what has arrived for as long as it is needed; what SQS will not hide is forgotten, and comes again."""
        if not messages:
            return
        held = {str(number): message for number, message in enumerate(messages)}
        self._held.update((message.receipt_handle, message) for message in messages)
        entries = [
            {"Id": number, "ReceiptHandle": message.receipt_handle, "VisibilityTimeout": HIDDEN_SECONDS}
            for number, message in held.items()
        ]
        forgotten: Iterable[str] = held
        try:
            answer = await self._call("change_message_visibility_batch", Entries=entries)
            forgotten = [failure["Id"] for failure in answer.get("Failed", ())]
        except asyncio.CancelledError:
            forgotten = ()  # all are given back
            raise
        finally:
            for number in forgotten:
                self._held.pop(held[number].receipt_handle, None)

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Delete what was stored, give back what nobody wants; what failed on the way comes again at once."""
        for message, outcome in batch:
            # Whom it failed for may be a sensor that left before it came to this message: it wants it no more.
            stored = message.takers and outcome.acked >= message.takers + message.passed
            if outcome.failed and not stored:
                message.takers, message.received = 0, 0
        await self.settle([item.broker_payload for item in batch])

    def get_advance_lane(self, broker_payload: FinishedMessage) -> Hashable:
        """Let no message wait for another."""
        return broker_payload.message_id

    async def settle(self, messages: Sequence[FinishedMessage]) -> None:
        """Delete what is done with; what cannot be deleted now comes again, and is recognised by its ``event_id``."""
        for message in messages:
            self._held.pop(message.receipt_handle, None)
            if message.claimed:
                continue  # Its sensor's task deletes it, also if a watcher took part in it.
            try:
                if message.takers:
                    await self._call("delete_message", ReceiptHandle=message.receipt_handle)
                else:
                    seconds = message.back_after if message.received else 0
                    await self._call(
                        "change_message_visibility", ReceiptHandle=message.receipt_handle, VisibilityTimeout=seconds
                    )
            except SchedulerError as error:
                _log.warning("Message %s of %s comes again: %s", message.message_id, self._url, error)

    async def aclose(self) -> None:
        """Give back what was received and not dealt with, so that others have it at once; close the connections."""
        left = [message for message in self._held.values() if not message.claimed]
        for message in left:
            message.takers, message.received = 0, 0
        await self.settle(left)
        await self._open.aclose()
        self._sqs = None

    async def _reach(self) -> None:
        hook, self._sqs = await self._open.enter_async_context(self._trigger.aws("sqs"))
        self._place = f"region {self._sqs.meta.region_name}"

        def owner() -> str:
            return str(self._trigger.environment or hook.scheduler)

        name = finished_queue(self._trigger.finished_queue, "" if self._trigger.finished_queue else owner())
        try:
            self._url = (await self._sqs.get_queue_url(QueueName=name))["QueueUrl"]
        except (ClientError, BotoCoreError) as error:
            await self.aclose()
            missing = QueueNotFound(f"there is no queue {name!r} in {self._place}; `sched queues` lists them")
            raise explain(error, f"find queue {name!r}", self._place, loopback=False, missing=missing) from error

    async def _call(self, method: str, **request: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await getattr(self._sqs, method)(QueueUrl=self._url, **request)
        except (ClientError, BotoCoreError) as error:
            raise explain(error, f"use queue {self._url}", self._place, loopback=False, missing=None) from error
        return answer or {}
