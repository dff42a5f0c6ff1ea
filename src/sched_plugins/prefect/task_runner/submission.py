"""From calls whose inputs are there to jobs: their payloads are written, and they are submitted, many at once.

For up to 100 jobs: one PutObject for their calls, one for what calls of a map have in common (none if that was written
before), one BatchGetItem, one Lambda call.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar
from uuid import uuid4

from prefect.exceptions import UpstreamTaskError

from sched_plugins.client import EnvironmentClient, Run
from sched_plugins.client.identity import Decision, Step, decide, is_ending
from sched_plugins.core.names import clip
from sched_plugins.errors import Busy, Conflict, SchedulerError, Throttled, Unknown
from sched_plugins.prefect.identity import CallIdentity, group_id
from sched_plugins.prefect.task_runner import outcome, payload, surroundings
from sched_plugins.prefect.task_runner.calls import Bundle, Call, Caller, Group
from sched_plugins.prefect.task_runner.earlier import BUNDLE_TAG, EarlierTries, wait_for_ends
from sched_plugins.prefect.task_runner.place import ENVIRONMENT_METADATA, Place, result_key
from sched_plugins.prefect.task_runner.settings import JobSettings

T = TypeVar("T")
UNCERTAIN: Final = (Busy, Throttled, Unknown)
"""After these a job may have been submitted all the same: its record tells."""
READERS: Final = 8
A_MINUTE: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
_PAUSES: Final = (1.0, 2.0, 4.0)
"""Seconds before an AWS call that was not answered is made again; botocore has tried it several times each time."""


class Secret(Protocol):
    """The parameter that the jobs read."""

    name: str

    def write(self) -> None:
        """Write it, unless it is there."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A bundle that can be submitted."""

    bundle: Bundle
    calls: tuple[Call, ...]
    """Those of its calls whose inputs are there."""
    identity: CallIdentity
    shared: str
    """Key of what they have in common."""
    content: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the submission of a bundle."""

    prepared: Prepared
    run: Run
    error: SchedulerError | None = None
    again: bool = False
    """It was certainly not submitted, and may be tried again."""


def patiently(
    call: Callable[[], T], pause: Callable[[float], Any] = time.sleep, pauses: Sequence[float] = _PAUSES
) -> T:
    """Make an AWS call, again if it was throttled or left unanswered."""
    for seconds in pauses:
        try:
            return call()
        except (Throttled, Unknown):
            pause(seconds)
    return call()


class Submitter:
    """Submits the bundles of one runner. Used by one thread.

    Args:
        client: the environment's.
        settings: of the jobs.
        caller: who calls.
        secret: what the jobs read first.
    """

    def __init__(self, client: EnvironmentClient, settings: JobSettings, caller: Caller, secret: Secret) -> None:
        self._client = client
        self._settings = settings
        self._secret = secret
        self.place = Place(client.bucket, caller.owner)
        self._alone: dict[tuple[int, Hashable], tuple[Any, str]] = {}
        self._groups: dict[int, tuple[Group, str, bytes]] = {}
        self._written: set[str] = set()
        self._modules: dict[int, tuple[Any, set[ModuleType]]] = {}
        self.earlier = EarlierTries(client, patiently)

    def prepare(self, bundle: Bundle) -> tuple[Prepared | None, list[tuple[Call, Exception]]]:
        """Resolve a bundle's inputs and pickle them; also the calls whose inputs failed or cannot be carried.

        Raises:
            SchedulerError: what earlier tries of the flow run have left cannot be known, or not be ended.
        """
        series = self.earlier.series(bundle.calls[0])
        good: list[Call] = []
        texts: list[bytes] = []
        told: list[bytes] = []
        failed: list[tuple[Call, Exception]] = []
        shared, shared_text = "", b""
        for call in bundle.calls:
            try:
                own = bundle.group.resolve(call)
                with payload.by_value(self._modules_of(call.task)):
                    shared, shared_text = self._shared(bundle.group, call)
                    text = payload.dumps(own)
                    told.append(payload.told(own, text))
                texts.append(text)
                good.append(call)
            except UpstreamTaskError as error:
                failed.append((call, error))
            except Exception as error:  # noqa: BLE001 - whatever pickling raises, and what a result storage does
                error.add_note(f"Task {call.task.name!r} runs as a job: what it is given must be picklable.")
                failed.append((call, error))
        if not good:
            return None, failed
        identity = identity_of(good, payload.digest(payload.source(good[0].task.fn), shared_text, *told), series)
        opened = [
            {"task_run": pickle.dumps(call.register()), "parameters": text, "number": call.number}
            for call, text in zip(good, texts, strict=True)
        ]
        return Prepared(bundle, tuple(good), identity, shared, pickle.dumps(opened)), failed

    def _modules_of(self, task: Any) -> set[ModuleType]:
        if id(task) not in self._modules:
            self._modules[id(task)] = (task, payload.own_modules(task.fn))
        return self._modules[id(task)][1]

    def _shared(self, group: Group, call: Call) -> tuple[str, bytes]:
        """Write what a group's calls have in common, unless that was done; its key, and what tells them apart."""
        if id(group) in self._groups:
            _, key, text = self._groups[id(group)]
            return key, text
        place = (id(call.task), call.within(surroundings.current_key))
        if not group.shared_values and place in self._alone:
            return self._alone[place][1], b""
        common = {**call.within(surroundings.collect), "task": call.task, "shared": dict(group.shared_values or {})}
        content = payload.dumps(common)
        key = self.place.shared(payload.digest(content))
        if key not in self._written:
            self._put(key, content)
            self._written.add(key)
        if not group.shared_values:
            self._alone[place] = ((call.task, call.context), key)  # They stay alive, and so their ids theirs.
            return key, b""
        text = payload.dumps(dict(group.shared_values))
        text = payload.told(dict(group.shared_values), text)
        self._groups[id(group)] = (group, key, text)
        return key, text

    def _put(self, key: str, content: bytes) -> None:
        metadata = {ENVIRONMENT_METADATA: self._client.name}

        def put() -> None:
            with self._client.connection.doing(f"write s3://{self.place.bucket}/{key}"):
                self._client.connection.client("s3").put_object(
                    Bucket=self.place.bucket, Key=key, Body=content, Metadata=metadata
                )

        patiently(put)

    def get(self, key: str, pause: Callable[[float], Any] = time.sleep) -> bytes | None:
        """An object of the place; None if there certainly is none. May be called by any thread.

        Raises:
            SchedulerError: there was no usable answer for a minute, or AWS refused.
        """

        def get() -> bytes | None:
            s3 = self._client.connection.client("s3")
            with self._client.connection.doing(f"read s3://{self.place.bucket}/{key}"):
                try:
                    return bytes(s3.get_object(Bucket=self.place.bucket, Key=key)["Body"].read())
                except s3.exceptions.NoSuchKey:
                    return None

        return patiently(get, pause, A_MINUTE)

    def send(self, prepared: Sequence[Prepared]) -> list[Sent]:
        """Submit bundles whose jobs are neither live nor have succeeded.

        Raises:
            SchedulerError: AWS refused, or gave no usable answer before anything was submitted.
        """
        if not prepared:
            return []
        self.earlier.make_way([one.identity.job_id for one in prepared])
        todo: list[Prepared] = []
        sent: list[Sent] = []
        run_ids = []
        for one, decision in zip(prepared, self._decided(prepared), strict=True):
            job_id = one.identity.job_id
            if decision.step is Step.SUBMIT:
                todo.append(one)
                run_ids.append(decision.run_id)
            else:
                lost = decision.step is Step.LOST
                error = Conflict(f"another run has taken the place of job {job_id!r}") if lost else None
                sent.append(Sent(one, Run(job_id, decision.run_id), error))
        if not todo:
            return sent
        patiently(self._secret.write)
        key, first, is_loopback = self.place.calls(uuid4().hex), 0, self._client.connection.is_loopback
        fields: list[dict[str, Any]] = []
        for one, run_id in zip(todo, run_ids, strict=True):
            last = first + len(one.content) - 1
            arguments = self._arguments(one, key, f"{first}-{last}", run_id)
            fields.append(self._settings.job(one.identity, arguments, is_loopback=is_loopback))
            first = last + 1
        self._put(key, b"".join(one.content for one in todo))
        answers = self._client.submit_many(fields, run_ids=run_ids)
        unsure = []
        for one, answer in zip(todo, answers, strict=True):
            if isinstance(answer.error, UNCERTAIN):
                unsure.append((one, answer.error))
            else:
                sent.append(Sent(one, answer.run, answer.error))
        return [*sent, *self._looked_up(unsure)]

    def _decided(self, prepared: Sequence[Prepared]) -> list[Decision]:
        """What is to be done about each job. One that is being cancelled is waited for, and then made anew."""
        job_ids = [one.identity.job_id for one in prepared]
        known = patiently(lambda: self._client.get_many(job_ids))

        def decisions() -> list[Decision]:
            return [
                decide(one.identity.job_id, one.identity.digest, known.get(one.identity.job_id)) for one in prepared
            ]

        ending = [
            Run(job_id, known[job_id].run_id)
            for job_id, one in zip(job_ids, decisions(), strict=True)
            if is_ending(one, known.get(job_id))
        ]
        if ending:
            wait_for_ends(self._client, ending)
            known |= patiently(lambda: self._client.get_many([run.job_id for run in ending]))
        found = decisions()
        taken = [number for number, one in enumerate(found) if one.step is Step.TAKE]
        if taken:
            with ThreadPoolExecutor(READERS) as pool:
                serves = list(pool.map(lambda number: self._serves(prepared[number], found[number].run_id), taken))
            for number, is_good in zip(taken, serves, strict=True):
                if not is_good:
                    found[number] = Decision(Step.SUBMIT, next_run_id(found[number].run_id))
        return found

    def _serves(self, one: Prepared, run_id: str) -> bool:
        """Whether a job that has succeeded has left success of all of its tasks: a task that failed is run again."""
        results = self.place.results(run_id)
        return all(outcome.has_completed(self.get(result_key(results, call.number))) for call in one.calls)

    def _looked_up(self, unsure: Sequence[tuple[Prepared, SchedulerError]]) -> list[Sent]:
        """Jobs that may have been submitted although no answer came."""
        if not unsure:
            return []
        job_ids = [one.identity.job_id for one, _ in unsure]
        known = patiently(lambda: self._client.get_many(job_ids))
        found = []
        for one, error in unsure:
            job_id = one.identity.job_id
            decision = decide(job_id, one.identity.digest, known.get(job_id))
            there = decision.step in (Step.ATTACH, Step.TAKE)
            found.append(Sent(one, Run(job_id, decision.run_id), None if there else error, again=not there))
        return found

    def _arguments(self, one: Prepared, key: str, part: str, run_id: str) -> list[str]:
        options = {
            "region": self._client.connection.region,
            "environment": self._client.name,
            "secret": self._secret.name,
            "bucket": self.place.bucket,
            "shared": one.shared,
            "calls": key,
            "range": part,
            "results": self.place.results(run_id),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        }
        return [text for name, value in options.items() for text in (f"--{name}", value)]


def next_run_id(run_id: str) -> str:
    """Of the run after this one."""
    told, _, number = run_id.rpartition("-")
    return f"{told}-{int(number) + 1}"


def identity_of(calls: Sequence[Call], mark: str, series: str) -> CallIdentity:
    """Who the job of some calls is: which runs of the task in which tries of the flow run, and with which content."""
    first, last = calls[0], calls[-1]
    numbers = str(first.number) if first is last else f"{first.number}-{last.number}"
    caller = first.caller
    labels = {
        "prefect_flow_run_id": caller.flow_run_id,
        "prefect_flow_run_name": caller.flow_run_name,
        "prefect_flow_name": caller.flow_name,
        "prefect_task_name": first.task.name,
        "prefect_task_run_id": str(first.future.task_run_id) if first is last else "",
        BUNDLE_TAG: str(len(calls)),
    }
    told = tuple((name, clip(value, 200)) for name, value in labels.items() if value)
    parts = (series, first.task.task_key, numbers, mark[:16])
    group = group_id(caller.root_id or caller.flow_run_id) if caller.flow_run_id else ""
    return CallIdentity(caller.flow_run_id, parts, mark, group_id=group, labels=told)
