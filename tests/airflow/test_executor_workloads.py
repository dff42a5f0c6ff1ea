"""Workloads on both sides of Parameter Store."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from executor_stack import SOURCE
from moto import mock_aws

from sched_plugins.airflow.executors import run_workload
from sched_plugins.client import Connection
from sched_plugins.client.secret_store import SecretStore
from sched_plugins.errors import InvalidInput, NotPermitted

REGION = "eu-west-1"


@pytest.fixture
def ssm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with mock_aws():
        yield boto3.client("ssm", region_name=REGION)


def parameters(ssm: Any) -> dict[str, Any]:
    return {one["Name"]: one for one in ssm.describe_parameters()["Parameters"]}


def new_store(key: str = "", calls: list[tuple[str, Any]] | None = None) -> SecretStore:
    connection = Connection(region=REGION)
    if calls is not None:
        events = connection.client("ssm").meta.events
        events.register("provide-client-params.ssm", lambda params, model, **_: calls.append((model.name, params)))
    return SecretStore(connection, key, 4)


def test_workloads_are_encrypted_and_take_the_place_of_earlier_ones(ssm: Any) -> None:
    store = new_store()
    assert store.put_many({"/a/b": "one"}) == {"/a/b": None}
    assert store.put_many({"/a/b": "two", "/a/c": "x" * 4096}) == {"/a/b": None, "/a/c": None}
    found = parameters(ssm)
    assert {one["Type"] for one in found.values()} == {"SecureString"}
    assert ssm.get_parameter(Name="/a/b", WithDecryption=True)["Parameter"]["Value"] == "two"


def test_the_tier_follows_the_size_and_the_key_is_the_configured_one(ssm: Any) -> None:
    calls: list[tuple[str, Any]] = []
    store = new_store("alias/own", calls)
    answers = store.put_many({"/s": "x" * 4096, "/m": "x" * 4097, "/l": "x" * 8193})
    assert {params["Name"]: (params["Tier"], params["KeyId"]) for _, params in calls} == {
        "/s": ("Standard", "alias/own"),
        "/m": ("Advanced", "alias/own"),
    }
    assert isinstance(answers["/l"], InvalidInput)
    assert "8,193" in str(answers["/l"])


def test_one_that_cannot_be_stored_is_told_of(ssm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = new_store()
    denied = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "PutParameter")

    def put(Name: str, **_: Any) -> None:  # noqa: N803 - boto3's name
        if Name == "/a":
            raise denied

    monkeypatch.setattr(store._connection.client("ssm"), "put_parameter", put)
    answers = store.put_many({"/a": "one", "/b": "two"})
    assert isinstance(answers["/a"], NotPermitted)
    assert answers["/b"] is None


def test_ten_are_deleted_by_one_call_and_one_that_is_gone_is_no_error(ssm: Any) -> None:
    calls: list[tuple[str, Any]] = []
    store = new_store(calls=calls)
    names = [f"/w/{number}" for number in range(25)]
    store.put_many(dict.fromkeys(names, "x"))
    calls.clear()
    store.delete_many([*names, "/w/gone"])
    assert [name for name, _ in calls] == ["DeleteParameters"] * 3
    assert parameters(ssm) == {}


def test_old_ones_are_found_without_reading_them(ssm: Any) -> None:
    calls: list[tuple[str, Any]] = []
    store = new_store(calls=calls)
    store.put_many({"/sched/grid/workloads/a": "x", "/sched/other/workloads/b": "x"})
    now = datetime.now(UTC)
    assert list(store.written_before("/sched/grid/workloads", now - timedelta(hours=1))) == []
    assert list(store.written_before("/sched/grid/workloads", now + timedelta(hours=1))) == ["/sched/grid/workloads/a"]
    assert {name for name, _ in calls} == {"PutParameter", "DescribeParameters"}


def test_a_workload_can_be_taken_once(ssm: Any) -> None:
    new_store().put_many({"/w": "the workload"})
    assert run_workload.take("/w", REGION) == b"the workload"
    assert run_workload.take("/w", REGION) is None


def test_botocores_log_does_not_show_a_workload(
    ssm: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("botocore.endpoint"), "filters", [])
    caplog.set_level(logging.DEBUG, "")
    ssm.put_parameter(Name="/planted", Value="what is planted", Type="String")
    assert "what is planted" in caplog.text, "so botocore's log is by itself"
    caplog.clear()
    new_store().put_many({"/w": "the workload"})
    assert "PutParameter" in caplog.text
    assert "the workload" not in caplog.text


NOT_DELETED = (
    ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "DeleteParameter"),
    ReadTimeoutError(endpoint_url="https://ssm"),
)


@pytest.mark.parametrize("error", NOT_DELETED)
def test_one_that_cannot_be_deleted_is_run(
    ssm: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    new_store().put_many({"/w": "the workload"})
    real = boto3.client

    def client(*args: Any, **options: Any) -> Any:
        made = real(*args, **options)

        def refuse(**_: Any) -> None:
            raise error

        made.delete_parameter = refuse
        return made

    monkeypatch.setattr(boto3, "client", client)
    assert run_workload.take("/w", REGION) == b"the workload"
    assert "could not be deleted" in capsys.readouterr().err


def test_one_that_may_not_be_read_is_an_error(ssm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Denied:
        def get_parameter(self, **_: Any) -> None:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetParameter")

    monkeypatch.setattr(boto3, "client", lambda *_, **__: Denied())
    with pytest.raises(ClientError, match="AccessDenied"):
        run_workload.main(["--region", REGION, "/w"])


def test_without_a_workload_nothing_runs(ssm: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_workload.main(["--region", REGION, "/w"]) == run_workload.GONE
    assert "There is no workload /w" in capsys.readouterr().err


def test_airflows_program_gets_the_workload_by_its_input_alone(tmp_path: Path) -> None:
    """8 KiB fit into the pipe; neither arguments nor variables tell of it."""
    program = tmp_path / "airflow" / "sdk" / "execution_time"
    program.mkdir(parents=True)
    for folder in (program, program.parent, program.parent.parent):
        (folder / "__init__.py").touch()
    (program / "execute_workload.py").write_text(
        "import json, os, sys\n"
        "seen = [open(sys.argv[2]).read(), sys.argv[1:], open('/proc/self/cmdline').read(), dict(os.environ)]\n"
        "print(json.dumps(seen))\n"
    )
    code = "from sched_plugins.airflow.executors import run_workload as r; r.become_supervisor(b's' * 8192)"
    paths = os.pathsep.join((str(tmp_path), str(SOURCE)))
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": paths}, capture_output=True, text=True, check=True
    )
    text, argv, command_line, variables = json.load(io.StringIO(done.stdout))
    assert text == "s" * 8192
    assert argv == ["--json-path", "/dev/stdin"]
    assert "sss" not in command_line + json.dumps(variables)
