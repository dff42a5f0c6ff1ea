"""A pipeline file is checked before anything is deployed; where its files are follows from its names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from sched_plugins.core.environment import MANIFEST, Environment, Upload, run_path, triggers, uploaded_job
from sched_plugins.errors import InvalidInput, InvalidPipeline
from sched_plugins.pipeline.definition import load, schema
from sched_plugins.pipeline.deployment import Deployment
from sched_plugins.pipeline.run import check_run_name

CYLINDER = Path(__file__).parents[2] / "pipelines" / "cylinder_flow"
SHIPPED = Path(__file__).parents[2] / "src" / "sched_plugins" / "pipeline" / "pipeline.schema.json"


def written(folder: Path, **content: Any) -> Path:
    for stage in content.get("stages", []):
        if isinstance(stage, dict) and isinstance(stage.get("executable"), str) and stage["executable"]:
            (folder / stage["executable"]).touch()
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def diamond(folder: Path) -> Deployment:
    """One stage, two that follow it, and one that follows both."""
    stages = [
        {"name": "join", "executable": "join.sh", "after": ["left", "right"]},
        {"name": "left", "executable": "left.sh", "after": ["start"]},
        {"name": "right", "executable": "right.sh", "after": ["start"]},
        {"name": "start", "executable": "start.sh"},
    ]
    return Deployment(load(written(folder, name="diamond", stages=stages)), "main", "123456789012")


def environment(deployment: Deployment, stage: str) -> Environment:
    """What the template makes of a stage's parameters."""
    chosen = deployment.parameters(deployment.pipeline.stage(stage))
    return Environment(
        name=deployment.pipeline.environment(stage),
        bucket=deployment.bucket(stage),
        trigger_suffix=chosen["TriggerSuffix"],
        output_buckets=tuple(filter(None, chosen["OutputBuckets"].split(","))),
        stage=chosen["StageName"],
        stage_executable=chosen["StageExecutable"],
        fan_in=tuple(filter(None, chosen["FanIn"].split(","))),
    )


def test_the_shipped_pipeline_is_valid_and_in_order() -> None:
    pipeline = load(CYLINDER)
    assert [stage.name for stage in pipeline.in_order()] == ["preprocess", "mesh", "simulate", "postprocess"]
    jsonschema.validate(yaml.safe_load((CYLINDER / "pipeline.yaml").read_text()), schema())


def test_the_shipped_schema_is_the_model_s() -> None:
    assert json.loads(SHIPPED.read_text()) == schema(), "renew it: make schema"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"name": "p", "stages": [{"name": "one", "executable": "a.sh"}]}, "name: "),
        ({"name": "pipe", "stages": []}, "stages: is empty; give at least one"),
        ({"name": "pipe", "stages": "one"}, "stages: must be a list (got 'one')"),
        ({"name": "pipe", "stages": ["one"]}, "stage 1: must be a mapping with the fields of a stage"),
        ({"name": "Pipe", "stages": [{"name": "one", "executable": "a.sh"}]}, "name: use two or more lower-case"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "retry": "x"}]}, "must be a whole number"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "retry": -1}]}, "must be at least 0"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": 3}]}, "must be text"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": ""}]}, "executable: is empty"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "parameters": 3}]}, "must be a mapping"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "document": "x"}]}, "choose AWS-RunShell"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "instance_types": ["x"]}]}, "c7i.large"),
        ({"name": "pipe", "stages": [{"name": "one"}]}, "stage 'one', executable: is missing"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "afer": []}]}, "did you mean 'after'?"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "retry": -1}]}, "stage 'one', retry: "),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "max_workers": 0}]}, "(got '0')"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "after": ["oen"]}]}, "did you mean 'one'?"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh", "after": ["one"]}]}, "wait for each other"),
        ({"name": "pipe", "stages": [{"name": "one", "executable": "a.sh"}] * 2}, "two stages are named 'one'"),
    ],
)  # fmt: skip
def test_a_bad_pipeline_is_refused_with_its_place(tmp_path: Path, content: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidPipeline) as refused:
        load(written(tmp_path, **content))
    assert says in str(refused.value)
    for word in ("Tuple", "Input", "String", "validation", "NoneType", "dict"):
        assert word not in str(refused.value)
    assert str(refused.value).count("stages: is empty") == (content["stages"] == [])


def test_an_empty_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").touch()
    with pytest.raises(InvalidPipeline, match="holds nothing, not a mapping"):
        load(tmp_path)


def test_a_missing_file_and_a_missing_executable_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidPipeline, match="there is no pipeline file"):
        load(tmp_path)
    file = written(tmp_path, name="pipe", stages=[{"name": "one", "executable": "a.sh"}])
    (tmp_path / "a.sh").unlink()
    with pytest.raises(InvalidPipeline, match=r"no file 'a\.sh' beside"):
        load(file)


def test_a_file_that_is_not_yaml_says_where(tmp_path: Path) -> None:
    (tmp_path / "pipeline.yaml").write_text("name: [")
    with pytest.raises(InvalidPipeline, match="is not YAML"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["bad name", "bad/name", "..", "a..b", "-a", "", "é", "a" * 129])
def test_a_run_s_name_is_one_plain_folder(name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of a run"):
        check_run_name(name)


@pytest.mark.parametrize("name", ["r1", "run-20260101-000000-ab12", "manual__2026-01-01T00:00:00.5+00:00"])
def test_usual_names_of_runs_are_taken(name: str) -> None:
    assert check_run_name(name) == name


@pytest.mark.parametrize("stage", ["start", "left", "right", "join"])
def test_every_chained_stage_starts_the_job_that_the_run_expects(tmp_path: Path, stage: str) -> None:
    """The triggers' rules, fed with what the predecessors write, make just the jobs that the deployment names."""
    deployment = diamond(tmp_path)
    definition, here = deployment.pipeline.stage(stage), environment(deployment, stage)
    keys = [f"run-1/{name}/{MANIFEST}" for name in definition.after] or ["run-1/start.sh"]
    for key in keys:
        upload = Upload(deployment.bucket(stage), key, "etag", "0a")
        assert triggers(here, upload, {})
        assert run_path(here, upload) == "run-1/"
        spec = uploaded_job(here, upload, manifest_etags={"left": "1", "right": "2"}).spec
        assert spec.job_id == deployment.chained_job("run-1", stage)
        assert spec.stage is not None
        assert spec.stage.output == deployment.chained_results("run-1", stage)
        written_to = {spec.stage.output, *spec.stage.outputs_too}
        successors = deployment.pipeline.successors(stage) or (stage,)
        assert written_to == {f"s3://{deployment.bucket(name)}/run-1/{stage}/" for name in successors}
        read = set(spec.stage.inputs)
        expected = {f"s3://{deployment.bucket(stage)}/run-1/{name}/" for name in definition.after}
        assert read == (expected or {f"s3://{deployment.bucket(stage)}/run-1/"})


def test_what_a_stage_writes_starts_its_successor_and_not_itself(tmp_path: Path) -> None:
    deployment = diamond(tmp_path)
    left = environment(deployment, "left")
    own = {"sched-environment": left.name}
    manifest = Upload(deployment.bucket("left"), f"run-1/start/{MANIFEST}", "etag", "0a")
    assert triggers(left, manifest, {"sched-environment": "diamond-start"})
    assert not triggers(left, manifest, own)
    assert not triggers(left, Upload(deployment.bucket("left"), "run-1/start/result.sh", "etag", "0b"), {})


def test_parameters_left_open_have_the_template_s_default(tmp_path: Path) -> None:
    deployment = diamond(tmp_path)
    chosen = deployment.parameters(deployment.pipeline.stage("start"))
    assert chosen["InstanceTypes"]
    assert chosen["SuccessString"] == ""
