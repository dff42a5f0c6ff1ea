"""What earlier tries of a flow run have left behind, and what a new try does about it.

A try whose process was killed has told Prefect nothing of an end: the next one goes on with its jobs, as if it were the
same. A try that failed is over: the next one makes every job anew. Tries that go on with each other are a series, which
is a part of who their jobs are. No job runs beside one that an earlier try has left for the same call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from typing import Any, Final
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType

from sched_plugins.client import EnvironmentClient, Run, Status
from sched_plugins.client.shared_watch import shared_watch
from sched_plugins.core.state import LIVE
from sched_plugins.errors import SchedulerError, Unknown
from sched_plugins.prefect.identity import group_id
from sched_plugins.prefect.task_runner.calls import Call, Caller

log = logging.getLogger(__name__)
BUNDLE_TAG: Final = "prefect_task_runs"
"""Only the jobs of task runners have it: how many task runs they carry."""
END_SECONDS: Final = 60.0
_MOST: Final = 10_000
_OVER: Final = frozenset({StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED})
"""A crash is no end of a series: it is how a killed process looks from outside."""


def series_of(states: Sequence[State[Any]]) -> int:
    """The first of the tries that the present one goes on with.

    Args:
        states: all that the flow run has had, the oldest first, up to the one of the present try.
    """
    begun = [number for number, state in enumerate(states) if state.is_running()]
    first, tries = 1, 0
    for state in states[: begun[-1]] if begun else ():
        tries += state.is_running()
        if state.type in _OVER or state.name == "AwaitingRetry":
            first = tries + 1
    return first


def is_in_the_way(left: str, wanted: str) -> bool:
    """Whether a job that an earlier try has left runs a call that another job is to run now.

    Args:
        left: its id.
        wanted: the id of the other one.
    """
    if left == wanted:
        return False
    *task, numbers, _ = left.split("/")
    *same, others, _ = wanted.split("/")
    (first, last), (begin, end) = _range(numbers), _range(others)
    return task == same and first <= end and begin <= last


def _range(numbers: str) -> tuple[int, int]:
    first, _, last = numbers.partition("-")
    return (int(first), int(last or first)) if first.isdigit() else (0, -1)


def wait_for_ends(client: EnvironmentClient, runs: Iterable[Run]) -> None:
    """Wait until jobs that are being cancelled have ended.

    Raises:
        Unknown: they have not within a minute.
    """
    futures = [shared_watch(client).follow(run) for run in runs]
    open_ = wait(futures, END_SECONDS).not_done
    for future in open_:
        future.cancel()
    if open_:
        raise Unknown(
            f"{len(open_)} jobs of an earlier try of this flow run have not ended, though they were cancelled"
        )


class EarlierTries:
    """Of the flow run of one runner. Used by one thread, but for :meth:`unwanted` after its end.

    Args:
        client: the environment's.
        patiently: makes a call again that was not answered.
    """

    def __init__(self, client: EnvironmentClient, patiently: Callable[[Callable[[], Any]], Any]) -> None:
        self._client = client
        self._patiently = patiently
        self._series: dict[Caller, str] = {}
        self._left: dict[str, Run] = {}

    def series(self, call: Call) -> str:
        """The series of a call's try. The first time in a later try one question to Prefect, and a few queries.

        Raises:
            SchedulerError: it cannot be known, or jobs of a try that is over could not be ended.
        """
        caller = call.caller
        if not caller.flow_run_id or caller.run_count <= 1:
            return caller.session
        if caller not in self._series:
            states = self._patiently(lambda: call.within(_states, caller.flow_run_id))
            series = f"try-{series_of(states)}"
            self._find(caller, series)
            self._series[caller] = series
        return self._series[caller]

    def _find(self, caller: Caller, series: str) -> None:
        """Find the jobs that go on, and end those that are of no use to this try."""
        live, group = {Status.QUEUED, *LIVE}, group_id(caller.root_id or caller.flow_run_id)
        jobs = self._patiently(lambda: self._client.list(statuses=live, group=group, limit=_MOST))
        own = {
            job.job_id: Run(job.job_id, job.run_id)
            for job in jobs
            if job.spec.tags.get("prefect_flow_run_id") == caller.flow_run_id and BUNDLE_TAG in job.spec.tags
        }
        useful = {job_id for job_id in own if f"/{series}/" in job_id}
        self._end([run for job_id, run in own.items() if job_id not in useful])
        self._left |= {job_id: own[job_id] for job_id in useful}

    def make_way(self, job_ids: Iterable[str]) -> None:
        """End the jobs that run the same calls as these, of another content; these themselves are wanted.

        Raises:
            SchedulerError: they could not be ended.
        """
        if not self._left:
            return
        ways = set()
        for job_id in job_ids:
            self._left.pop(job_id, None)
            ways |= {left for left in self._left if is_in_the_way(left, job_id)}
        self._end([self._left[job_id] for job_id in sorted(ways)])
        for job_id in ways:
            del self._left[job_id]

    def _end(self, runs: Sequence[Run]) -> None:
        if runs:
            log.info("%d jobs of an earlier try of this flow run are cancelled", len(runs))
            self._patiently(lambda: self._client.cancel_many([run.job_id for run in runs]))
            wait_for_ends(self._client, runs)

    def unwanted(self) -> list[str]:
        """Jobs of an earlier try that the flow has not asked for again."""
        left, self._left = sorted(self._left), {}
        return left


def _states(flow_run_id: str) -> list[State[Any]]:
    try:
        with get_client(sync_client=True) as client:
            return sorted(client.read_flow_run_states(UUID(flow_run_id)), key=lambda state: state.timestamp)
    except SchedulerError:
        raise
    except Exception as error:
        raise Unknown(
            f"whether an earlier try of flow run {flow_run_id} was killed is not known, since Prefect's API does not "
            f"answer: {type(error).__name__}: {error}"
        ) from error
