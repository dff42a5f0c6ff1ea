"""Pipelines on the laptop stack: deployed by the shipped templates, run both ways, with real scripts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sched_plugins import deploy
from sched_plugins import pipeline as pipelines
from sched_plugins.client import EnvironmentClient, SchedulerClient
from sched_plugins.core.state import Status
from sched_plugins.errors import (
    EnvironmentNotFound,
    InvalidInput,
    InvalidPipeline,
    JobFailed,
    NotFound,
    SchedulerNotFound,
)
from sched_plugins.local import lifecycle

SCHEDULER = "pipes"
START = """#!/bin/sh
echo "$SCHED_PARAMETERS" > start.txt
cat question.txt >> start.txt 2>/dev/null
echo "start done"
"""
SIDE = """#!/bin/sh
tr a-z A-Z < start.txt > "$(basename "$0" .sh).txt"
[ "$(printf '%s' "$SCHED_PARAMETERS" | grep -c broken)" = 0 ] && echo "side done" || echo broken >&2
exit 0
"""
JOIN = """#!/bin/sh
cat left/left.txt right/right.txt > both.txt
ls left right | grep -v '^_sched$' > seen.txt
echo "join done"
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A laptop stack with a scheduler."""
    state = tmp_path_factory.mktemp("pipelines")
    info = lifecycle.up(state_dir=state)
    before = dict(os.environ)
    os.environ.update(lifecycle.environment(info))
    try:
        deploy.deploy_scheduler(SCHEDULER)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        lifecycle.down(state_dir=state)


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> pipelines.Pipeline:
    """One stage, two that work on its results, and one that works on both of theirs."""
    folder = tmp_path_factory.mktemp("diamond")
    stages = [
        {
            "name": "start",
            "executable": "start.sh",
            "success_string": "start done",
            "parameters": {"greeting": "hello"},
        },
        {"name": "left", "executable": "left.sh", "after": ["start"], "success_string": "side done"},
        {"name": "right", "executable": "right.sh", "after": ["start"], "success_string": "side done"},
        {"name": "join", "executable": "join.sh", "after": ["left", "right"], "success_string": "join done"},
    ]
    for name, script in (("start", START), ("left", SIDE), ("right", SIDE), ("join", JOIN)):
        (folder / f"{name}.sh").write_text(script)
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"name": "diamond", "stages": stages}))
    return pipelines.load(folder)


@pytest.fixture(scope="module")
def deployment(stack: None, definition: pipelines.Pipeline) -> pipelines.Deployment:
    """The diamond, deployed."""
    with pytest.raises(EnvironmentNotFound, match="sched deploy pipeline"):
        pipelines.find_deployment(definition)
    with pytest.raises(SchedulerNotFound, match="nowhere"):
        pipelines.deploy_pipeline(definition, "nowhere")
    made = pipelines.deploy_pipeline(definition, SCHEDULER)
    assert pipelines.find_deployment(definition) == made
    return made


def fetched(run: pipelines.PipelineRun, stage: str, folder: Path) -> dict[str, str]:
    """What a stage wrote."""
    client = EnvironmentClient(run.deployment.pipeline.environment(stage))
    client.results(run.job_id(stage), folder)
    return {path.name: path.read_text() for path in folder.iterdir()}


def check_results(run: pipelines.PipelineRun, folder: Path, greeting: str) -> None:
    both = fetched(run, "join", folder)
    assert both["both.txt"] == f'{{"GREETING": "{greeting.upper()}"}}\nWHAT IS IT?\n' * 2
    # Each stage gets its predecessors' results, each in the subdirectory of its name, and nothing else.
    assert both["seen.txt"].split() == ["left:", "left.txt", "right:", "right.txt"]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "question.txt").write_text("what is it?\n")
    return folder


def test_orchestrated_and_repeated(deployment: pipelines.Deployment, inputs: Path, tmp_path: Path) -> None:
    name = pipelines.new_run_name()
    parameters = {"start": {"greeting": "good morning"}}
    seen: list[str] = []
    for result in pipelines.run_orchestrated(
        deployment, run=name, parameters=parameters, inputs=inputs, timeout=120,
        on_change=lambda stage, job: seen.append(f"{stage} {job.status}"),
    ):  # fmt: skip
        assert result.job.status is Status.SUCCEEDED
    run = pipelines.find_run(deployment, name)
    assert not run.chained
    check_results(run, tmp_path / "results", "good morning")
    assert {"start SUCCEEDED", "left SUCCEEDED", "right SUCCEEDED", "join SUCCEEDED"} <= set(seen)
    before = run.records()
    again = list(pipelines.run_orchestrated(deployment, run=name, parameters=parameters, inputs=inputs, timeout=60))
    assert {one.stage: one.job.run_id for one in again} == {stage: job.run_id for stage, job in before.items() if job}
    assert [job.attempt for job in run.records().values() if job] == [1, 1, 1, 1]
    with pytest.raises(InvalidInput, match=r"stage 'start' SUCCEEDED with the parameters .*good morning.*good night"):
        list(pipelines.run_orchestrated(deployment, run=name, parameters={"start": {"greeting": "good night"}}))
    with pytest.raises(InvalidInput, match="choose another name"):
        pipelines.run_stage(deployment, name, "left", parameters={"broken": 1})
    assert run.records() == before, "what is refused changes nothing"


def test_chained_by_one_upload(deployment: pipelines.Deployment, inputs: Path, tmp_path: Path) -> None:
    run = pipelines.run_chained(deployment, parameters={"start": {"greeting": "hi"}}, inputs=inputs)
    assert [one.stage for one in pipelines.follow_chained(run, timeout=120)][-1] == "join"
    check_results(run, tmp_path / "results", "hi")
    assert pipelines.find_run(deployment, run.name).chained
    records = run.records()
    assert all(job is not None and len(job.run_ids) == 1 for job in records.values()), "a stage was started twice"
    with pytest.raises(InvalidInput, match="choose another name"):
        pipelines.run_chained(deployment, run=run.name, parameters={"start": {"greeting": "bye"}}, inputs=inputs)


def test_exit_0_without_the_success_string_starts_nothing(deployment: pipelines.Deployment, inputs: Path) -> None:
    run = pipelines.run_chained(deployment, parameters={"left": {"broken": True}}, inputs=inputs)
    with pytest.raises(JobFailed, match="stdout does not contain 'side done'"):
        list(pipelines.follow_chained(run, timeout=120))
    client = SchedulerClient(SCHEDULER)
    client.wait(run.job_id("right"), timeout=60)
    time.sleep(2)  # what would start, would have started
    records = run.records()
    left = records["left"]
    assert left is not None
    assert (left.status, left.exit_code) == (Status.FAILED, 0)
    assert records["join"] is None
    plain = {stage["name"]: stage["status"] for stage in pipelines.stages_of(run)}
    assert plain["join"] == "NOT STARTED"


def test_a_failed_stage_is_started_anew_and_the_others_are_not(deployment: pipelines.Deployment, inputs: Path) -> None:
    name = pipelines.new_run_name()
    with pytest.raises(JobFailed, match=r"The end of its stderr:\n  broken\n.*sched logs"):
        list(
            pipelines.run_orchestrated(
                deployment, run=name, parameters={"right": {"broken": 1}}, inputs=inputs, timeout=120
            )
        )
    list(pipelines.run_orchestrated(deployment, run=name, inputs=inputs, timeout=120))
    records = pipelines.PipelineRun(deployment, name, chained=False).records()
    runs = {stage: len(job.run_ids) for stage, job in records.items() if job}
    assert runs == {"start": 1, "left": 1, "right": 2, "join": 1}


def test_parameters_for_no_stage_are_refused(deployment: pipelines.Deployment) -> None:
    with pytest.raises(InvalidPipeline, match="no stage 'strat'"):
        pipelines.run_chained(deployment, parameters={"strat": {}})
    with pytest.raises(NotFound, match="no run 'never'"):
        pipelines.find_run(deployment, "never")


def test_the_manifest_tells_what_was_written(deployment: pipelines.Deployment, inputs: Path) -> None:
    run = pipelines.run_chained(deployment, inputs=inputs)
    results = {one.stage: one for one in pipelines.follow_chained(run, timeout=120)}
    import boto3

    bucket, _, key = results["start"].results_uri.removeprefix("s3://").partition("/")
    body = boto3.client("s3").get_object(Bucket=bucket, Key=f"{key}_sched/SUCCEEDED.json")["Body"].read()
    manifest = json.loads(body)
    assert manifest["job_id"] == run.job_id("start")
    assert [file["key"] for file in manifest["files"]] == ["start.txt"]
    assert manifest["parameters"] == {"greeting": "hello"}


def test_a_pipeline_is_planned_deployed_and_destroyed_by_command(stack: None, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from sched_plugins.cli.main import app

    stages = [{"name": "one", "executable": "one.sh"}, {"name": "two", "executable": "two.sh", "after": ["one"]}]
    for name in ("one", "two"):
        (tmp_path / f"{name}.sh").write_text("#!/bin/sh\necho done > out.txt\n")
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump({"name": "gone", "stages": stages}))

    def sched(line: str, code: int = 0) -> str:
        ran = CliRunner().invoke(app, [*line.split(), str(tmp_path), *("--json",)], prog_name="sched")
        assert ran.exit_code == code, ran.output
        return ran.stdout

    def there() -> set[str]:
        return {one.name for one in deploy.list_stacks()} & {"gone-one", "gone-two"}

    sched("destroy pipeline --yes", code=4)
    plan = json.loads(sched(f"deploy pipeline -s {SCHEDULER} --plan"))
    assert [(stage["environment"], stage["outcome"]) for stage in plan["stages"]] == [
        ("gone-one", "planned"), ("gone-two", "planned"),
    ]  # fmt: skip
    assert {"action": "Add", "resource": "JobQueue", "type": "AWS::SQS::Queue", "replacement": ""} in plan["stages"][0][
        "changes"
    ]
    assert there() == set()
    sched(f"deploy pipeline -s {SCHEDULER}")
    assert there() == {"gone-one", "gone-two"}
    sched("destroy pipeline", code=2)
    assert "holds objects" in sched("destroy pipeline --yes", code=1)
    planned = json.loads(sched("destroy pipeline --plan --delete-data"))
    assert [stage["name"] for stage in planned["stages"]] == ["gone-one", "gone-two"]
    assert "AWS::S3::Bucket" in {one["type"] for one in planned["stages"][1]["resources"]}
    assert there() == {"gone-one", "gone-two"}, "neither a plan nor a refusal deletes anything"
    sched("destroy pipeline --yes --delete-data")
    assert there() == set()
