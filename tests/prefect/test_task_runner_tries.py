"""Tries of one flow run: after a kill, and after a failure."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from deployed import SCHEDULER
from fleet_client import eventually
from prefect import flow, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import State
from prefect.states import AwaitingRetry, Completed, Failed, Running
from prefect_stack import ENVIRONMENT
from task_runner_fakes import FakeEnvironment, double, fake_environment, finish, running, runs_of

from sched_plugins.client import SchedulerClient, Status
from sched_plugins.prefect import SchedulerTaskRunner
from sched_plugins.prefect.task_runner import dispatcher, earlier, payload
from sched_plugins.prefect.task_runner.calls import Caller
from sched_plugins.prefect.task_runner.futures import SchedulerFuture
from sched_plugins.prefect.task_runner.place import result_key

__all__ = ["fake_environment"]
PATIENCE = 90.0
FLOW_RUN = str(uuid4())


@contextmanager
def trying(
    monkeypatch: pytest.MonkeyPatch, number: int, states: list[State[Any]], *, killed: bool = False
) -> Iterator[SchedulerTaskRunner]:
    """A runner of a try of one flow run; one that is killed does nothing more with its jobs."""
    caller = Caller(FLOW_RUN, f"try-{number}", run_count=number)
    counted: dict[str, Any] = {}
    monkeypatch.setattr(SchedulerTaskRunner, "_caller", lambda _: (caller, counted))
    monkeypatch.setattr(earlier, "_states", lambda _: states)
    with running() as started:
        yield started
        if killed:
            monkeypatch.setattr(dispatcher.Dispatcher, "_wait_for_end", lambda *_: None)
            monkeypatch.setattr(dispatcher.outcome, "end_all", lambda *_, **__: None)
    if killed:
        monkeypatch.undo()


def killed_try(fake: FakeEnvironment, **finished: State[Any]) -> list[str]:
    """The jobs of a try that was killed with a table of three calls; the names of those that have ended, and how."""
    with pytest.MonkeyPatch.context() as patch, trying(patch, 1, [], killed=True) as started:
        futures = [started.submit(double, {"x": number}) for number in range(3)]
        eventually(lambda: all(future.job_id for future in futures))
        for number, state in finished.items():
            finish(fake, [futures[int(number[1:])]], [state])
    return [future.job_id for future in futures]


def test_after_a_kill_jobs_are_waited_for_taken_or_made_anew(
    fake: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = killed_try(fake, _1=Completed(data=2), _2=Failed(data=ValueError("x")))
    before = {job_id: fake.jobs[job_id].run_id for job_id in jobs}
    with trying(monkeypatch, 2, [Running(), Running()]) as started:
        live, taken, anew = (started.submit(double, {"x": number}) for number in range(3))
        assert taken.result(timeout=30) == 2
        eventually(lambda: live.job_id and anew.job_id)
        assert [live.job_id, taken.job_id, anew.job_id] == jobs
        runs = [fake.jobs[job_id].run_id for job_id in jobs]
        assert runs[:2] == [before[jobs[0]], before[jobs[1]]]
        assert runs[2] == before[jobs[2]][:-1] + "2", "the task that failed is run again, and reads no old outcome"
        assert not anew.is_done
        finish(fake, [anew], [Completed(data=4)])
        command = fake.jobs[jobs[0]].spec.commands[0].split()
        (run, number), *_ = runs_of(fake, jobs[0]).values()
        assert run.id != live.task_run_id
        text = payload.dumps({"state": Completed(data=0), "reported": True, "chain": None, "run": run})
        fake.objects[result_key(command[command.index("--results") + 1], number)] = text
        fake.end(jobs[0], Status.SUCCEEDED)
        assert (live.result(timeout=30), anew.result(timeout=30)) == (0, 4)
        assert live.state.state_details.task_run_id == live.task_run_id
    assert fake.calls["cancel"] == 0


def test_after_a_kill_what_is_not_asked_for_again_is_cancelled(
    fake: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = killed_try(fake)
    with trying(monkeypatch, 2, [Running(), Running()]) as started:
        other = started.submit(double, {"x": 10})
        eventually(lambda: other.job_id)
        assert other.job_id not in jobs
        statuses = [fake.jobs[job_id].status for job_id in jobs]
        assert statuses == [Status.CANCELLED, Status.QUEUED, Status.QUEUED], "the same call's went before"
        finish(fake, [other], [Completed(data=20)])
    assert {fake.jobs[job_id].status for job_id in jobs} == {Status.CANCELLED}


def test_a_try_after_one_that_ended_makes_all_anew_when_what_still_runs_has_ended(
    fake: FakeEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "END_SECONDS", 0.5)
    jobs = killed_try(fake, _1=Completed(data=2))
    states = [Running(), AwaitingRetry(), Running()]
    fake.ends_cancelled = False
    with trying(monkeypatch, 2, states) as started:
        refused = started.submit(double, {"x": 0})
        refused.wait(30)
        assert "2 jobs of an earlier try of this flow run have not ended" in str(refused.state.message)
        assert len(fake.jobs) == 3, "none beside one that still runs"
        fake.ends_cancelled = True
        again = [started.submit(double, {"x": number}) for number in range(3)]
        eventually(lambda: all(future.job_id for future in again))
        assert not {future.job_id for future in again} & set(jobs)
        assert [fake.jobs[job_id].status for job_id in jobs] == [
            Status.CANCELLED, Status.SUCCEEDED, Status.CANCELLED,
        ]  # fmt: skip
        finish(fake, again, [Completed(data=1)] * 3)


def test_a_retried_flow_does_not_wait_for_jobs_of_the_try_before(fake: FakeEnvironment) -> None:
    futures: list[SchedulerFuture[Any]] = []

    @flow(task_runner=SchedulerTaskRunner("sched", "fake"), retries=1)
    def retried() -> int:
        futures.append(double.submit(1))  # type: ignore[arg-type]
        eventually(lambda: futures[-1].job_id)
        if len(futures) == 1:
            fake.change(futures[0].job_id, Status.RUNNING)
            raise ValueError("the flow has failed")
        finish(fake, futures[1:], [Completed(data=2)])
        return futures[1].result(timeout=30)  # type: ignore[no-any-return]

    assert retried() == 2
    assert futures[0].state.name == "Cancelled"
    assert futures[0].job_id != futures[1].job_id
    assert fake.jobs[futures[0].job_id].status is Status.CANCELLED


KILLED = """
import sys, time
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID
from prefect import flow, get_client, task
from prefect.flow_engine import run_flow
from sched_plugins.prefect import SchedulerTaskRunner, ServerlessScheduler

@dataclass
class Case:
    name: str
    folder: str

@task
def once(case):
    with (Path(case.folder) / case.name).open("a") as file:
        file.write("x")
    while case.name == "long" and not (Path(case.folder) / "go").exists():
        time.sleep(0.05)
    return case.name

@flow(task_runner=SchedulerTaskRunner(ServerlessScheduler(scheduler=SCHEDULER, environment=ENVIRONMENT)))
def killed(folder):
    futures = [once.submit(Case(name, folder)) for name in ("short", "long")]
    (Path(folder) / "submitted").touch()
    futures[0].result()
    (Path(folder) / "taken").touch()
    return [future.result() for future in futures]

if __name__ == "__main__":
    if len(sys.argv) == 2:
        with get_client(sync_client=True) as client:
            print(client.create_flow_run(killed, parameters={"folder": sys.argv[1]}).id)
    else:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(sys.argv[2]))
        print(run_flow(killed, flow_run=run, parameters={"folder": sys.argv[1]}))
"""


@pytest.mark.usefixtures("prefect_and_stack")
def test_a_flow_whose_process_was_killed_goes_on_with_its_jobs(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED.replace("=SCHEDULER", f"={SCHEDULER!r}").replace("=ENVIRONMENT", f"={ENVIRONMENT!r}"))
    command = [sys.executable, str(script), str(tmp_path)]
    run_id = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]
    with subprocess.Popen([*command, run_id]) as first:
        try:
            eventually(lambda: (tmp_path / "taken").exists() and (tmp_path / "long").exists(), PATIENCE)
        finally:
            first.kill()
    (tmp_path / "taken").unlink()
    with subprocess.Popen([*command, run_id], stdout=subprocess.PIPE, text=True) as second:
        try:
            eventually(lambda: (tmp_path / "taken").exists(), PATIENCE)
            (tmp_path / "go").touch()
            out, _ = second.communicate(timeout=PATIENCE)
        finally:
            second.kill()
    assert "['short', 'long']" in out
    assert [(tmp_path / name).read_text() for name in ("short", "long")] == ["x", "x"], "each ran once"
    jobs = SchedulerClient(SCHEDULER).list(group=f"prefect-{run_id}", limit=100)
    assert [(job.status, job.attempt) for job in jobs] == [(Status.SUCCEEDED, 1)] * 2

    def runs_are_told() -> bool:
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [run_id]}))  # type: ignore[arg-type]
        assert len(runs) <= 4, "two in each try"
        return [run.state_name for run in runs] == ["Completed"] * 4

    eventually(runs_are_told, PATIENCE)
