"""Who a task's job is, and what an execution of the task has to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sched_plugins.airflow.identity import TaskIdentity
from sched_plugins.client.identity import Step, decide
from sched_plugins.core import limits
from sched_plugins.core.job import JobSpec
from sched_plugins.core.record import JobRecord
from sched_plugins.core.state import Status

NAMES = st.text(max_size=250) | st.sampled_from(["a/b", "a%2Fb", "", "%", "/", "clear-1", "3", "ü" * 250])
IDENTITIES = st.builds(
    TaskIdentity, NAMES, NAMES, NAMES, st.integers(-1, 12), st.integers(0, 12), st.sampled_from(["airflow", "a/b"])
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(status: Status, *run_ids: str, current: str = "") -> JobRecord:
    spec = JobSpec(job_id="j", retry=0, ssm_document="AWS-RunShellScript", commands=("x",))
    return JobRecord(
        spec=spec, run_id=current or run_ids[-1], status=status, queue="q", submitted_at=NOW, updated_at=NOW,
        run_ids=run_ids,
    )  # fmt: skip


@given(IDENTITIES, IDENTITIES)
def test_different_tasks_have_different_jobs_and_runs(one: TaskIdentity, other: TaskIdentity) -> None:
    same = one == other
    assert (one.job_id == other.job_id) is same
    assert (one.run(1) == other.run(1)) is same


@given(IDENTITIES)
def test_the_ids_are_ones_that_a_job_may_have(identity: TaskIdentity) -> None:
    made = JobSpec(job_id=identity.job_id, retry=0, ssm_document="AWS-RunShellScript", commands=("x",))
    assert made.job_id == identity.job_id
    assert len(identity.run(10**9).encode()) <= limits.MAX_RUN_ID_BYTES


def test_the_usual_id_can_be_read() -> None:
    plain = TaskIdentity("flow", "scheduled__2026-11-21T00:00:00+00:00", "group.solve")
    assert plain.job_id == "airflow/flow/scheduled__2026-11-21T00:00:00+00:00/group.solve"
    cleared = TaskIdentity("flow", "r", "t", map_index=3, generation=2)
    assert cleared.job_id == "airflow/flow/r/t/3/clear-2"


def test_a_cleared_task_knows_its_earlier_jobs() -> None:
    cleared = TaskIdentity("flow", "r", "t", generation=2)
    assert [one.job_id for one in cleared.earlier] == ["airflow/flow/r/t", "airflow/flow/r/t/clear-1"]
    often = TaskIdentity("flow", "r", "t", generation=250)
    assert [one.generation for one in often.earlier] == list(range(150, 250))


def test_what_is_cut_stays_different() -> None:
    long = ["x" * 400 + end for end in ("1", "2")]
    ids = {TaskIdentity(a, b, c).job_id for a in long for b in long for c in long}
    assert len(ids) == 8
    assert {len(job_id) for job_id in ids} == {limits.MAX_JOB_ID_BYTES}


CASES: list[tuple[Any, Step, str]] = [
    (None, Step.SUBMIT, "d-1"),
    (record(Status.SUCCEEDED, "somebody-else"), Step.SUBMIT, "d-1"),
    (record(Status.QUEUED, "d-1"), Step.ATTACH, "d-1"),
    (record(Status.RUNNING, "d-1", "d-2"), Step.ATTACH, "d-2"),
    (record(Status.RUNNING, "other", "d-1", current="other"), Step.ATTACH, "other"),
    (record(Status.SUCCEEDED, "d-1"), Step.TAKE, "d-1"),
    (record(Status.SUCCEEDED, "other", "d-1", current="other"), Step.TAKE, "d-1"),
    (record(Status.FAILED, "d-1"), Step.SUBMIT, "d-2"),
    (record(Status.CANCELLED, "d-9", "d-10"), Step.SUBMIT, "d-11"),
    (record(Status.FAILED, *(f"d-{n}" for n in range(30, 50))), Step.SUBMIT, "d-50"),
    (record(Status.SUCCEEDED, "d-1", "other"), Step.LOST, "d-1"),
]


@pytest.mark.parametrize(("known", "step", "run_id"), CASES)
def test_what_an_execution_has_to_do(known: JobRecord | None, step: Step, run_id: str) -> None:
    decision = decide("j", "d", known)
    assert (decision.step, decision.run_id) == (step, run_id)


@given(IDENTITIES, st.integers(1, 40))
def test_however_often_a_task_is_retried_it_submits_again_only_after_a_failure(
    identity: TaskIdentity, tries: int
) -> None:
    known: JobRecord | None = None
    seen: list[str] = []
    for _ in range(tries):
        decision = decide(identity.job_id, identity.digest, known)
        assert decision.step is Step.SUBMIT
        assert decision.run_id not in seen
        seen.append(decision.run_id)
        live = record(Status.RUNNING, *seen[-limits.KEPT_RUN_IDS :])
        assert decide(identity.job_id, identity.digest, live).step is Step.ATTACH
        known = record(Status.FAILED, *seen[-limits.KEPT_RUN_IDS :])
