"""What the executor's pure parts decide: settings, a task's options and its job, what the end of a job means."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sched_plugins.airflow.executors import task_options as tasks
from sched_plugins.airflow.executors.options import OPTIONS, SECTION, config_section
from sched_plugins.airflow.executors.outcome import Outcome, outcome_of
from sched_plugins.airflow.executors.settings import read_settings
from sched_plugins.client import Ended, Job, JobSpec, Run, Standing, Status
from sched_plugins.core.job import parse_spec
from sched_plugins.errors import InvalidSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Conf(dict[tuple[str, str], str]):
    """Airflow's configuration."""

    def get(self, section: str, key: str, **options: Any) -> str | None:  # type: ignore[override]
        return super().get((section, key), options.get("fallback"))


def conf(**options: str) -> Conf:
    given_ = {"environment": "grid", "scheduler": "sim"} | options
    return Conf({(SECTION, name): value for name, value in given_.items()})


SETTINGS = read_settings(conf())


# Settings


def test_defaults_are_those_that_are_told() -> None:
    assert (SETTINGS.scheduler, SETTINGS.environment, SETTINGS.job_timeout) == ("sim", "grid", 169_200)
    assert SETTINGS.check_health
    told = config_section()[SECTION]["options"]
    assert {name: option["default"] for name, option in told.items()} == {one.name: one.default for one in OPTIONS}


def test_a_token_lives_as_long_as_airflow_is_patient() -> None:
    given_ = conf()
    given_["scheduler", "task_queued_timeout"] = "90"
    assert read_settings(given_).token_lifetime == 90
    given_[SECTION, "token_lifetime"] = "3600"
    assert (read_settings(given_).token_lifetime, read_settings(given_).queued_timeout) == (3600, 90)


def test_the_scheduler_may_be_the_providers_default() -> None:
    given_ = conf(scheduler="")
    given_["sched", "default_scheduler"] = "other"
    assert read_settings(given_).scheduler == "other"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"environment": ""}, "environment is not set"),
        ({"scheduler": ""}, "scheduler is not set"),
        ({"environment": "No Name"}, "'No Name'"),
        ({"job_timeout": "0"}, "job_timeout is '0'"),
        ({"job_timeout": "long"}, "job_timeout is 'long'"),
        ({"worker_environment": "[]"}, "worker_environment"),
        ({"worker_environment": "{"}, "worker_environment is no JSON"),
        ({"worker_environment": '{"a b": "c"}'}, "'a b'"),
        ({"poll_interval": "-1"}, "poll_interval is '-1'"),
        ({"put_concurrency": "many"}, "put_concurrency is 'many'"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, str], named: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        read_settings(conf(**options))
    assert named in str(caught.value)


# A task's options


def test_a_task_that_asks_for_nothing_runs_in_the_configured_environment() -> None:
    for queue in (None, "", "default"):
        options = tasks.task_options(None, queue, SETTINGS)
        assert (options.environment, options.timeout) == ("grid", 169_200)


@pytest.mark.parametrize("queue", ["big", "big-job-queue"])
def test_a_task_chooses_its_environment(queue: str) -> None:
    assert tasks.task_options({}, queue, SETTINGS).environment == "big"
    assert tasks.task_options({"queue": queue}, "other", SETTINGS).environment == "big"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"quque": "big"}, "'quque'"),
        ({"quque": "big", 1: "big"}, "'1'"),
        ({"queue": 3}, "queue is 3"),
        ({"queue": "No"}, "'No'"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": "1h"}, "timeout is '1h'"),
        ({"tags": "a"}, "tags is 'a'"),
        ({"tags": {str(number): "" for number in range(46)}}, "tags is"),
        ({"environment": {"a-b": "c"}}, "'a-b'"),
        ({"environment": "A=b"}, "environment is 'A=b'"),
    ],
)
def test_a_wrong_option_is_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        tasks.task_options(config, None, SETTINGS)
    assert named in str(caught.value)


def job(**changes: Any) -> dict[str, Any]:
    options = tasks.task_options(changes.pop("config", {}), None, SETTINGS)
    labels = {"dag_id": "d", "task_id": "t", "run_id": "r", "map_index": 3, "try_number": 1} | changes
    return tasks.job_fields("airflow-1", options, SETTINGS, api_url="http://api/", region="eu-west-1", labels=labels)


def test_a_job_tells_where_the_workload_is() -> None:
    fields = job(config={"tags": {"team": "flow"}, "environment": {"A": "b"}, "timeout": 60})
    module = "sched_plugins.airflow.executors.run_workload"
    [command] = fields["commands"]
    assert command == f"exec python3 -m {module} --region eu-west-1 /sched/grid/workloads/airflow-1"
    assert fields["environment"] == {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://api/", "A": "b"}
    assert (fields["retry"], fields["timeout_seconds"]) == (0, 60)
    assert fields["tags"]["team"] == "flow"
    assert fields["tags"]["airflow_map_index"] == "3"


@given(dag_id=st.text(min_size=1, max_size=250), run_id=st.text(min_size=1, max_size=250))
def test_whatever_airflow_calls_a_task_its_job_is_valid(dag_id: str, run_id: str) -> None:
    # Airflow allows letters, digits, dots, dashes and underscores in a DAG's id, and more in a run's.
    names = {"dag_id": "".join(filter(str.isprintable, dag_id)), "run_id": "".join(filter(str.isprintable, run_id))}
    fields = job(**names)
    assert parse_spec(fields).job_id == "airflow-1"


# What an end means


def ended(status: Status = Status.SUCCEEDED, standing: Standing = Standing.ENDED, **fields: Any) -> Ended:
    spec = JobSpec(job_id="airflow-1", retry=0, ssm_document="AWS-RunShellScript", commands=("true",))
    times = dict.fromkeys(("submitted_at", "updated_at", "queued_at"), NOW)
    record = Job(spec=spec, run_id="airflow-1", run_ids=("airflow-1",), status=status, queue="q", **times, **fields)
    return Ended(Run("airflow-1", "airflow-1"), standing, None if standing is Standing.MISSING else record)


def test_only_a_job_that_is_known_to_have_succeeded_has() -> None:
    assert outcome_of(ended()) == Outcome(True)
    for standing in (Standing.MISSING, Standing.SUPERSEDED):
        assert not outcome_of(ended(standing=standing)).succeeded
    for status in set(Status) - {Status.SUCCEEDED}:
        assert not outcome_of(ended(status)).succeeded


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (ended(Status.FAILED, exit_code=1, status_reason="exit code 1"), ("FAILED (exit code 1)", "exit code 1")),
        (ended(Status.FAILED, status_reason="timed out after 60 s"), ("FAILED", "timed out after 60 s")),
        (ended(Status.FAILED, status_reason="lost", worker_id="i-1"), ("lost", "worker i-1")),
        (ended(Status.CANCELLED, status_reason="cancelled by its user"), ("CANCELLED", "cancelled by its user")),
        (ended(Status.FAILED, stderr_uri="s3://b/e"), ("no reason given", "s3://b/e")),
        (ended(standing=Standing.MISSING), ("is lost",)),
        (ended(standing=Standing.SUPERSEDED), ("is not known any more",)),
    ],
)
def test_a_failure_says_what_is_known(end: Ended, told: tuple[str, ...]) -> None:
    reason = outcome_of(end).reason
    assert "'airflow-1'" in reason
    for text in told:
        assert text in reason
