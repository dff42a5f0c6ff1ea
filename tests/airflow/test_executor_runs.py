"""The executor under a real Airflow: real workers, a real execution API, a scheduler that is killed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deployed import plain
from executor_search import Search
from executor_stack import PATIENCE, SOURCE, Airflow, airflow_on_jobs, eventually

STANDIN = Path(__file__).parent / "standin"
DAGS = """
import os
from datetime import timedelta
from airflow.sdk import dag, task

STANDIN = {environment}

@dag(schedule=None)
def real():
    @task(executor_config={{"environment": {{"COLOUR": "blue"}}, "tags": {{"team": "flow"}}, "timeout": 600}})
    def on_a_worker():
        print("the colour is", os.environ["COLOUR"])
        return os.environ["COLOUR"]

    @task(executor="LocalExecutor")
    def here(colour):
        assert colour == "blue", colour
        assert "COLOUR" not in os.environ

    @task
    def fails():
        raise ValueError("this task fails")

    here(on_a_worker())
    fails()

real()

def stood_in(name, count):
    @dag(dag_id=name, schedule=None)
    def made():
        @task(executor_config={{"environment": STANDIN}}, retries=2, retry_delay=timedelta(seconds=1))
        def one(number):
            pass

        one.expand(number=list(range(count)))
    made()

stood_in("fifty", 50)
stood_in("late", 3)
"""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    folder = tmp_path_factory.mktemp("executor")
    environment = {
        "PYTHONPATH": f"{STANDIN}:{SOURCE}",
        "STANDIN_RECORD": str(folder / "ran"),
        "STANDIN_SECONDS": "0.2",
    }
    with airflow_on_jobs(folder, {"dags.py": DAGS.format(environment=environment)}) as airflow:
        yield airflow


def jobs(airflow: Airflow, dag_id: str) -> list[dict[str, Any]]:
    """The records of the jobs of a DAG's tasks."""
    items = airflow.stack.dynamodb.scan(TableName="sched-job-monitoring", ConsistentRead=True)["Items"]
    return [one for one in map(plain, items) if one.get("tags", {}).get("airflow_dag_id") == dag_id]


def ran(airflow: Airflow) -> list[dict[str, Any]]:
    """What the stand-ins ran since they were last asked about."""
    path = airflow.home.parent / "ran"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def parameters(airflow: Airflow) -> list[str]:
    return [one["Name"] for one in airflow.stack.client("ssm").describe_parameters()["Parameters"]]


def test_tasks_run_as_jobs_and_their_tokens_are_nowhere(airflow: Airflow) -> None:
    search = Search(airflow)
    with airflow.scheduling():
        run = airflow.trigger("real")
        eventually(lambda: len(jobs(airflow, "real")) == 2, PATIENCE)
        with search.watching():
            eventually(search.look_at_queues, PATIENCE)
            airflow.stack.worker()
            airflow.stack.worker()
            assert airflow.ended("real", run) == "failed"
        eventually(lambda: all(one["status"] == "SUCCEEDED" for one in jobs(airflow, "real")), PATIENCE)
        eventually(lambda: not parameters(airflow), PATIENCE)
    states = {one["task_id"]: one["state"] for one in airflow.tasks("real", run)}
    assert states == {"on_a_worker": "success", "here": "success", "fails": "failed"}
    [first] = [one for one in jobs(airflow, "real") if one["tags"]["airflow_task_id"] == "on_a_worker"]
    assert first["tags"]["team"] == "flow"
    assert first["timeout_seconds"] == 600
    assert "the colour is blue" in first["output"] or first["stdout_uri"]
    search.look_everywhere_else()
    assert search.found == {kind: set() for kind in search.found}


def test_the_search_finds_a_token_that_is_planted(airflow: Airflow) -> None:
    planted = "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJlLW9mLWEtcGxhbnRlZC10b2tlbg"
    search = Search(airflow)
    command = f"echo {planted}; exec python3 -c 'import time; time.sleep(1)' {planted}"
    airflow.stack.send_job("planted", command)
    with search.watching():
        eventually(search.look_at_queues)
        airflow.stack.worker()
        assert airflow.stack.ended("planted")["status"] == "SUCCEEDED"
    search.look_everywhere_else()
    assert search.found == {kind: {planted} for kind in search.found}


def test_each_task_runs_once_though_the_scheduler_is_killed(airflow: Airflow) -> None:
    before = len(ran(airflow))
    airflow.start("scheduler")
    run = airflow.trigger("fifty")
    eventually(lambda: len(jobs(airflow, "fifty")) == 50, PATIENCE)
    for _ in range(4):
        airflow.stack.worker()
    eventually(lambda: len(ran(airflow)) >= before + 8, PATIENCE)
    airflow.kill("scheduler")
    assert len(ran(airflow)) < before + 50, "the scheduler was killed too late for this test to show anything"
    with airflow.scheduling():
        assert airflow.ended("fifty", run) == "success"
        eventually(lambda: not parameters(airflow), PATIENCE)
    assert Counter(one["index"] for one in ran(airflow)[before:]) == Counter(range(50))
    tasks = airflow.tasks("fifty", run)
    assert {(one["state"], one["try_number"]) for one in tasks} == {("success", 1)}
    assert Counter(one["attempt"] for one in jobs(airflow, "fifty")) == {1: 50}


def test_a_task_that_waits_for_long_runs_once_with_a_valid_token(airflow: Airflow) -> None:
    before = len(ran(airflow))
    patience = {
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "12",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "1",
    }
    with airflow.scheduling(**patience):
        run = airflow.trigger("late")
        [first, *_] = eventually(lambda: len(found := jobs(airflow, "late")) == 3 and found, PATIENCE)
        # Without renewal: stuck, queued again twice, failed; tokens of twelve seconds.
        eventually(lambda: _age(airflow, first["job_id"]) > 45, PATIENCE)
        assert {one["state"] for one in airflow.tasks("late", run)} == {"queued"}
        airflow.stack.worker()
        assert airflow.ended("late", run) == "success"
    lines = ran(airflow)[before:]
    assert sorted(one["index"] for one in lines) == [0, 1, 2]
    assert {one["try"] for one in lines} == {1}
    assert {one["lifetime"] for one in lines} == {12}
    assert len(jobs(airflow, "late")) == 3
    events = airflow.api("GET", "/api/v2/eventLogs?dag_id=late&limit=200")["event_logs"]
    assert not [one["event"] for one in events if "stuck" in one["event"]]


def _age(airflow: Airflow, job_id: str) -> float:
    submitted = datetime.fromisoformat(airflow.stack.record(job_id)["submitted_at"])
    return (datetime.now(UTC) - submitted).total_seconds()
