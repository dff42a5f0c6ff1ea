"""Wait until a queue has nothing more to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import PokeReturnValue

from sched_plugins.airflow.sensors.base import SchedulerSensor
from sched_plugins.airflow.triggers.queue_drained import QueueDrainedTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context


class QueueDrainedSensor(SchedulerSensor):
    """
    Wait until a job queue holds no message, and no job of it waits or runs.

    SQS counts its messages approximately, so that a raw message which was sent a moment ago may be missed; jobs that
    were submitted are known from the job table, which is exact.

    :param job_queue: The queue's name; by default that of ``environment`` or else the scheduler's own (templated).

    See :class:`~sched_plugins.airflow.sensors.base.SchedulerSensor` for the other parameters.
    """

    template_fields: Sequence[str] = (*SchedulerSensor.template_fields, "job_queue")

    def __init__(self, *, job_queue: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_queue = job_queue

    def look(self, context: Context) -> PokeReturnValue:
        """Look whether it is. One GetQueueAttributes and up to 16 Queries."""
        return PokeReturnValue(self.hook.is_drained(self.job_queue or ""))

    def trigger(self) -> QueueDrainedTrigger:
        """Make the trigger: all sensors of a queue share its looks."""
        return QueueDrainedTrigger(
            job_queue=self.job_queue, poke_interval=float(self.poke_interval), **self.trigger_settings()
        )

    def seen(self, context: Context, event: Mapping[str, Any]) -> None:
        """Return nothing."""
