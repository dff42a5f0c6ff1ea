"""The provider as Airflow finds it, and its hook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from airflow.sdk import DAG
from airflow.sdk.module_loading import import_string

from sched_plugins.airflow.exceptions import InvalidRequestException, NotFoundException, SchedulerException, translated
from sched_plugins.airflow.get_provider_info import get_provider_info
from sched_plugins.airflow.hooks.scheduler import SchedulerHook
from sched_plugins.airflow.links.scheduler import addresses
from sched_plugins.airflow.operators.cancel_job import CancelJobOperator
from sched_plugins.airflow.operators.run_stage import RunStageOperator
from sched_plugins.airflow.operators.submit_job import SubmitJobOperator
from sched_plugins.airflow.operators.submit_jobs import SubmitJobsOperator
from sched_plugins.airflow.ranges import compact, expand
from sched_plugins.airflow.sensors.finished_queue import FinishedQueueSensor
from sched_plugins.airflow.sensors.job import JobSensor
from sched_plugins.airflow.sensors.queue_drained import QueueDrainedSensor
from sched_plugins.client import LogChunk, output
from sched_plugins.errors import JobNotFound

TOP = Path(__file__).parents[2]


def named(info: Any) -> set[str]:
    """Every module and class that the provider's metadata names."""
    if isinstance(info, dict):
        return set().union(*(named(value) for value in info.values()))
    if isinstance(info, list):
        return set().union(*(named(value) for value in info))
    return {info} if isinstance(info, str) and info.startswith("sched_plugins.") else set()


def test_the_metadata_keeps_airflows_schema_and_names_what_exists() -> None:
    import airflow

    info = get_provider_info()
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(info, schema)
    functions = {*info["cli"]}
    for path in named(info):
        last = path.rpartition(".")[2]
        assert import_string(path) if last[0].isupper() or path in functions else __import__(path)


def test_airflow_lists_the_provider_with_all_it_has(tmp_path: Path) -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    folder = tmp_path / "sched_plugins-0.1.0.dist-info"
    folder.mkdir()
    points = {group: project["entry-points"][group] for group in ("apache_airflow_provider", "airflow.plugins")}
    (folder / "entry_points.txt").write_text(
        "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in one.items()) for group, one in points.items())
    )
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: sched-plugins\nVersion: 0.1.0\n")
    listed = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", "get", "sched-plugins", "--full", "--output", "json"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{TOP / 'src'}"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert "missing 'cli' section" not in listed.stdout + listed.stderr
    for words in ("submit_job", "SchedulerMessageQueueProvider", "JobItemLink", "SchedulerHook", "SchedulerExecutor"):
        assert words in listed.stdout


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"region_name": "eu-west-3", "endpoint_url": "http://127.0.0.1:9", "scheduler": "from-connection",
             "verify": "/ca.pem", "service_config": {"sqs": {"endpoint_url": "http://127.0.0.1:10"}},
             "config_kwargs": {"read_timeout": 7}}  # fmt: skip
    for kind in ("aws", "sched"):
        made = {"conn_type": kind, "login": "key", "password": "secret", "extra": extra}
        monkeypatch.setenv(f"AIRFLOW_CONN_OF_{kind.upper()}", json.dumps(made))


@pytest.mark.parametrize("conn_id", ["of_aws", "of_sched"])
def test_every_setting_of_the_connection_reaches_every_client(connection: None, conn_id: str) -> None:
    hook = SchedulerHook(aws_conn_id=conn_id)
    made = hook.scheduler_client.connection.client("dynamodb")
    assert (made.meta.region_name, made.meta.endpoint_url) == ("eu-west-3", "http://127.0.0.1:9")
    assert made.meta.config.read_timeout == 7
    assert made._endpoint.http_session._verify == "/ca.pem"
    assert hook.scheduler_client.connection.client("sqs").meta.endpoint_url == "http://127.0.0.1:10"
    assert hook.scheduler_client.connection.is_loopback


def test_the_schedulers_name_comes_from_the_argument_the_connection_or_the_configuration(
    connection: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SchedulerHook("given", aws_conn_id="of_aws").scheduler == "given"
    assert SchedulerHook(aws_conn_id="of_aws").scheduler == "from-connection"
    with pytest.raises(InvalidRequestException, match="default_scheduler"):
        _ = SchedulerHook(aws_conn_id=None).scheduler
    monkeypatch.setenv("AIRFLOW__SCHED__DEFAULT_SCHEDULER", "configured")
    assert SchedulerHook(aws_conn_id=None).scheduler == "configured"


TASKS: list[tuple[Any, dict[str, Any]]] = [
    (SubmitJobOperator, {"commands": ["true"]}),
    (SubmitJobsOperator, {"jobs": [{}]}),
    (RunStageOperator, {"environment": "solver", "executable": "run"}),
    (CancelJobOperator, {"job_ids": "a"}),
    (JobSensor, {"job_ids": "a"}),
    (FinishedQueueSensor, {}),
    (QueueDrainedSensor, {}),
]


@pytest.mark.parametrize(("kind", "needed"), TASKS)
def test_every_task_takes_the_hooks_settings_from_its_arguments_defaults_and_mapping(
    kind: Any, needed: dict[str, Any]
) -> None:
    settings = {
        "scheduler": "sim", "environment": "solver", "aws_conn_id": "other", "region_name": "eu-west-3",
        "verify": False, "botocore_config": {"read_timeout": 7},
    }  # fmt: skip
    assert set(settings) <= set(kind.template_fields)
    with DAG("settings", schedule=None, default_args=settings):
        tasks = [kind(task_id="default", **needed), kind(task_id="given", **{**needed, **settings})]
        mapped = kind.partial(task_id="mapped", **{**needed, **settings}).expand(params=[{"n": 1}])
    for task in tasks:
        assert {name: getattr(task, name) for name in settings} == settings
        assert (task.hook.environment, task.hook.aws_conn_id, task.hook.verify) == ("solver", "other", False)
    assert settings.items() <= mapped.partial_kwargs.items()
    with pytest.raises(TypeError, match="region"):
        kind(task_id="wrong", region="eu-west-3", **needed)


def test_errors_are_airflows_and_keep_their_cause() -> None:
    with pytest.raises(NotFoundException, match="no job") as told, translated():
        raise JobNotFound("no job")
    assert isinstance(told.value, SchedulerException)
    assert isinstance(told.value.__cause__, JobNotFound)


def test_links_lead_to_the_console_or_to_the_objects() -> None:
    plain: dict[str, Any] = {"scheduler": "sim", "job": None, "job_id": "a/b", "results_uri": "s3://bucket/x y/"}
    console = addresses(region="cn-north-1", **plain)
    assert console["item"].startswith("https://cn-north-1.console.amazonaws.cn/dynamodbv2/")
    assert "pk=a%2Fb" in console["item"]
    assert console["results"].endswith("/s3/buckets/bucket?region=cn-north-1&prefix=x%20y/")
    local = addresses(region="eu-west-1", endpoint_url="http://127.0.0.1:4566", **plain)
    assert local == {"results": "http://127.0.0.1:4566/bucket?list-type=2&prefix=x%20y%2F"}


def test_the_log_shows_whole_lines_up_to_its_limit() -> None:
    lines: list[str] = []
    chunks = [LogChunk(1, "a\nb"), LogChunk(1, "c\n"), LogChunk(2, "d")]
    assert output.write_lines(chunks, lines.append, 100)
    assert lines == ["a", "bc", "--- attempt 2 ---", "d"]
    lines.clear()
    assert not output.write_lines(chunks, lines.append, 3)
    assert lines == ["a", "b"]


def test_numbers_are_written_as_ranges() -> None:
    for numbers in ([], [3], [0, 1, 2, 7, 9, 8], list(range(5000))):
        assert list(expand(compact(numbers))) == sorted(numbers)
    assert compact(range(5000)) == "0-4999"
