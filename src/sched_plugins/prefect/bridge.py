"""Prefect events for every job that ends, from the queues that tell of it: also for jobs that no flow has submitted.

Run it as a service beside the Prefect server::

    python -m sched_plugins.prefect.bridge --scheduler sim

It takes the messages away. Where something else reads the finished queue too, have EventBridge send ``Scheduler Job
State Change`` to a queue of the bridge's own, and give that one's name: the bridge reads both kinds of message.

- A message is deleted once Prefect's API has taken its event; until then SQS only hides it, and shows it again. The
  event's id derives from the job's ``event_id``, so that Prefect keeps a repeated one once.
- A message that tells of no job is hidden for as long as SQS can (12 hours), and named in the log: it is kept for
  whoever looks into it, and holds nothing up.
- What AWS or Prefect does not answer is tried again, at most a minute later, for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import logging
import random
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import httpx
from prefect._internal.compatibility.async_dispatch import async_dispatch
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.events import Event
from prefect.exceptions import ObjectNotFound, PrefectException

from sched_plugins.client import Connection
from sched_plugins.core import limits, names
from sched_plugins.errors import InvalidInput, QueueNotFound, SchedulerError, Throttled, Unknown
from sched_plugins.prefect.artifacts import SchedulerLike, client_of
from sched_plugins.prefect.blocks.scheduler import as_scheduler
from sched_plugins.prefect.events import FLOW_RUN_NAME_TAG, Recent, describe, flow_run_of, flow_run_resource
from sched_plugins.prefect.finished_message import around_flow_run, job_message
from sched_plugins.prefect.records import JobResult

HIDDEN_SECONDS: Final = 120
"""How long a received message stays hidden: longer than a batch of ten takes."""
ASIDE_SECONDS: Final = limits.MAX_VISIBILITY - 600
"""For how long a message that tells of no job is hidden: SQS counts the time since it was received."""
LONGEST_PAUSE: Final = 60.0
_REFUSED: Final = (400, 413, 422)
"""What Prefect's API answers to an event that it will never take."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bridged:
    """What a bridge has done."""

    emitted: int = 0
    """Events that Prefect took."""
    repeated: int = 0
    """Messages that had been told before."""
    malformed: int = 0
    """Messages that were left aside."""

    def __add__(self, other: Bridged) -> Bridged:
        return Bridged(self.emitted + other.emitted, self.repeated + other.repeated, self.malformed + other.malformed)


async def abridge_finished_queue(
    scheduler: SchedulerLike = None,
    *,
    environment: str = "",
    queues: Sequence[str] = (),
    stop: Callable[[], bool] | None = None,
    until_empty: bool = False,
    wait_seconds: int = limits.MAX_SQS_WAIT,
) -> Bridged:
    """As :func:`bridge_finished_queue`. When it is cancelled, its threads end with their present look at the queue."""
    cancelled = threading.Event()

    def over() -> bool:
        return cancelled.is_set() or (stop is not None and stop())

    try:
        return await asyncio.to_thread(_bridge, scheduler, environment, queues, over, until_empty, wait_seconds)
    finally:
        cancelled.set()


@async_dispatch(abridge_finished_queue)
def bridge_finished_queue(
    scheduler: SchedulerLike = None,
    *,
    environment: str = "",
    queues: Sequence[str] = (),
    stop: Callable[[], bool] | None = None,
    until_empty: bool = False,
    wait_seconds: int = limits.MAX_SQS_WAIT,
) -> Bridged:
    """Emit a Prefect event for each message of a finished and a failed queue, and delete the message then.

    A thread a queue; one ReceiveMessage in 20 s while nothing ends, and for ten messages one DeleteMessageBatch and one
    call of Prefect's API, plus one for each flow run that is new to it.

    Args:
        scheduler: a client, a block or a stack name.
        environment: the environment whose queues are read; the scheduler's own by default.
        queues: names of other queues to read instead.
        stop: asked between two looks; the bridge ends when it says so.
        until_empty: end when a look finds no message.
        wait_seconds: how long a look waits for messages, 0 to 20.

    Returns:
        What was done, once it has ended.

    Raises:
        QueueNotFound: at the start, there is no such queue.
        NotPermitted: at the start, AWS refused the credentials.
        InvalidInput: nothing names a scheduler, or ``wait_seconds`` is out of its range.
    """
    return _bridge(scheduler, environment, queues, stop or (lambda: False), until_empty, wait_seconds)


def _bridge(
    scheduler: SchedulerLike, environment: str, queues: Sequence[str], stop: Callable[[], bool], until_empty: bool,
    wait_seconds: int,
) -> Bridged:  # fmt: skip
    if not 0 <= wait_seconds <= limits.MAX_SQS_WAIT:
        raise InvalidInput(f"wait_seconds is {wait_seconds}; give 0 to {limits.MAX_SQS_WAIT}")
    if isinstance(queues, str):
        raise InvalidInput(f"queues is the text {queues!r}; give a list of names")
    client = client_of(as_scheduler(scheduler, environment=environment) if scheduler is None else scheduler)
    job_queue = names.job_queue(environment or getattr(client, "name", client.scheduler))
    wanted = list(dict.fromkeys(queues)) or [names.finished_queue(job_queue), names.failed_queue(job_queue)]
    failed = threading.Event()
    told = Recent()
    readers = [
        QueueBridge(client.connection, queue, client.scheduler, told, lambda: failed.is_set() or stop(), wait_seconds)
        for queue in wanted
    ]
    for reader in readers:
        reader.find()

    def read(reader: QueueBridge) -> Bridged:
        try:
            return reader.run(until_empty=until_empty)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(len(readers), thread_name_prefix="sched-bridge") as pool:
        running = [pool.submit(contextvars.copy_context().run, read, reader) for reader in readers]
        try:
            return sum((one.result() for one in running), Bridged())
        except BaseException:
            failed.set()
            raise


class QueueBridge:
    """Reads one queue.

    Args:
        connection: how to reach AWS.
        queue: the queue's name, ARN or URL.
        scheduler: the scheduler's stack name.
        told: the ids of the events that Prefect has taken.
        stop: asked between two looks.
        wait_seconds: how long a look waits for messages.
    """

    def __init__(
        self, connection: Connection, queue: str, scheduler: str, told: Recent, stop: Callable[[], bool],
        wait_seconds: int,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._queue = names.queue_name(queue)
        self._scheduler = scheduler
        self._told = told
        self._stop = stop
        self._wait = wait_seconds
        self._url = ""
        self._done = Bridged()
        self._pause = 0.0
        self._random = random.Random()  # noqa: S311 - spreads readers in time; no secret
        self._flow_runs = lru_cache(maxsize=1_000)(self._read_flow_run)
        self._prefect: SyncPrefectClient

    def find(self) -> None:
        """Look the queue up; what will pass is left for later.

        Raises:
            QueueNotFound: there is no such queue.
            SchedulerError: AWS refused.
        """
        missing = QueueNotFound(
            f"there is no queue {self._queue!r} in {self._connection.place}; "
            f"`sched queues --scheduler {self._scheduler}` shows those that there are"
        )
        try:
            with self._connection.doing(f"find queue {self._queue!r}", missing):
                self._url = self._connection.client("sqs").get_queue_url(QueueName=self._queue)["QueueUrl"]
        except (Throttled, Unknown) as error:
            _log.warning("%s", error)

    def run(self, *, until_empty: bool) -> Bridged:
        """Read until told to stop."""
        with get_client(sync_client=True) as self._prefect:
            while not self._stop():
                try:
                    received = self._look()
                    self._pause = 0.0
                except (SchedulerError, httpx.HTTPError, PrefectException, OSError) as error:
                    self._bear(error)
                else:
                    if until_empty and not received:
                        break
        return self._done

    def _look(self) -> int:
        """Receive once, and deal with what came; how many messages that were."""
        if not self._url:
            self.find()
        answer = self._sqs(
            "receive_message", MaxNumberOfMessages=limits.SQS_BATCH, WaitTimeSeconds=self._wait,
            VisibilityTimeout=HIDDEN_SECONDS,
        )  # fmt: skip
        messages = answer.get("Messages", [])
        if not messages:
            return 0
        try:
            self._deal_with(messages)
        except (httpx.HTTPError, PrefectException, OSError):
            # At once, not when they show again by themselves: the end of a job should not be told late for that.
            entries = _entries(messages, VisibilityTimeout=0)
            self._sqs("change_message_visibility_batch", Entries=entries)
            raise
        return len(messages)

    def _deal_with(self, messages: Sequence[Mapping[str, Any]]) -> None:
        events: list[tuple[Mapping[str, Any], Event]] = []
        aside: list[Mapping[str, Any]] = []
        repeated: list[Mapping[str, Any]] = []
        for message in messages:
            try:
                event = self._event(message["Body"])
            except (ValueError, InvalidInput) as error:
                self._say_malformed(message, str(error))
                aside.append(message)
                continue
            known = event.id in self._told or any(event.id == other.id for _, other in events)
            if known:
                repeated.append(message)
            else:
                events.append((message, event))
        taken = self._emit(events)
        aside += [message for message, _ in events if message not in taken]
        self._done += Bridged(len(taken), len(repeated), len(aside))
        if aside:
            entries = _entries(aside, VisibilityTimeout=ASIDE_SECONDS)
            self._sqs("change_message_visibility_batch", Entries=entries)
        if taken or repeated:
            self._sqs("delete_message_batch", Entries=_entries([*taken, *repeated]))

    def _event(self, body: str) -> Event:
        """The event that a message tells of.

        Raises:
            ValueError: it tells of no job's end.
        """
        message = job_message(body)
        result = JobResult.model_validate(message)
        run = flow_run_of(result.tags, str(message.get("group_id", "")))
        around = self._around(run, result) if run else []
        scheduler = str(message.get("scheduler") or self._scheduler)
        return Event(**describe(result, event_id=message["event_id"], scheduler=scheduler, related=around))

    def _around(self, run: UUID, result: JobResult) -> list[dict[str, str]]:
        flow_run = self._flow_runs(run)
        if flow_run is None:
            return [flow_run_resource(run, result.tags.get(FLOW_RUN_NAME_TAG, ""))]
        return around_flow_run(flow_run)

    def _read_flow_run(self, run: UUID) -> FlowRun | None:
        try:
            return self._prefect.read_flow_run(run)
        except ObjectNotFound:
            return None

    def _emit(self, events: Sequence[tuple[Mapping[str, Any], Event]]) -> list[Mapping[str, Any]]:
        """Hand events to Prefect; the messages whose events it took. One that it refuses keeps no other back."""
        if not events:
            return []
        try:
            # Not by the worker that sends events in the background: it does not tell whether they arrived.
            self._prefect.request("POST", "/events", json=[event.model_dump(mode="json") for _, event in events])
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _REFUSED:
                raise
            if len(events) > 1:
                return [message for one in events for message in self._emit([one])]
            self._say_malformed(events[0][0], f"Prefect refused its event: {error.response.text[:500]}")
            return []
        for _, event in events:
            self._told.add(event.id)
        return [message for message, _ in events]

    def _say_malformed(self, message: Mapping[str, Any], why: str) -> None:
        _log.error(
            "Message %s of queue %s is left aside, hidden for %s hours: %s",
            message.get("MessageId"), self._queue, ASIDE_SECONDS // 3600, " ".join(why.split())[:1000],
        )  # fmt: skip

    def _sqs(self, method: str, **request: Any) -> dict[str, Any]:
        if not self._url:
            raise Unknown(f"queue {self._queue!r} is not found yet")
        with self._connection.doing(f"use queue {self._queue!r}"):
            answer: dict[str, Any] = getattr(self._connection.client("sqs"), method)(QueueUrl=self._url, **request)
        for failed in answer.get("Failed", ()):
            # What is not deleted comes again, and is recognised.
            _log.warning("Queue %s, %s: %s", self._queue, method, failed.get("Message") or failed.get("Code"))
        return answer

    def _bear(self, error: Exception) -> None:
        """Wait, longer each time, unless told to stop."""
        self._pause = min(LONGEST_PAUSE, max(1.0, 2 * self._pause))
        left = self._pause * self._random.uniform(0.5, 1.0)
        _log.warning("Queue %s: trying again in %.0f s: %s: %s", self._queue, left, type(error).__name__, error)
        waiting = threading.Event()
        while left > 0 and not self._stop():
            waiting.wait(min(left, 0.5))
            left -= 0.5


def _entries(messages: Sequence[Mapping[str, Any]], **more: Any) -> list[dict[str, Any]]:
    return [
        {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"], **more}
        for number, message in enumerate(messages)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bridge until it is interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m sched_plugins.prefect.bridge", description="Emit a Prefect event for every job that ends."
    )
    parser.add_argument("--scheduler", help="stack name of the scheduler; by default SCHED_SCHEDULER")
    parser.add_argument("--environment", default="", help="read this environment's queues instead of the scheduler's")
    parser.add_argument("--queue", action="append", default=[], help="read this queue instead; may be repeated")
    parser.add_argument("--until-empty", action="store_true", help="end when no message is left")
    options = parser.parse_args(arguments)
    # Not the root's: Prefect has set that up when it was imported.
    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _log.addHandler(shown)
    _log.setLevel(logging.INFO)
    _log.info("Telling Prefect of the jobs that end; Ctrl-C stops it within %s s", limits.MAX_SQS_WAIT)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    try:
        done = _bridge(
            options.scheduler, options.environment, options.queue, stopped.is_set, options.until_empty,
            2 if options.until_empty else limits.MAX_SQS_WAIT,
        )  # fmt: skip
    except SchedulerError as error:
        _log.error("%s: %s", type(error).__name__, error)
        return 1
    _log.info("%s events emitted, %s messages left aside", done.emitted, done.malformed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
