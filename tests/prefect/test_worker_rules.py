"""The worker's rules, without a server or a stack."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
from moto import mock_aws
from prefect.client.schemas.objects import FlowRun, State, StateDetails, StateType, WorkPool
from prefect.exceptions import InfrastructureNotAvailable

from sched_plugins.client import Ended, Job, JobSpec, Run, Standing, Status
from sched_plugins.errors import EnvironmentNotFound, InvalidInput, SchedulerError, Throttled, Unknown
from sched_plugins.prefect.exceptions import InvalidWorkPool
from sched_plugins.prefect.worker import run_flow
from sched_plugins.prefect.worker.adoption import CLAIM_PATIENCE, Adoption, Found, Step, left_behind
from sched_plugins.prefect.worker.canceller import Canceller
from sched_plugins.prefect.worker.decorators import serverless_scheduler
from sched_plugins.prefect.worker.flow_run_job import (
    Execution,
    FlowRunJob,
    Next,
    job_of_secret,
    known_run,
    next_run,
)
from sched_plugins.prefect.worker.gathering import Gathered
from sched_plugins.prefect.worker.outcome import Verdict, explanation, has_killed, status_code, verdict
from sched_plugins.prefect.worker.variables import SchedulerJobConfiguration
from sched_plugins.prefect.worker.worker import SchedulerWorker

NOW = datetime.now(UTC)
ID = UUID("7f2f9e4c-3b1c-4a53-9f4f-0a4f4f6f9b11")
JOB = f"prefect-{ID}"
DUE = NOW - timedelta(minutes=2)
EXECUTION = Execution(str(ID), 0, DUE.isoformat())
FIRST = EXECUTION.digest


def record(run_id: str, status: Status = Status.RUNNING, *, before: Sequence[str] = (), **fields: Any) -> Job:
    spec = JobSpec(job_id=JOB, retry=0, ssm_document="AWS-RunShellScript", commands=("true",))
    ended = {"finished_at": NOW} if status not in (Status.QUEUED, Status.STARTING, Status.RUNNING) else {}
    return Job(
        spec=spec, run_id=run_id, status=status, queue="q", submitted_at=NOW, updated_at=NOW,
        run_ids=(*before, run_id), **{**ended, **fields},
    )  # fmt: skip


def ended(job: Job | None, how: Standing = Standing.ENDED) -> Ended:
    return Ended(Run(JOB, job.run_id if job else "r"), how, job)


def state(kind: StateType, at: datetime = NOW - timedelta(minutes=1), **details: Any) -> State[Any]:
    return State(type=kind, timestamp=at, state_details=StateDetails(**{"scheduled_time": DUE, **details}))


FAILED = ended(
    record(f"{FIRST}-1", Status.FAILED, exit_code=3, status_reason="WorkerLost: six times", losses=6, attempt=6)
)


@pytest.mark.parametrize(
    ("found", "end", "what"),
    [
        (None, FAILED, Verdict.LEAVE),
        (state(StateType.COMPLETED), FAILED, Verdict.LEAVE),
        (state(StateType.CANCELLED), FAILED, Verdict.LEAVE),
        (state(StateType.RUNNING), FAILED, Verdict.CRASHED),
        (state(StateType.PENDING), FAILED, Verdict.CRASHED),
        (state(StateType.RUNNING), ended(record(f"{FIRST}-1", Status.SUCCEEDED, exit_code=0)), Verdict.CRASHED),
        (state(StateType.RUNNING), ended(record(f"{FIRST}-1", Status.CANCELLED)), Verdict.CANCELLED),
        (state(StateType.PENDING), ended(record(f"{FIRST}-1", Status.CANCELLED)), Verdict.CANCELLED),
        (state(StateType.CANCELLING), FAILED, Verdict.CANCELLED),
        (state(StateType.CANCELLING), ended(record(f"{FIRST}-1", Status.SUCCEEDED)), Verdict.CANCELLED),
        (state(StateType.SCHEDULED), FAILED, Verdict.LEAVE),
        (state(StateType.PAUSED, pause_reschedule=True), FAILED, Verdict.LEAVE),
        (state(StateType.PAUSED), FAILED, Verdict.CRASHED),
        (state(StateType.PENDING, NOW + timedelta(seconds=3)), FAILED, Verdict.CRASHED),
        (state(StateType.PENDING, scheduled_time=NOW), FAILED, Verdict.LEAVE),
        (state(StateType.RUNNING, NOW + timedelta(seconds=3)), FAILED, Verdict.LEAVE),
        (state(StateType.RUNNING), ended(record("b-1"), Standing.SUPERSEDED), Verdict.LEAVE),
        (state(StateType.RUNNING), ended(None, Standing.MISSING), Verdict.CRASHED),
    ],
)
def test_what_becomes_of_a_flow_run_whose_job_has_ended(found: State[Any] | None, end: Ended, what: Verdict) -> None:
    assert verdict(flow_run(found) if found else None, end) is what


def test_a_crash_is_explained_by_what_the_record_tells() -> None:
    told = explanation(ended(FAILED.job.changed(worker_id="i-1", stderr_uri="s3://b/err")))  # type: ignore[union-attr]
    assert told == (
        f"Job '{JOB}' ended FAILED (exit code 3) after 6 attempts, 6 of them lost: WorkerLost: six times. "
        "It ran on i-1. Its output is in s3://b/err"
    )
    assert "lost: the scheduler has no record" in explanation(ended(None, Standing.MISSING))
    assert status_code(FAILED) == 3
    assert status_code(ended(None, Standing.MISSING)) == -1
    assert status_code(ended(record(f"{FIRST}-1", Status.SUCCEEDED))) == 0


@pytest.mark.parametrize(
    ("kind", "status", "killed"),
    [
        (StateType.CRASHED, Status.FAILED, True),
        (StateType.CRASHED, Status.CANCELLED, True),
        (StateType.CRASHED, Status.SUCCEEDED, False),
        (StateType.FAILED, Status.FAILED, False),
    ],
)
def test_one_that_told_of_a_crash_itself_is_explained_by_the_end_of_its_job(
    kind: StateType, status: Status, killed: bool
) -> None:
    state: State[Any] = State(type=kind)
    assert has_killed(state, ended(record(FIRST, status))) is killed
    assert not has_killed(None, ended(record(FIRST, status)))
    assert not has_killed(state, ended(None, Standing.MISSING))


def test_an_execution_that_prefect_scheduled_has_one_run_whoever_submits_it_and_when() -> None:
    first = Run(JOB, f"{FIRST}-1")
    assert next_run(EXECUTION, None) == Next(f"{FIRST}-1", False)
    # Another worker has taken it over, and it may even be over.
    for status in (Status.QUEUED, Status.RUNNING, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED):
        assert next_run(EXECUTION, record(f"{FIRST}-1", status)) == Next(f"{FIRST}-1", True)
    assert next_run(EXECUTION, record("later-1", before=[f"{FIRST}-1"])) == Next(f"{FIRST}-1", True)
    # Scheduled again, after it had started or not, it is another execution; only the end of the first makes room.
    for later in (Execution(str(ID), 1, EXECUTION.scheduled), Execution(str(ID), 0, NOW.isoformat())):
        assert next_run(later, record(f"{FIRST}-1")) == Next(f"{later.digest}-1", False, first)
        assert next_run(later, record(f"{FIRST}-1", Status.FAILED)) == Next(f"{later.digest}-1", False)
        assert known_run(later, record(f"{FIRST}-1", Status.FAILED)) is None
    assert known_run(EXECUTION, None) is None
    assert known_run(EXECUTION, record(f"{FIRST}-2", Status.FAILED, before=[f"{FIRST}-1"])) == Run(JOB, f"{FIRST}-2")


def test_an_execution_that_its_creator_submits_runs_again_when_it_is_submitted_again() -> None:
    own = Execution(str(ID), 0)
    run_id = f"{own.digest}-1"
    assert next_run(own, record(run_id)) == Next(run_id, True)
    assert next_run(own, record(run_id, Status.SUCCEEDED)) == Next(f"{own.digest}-2", False)
    assert next_run(own, record(run_id, Status.FAILED)) == Next(f"{own.digest}-2", False)
    assert next_run(own, record(run_id, cancel_requested="now")) == Next(f"{own.digest}-2", False, Run(JOB, run_id))


def flow_run(found: State[Any], **fields: Any) -> FlowRun:
    return FlowRun(id=ID, flow_id=uuid4(), state=found, **fields)


def test_what_is_taken_over() -> None:
    old = NOW - CLAIM_PATIENCE - timedelta(seconds=1)
    claimed = state(StateType.PENDING, old, scheduled_time=DUE)
    assert left_behind(flow_run(claimed), None, NOW) == (Step.SUBMIT, None)
    assert left_behind(flow_run(state(StateType.PENDING, NOW, scheduled_time=DUE)), None, NOW) == (Step.WAIT, None)
    # Its creator is about to submit it with its code.
    assert left_behind(flow_run(state(StateType.PENDING, old, scheduled_time=None)), None, NOW) == (Step.LEAVE, None)
    live, run = record(f"{FIRST}-1"), Run(JOB, f"{FIRST}-1")
    assert left_behind(flow_run(claimed), live, NOW) == (Step.FOLLOW, run)
    assert left_behind(flow_run(state(StateType.RUNNING), run_count=1), live, NOW) == (Step.FOLLOW, run)
    assert left_behind(flow_run(state(StateType.RUNNING), run_count=1), None, NOW) == (Step.LEAVE, None)
    suspended = flow_run(state(StateType.PAUSED, pause_reschedule=True), run_count=1)
    assert left_behind(suspended, live, NOW) == (Step.LEAVE, None)
    # The record tells of an earlier execution alone.
    earlier = record(f"{FIRST}-1", Status.FAILED)
    assert left_behind(flow_run(claimed, run_count=1), earlier, NOW) == (Step.SUBMIT, None)


class Told:
    """Stands for what the worker asks of Prefect's server: one flow run, and what is told of it."""

    def __init__(self, found: FlowRun) -> None:
        self.found = found
        self.set: list[State[Any]] = []

    async def in_states(self, *types: StateType, only: Any = None) -> list[FlowRun]:
        return [self.found] if self.found.state is not None and self.found.state.type in types else []

    async def cancel_descendants(self, flow_run_id: UUID) -> None:
        assert flow_run_id == self.found.id

    async def set_state(self, flow_run_id: UUID, new: State[Any]) -> None:
        self.set.append(new)


NOWHERE = [EnvironmentNotFound("there is no environment 'gone'"), InvalidWorkPool("environment 'gone' cannot be")]
SILENT = [Unknown("no answer for 'gone'"), Throttled("too many requests for 'gone'")]


def raising(error: SchedulerError) -> Any:
    async def where(_: FlowRun) -> Any:
        raise error

    return where


@pytest.mark.parametrize("error", [*NOWHERE, *SILENT])
def test_what_is_taken_over_where_its_job_cannot_be_looked_for(error: SchedulerError) -> None:
    def found(one: FlowRun) -> list[Found]:
        told: Any = Told(one)
        return asyncio.run(Adoption(told, lambda _: False, lambda: raising(error)).look())[0]

    old = NOW - CLAIM_PATIENCE - timedelta(seconds=1)
    claimed = flow_run(state(StateType.PENDING, old))
    # Its submission is refused, and tells why; but only if AWS has said so.
    assert found(claimed) == ([Found(claimed, None, None)] if error in NOWHERE else [])
    assert found(flow_run(state(StateType.PENDING, datetime.now(UTC)))) == []
    assert found(flow_run(state(StateType.PENDING, old), infrastructure_pid=JOB)) == []
    assert found(flow_run(state(StateType.RUNNING), run_count=1)) == []


@pytest.mark.parametrize("error", [*NOWHERE, *SILENT])
def test_what_is_cancelled_where_its_job_cannot_be_looked_for(error: SchedulerError) -> None:
    told: Any = Told(flow_run(state(StateType.CANCELLING)))

    async def look() -> None:
        canceller = Canceller(told, {}, raising(error))
        await canceller.look(all_of_pool=True)
        await asyncio.sleep(0.05)
        await canceller.close()

    asyncio.run(look())
    assert [one.type for one in told.set] == ([StateType.CANCELLED] if error in NOWHERE else [])
    assert all("could not be looked for" in one.message and "'gone'" in one.message for one in told.set)


def job(**fields: Any) -> FlowRunJob:
    plain: dict[str, Any] = {
        "execution": EXECUTION, "environment": "solver", "region": "eu-west-1", "python": "python3",
        "command": "prefect flow-run execute", "variables": {"PREFECT_API_KEY": "planted"},
    }  # fmt: skip
    return FlowRunJob(**{**plain, **fields})


def test_a_job_tells_where_its_secret_is_and_nothing_of_it() -> None:
    one = job()
    spec = one.spec(f"{FIRST}-1")
    name = f"/sched/solver/workloads/prefect-flow-runs/{JOB}.{FIRST}-1"
    assert spec.commands == (f"exec python3 -m sched_plugins.prefect.worker.run_flow --region eu-west-1 {name}",)
    assert spec.retry == 0
    assert "planted" not in repr(one) + json.dumps(spec.to_plain())
    assert json.loads(one.secret())["environment"] == {"PREFECT_API_KEY": "planted"}
    assert job_of_secret(name) == JOB
    assert spec.group_id != f"prefect-{ID}"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"variables": {"a=b": "x"}}, "'a=b'"),
        ({"variables": {"BIG": "x" * 9000}}, "Parameter Store holds 8,192"),
        ({"working_directory": "here"}, "working_directory"),
        ({"tags": {str(number): "x" for number in range(60)}}, "at most 50"),
    ],
)
def test_a_job_that_cannot_be_is_refused_before_anything_is_stored(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidWorkPool, match=r"work pool|env|Parameter Store") as refused:
        job(**fields).check()
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"scheduler": "No Stack"}, "'No Stack' cannot be a stack name"),
        ({"environment": "a"}, "environment of the work pool"),
        ({"timeout_seconds": 0}, "timeout_seconds of the work pool is 0; give whole seconds from 1 to"),
        ({"timeout_seconds": "soon"}, "'soon'"),
        ({"timeout_seconds": 1.5}, "1.5"),
        ({"timeout_seconds": 10**9}, "1000000000"),
        ({"cancel_grace_seconds": -1}, "cancel_grace_seconds"),
        ({"python": " "}, "python of the work pool"),
        ({"queue": 7}, "queue of the work pool is 7"),
        ({"tags": ["a"]}, "tags of the work pool"),
    ],
)
def test_a_value_of_the_pool_that_cannot_be_is_refused_with_the_next_step(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(InfrastructureNotAvailable) as refused:
        SchedulerJobConfiguration(**fields)
    assert told in str(refused.value)
    assert isinstance(refused.value, InvalidInput)


def test_a_variable_that_the_pool_does_not_have_is_refused() -> None:
    template = SchedulerWorker.get_default_base_job_template()
    pool = WorkPool(name="p", type="serverless-scheduler", base_job_template=template)
    run = FlowRun(flow_id=uuid4(), job_variables={"env.COLOUR": "red", "timeout_secs": 8})
    with pytest.raises(InvalidWorkPool, match="'timeout_secs', which is no variable of the work pool"):
        SchedulerJobConfiguration().prepare_for_flow_run(run, work_pool=pool)


def test_a_pool_without_an_environment_is_refused() -> None:
    with pytest.raises(InvalidWorkPool, match="names no environment; set its variable environment"):
        SchedulerJobConfiguration(scheduler="sim").place()


def test_the_template_has_what_a_pool_needs() -> None:
    template = SchedulerWorker.get_default_base_job_template()
    properties = template["variables"]["properties"]
    assert {
        "scheduler",
        "environment",
        "queue",
        "timeout_seconds",
        "python",
        "command",
        "env",
        "tags",
        "kms_key_id",
    } <= set(properties)
    assert properties["timeout_seconds"]["maximum"] == 169_200
    assert all(one.get("description") for one in properties.values())
    assert set(template["job_configuration"]) >= set(properties)
    assert SchedulerWorker.get_description()
    assert SchedulerWorker.get_logo_url().startswith("https://")
    assert SchedulerWorker.get_documentation_url().startswith("https://")


def test_the_decorator_refuses_what_cannot_be() -> None:
    with pytest.raises(InvalidInput, match="'colour' is no variable of the work pool; there are"):
        serverless_scheduler(work_pool="p", colour="blue")
    with pytest.raises(InvalidInput, match="work_pool is"):
        serverless_scheduler(work_pool=print)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="include_files has 7"):
        serverless_scheduler(work_pool="p", include_files=[7])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="'print' is no flow"):
        serverless_scheduler(work_pool="p")(print)  # type: ignore[arg-type]


def test_calls_that_come_together_are_made_together() -> None:
    calls: list[list[int]] = []

    def send(asked: Sequence[int]) -> list[int | Exception]:
        calls.append(list(asked))
        return [ValueError("three") if one == 3 else one * 10 for one in asked]

    async def ask() -> list[Any]:
        gathered: Gathered[int, int] = Gathered(send, 0.01, most=4)
        found = await asyncio.gather(*(gathered.ask(one) for one in range(6)), return_exceptions=True)
        await gathered.close()
        return found

    answers = asyncio.run(ask())
    assert [one for one in answers if not isinstance(one, ValueError)] == [0, 10, 20, 40, 50]
    assert isinstance(answers[3], ValueError)
    assert calls == [[0, 1, 2, 3], [4, 5]]


def test_the_secret_becomes_the_variables_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    became: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *told: became.append(told))
    with mock_aws():
        ssm = boto3.client("ssm", region_name="eu-west-1")
        for name, command in (("/a/own", "prefect flow-run execute"), ("/a/other", "exec true; false")):
            text = job(command=command).secret()
            ssm.put_parameter(Name=name, Value=text, Type="SecureString")
            for _ in range(2):  # After a Spot interruption the job runs again.
                assert run_flow.main(["--region", "eu-west-1", name]) == 0
        assert run_flow.main(["--region", "eu-west-1", "/a/none"]) == run_flow.GONE
    assert "There is no secret /a/none" in capsys.readouterr().err
    assert [told[1] for told in became[::2]] == [
        [sys.executable, "-m", "prefect", "flow-run", "execute"],
        ["/bin/sh", "-c", "exec true; false"],
    ]
    assert {told[2]["PREFECT_API_KEY"] for told in became} == {"planted"}
