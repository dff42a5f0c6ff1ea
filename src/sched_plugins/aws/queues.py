"""Amazon SQS queues, addressed by name, ARN or URL; also in other regions and accounts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from sched_plugins.aws.answers import ERRORS, answer, classify_entry, code_of, failure
from sched_plugins.aws.batches import batches
from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings
from sched_plugins.core import limits, names
from sched_plugins.errors import InvalidInput, NotPermitted, QueueNotFound, Refused, SchedulerError, Unknown
from sched_plugins.ports import Message

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

ABSENCE_REMEMBERED: Final = 60.0
"""Seconds for which a missing sibling queue is not looked for again; one that is found is remembered for good."""

_NO_QUEUE: Final = frozenset({"NonExistentQueue", "QueueDoesNotExist"})
# sqs.REGION.amazonaws.com[.cn], REGION.queue.amazonaws.com, sqs.REGION.api.aws
_HOST_REGION: Final = re.compile(r"(?:sqs(?:-fips)?\.)?([a-z]{2}(?:-[a-z]+)+-\d)\.(?:queue\.)?(?:amazonaws|api\.aws)")


@dataclass(frozen=True, slots=True)
class _Address:
    """Where a queue is. Empty region and account: the caller's own."""

    name: str
    region: str = ""
    account: str = ""
    url: str = ""

    @classmethod
    def of(cls, queue: str) -> _Address:
        """Read a name, ARN or URL.

        Raises:
            InvalidInput: it is none of them.
        """
        if queue.startswith("arn:"):
            parts = queue.split(":")
            if len(parts) != 6 or parts[2] != "sqs" or not all(parts[3:]):
                raise InvalidInput(
                    f"{queue!r} is not a queue's ARN; one has the form arn:PARTITION:sqs:REGION:ACCOUNT:NAME"
                )
            return cls(parts[5], parts[3], parts[4])
        if queue.startswith(("https://", "http://")):
            split = urlsplit(queue)
            match split.path.split("/"):
                case [_, account, name] if account and name:
                    found = _HOST_REGION.match(split.hostname or "")
                    return cls(name, found[1] if found else "", account, queue)
            raise InvalidInput(f"{queue!r} is not the URL of a queue; it ends in /ACCOUNT/NAME")
        if not queue:
            raise InvalidInput("a queue's name is empty; give its name, ARN or URL")
        return cls(queue)


class SqsQueues:
    """:class:`~sched_plugins.ports.Queues` on SQS.

    A queue given by name or ARN costs one GetQueueUrl when it is first met. Any method may raise
    :class:`~sched_plugins.errors.QueueNotFound`.
    """

    def __init__(self, settings: Settings, clients: Clients, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clients = clients
        self._monotonic = monotonic
        self._urls: dict[str, str] = {}
        self._absent: dict[str, float] = {}

    def receive(self, queue: str, wait: int = 0, maximum: int = 1) -> Sequence[Message]:
        """Up to ``maximum`` messages (at most 10), after at most ``wait`` seconds (at most 20). One ReceiveMessage."""
        client, url = self._found(queue)
        try:
            reply = client.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=min(maximum, limits.SQS_BATCH),
                WaitTimeSeconds=min(wait, limits.MAX_SQS_WAIT),
                MessageSystemAttributeNames=["SentTimestamp", "DeadLetterQueueSourceArn"],
            )
        except ERRORS as error:
            raise self._failed(error, "ReceiveMessage from", queue) from error
        return [_message(message) for message in reply.get("Messages", [])]

    def delete(self, queue: str, receipt: str) -> None:
        """Take a message away; one that is gone already is taken away. One DeleteMessage.

        Raises:
            Refused: SQS says that the receipt is none of this queue's, so the message may still be there.
        """
        client, url = self._found(queue)
        try:
            client.delete_message(QueueUrl=url, ReceiptHandle=receipt)
        except ERRORS as error:
            raise self._failed(error, "DeleteMessage from", queue) from error

    def release(self, queue: str, receipt: str, delay: int = 0) -> None:
        """Let a message be received again after ``delay`` seconds. One ChangeMessageVisibility.

        A message that nobody holds any more can be received already, or is gone: that is no error.
        """
        client, url = self._found(queue)
        try:
            client.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=delay)
        except ERRORS as error:
            if code_of(error) == "MessageNotInflight":
                return
            raise self._failed(error, "ChangeMessageVisibility in", queue) from error

    def send(self, queue: str, bodies: Sequence[str], delay: int = 0) -> Sequence[Exception | None]:
        """The outcome of sending each body, in order. One SendMessageBatch for each ten bodies or 1 MiB.

        Every failure is an outcome; nothing is raised.
        """
        sizes = [len(body.encode(errors="replace")) for body in bodies]
        outcomes: list[Exception | None] = [
            failure(Refused, f"a message to {queue!r}", f"its {size:,} bytes are over SQS's limit")
            if size > limits.MAX_MESSAGE_BYTES
            else None
            for size in sizes
        ]
        for batch in batches(sizes, limits.SQS_BATCH, limits.MAX_MESSAGE_BYTES):
            for index, outcome in self._send(queue, {index: bodies[index] for index in batch}, delay).items():
                outcomes[index] = outcome
        return outcomes

    def _send(self, queue: str, bodies: dict[int, str], delay: int) -> dict[int, Exception | None]:
        action = f"SendMessageBatch to {queue!r}"
        try:
            client, url = self._found(queue)
            try:
                entries: list[SendMessageBatchRequestEntryTypeDef] = [
                    {"Id": str(index), "MessageBody": body} for index, body in bodies.items()
                ]
                for entry in entries if delay else ():
                    entry["DelaySeconds"] = delay
                reply = client.send_message_batch(QueueUrl=url, Entries=entries)
            except ERRORS as error:
                raise self._failed(error, "SendMessageBatch to", queue) from error
        except SchedulerError as error:
            return dict.fromkeys(bodies, error)
        outcomes: dict[int, Exception | None] = {
            index: failure(Unknown, action, "SQS did not say what became of this message") for index in bodies
        }
        outcomes |= {int(entry["Id"]): None for entry in reply.get("Successful", [])}
        for failed in reply.get("Failed", []):
            kind = classify_entry(failed["Code"], caller_fault=failed["SenderFault"])
            outcomes[int(failed["Id"])] = failure(kind, action, f"{failed['Code']}: {failed.get('Message', '')}")
        return outcomes

    def waiting(self, queue: str) -> int:
        """About how many messages wait to be received. One GetQueueAttributes."""
        client, url = self._found(queue)
        try:
            reply = client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        except ERRORS as error:
            raise self._failed(error, "GetQueueAttributes of", queue) from error
        return int(reply["Attributes"]["ApproximateNumberOfMessages"])

    def siblings(self, queue: str) -> tuple[str, str]:
        """The finished and the failed queue of a job queue; the scheduler's own where it has not both.

        A GetQueueUrl for each that is not known, and every minute for one that is not there.
        """
        pair = names.finished_queue(queue), names.failed_queue(queue)
        if all(self._exists(sibling) for sibling in pair):
            return pair
        own = names.job_queue(self._settings.name)
        return names.finished_queue(own), names.failed_queue(own)

    def _exists(self, queue: str) -> bool:
        if queue in self._urls:
            return True
        if self._monotonic() < self._absent.get(queue, 0.0):
            return False
        try:
            self._look_up(queue)
        except (QueueNotFound, NotPermitted) as error:
            # AWS hides from those who may not look whether a queue of another region or account is there.
            if isinstance(error, NotPermitted) and not names.address(queue):
                raise
            self._absent[queue] = self._monotonic() + ABSENCE_REMEMBERED
            return False
        return True

    def _found(self, queue: str) -> tuple[SQSClient, str]:
        """The client for a queue, and its URL."""
        address = _Address.of(queue)
        url = address.url or self._urls.get(queue) or self._look_up(queue)
        return self._clients.sqs(address.region), url

    def _look_up(self, queue: str) -> str:
        """Ask SQS for a queue's URL, and so whether it is there."""
        address = _Address.of(queue)
        owner: Any = {"QueueOwnerAWSAccountId": address.account} if address.account else {}
        try:
            reply = self._clients.sqs(address.region).get_queue_url(QueueName=address.name, **owner)
        except ERRORS as error:
            raise self._failed(error, "GetQueueUrl of", queue) from error
        self._urls[queue] = reply["QueueUrl"]
        return reply["QueueUrl"]

    def _failed(self, error: Exception, action: str, queue: str) -> SchedulerError:
        if code_of(error) in _NO_QUEUE:
            self._urls.pop(queue, None)
            return QueueNotFound(
                f"there is no queue {queue!r} that this caller may see; check the name, and give the ARN of a queue "
                "in another region or account"
            )
        return answer(error, f"{action} {queue!r}")


def _message(message: Any) -> Message:
    attributes = message.get("Attributes", {})
    return Message(
        message_id=message["MessageId"],
        body=message["Body"],
        receipt=message["ReceiptHandle"],
        sent_at=datetime.fromtimestamp(int(attributes["SentTimestamp"]) / 1000, UTC),
        source=attributes.get("DeadLetterQueueSourceArn", ""),
    )
