"""The task runner's threads, with an environment that runs nothing by itself."""

from __future__ import annotations

import pickle
import threading
import time
from contextvars import copy_context
from typing import Any
from uuid import uuid4

import pytest
from fleet_client import eventually
from prefect import flow, unmapped
from prefect.states import Completed, Failed
from task_runner_fakes import FakeEnvironment, double, fake_environment, finish, running

from sched_plugins.client import Status
from sched_plugins.errors import NotPermitted, SchedulerError, Unknown
from sched_plugins.prefect import SchedulerTaskRunner
from sched_plugins.prefect.task_runner import dispatcher, payload, submission
from sched_plugins.prefect.task_runner.calls import Call, Caller
from sched_plugins.prefect.task_runner.execution import run_calls
from sched_plugins.prefect.task_runner.futures import SchedulerFuture
from sched_plugins.prefect.task_runner.place import result_key

__all__ = ["fake_environment"]


def test_a_large_map_is_few_calls_and_does_not_keep_the_flow(fake: FakeEnvironment) -> None:
    table = list(range(100_000))
    fake.gate.clear()
    with running() as started:
        futures = started.map(double, {"x": list(range(250)), "table": unmapped(table)})
        assert not any(future.job_id for future in futures), "it came back before anything was submitted"
        fake.gate.set()
        eventually(lambda: all(future.job_id for future in futures))
        assert len(fake.jobs) == 250
        assert fake.calls["submit"] == 3
        assert fake.calls["put"] == 4, "one for what they share, and one for each hundred"
        assert sum(map(len, fake.objects.values())) < 2 * len(payload.dumps(table)) + 250 * 8192
        finish(fake, futures, [Completed(data=number) for number in range(250)])
        assert futures.result() == list(range(250))


def test_a_bundle_is_one_job_with_its_range_of_the_calls(fake: FakeEnvironment) -> None:
    with running(bundle=100) as started:
        futures = started.map(double, {"x": list(range(250))})
        eventually(lambda: all(future.job_id for future in futures))
        assert len(fake.jobs) == 3
        for job in fake.jobs.values():
            command = job.spec.commands[0].split()
            first, last = map(int, command[command.index("--range") + 1].split("-"))
            calls = pickle.loads(fake.objects[command[command.index("--calls") + 1]][first : last + 1])
            assert len(calls) == int(job.spec.tags["prefect_task_runs"])
        finish(fake, futures, [Completed(data=1) for _ in range(250)])


def test_a_task_is_submitted_when_its_inputs_are_there_and_nobody_waits(fake: FakeEnvironment) -> None:
    with running() as started:
        first = started.submit(double, {"x": 1})
        chain = [first]
        for _ in range(20):
            chain.append(started.submit(double, {"x": chain[-1]}))
        threads = [one.name for one in threading.enumerate() if one.name.startswith("sched-task")]
        for number, future in enumerate(chain):
            eventually(lambda future=future: future.job_id)
            assert len(fake.jobs) == number + 1
            finish(fake, [future], [Completed(data=number)])
        assert len(threads) <= 1 + dispatcher.FETCHERS
        assert chain[-1].result() == 20


def test_a_failed_input_makes_its_task_not_ready_without_a_job(fake: FakeEnvironment) -> None:
    with running() as started:
        first = started.submit(double, {"x": 1})
        second = started.submit(double, {"x": first})
        third = started.submit(double, {"x": 3}, wait_for=[second])
        finish(fake, [first], [Failed(data=ValueError("x"))])
        third.wait(30)
        assert [one.state.name for one in (second, third)] == ["NotReady", "NotReady"]
        assert len(fake.jobs) == 1


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_submission_without_an_answer_is_looked_up(fake: FakeEnvironment, carried_out: bool) -> None:
    fake.answers, fake.loses_answers = [Unknown("no answer")], carried_out
    with running() as started:
        future = started.submit(double, {"x": 1})
        eventually(lambda: future.job_id)
        assert fake.calls["submit"] == (1 if carried_out else 2)
        assert len(fake.jobs) == 1
        finish(fake, [future], [Completed(data=2)])
        assert future.result() == 2


@pytest.mark.parametrize("error", [Unknown("no answer"), NotPermitted("no lambda:InvokeFunction")])
def test_a_refused_submission_crashes_the_task_with_the_reason(fake: FakeEnvironment, error: SchedulerError) -> None:
    fake.answers = [error] * 5
    with running() as started:
        future = started.submit(double, {"x": 1})
        with pytest.raises(type(error), match=str(error)):
            future.result(timeout=30)
        assert future.state.is_crashed()


def test_cancelling_ends_also_what_is_just_being_submitted(fake: FakeEnvironment) -> None:
    fake.gate.clear()
    with running() as started:
        first = started.submit(double, {"x": 1})
        second = started.submit(double, {"x": first})
        eventually(lambda: fake.calls["submit"])
        started.cancel_all()
        fake.gate.set()
        third = started.submit(double, {"x": 3})
        for future in (first, second, third):
            future.wait(30)
            assert future.state.name == "Cancelled"
        assert {job.status for job in fake.jobs.values()} == {Status.CANCELLED}
    assert fake.calls["secret deleted"] == 1


def test_a_flow_that_fails_cancels_what_has_not_started_and_waits_for_the_rest(fake: FakeEnvironment) -> None:
    ended = threading.Event()
    with running() as started:
        runs, waits = started.submit(double, {"x": 1}), started.submit(double, {"x": 2})
        eventually(lambda: runs.job_id and waits.job_id)
        fake.change(runs.job_id, Status.RUNNING)
        started._flow_run = type("FlowRun", (), {"state": Failed()})()

        def later() -> None:
            eventually(waits.wrapped_future.done)
            ended.set()
            finish(fake, [runs], [Completed(data=5)])

        thread = threading.Thread(target=later)
        thread.start()
    thread.join()
    assert ended.is_set()
    assert waits.state.name == "Cancelled"
    assert runs.result() == 5


@pytest.mark.parametrize("fails", [True, False])
def test_how_a_real_flow_ends_decides_about_its_tasks(fake: FakeEnvironment, fails: bool) -> None:
    futures: list[SchedulerFuture[Any]] = []

    @flow(task_runner=SchedulerTaskRunner("sched", "fake"))
    def ending() -> None:
        futures.append(double.submit(1))  # type: ignore[arg-type]
        eventually(lambda: futures[0].job_id)
        # One that is not cancelled is waited for, and completes.
        later = threading.Timer(2, lambda: finish(fake, futures, [Completed(data=2)]))
        later.daemon = True
        later.start()
        if fails:
            raise ValueError("the flow has failed")

    assert ending(return_state=True).is_failed() is fails
    assert futures[0].state.name == ("Cancelled" if fails else "Completed")


def test_jobs_that_are_not_seen_to_end_are_left_when_the_flow_is_interrupted(
    fake: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "INTERRUPTED_SECONDS", 0.2)
    monkeypatch.setattr(fake, "cancel_many", lambda _: [])
    began = time.monotonic()
    futures: list[SchedulerFuture[Any]] = []

    def interrupted() -> None:
        with running() as started:
            futures.append(started.submit(double, {"x": 1}))
            eventually(lambda: futures[0].job_id)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert futures[0].state.name == "Cancelled"
    assert time.monotonic() - began < 60


class Outcomes(dict[str, bytes]):
    """Where a job leaves them."""

    def put(self, key: str, text: bytes) -> None:
        self[key] = text

    def exists(self, key: str) -> bool:
        return key in self


def test_a_second_attempt_runs_only_what_the_first_has_not_finished(fake: FakeEnvironment) -> None:
    caller = Caller("", "session")
    calls = [
        Call(double, {"x": number}, [], {}, number, caller, copy_context(), SchedulerFuture(uuid4()))
        for number in range(2)
    ]
    opened = [
        {
            "task_run": pickle.dumps(call.register()),
            "parameters": payload.dumps({"x": call.number}),
            "number": call.number,
        }
        for call in calls
    ]
    shared = payload.dumps({"tags": [], "task": double, "shared": {"table": [1]}})
    first, second = (result_key("r", call.number) for call in calls)
    store = Outcomes({first: b"finished"})
    assert run_calls(shared, pickle.dumps(opened), store, "r", attempt=2) == 0
    assert store[first] == b"finished"
    found = payload.loads(store[second])
    assert found["state"].data.result == 2
    assert found["run"].run_count == 2
    assert run_calls(b"nonsense", pickle.dumps(opened), store, "r", attempt=1) == 0
    found = payload.loads(store[first])
    assert (found["state"].name, found["reported"]) == ("Crashed", False)


def test_an_outage_while_an_outcome_is_read_is_no_silent_death(
    fake: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "A_MINUTE", (0.01,) * 7, raising=False)
    monkeypatch.setattr(submission, "_PAUSES", (0.01,) * 3)
    with running() as started:
        first, second = started.submit(double, {"x": 1}), started.submit(double, {"x": 2})
        eventually(lambda: first.job_id and second.job_id)
        fake.outages = [Unknown("no answer of S3") for _ in range(6)]
        finish(fake, [first], [Completed(data=2)])
        assert first.result(timeout=30) == 2
        fake.outages = [Unknown("no answer of S3") for _ in range(50)]
        finish(fake, [second], [Completed(data=4)])
        second.wait(30)
        assert "could not be read: Unknown" in str(second.state.message)
    assert sum(submission.A_MINUTE) < 1, "as the test has set it"


def test_a_flow_that_ends_does_not_wait_for_the_end_of_an_outage(fake: FakeEnvironment) -> None:
    def interrupted() -> None:
        with running() as started:
            future = started.submit(double, {"x": 1})
            eventually(lambda: future.job_id)
            fake.outages = [Unknown("no answer of S3") for _ in range(50)]
            finish(fake, [future], [Completed(data=2)])
            eventually(lambda: len(fake.outages) < 50)
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 30
