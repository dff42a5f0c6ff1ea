"""What an operator does around the wait, against a scheduler in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferralTimeout, TaskDeferred
from client_stack import NAME, ClientStack, client_stack
from test_operators import TaskInstance

from sched_plugins.airflow import exceptions
from sched_plugins.airflow.operators.submit_job import SubmitJobOperator
from sched_plugins.airflow.operators.submit_jobs import SubmitJobsOperator
from sched_plugins.airflow.triggers.job import JobsTrigger, JobTrigger
from sched_plugins.core.state import Status


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    with client_stack(monkeypatch) as made:
        yield made


def operator(memory: ClientStack, kind: Any = SubmitJobOperator, **given: Any) -> Any:
    """An operator whose hook has the client of the scheduler in memory."""
    made = kind(task_id="t", scheduler=NAME, aws_conn_id=None, deferrable=True, **given)
    made.hook.__dict__["scheduler_client"] = memory.client
    return made


def deferral(made: Any, **settings: Any) -> TaskDeferred:
    """Execute until the task is deferred."""
    with pytest.raises(TaskDeferred) as deferred:
        made.execute({"ti": TaskInstance("t", made.retries, **settings)})
    return deferred.value


def test_the_deferred_task_keeps_every_setting_and_its_time(memory: ClientStack) -> None:
    made = operator(
        memory, commands=["x"], region_name="eu-west-1", verify=False, botocore_config={"read_timeout": 3},
        execution_timeout=timedelta(minutes=5),
    )  # fmt: skip
    deferred = deferral(made)
    assert deferred.timeout == timedelta(minutes=5)
    assert isinstance(deferred.trigger, JobTrigger)
    assert deferred.trigger.serialize()[1] == {
        "scheduler": NAME, "environment": None, "aws_conn_id": None, "region_name": "eu-west-1", "verify": False,
        "botocore_config": {"read_timeout": 3}, "job_id": "airflow/direct/r/t",
        "run_id": deferred.trigger.run_id, "cancel_on_kill": True,
    }  # fmt: skip
    assert deferral(made).trigger.run_id == deferred.trigger.run_id, "a second execution waits for the same run"  # type: ignore[attr-defined]
    assert len([name for name, _ in memory.functions.requests if name.endswith("-submit")]) == 1


def test_when_the_time_is_over_the_job_is_cancelled(memory: ClientStack) -> None:
    made = operator(memory, commands=["x"])
    deferral(made)
    with pytest.raises(TaskDeferralTimeout):
        made.resume_execution("__fail__", {"error": "Trigger timeout"}, {"ti": TaskInstance("t", 0)})
    assert memory.client.get("airflow/direct/r/t").status is Status.CANCELLED


def test_what_the_trigger_could_not_follow_is_told_by_its_kind(memory: ClientStack) -> None:
    made = operator(memory, commands=["x"])
    event = {"status": "error", "kind": "NotPermittedException", "message": "ask for the reader policy"}
    with pytest.raises(exceptions.NotPermittedException, match="reader policy"):
        made.execute_complete({"ti": TaskInstance("t", 0)}, event)


def test_a_cancelled_job_fails_its_task_as_cancelled(memory: ClientStack) -> None:
    made = operator(memory, commands=["x"])
    trigger: Any = deferral(made).trigger
    memory.client.cancel(trigger.job_id)
    event = {"status": "ended", "job_id": trigger.job_id, "run_id": trigger.run_id}
    ti = TaskInstance("t", 0)
    with pytest.raises(exceptions.JobCancelledException, match="CANCELLED"):
        made.execute_complete({"ti": ti}, event)
    assert ti.xcoms["record"]["status"] == "CANCELLED"


def test_many_jobs_are_waited_for_in_a_few_characters_and_only_the_rest_is_submitted_again(
    memory: ClientStack,
) -> None:
    made = operator(memory, SubmitJobsOperator, jobs=[{"commands": [f"{n}"]} for n in range(250)])
    first = deferral(made).trigger
    assert isinstance(first, JobsTrigger)
    [(run_id, numbers)] = first.numbers.items()
    assert numbers == "0-249"
    assert [len(event["jobs"]) for name, event in memory.functions.requests if name.endswith("-submit")] == [
        100,
        100,
        50,
    ]
    for number in range(3):
        memory.end(f"airflow/direct/r/t/{number:06d}", Status.FAILED if number == 1 else Status.SUCCEEDED)
    again = deferral(made).trigger
    assert isinstance(again, JobsTrigger)
    assert again.numbers == {run_id: "3-249", run_id.replace("-1", "-2"): "1"}
    assert len(memory.functions.requests[-1][1]["jobs"]) == 1


def test_openlineage_hears_of_the_folders(memory: ClientStack, monkeypatch: pytest.MonkeyPatch) -> None:
    extractors: Any = ModuleType("airflow.providers.openlineage.extractors")
    extractors.OperatorLineage = lambda inputs, outputs: (inputs, outputs)
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage", ModuleType("airflow.providers.openlineage"))
    monkeypatch.setitem(sys.modules, "airflow.providers.openlineage.extractors", extractors)
    monkeypatch.setattr("airflow.providers.common.compat.openlineage.facet.Dataset", SimpleNamespace)
    made = operator(memory, commands=["x"], results_uri="s3://bucket/out/")
    trigger: Any = deferral(made).trigger
    memory.end(trigger.job_id, run_id=trigger.run_id)
    made.execute_complete(
        {"ti": TaskInstance("t", 0)}, {"status": "ended", "job_id": trigger.job_id, "run_id": trigger.run_id}
    )
    inputs, [written] = made.get_openlineage_facets_on_complete(None)
    assert (inputs, written.namespace, written.name) == ([], "s3://bucket", "out")
