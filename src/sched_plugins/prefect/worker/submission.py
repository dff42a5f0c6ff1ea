"""Submits the jobs of flow runs, those that come together in one call, each with its secret."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from sched_plugins.client import Run, Submitted
from sched_plugins.client.secret_store import SecretStore
from sched_plugins.client.shared_watch import shared_watch
from sched_plugins.errors import Busy, JobConflict, SchedulerError, Throttled, Unknown
from sched_plugins.prefect.worker.flow_run_job import FlowRunJob, job_of_secret, next_run, secret_folder
from sched_plugins.prefect.worker.gathering import Gathered
from sched_plugins.prefect.worker.variables import Place

log = logging.getLogger(__name__)

UNCERTAIN: Final = (Busy, Throttled, Unknown)
"""After these a job may have been submitted all the same: by a request whose answer was lost. Its record tells."""
PATIENCE: Final = 300.0
"""Seconds for which a submission is tried again that was throttled, busy or left unanswered."""
LEFTOVER_AGE: Final = timedelta(hours=1)
_PAUSE: Final = 2.0
_WRITTEN_AT_ONCE: Final = 8
_DELETE_MOMENT: Final = 1.0

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Asked:
    """A flow run's job that is to be submitted."""

    job: FlowRunJob
    place: Place
    is_wanted: Callable[[], bool] = lambda: True
    """Asked between two tries."""


class NotWanted(Exception):
    """The flow run was cancelled before it was submitted."""


class _Occupied(Exception):
    """The job's last run must end first."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.run_id)
        self.run = run


class Submissions:
    """Submits jobs and keeps their secrets.

    AWS calls of up to 100 submissions that come within a moment: one BatchGetItem, a PutParameter each, one Lambda
    call. Of ten ends that come within a second: one DeleteParameters.

    Args:
        patience: seconds for which one submission is tried again.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._submit: Gathered[Asked, Run] = Gathered(self._submit_all)
        self._forget: Gathered[tuple[Place, str], None] = Gathered(self._delete_all, _DELETE_MOMENT)
        self._stores: dict[tuple[object, str], SecretStore] = {}

    async def submit(self, asked: Asked) -> Run:
        """The run of a claimed flow run: submitted now, or by an earlier request.

        Raises:
            SchedulerError: it was refused, or stayed without an answer for so long.
            NotWanted: it is not wanted any more, and was not submitted.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        while asked.is_wanted():
            try:
                return await self._submit.ask(asked)
            except _Occupied as occupied:
                log.info("Job %s runs still for an earlier execution; this one waits for its end", asked.job.job_id)
                await _end_or_unwanted(asked, occupied.run)
            except UNCERTAIN as error:
                if loop.time() > deadline:
                    await self._give_up(asked)
                    raise
                log.warning("Job %s is not submitted yet: %s", asked.job.job_id, error)
            await asyncio.sleep(_PAUSE)
        # A try whose answer was lost may have been carried out; nobody needs it.
        await self._give_up(asked)
        raise NotWanted

    async def _give_up(self, asked: Asked) -> None:
        """Cancel a job whose submission never had an answer: it may have been carried out."""
        try:
            await asyncio.to_thread(asked.place.jobs.request_cancel, [asked.job.job_id])
        except SchedulerError as error:
            log.warning("Job %s, which may have been submitted, could not be cancelled: %s", asked.job.job_id, error)

    async def forget(self, place: Place, names: Iterable[str]) -> None:
        """Delete secrets of runs that have ended; what cannot be deleted is swept up later."""
        for name in names:
            try:
                await self._forget.ask((place, name))
            except SchedulerError as error:
                log.warning("Secret %s is not deleted yet: %s", name, error)

    async def close(self) -> None:
        """Finish what is under way, and write no more."""
        await self._submit.close()
        await self._forget.close()
        for store in self._stores.values():
            store.close()
        self._stores.clear()

    def sweep(self, place: Place) -> list[str]:
        """Delete an environment's secrets without a live job, which somebody left who was killed. For a thread.

        One DescribeParameters for fifty, one BatchGetItem for 100.

        Raises:
            SchedulerError: AWS gave no usable answer.
        """
        store = self._store(place)
        old = list(store.written_before(secret_folder(place.environment), datetime.now(UTC) - LEFTOVER_AGE))
        if not old:
            return []
        known = place.client.get_many({job_of_secret(name) for name in old})
        live = {job_id for job_id, job in known.items() if not job.is_terminal}
        left = [name for name in old if job_of_secret(name) not in live]
        store.delete_many(left)
        return left

    def _store(self, place: Place) -> SecretStore:
        key = (place.client.connection.identity, place.kms_key_id)
        if key not in self._stores:
            self._stores[key] = SecretStore(place.client.connection, place.kms_key_id, _WRITTEN_AT_ONCE)
        return self._stores[key]

    def _submit_all(self, asked: Sequence[Asked]) -> list[Run | Exception]:
        return _by_place(asked, lambda one: one.place, self._submit_to)

    def _submit_to(self, place: Place, asked: Sequence[Asked]) -> list[Run | Exception]:
        """Submit to one place; the runs, or why not, in order."""
        known = place.client.get_many([one.job.job_id for one in asked])
        answers: dict[int, Run | Exception] = {}
        secrets: dict[str, str] = {}
        chosen: dict[int, str] = {}
        for number, one in enumerate(asked):
            job, record = one.job, known.get(one.job.job_id)
            step = next_run(job.execution, record)
            if step.is_known:
                answers[number] = Run(job.job_id, step.run_id)
            elif step.after is not None:
                answers[number] = _Occupied(step.after)
            else:
                chosen[number] = step.run_id
                secrets[job.secret_name(step.run_id)] = job.secret()
        failed = self._store(place).put_many(secrets) if secrets else {}
        for number in list(chosen):
            error = failed[asked[number].job.secret_name(chosen[number])]
            if error is not None:
                answers[number] = error
                del chosen[number]
        told = self._send(place, asked, chosen)
        answers |= told
        refused = [number for number, answer in told.items() if _is_refused(answer)]
        self._delete(place, [asked[number].job.secret_name(chosen[number]) for number in refused])
        return [answers[number] for number in range(len(asked))]

    def _send(self, place: Place, asked: Sequence[Asked], chosen: dict[int, str]) -> dict[int, Run | Exception]:
        specs = [asked[number].job.spec(run_id) for number, run_id in chosen.items()]
        if not specs:
            return {}
        try:
            answers = place.jobs.submit_many(specs, run_ids=list(chosen.values()), queue=place.queue)
        except SchedulerError as error:
            return dict.fromkeys(chosen, error)
        return {number: _run_or_error(place, answer) for number, answer in zip(chosen, answers, strict=True)}

    def _delete(self, place: Place, names: Sequence[str]) -> None:
        """Delete secrets that no job will read; what cannot be deleted is swept up later."""
        if not names:
            return
        try:
            self._store(place).delete_many(names)
        except SchedulerError as error:
            log.warning("%d secrets are not deleted yet: %s", len(names), error)

    def _delete_all(self, asked: Sequence[tuple[Place, str]]) -> list[Exception | None]:
        def delete(place: Place, names: Sequence[tuple[Place, str]]) -> list[Exception | None]:
            self._store(place).delete_many([name for _, name in names])
            return [None] * len(names)

        return _by_place(asked, lambda one: one[0], delete)


async def _end_or_unwanted(asked: Asked, run: Run) -> None:
    following = asyncio.wrap_future(shared_watch(asked.place.client).follow(run))
    try:
        while asked.is_wanted() and not following.done():
            await asyncio.wait([following], timeout=_PAUSE)
        if following.done():
            following.result()
    finally:
        following.cancel()


def _is_refused(answer: Run | Exception) -> bool:
    """Whether the job was certainly not submitted."""
    return isinstance(answer, SchedulerError) and not isinstance(answer, UNCERTAIN)


def _run_or_error(place: Place, answer: Submitted) -> Run | Exception:
    if isinstance(answer.error, JobConflict):
        # Somebody has submitted another run since the record was read; while that goes on, its end is waited for.
        record = place.client.get_many([answer.job_id]).get(answer.job_id)
        if record is not None and not record.is_terminal:
            return _Occupied(Run(record.job_id, record.run_id))
    return answer.error if answer.error is not None else answer.run


def _by_place(
    asked: Sequence[A],
    place_of: Callable[[A], Place],
    send: Callable[[Place, Sequence[A]], Sequence[R | Exception]],
) -> list[R | Exception]:
    """The answers in order, each place asked on its own: what is wrong with one holds up no other."""
    groups: dict[Place, list[int]] = {}
    for number, one in enumerate(asked):
        groups.setdefault(place_of(one), []).append(number)
    answers: dict[int, R | Exception] = {}
    for place, numbers in groups.items():
        try:
            told = send(place, [asked[number] for number in numbers])
        except SchedulerError as error:
            told = [error] * len(numbers)
        answers |= zip(numbers, told, strict=True)
    return [answers[number] for number in range(len(asked))]
