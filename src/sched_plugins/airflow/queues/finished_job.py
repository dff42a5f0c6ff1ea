"""The queue provider: ``MessageQueueTrigger(scheme="sched", …)`` starts DAG runs for finished jobs."""

from __future__ import annotations

from airflow.providers.common.messaging.providers.base_provider import BaseMessageQueueProvider
from airflow.triggers.base import BaseEventTrigger


class SchedulerMessageQueueProvider(BaseMessageQueueProvider):
    """
    Finished queues of schedulers and environments.

    ``MessageQueueTrigger(scheme="sched", environment="solver")`` fires for each job that finishes there; further
    arguments are those of :class:`~sched_plugins.airflow.triggers.finished_job.FinishedJobTrigger`. A message is
    deleted once Airflow has stored its event, so a watcher consumes its queue: give each queue one watcher, and let no
    sensor in another triggerer, or one that pokes, wait at it.
    """

    scheme = "sched"

    def trigger_class(self) -> type[BaseEventTrigger]:
        """Get the trigger."""
        from sched_plugins.airflow.triggers.finished_job import FinishedJobTrigger

        return FinishedJobTrigger
