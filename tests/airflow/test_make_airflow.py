"""What ``make airflow`` keeps from one start to the next, and what it takes from the shell.

A program of a few lines stands in for Airflow, which takes a minute to start: it answers that it is healthy, writes a
database and ends on SIGINT. The laptop stack is the real one.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sched_plugins.errors import LaptopStackError
from sched_plugins.local import processes
from sched_plugins.local.airflow import ENVIRONMENT, SCHEDULER, LocalAirflow, running, settings_of

STAND_IN = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3

connection = json.loads(os.environ["AIRFLOW_CONN_AWS_DEFAULT"])
keys = {"aws_access_key_id": connection["login"], "aws_secret_access_key": connection["password"]}
place = {name: connection["extra"][name] for name in ("endpoint_url", "region_name")}
stacks = boto3.client("cloudformation", **keys, **place).describe_stacks()["Stacks"]

home = Path(os.environ["AIRFLOW_HOME"])
(home / "stacks.json").write_text(json.dumps([stack["StackName"] for stack in stacks]))
with (home / "airflow.db").open("a") as database:
    database.write("a run\\n")
(home / "environment.json").write_text(json.dumps(dict(os.environ)))
print("this is what Airflow says", flush=True)

class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        names = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        body = json.dumps({name: {"status": "healthy"} for name in names}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told):
        pass

try:
    HTTPServer(("127.0.0.1", int(os.environ["AIRFLOW__API__PORT"])), Pages).serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
"""


class Laptop:
    """Folders of DAGs and of state, and a program to start in Airflow's place."""

    def __init__(self, folder: Path) -> None:
        self.dags, self.state, program = folder / "dags", folder / "state", folder / "program" / "airflow"
        self.dags.mkdir()
        program.mkdir(parents=True)
        (program / "__init__.py").touch()
        (program / "__main__.py").write_text(STAND_IN)
        self.settings = {"PYTHONPATH": os.pathsep.join([str(program.parent), os.environ.get("PYTHONPATH", "")])}

    @contextmanager
    def start(self, **settings: str) -> Iterator[LocalAirflow]:
        with running(self.dags, state_dir=self.state, settings=self.settings | settings) as airflow:
            yield airflow
        assert processes.marked(processes.STACK_MARK, f"{self.state}#", prefix=True) == []


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def told(airflow: LocalAirflow) -> dict[str, str]:
    """The variables that Airflow was started with."""
    found: dict[str, str] = json.loads((airflow.home / "environment.json").read_text())
    return found


def test_dags_runs_logs_and_the_address_outlast_a_restart(laptop: Laptop) -> None:
    (laptop.dags / "shipped.py").write_text("# as shipped")
    with laptop.start() as first:
        assert Path(told(first)["AIRFLOW__CORE__DAGS_FOLDER"]) == first.dags
        (first.dags / "mine.py").write_text("# mine")
        (first.dags / "shipped.py").write_text("# shipped, and edited by me")
        task_log = first.home / "logs" / "task.log"
        task_log.parent.mkdir()
        task_log.write_text("yesterday")
    with laptop.start() as second:
        found = {file.name: file.read_text() for file in second.dags.iterdir()}
        assert found == {"mine.py": "# mine", "shipped.py": "# shipped, and edited by me"}
        assert told(second)["AIRFLOW__CORE__DAGS_FOLDER"] == str(second.dags)
        assert told(second)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{second.home}/airflow.db"
        assert (second.home / "airflow.db").read_text().splitlines() == ["a run", "a run"]
        assert task_log.read_text() == "yesterday"
        assert second.url == first.url
        assert second.log.with_suffix(".log.1").read_text() == second.log.read_text() == "this is what Airflow says\n"


def test_an_address_that_another_program_has_taken_is_left_to_it(laptop: Laptop) -> None:
    with laptop.start() as first:
        pass
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(first.url.rpartition(":")[2])))
        other.listen()
        with laptop.start() as second:
            assert second.url != first.url
            assert second.is_healthy()


def test_all_is_deployed_before_airflow_goes_on_with_its_runs(laptop: Laptop) -> None:
    with laptop.start() as airflow:
        assert {SCHEDULER, ENVIRONMENT} <= set(json.loads((airflow.home / "stacks.json").read_text()))


def test_settings_go_ahead_of_defaults_but_not_of_what_makes_it_an_airflow_of_its_own(laptop: Laptop) -> None:
    given = {
        "AIRFLOW__CORE__PARALLELISM": "7",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__DAGS_FOLDER": "/elsewhere",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://elsewhere",
        "AIRFLOW__API__PORT": "8080",
    }
    with laptop.start(**given) as airflow:
        taken = told(airflow)
    assert {name: value for name, value in given.items() if taken[name] == value} == {
        "AIRFLOW__CORE__PARALLELISM": "7",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
    }


def test_options_are_taken_from_the_shell_but_no_database_no_secrets_no_connections() -> None:
    wanted = {"AIRFLOW__CORE__EXECUTOR": "LocalExecutor", "AIRFLOW__SCHED_EXECUTOR__ENVIRONMENT": "big"}
    dangerous = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://production",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "postgresql+asyncpg://production",
        "AIRFLOW__SECRETS__BACKEND": "airflow.providers.amazon.aws.secrets.secrets_manager.SecretsManagerBackend",
        "AIRFLOW__WORKERS__SECRETS_BACKEND": "the same",
        "AIRFLOW_CONN_AWS_DEFAULT": "aws://",
        "AIRFLOW_HOME": "/opt/airflow",
        "AWS_PROFILE": "production",
    }
    assert settings_of(wanted | dangerous) == wanted


def test_a_folder_of_dags_that_is_not_there_is_named(laptop: Laptop) -> None:
    laptop.dags.rmdir()
    with pytest.raises(LaptopStackError, match=r"there is no folder '.*dags'; name the one"), laptop.start():
        pass
