"""Deferred tasks that are killed together: their jobs are cancelled together, beside the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from client_stack import NAME, REGION, ClientStack, client_stack

from sched_plugins.airflow.exceptions import as_airflow
from sched_plugins.airflow.hooks.scheduler import HookSession
from sched_plugins.airflow.triggers import canceller, deferral
from sched_plugins.airflow.triggers.canceller import cancel_runs
from sched_plugins.airflow.triggers.job import JobsTrigger, JobTrigger, SharedWatchTrigger
from sched_plugins.client.run import Run
from sched_plugins.errors import NotPermitted, Throttled, Unknown

CANCEL = f"{NAME}-cancel"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    with client_stack(monkeypatch) as found:
        yield found
    assert canceller._WORKING == {}


@pytest.fixture
def made(stack: ClientStack, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The boto3 clients that hooks made, each with whether that was in the event loop's thread."""
    clients: list[tuple[str, bool]] = []
    client = HookSession.client

    def counted(self: Any, service: str, **settings: Any) -> Any:
        clients.append((service, threading.current_thread() is threading.main_thread()))
        real = client(self, service, **settings)
        return stack.functions if service == "lambda" else real

    monkeypatch.setattr(HookSession, "client", counted)
    return clients


def submit(stack: ClientStack, *job_ids: str, run_id: str = "r") -> None:
    stack.client.submit_many(
        [{"job_id": job_id, "commands": ["x"]} for job_id in job_ids], run_ids=[run_id] * len(job_ids)
    )


def statuses(stack: ClientStack) -> dict[str, str]:
    return {job.job_id: str(job.status) for job in stack.client.list(limit=1000)}


def cancelled(stack: ClientStack) -> list[int]:
    """How many jobs each request to cancel named."""
    return [len(event["job_ids"]) for name, event in stack.functions.requests if name == CANCEL]


def killed(*triggers: SharedWatchTrigger) -> list[Any]:
    """What each ``on_kill`` raises, in one event loop."""

    async def scene() -> list[Any]:
        return await asyncio.gather(*(trigger.on_kill() for trigger in triggers), return_exceptions=True)

    return asyncio.run(scene())


WAY: dict[str, Any] = {"scheduler": NAME, "aws_conn_id": None, "region_name": REGION}


def test_many_tasks_that_are_killed_at_once_share_a_client_and_its_requests(
    stack: ClientStack, made: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sched_plugins.client.submission.BATCH", 10)
    job_ids = [f"j{number}" for number in range(13)]
    many = [f"m/{number:06d}" for number in range(3)]
    submit(stack, *job_ids, *many, "other")
    triggers: list[SharedWatchTrigger] = [JobTrigger(job_id=job_id, run_id="r", **WAY) for job_id in job_ids]
    kept = JobTrigger(job_id="other", run_id="r", cancel_on_kill=False, **WAY)
    told = killed(*triggers, JobsTrigger(base="m", numbers={"r": "0-2"}, **WAY), kept)
    assert set(told) == {None}
    assert Counter(statuses(stack).values()) == {"CANCELLED": 16, "QUEUED": 1}
    assert sorted(made) == [("dynamodb", False), ("lambda", False)], "once, and not in the event loop"
    assert sorted(cancelled(stack)) == [6, 10]


def test_only_the_own_runs_are_cancelled(stack: ClientStack, made: list[tuple[str, bool]]) -> None:
    submit(stack, "again", run_id="r1")
    stack.change("again", run_id="r2", run_ids=("r1", "r2"))
    submit(stack, "own")
    triggers = [JobTrigger(job_id=job_id, run_id=run_id, **WAY) for job_id, run_id in (("again", "r1"), ("own", "r"))]
    assert killed(*triggers) == [None, None]
    assert statuses(stack) == {"again": "QUEUED", "own": "CANCELLED"}
    assert cancelled(stack) == [1]


def test_an_error_is_told_to_each_and_keeps_nobody_later_from_cancelling(
    stack: ClientStack, made: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(stack, "a", "b")
    triggers = [JobTrigger(job_id=job_id, run_id="r", **WAY) for job_id in ("a", "b")]
    refuse(monkeypatch, stack, NotPermitted("ask for the reader policy"), KeyError("odd"))
    assert [type(error) for error in killed(*triggers)] == [NotPermitted, NotPermitted]
    assert [type(error) for error in killed(*triggers)] == [KeyError, KeyError]
    assert killed(*triggers) == [None, None]
    assert set(statuses(stack).values()) == {"CANCELLED"}


def refuse(monkeypatch: pytest.MonkeyPatch, stack: ClientStack, *errors: Exception) -> None:
    """Let the next readings of jobs fail."""
    left, get_many = list(errors), type(stack.client).get_many

    def refused(self: Any, job_ids: Any) -> Any:
        if left:
            raise left.pop(0)
        return get_many(self, job_ids)

    monkeypatch.setattr(type(stack.client), "get_many", refused)


def test_throttles_are_borne_since_nobody_else_cancels_the_jobs(
    stack: ClientStack, made: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    submit(stack, "a", "b")
    refuse(monkeypatch, stack, Throttled("slow"), Unknown("?"), as_airflow(Throttled("slow")))
    assert killed(*(JobTrigger(job_id=job_id, run_id="r", **WAY) for job_id in ("a", "b"))) == [None, None]
    assert set(statuses(stack).values()) == {"CANCELLED"}


def test_who_may_wait_no_longer_does_not_keep_the_job_running(stack: ClientStack, made: list[tuple[str, bool]]) -> None:
    submit(stack, "late", "b")

    async def scene() -> None:
        late, other = (JobTrigger(job_id=job_id, run_id="r", **WAY) for job_id in ("late", "b"))
        waiting = asyncio.ensure_future(other.on_kill())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(late.on_kill(), 0.01)  # as Airflow does after 30 s
        await waiting

    asyncio.run(scene())
    assert statuses(stack) == {"late": "CANCELLED", "b": "CANCELLED"}


def test_each_place_has_a_client_which_serves_who_comes_meanwhile(stack: ClientStack) -> None:
    submit(stack, "a", "b", "c", "d")
    makers: list[str] = []
    begun, go_on = threading.Semaphore(0), threading.Event()

    def maker(place: str) -> Any:
        def make() -> Any:
            makers.append(place)
            begun.release()
            assert go_on.wait(20)
            return stack.client

        return make

    async def scene() -> list[Any]:
        asked = [
            asyncio.ensure_future(cancel_runs(place, maker(place), lambda job_id=job_id: [Run(job_id)]))
            for place, job_id in (("here", "a"), ("there", "b"))
        ]
        for _ in asked:
            assert await asyncio.to_thread(begun.acquire, timeout=20)
        asked += [
            asyncio.ensure_future(cancel_runs(place, maker("again"), lambda job_id=job_id: [Run(job_id)]))
            for place, job_id in (("here", "c"), ("there", "d"))
        ]
        await asyncio.sleep(0)
        go_on.set()
        return await asyncio.gather(*asked)

    told = asyncio.run(asyncio.wait_for(scene(), 20))
    assert [[one.job_id for one in answers] for answers in told[:2]] == [["a"], ["b"]]
    assert statuses(stack) == dict.fromkeys("abcd", "CANCELLED")
    assert sorted(makers) == ["here", "there"]


def deferred(task_id: str, map_index: int = -1) -> SimpleNamespace:
    return SimpleNamespace(dag_id="d", run_id="r", task_id=task_id, map_index=map_index)


def test_a_trigger_that_another_triggerer_has_taken_over_cancels_nothing(
    stack: ClientStack, made: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow calls ``on_kill`` there too; the task waits on, and Airflow says that it is deferred."""
    tasks = {"taken": "deferred", "killed": "failed", "mapped_0": "deferred", "mapped_1": None, "taken_1": "failed"}
    asked: list[str] = []

    def get_task_states(dag_id: str, *, task_ids: list[str], run_ids: list[str]) -> dict[str, dict[str, str | None]]:
        assert threading.current_thread() is not threading.main_thread()
        asked.extend(task_ids)
        own = {name: state for name, state in tasks.items() if name == task_ids[0] or name[:-2] == task_ids[0]}
        return dict.fromkeys(run_ids, own)

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(get_task_states))
    triggers = []
    for task in (deferred("taken"), deferred("killed"), deferred("mapped", 0), deferred("mapped", 1), deferred("gone")):
        job_id = f"{task.task_id}{task.map_index}"
        submit(stack, job_id)
        triggers.append(JobTrigger(job_id=job_id, run_id="r", **WAY))
        triggers[-1].task_instance = task  # type: ignore[assignment]
    assert set(killed(*triggers)) == {None}
    assert sorted(asked) == ["gone", "killed", "mapped", "taken"], "once for all that are mapped"
    live = {job_id for job_id, status in statuses(stack).items() if status == "QUEUED"}
    assert live == {"taken-1", "mapped0"}
    tasks["taken"] = "failed"
    assert killed(triggers[0]) == [None]
    assert statuses(stack)["taken-1"] == "CANCELLED", "each is asked for anew"


def test_a_task_of_which_airflow_tells_nothing_was_killed(
    stack: ClientStack, made: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: Any, **named: Any) -> Any:
        raise RuntimeError("no supervisor")

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(refused))
    submit(stack, "j")
    trigger = JobTrigger(job_id="j", run_id="r", **WAY)
    trigger.task_instance = deferred("t")  # type: ignore[assignment]
    assert killed(trigger) == [None]
    assert statuses(stack) == {"j": "CANCELLED"}
    assert deferral._ASKED == {}


@pytest.mark.usefixtures("made")
def test_a_task_that_is_killed_before_airflow_has_ever_answered_is_not_kept_waiting(
    stack: ClientStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A triggerer's first question takes seconds, and one so young has lost no task to another."""
    answered = threading.Event()

    def get_task_states(dag_id: str, *, task_ids: list[str], run_ids: list[str]) -> dict[str, dict[str, str]]:
        answered.wait(30)
        return {run_id: {"t": "deferred"} for run_id in run_ids}

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(get_task_states))
    submit(stack, "j")
    trigger = JobTrigger(job_id="j", run_id="r", **WAY)
    trigger.task_instance = deferred("t")  # type: ignore[assignment]

    async def scene() -> bool:
        deferral.get_ready(trigger.task_instance)
        await trigger.on_kill()
        answered.set()
        await deferral._FIRST[asyncio.get_running_loop()]
        return await deferral.is_deferred(trigger.task_instance)

    assert asyncio.run(scene()), "from the first answer on, it is asked"
    assert statuses(stack) == {"j": "CANCELLED"}
