"""Follows the jobs of flow runs to their ends, all with one watch, however many there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from sched_plugins.client import Ended, Job, Run, Status
from sched_plugins.client.shared_watch import shared_watch
from sched_plugins.errors import SchedulerError
from sched_plugins.prefect.worker.variables import Place

log = logging.getLogger(__name__)
_PAUSE: Final = 10.0
Say = Callable[..., Any]


async def end_of(place: Place, run: Run, on_change: Callable[[Job], None] | None = None) -> Ended:
    """How a run ends. An outage of AWS is borne, however long it is: it says nothing about the job."""
    while True:
        try:
            return await asyncio.wrap_future(shared_watch(place.client).follow(run, on_change))
        except SchedulerError as error:
            log.warning("Job %s cannot be followed, and is looked at again: %s", run.job_id, error)
            await asyncio.sleep(_PAUSE)


def telling(say: Say, warn: Say) -> Callable[[Job], None]:
    """Tells in a flow run's log what becomes of its job before its end."""
    seen: dict[str, int] = {"attempt": 1}

    def tell(job: Job) -> None:
        if job.attempt > seen["attempt"]:
            seen["attempt"] = job.attempt
            reason = job.attempts[-1].status_reason if job.attempts else job.status_reason
            warn(
                "Job %s was lost and runs again, as attempt %s: %s",
                job.job_id,
                job.attempt,
                reason or "no reason given",
            )
        if job.status is Status.RUNNING:
            say("Job %s runs on worker %s", job.job_id, job.worker_id)

    return tell
