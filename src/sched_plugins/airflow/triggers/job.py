"""The trigger that waits for jobs. All triggers of one scheduler share one watcher; see :mod:`.watcher`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from airflow.sdk.configuration import conf
from airflow.triggers.base import TriggerEvent

from sched_plugins.airflow.exceptions import SchedulerException
from sched_plugins.airflow.hooks.scheduler import CONFIG_SECTION
from sched_plugins.airflow.ranges import expand
from sched_plugins.airflow.triggers.base import ENDED, SchedulerTrigger, failure
from sched_plugins.airflow.triggers.canceller import cancel_runs
from sched_plugins.airflow.triggers.deferral import get_ready, is_deferred
from sched_plugins.airflow.triggers.watcher import LONGEST, Watcher, watcher_of
from sched_plugins.client import Cancellation
from sched_plugins.client.async_records import AsyncRecords
from sched_plugins.client.identity import fitted
from sched_plugins.client.run import Run, Standing
from sched_plugins.client.watch import Ended
from sched_plugins.core import limits
from sched_plugins.core.state import Status
from sched_plugins.errors import SchedulerError


class SharedWatchTrigger(SchedulerTrigger):
    """
    Wait until all of some runs have ended.

    The event's payload is ``{"status": "ended", …}``; or ``{"status": "error", "kind": …, "message": …}`` when the runs
    cannot be followed any more, so that the task fails with that message instead of a traceback of the triggerer.

    ``on_kill``, which Airflow calls when somebody marks or clears the deferred task, cancels the jobs. A triggerer that
    stops, restarts or loses its triggers to another one cancels nothing: they go on elsewhere.

    :param cancel_on_kill: Cancel the jobs when the task is killed by a user.
    """

    def __init__(self, *, cancel_on_kill: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cancel_on_kill = cancel_on_kill

    def runs(self) -> list[Run]:
        """List the runs that are waited for."""
        raise NotImplementedError

    def own_runs(self) -> list[Run]:
        """List those of the runs that a kill of the task cancels."""
        return self.runs()

    def payload(self, ended: Sequence[Ended]) -> dict[str, Any]:
        """Tell what became of all runs."""
        raise NotImplementedError

    def shared_stream_key(self) -> Hashable:
        """Get the same key for all triggers of one scheduler, whatever their class."""
        return ("sched-plugins.jobs", self.place)

    def _watcher(self) -> Watcher:
        longest = conf.getfloat(CONFIG_SECTION, "longest_watch_interval", fallback=LONGEST)
        return watcher_of(self.shared_stream_key(), longest)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        """Look for all triggers of the group. Called once a group; it broadcasts nothing, see :mod:`.watcher`."""
        one = cls(**kwargs)
        async with aclosing(one._watcher().looks(one._open_reader)) as looks:  # type: ignore[type-var]
            async for nothing in looks:
                yield nothing

    @asynccontextmanager
    async def _open_reader(self) -> AsyncIterator[AsyncRecords]:
        async with self.aws("dynamodb") as (hook, dynamodb):
            endpoint = hook.conn_config.endpoint_url
            place = f"region {dynamodb.meta.region_name}" + (f" at {endpoint}" if endpoint else "")
            # Finding it out reads the connection, or asks CloudFormation for the environment.
            found: str = await asyncio.to_thread(lambda: hook.scheduler)
            yield AsyncRecords(dynamodb, found, place=place)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Wait until the watcher knows what became of this trigger's runs, or cannot look any more."""
        watcher, began = self._watcher(), asyncio.get_running_loop().time()
        futures = watcher.follow(self.runs())
        if self.cancel_on_kill:
            get_ready(self.task_instance)
        over: asyncio.Future[Any] = asyncio.gather(*futures.values())
        broken: asyncio.Future[Any] = asyncio.ensure_future(_first(shared_stream))
        try:
            await asyncio.wait([over, broken], return_when=asyncio.FIRST_COMPLETED)
            await self.settle(began)
            if over.done():
                yield TriggerEvent(self.payload(over.result()))
            else:
                broken.result()
        except (SchedulerError, SchedulerException) as error:
            yield failure(error)
        finally:
            over.cancel()
            broken.cancel()
            watcher.leave(futures)
            await asyncio.gather(over, broken, return_exceptions=True)

    async def on_kill(self) -> None:
        """
        Cancel the jobs: somebody marked or cleared the deferred task. Those killed together share the requests.

        Not while the task is still deferred: then another triggerer has taken it over, and waits for the jobs.
        """
        if not self.cancel_on_kill:
            return
        if await is_deferred(self.task_instance):
            self.log.info("The task is still deferred, so another triggerer waits for its jobs: they go on")
            return
        key = (self.place, self.environment)
        answers = await cancel_runs(key, lambda: self.hook().client, self.own_runs)
        await asyncio.to_thread(self._tell, answers)  # There may be thousands.

    def _tell(self, answers: Sequence[Cancellation]) -> None:
        for answer in answers:
            self.log.info("Cancelling job %s: %s", answer.job_id, answer.error or answer.outcome)


async def _first(stream: AsyncIterator[Any]) -> None:
    """Wait for what a stream that yields nothing never gives: only its end, or its failure, is told."""
    async for _ in stream:
        pass


class JobTrigger(SharedWatchTrigger):
    """
    Wait for one run of a job. The payload has ``job_id``, ``run_id``, ``standing`` and ``job_status``.

    :param job_id: The job.
    :param run_id: Its run; empty for whichever run the record shows.
    """

    own_fields = ("job_id", "run_id", "cancel_on_kill")

    def __init__(self, *, job_id: str, run_id: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.run_id = run_id

    def runs(self) -> list[Run]:
        """List the one run."""
        return [Run(self.job_id, self.run_id)]

    def payload(self, ended: Sequence[Ended]) -> dict[str, Any]:
        """Tell what became of it."""
        [one] = ended
        status = str(one.job.status) if one.job is not None and one.standing is Standing.ENDED else ""
        return {
            "status": ENDED,
            "job_id": self.job_id,
            "run_id": self.run_id,
            "standing": str(one.standing),
            "job_status": status,
        }


class JobsTrigger(SharedWatchTrigger):
    """
    Wait for all of several jobs. The payload has ``ended`` and ``succeeded``, the numbers of jobs.

    :param job_ids: The jobs, whichever runs their records show; or
    :param base: … what the ids of numbered jobs begin with, and
    :param numbers: … for each run id the jobs that it belongs to, as ``"0-4999,5003"``: thousands of jobs in a few
        characters, since a trigger's arguments are stored in Airflow's database.
    :param may_come: The jobs need not exist yet.
    :param own_prefix: What the ids of the task's own runs begin with. Others, which serve it as well, are not cancelled
        with it.
    """

    own_fields = ("job_ids", "base", "numbers", "may_come", "own_prefix", "cancel_on_kill")

    def __init__(
        self,
        *,
        job_ids: Iterable[str] = (),
        base: str = "",
        numbers: dict[str, str] | None = None,
        may_come: bool = False,
        own_prefix: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.own_prefix = own_prefix
        self.job_ids = list(job_ids)
        self.base = base
        self.numbers = numbers or {}
        self.may_come = may_come

    def runs(self) -> list[Run]:
        """List the runs."""
        named = [Run(job_id, may_come=self.may_come) for job_id in self.job_ids]
        return named + [
            Run(numbered_job(self.base, number), run_id)
            for run_id, ranges in self.numbers.items()
            for number in expand(ranges)
        ]

    def own_runs(self) -> list[Run]:
        """List the runs that the task itself has submitted."""
        return [run for run in self.runs() if run.run_id.startswith(self.own_prefix)]

    def payload(self, ended: Sequence[Ended]) -> dict[str, Any]:
        """Tell how many succeeded."""
        good = sum(one.job is not None and one.job.status is Status.SUCCEEDED for one in ended)
        return {"status": ENDED, "ended": len(ended), "succeeded": good}


def numbered_job(base: str, number: int) -> str:
    """Get the id of the ``number``-th of many jobs of one task."""
    return f"{fitted(base, limits.MAX_JOB_ID_BYTES - 8)}/{number:06d}"
