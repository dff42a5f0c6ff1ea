"""The executor as Airflow's scheduler sees it, with a scheduler in memory."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from executor_fakes import FakeScheduler, record
from executor_stack import EXECUTOR, JWT_SECRET

from sched_plugins.client import Job, LogChunk, Status
from sched_plugins.errors import InvalidJob, NotPermitted, Unknown

pytest.importorskip("airflow")

from airflow.executors import executor_loader
from airflow.executors.executor_loader import ExecutorLoader
from airflow.executors.workloads import ExecuteTask
from airflow.executors.workloads.base import BundleInfo
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.utils.state import TaskInstanceState
from sqlalchemy.exc import OperationalError

from sched_plugins.airflow.exceptions import InvalidRequestException
from sched_plugins.airflow.executors import scheduler_executor
from sched_plugins.airflow.executors.scheduler_executor import SchedulerExecutor

TOKEN = "the token that Airflow made"
SUCCESS, FAILED = TaskInstanceState.SUCCESS, TaskInstanceState.FAILED


@pytest.fixture(autouse=True)
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AIRFLOW__API_AUTH__JWT_SECRET": JWT_SECRET,
        "AIRFLOW__SCHED_EXECUTOR__SCHEDULER": "sim",
        "AIRFLOW__SCHED_EXECUTOR__ENVIRONMENT": "grid",
        "AIRFLOW__SCHED_EXECUTOR__REGION_NAME": "eu-west-1",
        "AIRFLOW__SCHED_EXECUTOR__POLL_INTERVAL": "0",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://airflow/execution/",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def scheduler() -> FakeScheduler:
    return FakeScheduler()


def new_executor(scheduler: FakeScheduler, **options: Any) -> SchedulerExecutor:
    """An executor whose courier makes its rounds when a test says so."""
    executor = SchedulerExecutor(parallelism=8, **options)
    executor.__dict__ |= {"client": scheduler, "store": scheduler, "courier": scheduler.courier(executor.settings)}
    return executor


@pytest.fixture
def executor(scheduler: FakeScheduler) -> SchedulerExecutor:
    return new_executor(scheduler)


def workload(map_index: int = -1, queued_as: str | None = "1", **changes: Any) -> ExecuteTask:
    ti = TaskInstanceDTO(
        id=uuid.UUID(int=map_index + 2),
        task_id="t",
        dag_id="d",
        run_id="r",
        try_number=1,
        map_index=map_index,
        dag_version_id=uuid.UUID(int=1),
        pool_slots=1,
        queue="default",
        priority_weight=1,
        external_executor_id=queued_as and f"{map_index}-{queued_as}",
        **changes,
    )
    bundle = BundleInfo(name="dags-folder")
    return ExecuteTask(ti=ti, dag_rel_path=Path("d.py"), token=TOKEN, log_path="l.log", bundle_info=bundle)


def turn(executor: SchedulerExecutor) -> dict[Any, Any]:
    """One loop of Airflow's scheduler, and the round of calls beside it; the events."""
    executor.heartbeat()
    executor.courier.round()
    executor.sync()
    return executor.get_event_buffer()


def queue(executor: SchedulerExecutor, *workloads: ExecuteTask) -> None:
    for one in workloads:
        executor.queue_workload(one, session=None)  # type: ignore[arg-type]


def test_a_task_becomes_a_job_and_its_end_an_event(executor: SchedulerExecutor, scheduler: FakeScheduler) -> None:
    one = workload(executor_config={"queue": "big", "timeout": 60, "tags": {"a": "b"}, "environment": {"C": "d"}})
    queue(executor, one)
    assert turn(executor) == {}
    [(job_id, fields)] = scheduler.fields.items()
    assert job_id == "airflow--1-1"
    assert (scheduler.jobs[job_id].queue, fields["timeout_seconds"], fields["environment"]["C"]) == (
        "big-job-queue",
        60,
        "d",
    )
    assert fields["environment"]["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://airflow/execution/"
    assert executor.running == {one.key}
    assert executor.slots_available == 7
    scheduler.end(job_id)
    assert turn(executor) == {one.key: (SUCCESS, None)}
    assert executor.running == set()


def test_the_token_is_in_the_workload_alone(executor: SchedulerExecutor, scheduler: FakeScheduler) -> None:
    queue(executor, workload())
    turn(executor)
    [(name, text)] = scheduler.workloads.items()
    assert name == "/sched/grid/workloads/airflow--1-1"
    stored = ExecuteTask.model_validate_json(text)
    assert stored.ti.id == uuid.UUID(int=1)
    told = jwt.decode(stored.token, options={"verify_signature": False})
    assert (told["sub"], told["scope"], told["exp"] - told["iat"]) == (str(stored.ti.id), "workload", 600)
    for token in (TOKEN, stored.token):
        assert token not in json.dumps(scheduler.fields)
        assert token not in repr(stored)


def test_more_tasks_than_slots_wait(executor: SchedulerExecutor, scheduler: FakeScheduler) -> None:
    queue(executor, *(workload(number) for number in range(10)))
    turn(executor)
    assert len(scheduler.jobs) == 8
    scheduler.end("airflow-0-1")
    turn(executor)
    turn(executor)
    assert len(scheduler.jobs) == 9


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.REJECTED])
def test_a_job_that_did_not_succeed_fails_its_task(
    executor: SchedulerExecutor, scheduler: FakeScheduler, status: Status
) -> None:
    one = workload()
    queue(executor, one)
    turn(executor)
    scheduler.end("airflow--1-1", status, status_reason="this is why")
    [(key, (state, info))] = turn(executor).items()
    assert (key, state) == (one.key, FAILED)
    assert "this is why" in info
    [event] = executor._task_event_logs
    assert "this is why" in str(event.extra)


def test_a_job_that_is_lost_fails_its_task(executor: SchedulerExecutor, scheduler: FakeScheduler) -> None:
    queue(executor, one := workload())
    turn(executor)
    scheduler.jobs.clear()
    assert turn(executor)[one.key][0] == FAILED


@pytest.mark.parametrize("name", ["look", "submit"])
def test_silence_is_no_event(executor: SchedulerExecutor, scheduler: FakeScheduler, name: str) -> None:
    queue(executor, workload())
    scheduler.broken[name] = Unknown("no answer")
    for _ in range(3):
        assert turn(executor) == {}
    assert len(executor.running) == 1


def test_a_refused_job_fails_its_task(executor: SchedulerExecutor, scheduler: FakeScheduler) -> None:
    queue(executor, one := workload())
    scheduler.refused["airflow--1-1"] = InvalidJob("commands: too long")
    assert "too long" in turn(executor)[one.key][1]


def test_a_wrong_option_fails_its_task_before_anything_is_stored(
    executor: SchedulerExecutor, scheduler: FakeScheduler
) -> None:
    wrong, right = workload(1, executor_config={"cpu": 4}), workload(2)
    queue(executor, wrong, right)
    events = turn(executor)
    assert list(events) == [wrong.key]
    assert "'cpu'" in events[wrong.key][1]
    assert list(scheduler.workloads) == ["/sched/grid/workloads/airflow-2-1"]


def test_a_task_of_which_no_job_can_be_made_does_not_end_airflows_scheduler(
    executor: SchedulerExecutor, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = scheduler_executor.task_options

    def odd(config: Any, queue: Any, settings: Any) -> Any:
        if config:
            raise TypeError("nobody thought of this")
        return real(config, queue, settings)

    monkeypatch.setattr(scheduler_executor, "task_options", odd)
    queue(executor, workload(1), wrong := workload(2, executor_config={"queue": "big"}), workload(3))
    assert "nobody thought" in turn(executor)[wrong.key][1]
    assert sorted(scheduler.jobs) == ["airflow-1-1", "airflow-3-1"]


def test_a_resumed_task_is_not_ended_by_the_job_from_before_it_was_deferred(
    executor: SchedulerExecutor, scheduler: FakeScheduler
) -> None:
    before, after = workload(queued_as="1"), workload(queued_as="2")
    assert before.key == after.key
    queue(executor, before)
    turn(executor)
    queue(executor, after)
    turn(executor)
    scheduler.end("airflow--1-1")
    assert turn(executor) == {}
    assert executor.running == {after.key}
    scheduler.end("airflow--1-2")
    assert turn(executor) == {after.key: (SUCCESS, None)}


def test_a_task_that_airflow_gave_no_id_gets_its_own(executor: SchedulerExecutor, scheduler: FakeScheduler) -> None:
    queue(executor, one := workload(queued_as=None))
    assert turn(executor) == {one.key: (TaskInstanceState.RUNNING, str(one.ti.id))}
    assert list(scheduler.jobs) == [f"airflow-{one.ti.id}"]


def test_only_tasks_are_run(executor: SchedulerExecutor) -> None:
    callback = SimpleNamespace(key=1)
    with pytest.raises(TypeError, match="runs tasks"):
        executor._process_workloads([callback])  # type: ignore[list-item]
    assert not executor.supports_callbacks


# Revoking and adopting


def task_instance(one: ExecuteTask, state: str = "queued") -> Any:
    ti = one.ti
    return SimpleNamespace(
        key=one.key,
        id=ti.id,
        state=state,
        try_number=1,
        external_executor_id=ti.external_executor_id,
        executor_config={},
        queue="default",
    )


@pytest.fixture
def remade(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What workloads are made again of, instead of the database's rows."""
    made: list[Any] = []

    def make(ti: Any) -> ExecuteTask:
        made.append(ti)
        return workload(ti.key.map_index)

    monkeypatch.setattr(ExecuteTask, "make", make)
    return made


class Row(SimpleNamespace):
    """A task instance, which can be a key of a dictionary as Airflow's can."""

    __hash__ = object.__hash__


def rows(*workloads: ExecuteTask, state: str = "queued") -> list[Any]:
    return [Row(**vars(task_instance(one, state))) for one in workloads]


def test_a_revoked_task_is_cancelled_and_there_is_no_event(
    executor: SchedulerExecutor, scheduler: FakeScheduler
) -> None:
    queue(executor, one := workload())
    turn(executor)
    executor.revoke_task(ti=task_instance(one))
    scheduler.end("airflow--1-1", Status.CANCELLED)
    assert turn(executor) == {}
    assert (executor.running, scheduler.cancelled) == (set(), ["airflow--1-1"])
    executor.revoke_task(ti=SimpleNamespace())  # type: ignore[arg-type]  # never raises


def test_airflow_is_told_of_tasks_that_wait_until_its_database_takes_it(
    executor: SchedulerExecutor, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[set[str]] = []
    locked = [OperationalError("UPDATE", {}, Exception("database is locked"))]

    def keep(ti_ids: Any) -> None:
        if locked:
            raise locked.pop()
        told.append(set(ti_ids))

    monkeypatch.setattr(scheduler_executor, "_keep_queued", keep)
    queue(executor, one := workload())
    turn(executor)
    scheduler.now += 310
    turn(executor)
    assert told == []
    turn(executor)
    turn(executor)
    assert told == [{str(one.ti.id)}]


def test_another_schedulers_tasks_are_adopted_by_their_jobs(scheduler: FakeScheduler, remade: list[Any]) -> None:
    dead = new_executor(scheduler)
    workloads = [workload(number) for number in range(4)]
    queue(dead, *workloads[:3])
    turn(dead)
    scheduler.end("airflow-0-1")
    scheduler.end("airflow-1-1", Status.RUNNING)
    scheduler.calls.clear()
    executor = new_executor(scheduler)
    tis = rows(*workloads)
    tis[1].state = "running"
    assert executor.try_adopt_task_instances(tis) == [tis[3]], "its job was never submitted"
    assert scheduler.calls == {"get": 1}
    assert executor.running == {one.key for one in workloads[:3]}
    assert remade == [tis[0], tis[2]], "only what waits may need a token"
    assert turn(executor) == {workloads[0].key: (SUCCESS, None)}
    assert scheduler.cancelled == ["airflow-3-1"], "in case its submission is under way still"
    assert scheduler.calls["submit"] == 0


def test_while_jobs_cannot_be_read_all_are_adopted(scheduler: FakeScheduler, remade: list[Any]) -> None:
    executor = new_executor(scheduler)
    scheduler.broken["get"] = Unknown("no answer")
    [one, lost] = workload(1), workload(2)
    scheduler.submit_many([{"job_id": "airflow-1-1"}], run_ids=["airflow-1-1"])
    assert executor.try_adopt_task_instances(rows(one, lost)) == []
    del scheduler.broken["get"]
    events = turn(executor)
    assert list(events) == [lost.key]
    assert events[lost.key][0] == FAILED


def test_what_was_never_queued_here_is_not_adopted(executor: SchedulerExecutor, scheduler: FakeScheduler) -> None:
    tis = rows(workload(queued_as=None))
    assert executor.try_adopt_task_instances(tis) == tis
    assert scheduler.calls == {}


def test_the_end_of_airflows_scheduler_cancels_nothing(executor: SchedulerExecutor, scheduler: FakeScheduler) -> None:
    queue(executor, workload())
    turn(executor)
    executor.end()
    executor.terminate()
    assert (scheduler.cancelled, list(scheduler.jobs)) == ([], ["airflow--1-1"])


# Health, logs, configuration


def test_a_missing_setting_is_told_when_airflow_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__SCHED_EXECUTOR__ENVIRONMENT")
    with pytest.raises(InvalidRequestException, match="AIRFLOW__SCHED_EXECUTOR__ENVIRONMENT"):
        SchedulerExecutor().start()


def test_the_log_of_a_running_task_is_its_jobs_output(
    executor: SchedulerExecutor, scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    ti = task_instance(workload())
    monkeypatch.setattr(scheduler, "logs", lambda job: iter([LogChunk(1, f"{job} says\n")]), raising=False)
    messages, logs = executor.get_task_log(ti, 1)
    assert "airflow--1-1" in messages[0]
    assert logs == ["airflow--1-1 says\n"]
    assert executor.get_task_log(ti, 2) == ([], [])

    def fail(job: str) -> None:
        raise NotPermitted("not yours")

    monkeypatch.setattr(scheduler, "logs", fail)
    messages, logs = executor.get_task_log(ti, 1)
    assert "not yours" in messages[0]
    assert logs == []


def test_a_team_has_a_configuration_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SchedulerExecutor.supports_multi_team
    monkeypatch.setenv("AIRFLOW__FLOW___SCHED_EXECUTOR__ENVIRONMENT", "flow-workers")
    monkeypatch.setenv("AIRFLOW__FLOW___SCHED_EXECUTOR__SCHEDULER", "sim")
    assert SchedulerExecutor(team_name="flow").settings.environment == "flow-workers"
    assert SchedulerExecutor().settings.environment == "grid"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow keeps what it has loaded; a test begins and ends without."""
    for name in vars(executor_loader):
        if name.startswith("_") and isinstance(value := getattr(executor_loader, name), dict | list):
            monkeypatch.setattr(executor_loader, name, type(value)() if type(value) is list else value.copy())
            getattr(executor_loader, name).clear()


@pytest.mark.parametrize("configured_as", [EXECUTOR, f"Jobs:{EXECUTOR}", f"LocalExecutor,Jobs:{EXECUTOR}"])
@pytest.mark.usefixtures("loaded")
def test_airflow_loads_it_alone_and_among_others(monkeypatch: pytest.MonkeyPatch, configured_as: str) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", configured_as)
    executors = ExecutorLoader.init_executors()
    assert isinstance(executors[-1], SchedulerExecutor)
    assert executors[-1].pre_assigns_external_executor_id
    assert len(executors) == configured_as.count(",") + 1


def test_its_commands_are_airflows() -> None:
    [group] = SchedulerExecutor.get_cli_commands()
    assert (group.name, [one.name for one in group.subcommands]) == ("sched-executor", ["check", "jobs"])
    parser = SchedulerExecutor._get_parser()
    for command in group.subcommands:
        assert parser.parse_args(["sched-executor", command.name, "--team", "flow"]).team == "flow"


def test_its_command_lists_the_tasks_whose_jobs_wait_or_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed: list[Job] = []
    monkeypatch.setattr(SchedulerExecutor, "client", SimpleNamespace(list=lambda **_: listed))
    [group] = SchedulerExecutor.get_cli_commands()
    arguments = SchedulerExecutor._get_parser().parse_args(["sched-executor", "jobs"])

    def told() -> tuple[str, str]:
        group.subcommands[1].func(arguments)
        return capsys.readouterr()

    # What a script reads stays empty.
    assert told() == ("", "No task's job waits or runs on scheduler 'sim'.\n")
    tags = {"airflow_dag_id": "d", "airflow_run_id": "r", "airflow_task_id": "t", "airflow_try_number": "1"}
    listed.append(record("of somebody else", "1", {}))
    assert told() == ("", "No task's job waits or runs on scheduler 'sim'.\n")
    mine = record("airflow-1", "1", {})
    listed.append(mine.changed(spec=mine.spec.model_copy(update={"tags": tags})))
    assert told() == ("QUEUED\tairflow-1\td\tr\tt\t\t1\n", "")
