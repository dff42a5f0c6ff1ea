"""The trigger that waits until a queue has nothing more to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from typing import Any

from airflow.triggers.base import TriggerEvent

from sched_plugins.airflow.exceptions import SchedulerException
from sched_plugins.airflow.triggers.base import ENDED, SchedulerTrigger, failure
from sched_plugins.airflow.triggers.troubles import Troubles
from sched_plugins.client.retry import Clock
from sched_plugins.errors import SchedulerError


class QueueDrainedTrigger(SchedulerTrigger):
    """
    Fire when a queue has nothing more to do. All triggers of one queue share the looks, which are made in a thread.

    :param job_queue: The queue's name; by default that of ``environment`` or else the scheduler's own.
    :param poke_interval: Seconds between two looks.
    """

    own_fields = ("job_queue", "poke_interval")

    def __init__(self, *, job_queue: str | None = None, poke_interval: float = 60.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_queue = job_queue
        self.poke_interval = poke_interval

    def shared_stream_key(self) -> Hashable:
        """Get the same key for all triggers that look alike."""
        return ("sched-plugins.drained", self.place, self.environment, self.job_queue, self.poke_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        """Look from time to time, and tell what is the case: who comes late hears it the next time."""
        one = cls(**kwargs)
        hook = one.hook()
        troubles = Troubles(Clock())
        while True:
            try:
                drained = await asyncio.to_thread(hook.is_drained, one.job_queue or "")
            except (SchedulerError, SchedulerException) as error:
                cause = error if isinstance(error, SchedulerError) else error.__cause__
                if not isinstance(cause, SchedulerError):
                    raise
                troubles.met(cause)
                await asyncio.sleep(troubles.delay)
                continue
            troubles.over()
            yield drained
            await asyncio.sleep(one.poke_interval)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Fire when it is."""
        began = asyncio.get_running_loop().time()
        try:
            async for drained in shared_stream:
                if drained:
                    await self.settle(began)
                    yield TriggerEvent({"status": ENDED})
                    return
        except (SchedulerError, SchedulerException) as error:
            await self.settle(began)
            yield failure(error)
