"""The operators on the laptop stack, run by Airflow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from airflow_runs import run_of, xcom
from deployed import SCHEDULER, DeployedStack
from workers import ENVIRONMENT

from sched_plugins.airflow import exceptions
from sched_plugins.airflow.operators.cancel_job import CancelJobOperator
from sched_plugins.airflow.operators.run_stage import RunStageOperator
from sched_plugins.airflow.operators.submit_job import SubmitJobOperator
from sched_plugins.airflow.operators.submit_jobs import SubmitJobsOperator
from sched_plugins.airflow.task_groups.pipeline import PipelineTaskGroup
from sched_plugins.airflow.triggers.job import JobTrigger
from sched_plugins.client import SchedulerClient


class TaskInstance:
    """What an operator asks of its task instance."""

    def __init__(self, task_id: str, retries: int, clears: int = 0) -> None:
        self.dag_id, self.run_id, self.task_id, self.map_index = "direct", "r", task_id, -1
        self.max_tries = retries + clears
        self.xcoms: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


def executed(operator: Any, clears: int = 0) -> Any:
    """Execute an operator as one try of its task."""
    return operator.execute({"ti": TaskInstance(operator.task_id, operator.retries, clears)})


def test_jobs_run_deferred_and_on_the_worker_and_tell_what_came_out(stack: DeployedStack) -> None:
    with DAG("walk", schedule=None) as dag:
        metrics = """echo '{"drag": 5.5}' > "$SCHED_METRICS"; echo "Hello {{ dag.dag_id }}" """
        SubmitJobOperator(
            task_id="deferred",
            commands=[metrics],
            success_string="Hello walk",
            results_uri="s3://bucket/x/",
            deferrable=True,
        )
        SubmitJobOperator.partial(task_id="mapped", deferrable=False).expand(commands=["echo a", "echo b"])
    run = run_of(dag)
    assert run.state == "success"
    job_id = xcom(run, "deferred")
    assert job_id == f"airflow/walk/{run.run_id}/deferred"
    assert xcom(run, "deferred", "record")["job_success_string"] == "Hello walk"
    assert (xcom(run, "deferred", "metrics"), xcom(run, "deferred", "results_uri")) == ({"drag": 5.5}, "s3://bucket/x/")
    assert xcom(run, "deferred", "_link_OutputLink").startswith(f"{stack.info.endpoint}/")
    assert [stack.record(f"airflow/walk/{run.run_id}/mapped/{index}")["output"] for index in (0, 1)] == ["a\n", "b\n"]


def test_a_retry_attaches_or_takes_the_result_and_a_clear_runs_anew(stack: DeployedStack, tmp_path: Path) -> None:
    done = tmp_path / "done"
    operator = SubmitJobOperator(
        task_id="again", commands=[f"echo x >> {done}; test -e {tmp_path}/good"], deferrable=False
    )
    with pytest.raises(exceptions.JobFailedException, match="exit code 1"):
        executed(operator)
    (tmp_path / "good").touch()
    assert executed(operator) == executed(operator) == "airflow/direct/r/again"
    assert done.read_text() == "x\nx\n", "the third execution took the second one's result"
    assert executed(operator, clears=2) == "airflow/direct/r/again/clear-2"
    assert done.read_text() == "x\nx\nx\n"
    live = SubmitJobOperator(task_id="live", commands=[f"sleep 3; echo y >> {done}"], wait_for_completion=False)
    assert executed(live) == executed(live)
    live.wait_for_completion, live.deferrable = True, False
    executed(live)
    assert done.read_text().count("y") == 1


def test_killing_the_task_cancels_the_job(stack: DeployedStack) -> None:
    operator = SubmitJobOperator(task_id="killed", commands=["sleep 600"], wait_for_completion=False)
    job_id = executed(operator)
    stack.running(job_id)
    operator.wait_for_completion = True
    operator.on_kill()
    assert stack.ended(job_id)["status"] == "CANCELLED"
    operator = SubmitJobOperator(task_id="killed", commands=["sleep 600"], wait_for_completion=False)
    deferred = JobTrigger(job_id=executed(operator, clears=1), scheduler=SCHEDULER)
    stack.running(deferred.job_id)
    asyncio.run(deferred.on_kill())
    assert stack.ended(deferred.job_id)["status"] == "CANCELLED"
    executed(operator, clears=2)
    operator.commands, operator.wait_for_completion, operator.deferrable = ["true"], True, False
    executed(operator, clears=3)
    assert stack.ended("airflow/direct/r/killed/clear-2")["status"] == "CANCELLED", "nobody told its trigger"
    cancel = CancelJobOperator(task_id="cancel", job_ids=[job_id, "none"], missing_ok=True)
    assert executed(cancel) == {job_id: "ended already", "none": "missing"}


def test_clearing_a_task_whose_job_has_a_name_ends_the_old_run_and_leaves_the_new_one(stack: DeployedStack) -> None:
    operator = SubmitJobOperator(task_id="own", job_id="own", commands=["sleep 600"], wait_for_completion=False)
    executed(operator)
    stack.running("own")
    old = JobTrigger(job_id="own", run_id=stack.record("own")["run_id"], scheduler=SCHEDULER)
    operator.wait_for_completion, operator.deferrable = True, True
    with pytest.raises(TaskDeferred) as deferred:
        executed(operator, clears=1)
    new = stack.running("own")
    assert new["run_id"] == deferred.value.trigger.run_id != old.run_id
    asyncio.run(old.on_kill())
    assert not stack.record("own").get("cancel_requested")
    asyncio.run(deferred.value.trigger.on_kill())
    assert stack.ended("own")["status"] == "CANCELLED"


def test_only_what_failed_of_many_jobs_is_submitted_again(stack: DeployedStack, tmp_path: Path) -> None:
    jobs = [{"commands": [f"echo {n} >> {tmp_path}/{n}; exit {int(n == 3)}"]} for n in range(12)]
    many = SubmitJobsOperator(task_id="many", jobs=jobs, common={"retry": 0}, deferrable=False)
    ti = TaskInstance("many", 0)
    with pytest.raises(exceptions.JobFailedException, match=r"1 of 12 jobs .*many/000003: FAILED, exit code 1"):
        many.execute({"ti": ti})  # type: ignore[typeddict-item]
    assert ti.xcoms["summary"] == {"jobs": 12, "succeeded": 11, "failed": 1}
    assert [one["job_id"] for one in ti.xcoms["failures"]] == ["airflow/direct/r/many/000003"]
    many.allowed_failures = 1
    assert executed(many)["succeeded"] == 11
    assert {path.name: path.read_text().count("\n") for path in tmp_path.iterdir()} == {
        str(n): 2 if n == 3 else 1 for n in range(12)
    }


def test_a_refusal_of_one_of_many_jobs_is_told_though_nobody_waits(stack: DeployedStack) -> None:
    jobs = [{"commands": ["true"]}, {"commands": ["true"], "queue": f"{SCHEDULER}-job-queue"}]
    many = SubmitJobsOperator(task_id="refused", jobs=jobs, environment=ENVIRONMENT, wait_for_completion=False)
    with pytest.raises(exceptions.JobFailedException, match=r"1 of 2 jobs were refused .*refused/000001'.* alone"):
        executed(many)
    many.allowed_failures = 1
    assert executed(many) == [f"airflow/direct/r/refused/00000{number}" for number in range(2)]
    assert stack.ended("airflow/direct/r/refused/000000")["status"] == "SUCCEEDED"
    assert stack.record("airflow/direct/r/refused/000001") == {}


def test_clearing_a_task_of_many_jobs_cancels_those_of_before(stack: DeployedStack) -> None:
    many = SubmitJobsOperator(task_id="cleared", jobs=[{"commands": ["sleep 600"]}] * 2, wait_for_completion=False)
    executed(many)
    many.jobs, many.wait_for_completion, many.deferrable = [{"commands": ["true"]}] * 2, True, False
    assert executed(many, clears=1)["succeeded"] == 2
    for number in range(2):
        assert stack.ended(f"airflow/direct/r/cleared/{number:06d}")["status"] == "CANCELLED"


def test_stages_hand_on_their_files(stack: DeployedStack, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b.txt").write_text("one\n")
    (tmp_path / "stage.sh").write_text('cat *.txt > all; echo "$SCHED_PARAMETERS" >> all; mv all all.txt\n')
    common: dict[str, Any] = {"environment": ENVIRONMENT, "executable": str(tmp_path / "stage.sh"), "deferrable": False}
    with DAG("stages", schedule=None) as dag:
        first = RunStageOperator(task_id="first", input_folder=str(tmp_path / "in"), **common)
        RunStageOperator(
            task_id="second", inputs=first.output, parameters={"n": 2}, outlets=[Asset("s3://other/x/")], **common
        )
    run = run_of(dag)
    assert run.state == "success"
    uri = xcom(run, "second")
    SchedulerClient(SCHEDULER).results(f"airflow/stages/{run.run_id}/second", tmp_path / "out")
    text = (tmp_path / "out" / "all.txt").read_text()
    assert text.startswith("one\n")
    assert '{"n": 2}' in text or '{"n":2}' in text
    assert uri.endswith("/second/results/")
    events = asset_events()
    assert events["s3://other/x"]["results_uri"] == uri
    bucket = uri.split("/")[2]
    assert events[f"s3://{bucket}"]["results_uri"] == xcom(run, "first")


def asset_events() -> dict[str, Any]:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        return {event.uri.rstrip("/"): event.extra for event in session.query(AssetEvent)}


def test_a_pipeline_file_becomes_a_group(tmp_path: Path) -> None:
    (tmp_path / "go.sh").touch()
    stages = "".join(
        f"  - {{name: {name}, executable: go.sh, after: [{after}]}}\n"
        for name, after in (("end", "left, right"), ("left", "start"), ("right", "start"), ("start", ""))
    )
    (tmp_path / "pipeline.yaml").write_text(f"name: fan\nstages:\n{stages}")
    with DAG("fan", schedule=None) as dag:
        group = PipelineTaskGroup.from_yaml(
            tmp_path, parameters={"left": {"n": 1}}, input_folder="/in", deferrable=True,
            stage_arguments={"end": {"retries": 3}},
        )  # fmt: skip
    assert {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks} == {
        "fan.start": [], "fan.left": ["fan.start"], "fan.right": ["fan.start"], "fan.end": ["fan.left", "fan.right"],
    }  # fmt: skip
    start, left, end = (group.stages[name] for name in ("start", "left", "end"))
    assert (start.input_folder, left.input_folder) == ("/in", None)
    assert (left.environment, left.parameters, left.deferrable) == ("fan-left", {"n": 1}, True)
    assert (end.input_names, end.retries) == (["left", "right"], 3)
    with pytest.raises(exceptions.InvalidRequestException, match="no stage 'lef'"):
        PipelineTaskGroup.from_yaml(tmp_path, parameters={"lef": {}})


BAD: list[tuple[type[AirflowException], str, dict[str, Any]]] = [
    (exceptions.NotFoundException, "no scheduler 'none'", {"commands": ["x"], "scheduler": "none"}),
    (exceptions.NotFoundException, "no environment 'none'", {"commands": ["x"], "environment": "none"}),
    (exceptions.NotFoundException, "no queue 'q-job-queue'", {"commands": ["x"], "job_queue": "q-job-queue"}),
    (
        exceptions.InvalidRequestException,
        "'No Name' cannot be a stack name",
        {"commands": ["x"], "scheduler": "No Name"},
    ),
    (exceptions.InvalidRequestException, "colour: is no field", {"job": {"commands": ["x"], "colour": "red"}}),
    (exceptions.InvalidRequestException, "retry", {"commands": ["x"], "job_retries": -1}),
]


@pytest.mark.parametrize(("kind", "words", "given"), BAD)
def test_bad_input_is_told_before_anything_is_submitted(
    stack: DeployedStack, kind: type[AirflowException], words: str, given: dict[str, Any]
) -> None:
    with pytest.raises(kind, match=words):
        executed(SubmitJobOperator(task_id="bad", deferrable=False, **given))
    assert stack.record("airflow/direct/r/bad") == {}


def test_a_stage_that_lacks_its_files_starts_nothing(stack: DeployedStack, tmp_path: Path) -> None:
    for given, words in (({"executable": "none.sh"}, "no file 'none.sh'"), ({"input_folder": "none"}, "'none' is no")):
        stage = RunStageOperator(task_id="lacks", environment=ENVIRONMENT, **{"executable": "/bin/true", **given})
        with pytest.raises(exceptions.NotFoundException, match=words):
            executed(stage)
    assert stack.record("airflow/direct/r/lacks") == {}
