"""Wait for a message of a finished queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import PokeReturnValue

from sched_plugins.airflow.sensors.base import SchedulerSensor
from sched_plugins.airflow.settings import job_ids_of
from sched_plugins.airflow.triggers.finished_job import (
    HIDDEN_SECONDS,
    FinishedJobTrigger,
    FinishedMessage,
    claimed,
    finished_queue,
)
from sched_plugins.core import limits
from sched_plugins.errors import QueueNotFound

if TYPE_CHECKING:
    from airflow.sdk import Context

BATCHES = 5
"""Receives of ten messages in one look."""


class FinishedQueueSensor(SchedulerSensor):
    """
    Wait for the message about a finished job, take it from the queue, and return it.

    Several sensors may wait at one queue: a message goes to one that waits for it, and the others leave it where it is.
    It is deleted only once the task has it: the value is stored as an XCom before. If the task dies in between, it
    comes again, so that a message may be had twice, but is never lost.

    :param finished_queue: The queue's name; by default the finished queue of ``environment`` or else the scheduler. A
        failed queue works as well (templated).
    :param job_ids: Only messages about these jobs, or one of them; without this parameter about any (templated).
    :param group_id: Only messages about jobs of this group (templated).

    See :class:`~sched_plugins.airflow.sensors.base.SchedulerSensor` for the other parameters.
    """

    template_fields: Sequence[str] = (*SchedulerSensor.template_fields, "finished_queue", "job_ids", "group_id")

    def __init__(
        self,
        *,
        finished_queue: str | None = None,
        job_ids: str | Sequence[str] | None = None,
        group_id: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Not whether they turn out to be none: a template that gives nothing must not take everything.
        self._of_any_job = job_ids is None
        self.finished_queue = finished_queue
        self.job_ids = job_ids
        self.group_id = group_id

    @property
    def _wanted(self) -> list[str]:
        return [] if self._of_any_job else job_ids_of(self.job_ids)

    def look(self, context: Context) -> PokeReturnValue:
        """Receive up to fifty messages; what is not wanted goes back when all were seen."""
        wanted = self._wanted
        connection, url = self._queue()
        sqs = connection.client("sqs")
        taken: FinishedMessage | None = None
        back: list[FinishedMessage] = []
        with connection.doing(f"receive from {url}"):
            for _ in range(BATCHES):
                received = sqs.receive_message(
                    QueueUrl=url, MaxNumberOfMessages=limits.SQS_BATCH, VisibilityTimeout=HIDDEN_SECONDS,
                    WaitTimeSeconds=1, MessageSystemAttributeNames=["ApproximateReceiveCount"],
                ).get("Messages", ())  # fmt: skip
                for message in map(FinishedMessage.of, received):
                    if taken is None and message.is_about(wanted, self.group_id):
                        taken = message
                    else:
                        back.append(message)
                if taken is not None or not received:
                    break
            for message in back:
                sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=message.receipt_handle, VisibilityTimeout=0)
        return PokeReturnValue(taken is not None, claimed(taken) if taken else None)

    def first_look(self, context: Context) -> PokeReturnValue:
        """Look only whether messages can be had, and take none: they are for all that share the trigger's receiver."""
        _ = self._wanted  # What names no job is refused here, as by a look.
        connection, url = self._queue()
        with connection.doing(f"receive from {url}"):
            connection.client("sqs").receive_message(QueueUrl=url, VisibilityTimeout=0)  # It stays visible.
        return PokeReturnValue(False)

    def trigger(self) -> FinishedJobTrigger:
        """Make the trigger, which shares a receiver with all others of the queue."""
        return FinishedJobTrigger(
            finished_queue=self.finished_queue, job_ids=self._wanted, group_id=self.group_id, claim=True,
            **self.trigger_settings(),
        )  # fmt: skip

    def seen(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Get what the trigger claimed."""
        return event

    def handed_on(self, context: Context, value: Any) -> Any:
        """Store the message as an XCom, then delete it from the queue."""
        message = dict(value["message"])
        if self.do_xcom_push:
            context["ti"].xcom_push(key="message", value=message)
        connection, url = self._queue()
        with connection.doing(f"delete a message from {url}"):
            connection.client("sqs").delete_message(QueueUrl=url, ReceiptHandle=value["receipt_handle"])
        return message

    def _queue(self) -> tuple[Any, str]:
        client = self.hook.client
        name = finished_queue(self.finished_queue, self.environment or client.scheduler)
        missing = (
            QueueNotFound(f"there is no queue {name!r} in {client.connection.place}; `sched queues` lists them")
            if self.finished_queue
            else client.missing
        )
        with client.connection.doing(f"find queue {name!r}", missing):
            return client.connection, client.connection.client("sqs").get_queue_url(QueueName=name)["QueueUrl"]
