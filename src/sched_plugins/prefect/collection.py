"""What Prefect loads when it starts: every block and the worker, so that it knows them."""

from __future__ import annotations

from sched_plugins.prefect.blocks.job import SchedulerJob
from sched_plugins.prefect.blocks.scheduler import ServerlessScheduler
from sched_plugins.prefect.worker.worker import SchedulerWorker

__all__ = ["SchedulerJob", "SchedulerWorker", "ServerlessScheduler"]
