"""The task runner's rules."""

from __future__ import annotations

import importlib.util
import os
import pickle
import re
import subprocess
import sys
import threading
import traceback
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import cloudpickle  # type: ignore[import-untyped]
import pytest
from prefect import task
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import State
from prefect.states import AwaitingRetry, Cancelled, Crashed, Failed, Pending, Running, Scheduled
from prefect.utilities.annotations import quote
from pydantic import SecretStr
from task_runner_fakes import FakeEnvironment

from sched_plugins.client import Ended, Run, Standing, Status
from sched_plugins.errors import InvalidInput, InvalidSettings
from sched_plugins.prefect import SchedulerTaskRunner
from sched_plugins.prefect.task_runner import payload, settings
from sched_plugins.prefect.task_runner.calls import futures_in
from sched_plugins.prefect.task_runner.earlier import is_in_the_way, series_of
from sched_plugins.prefect.task_runner.exceptions import NotCarriedBack, add_traceback, chain_of, restore_chain
from sched_plugins.prefect.task_runner.execution import _or_instead
from sched_plugins.prefect.task_runner.futures import SchedulerFuture
from sched_plugins.prefect.task_runner.outcome import state_of_silent
from sched_plugins.prefect.task_runner.settings import JobSettings, job_variables


@task
def double(x: int, table: list[int] | None = None) -> int:
    return 2 * x


class HasSecret(Secret):
    """A block with a secret."""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"bundle": 0}, "bundle is 0"),
        ({"bundle": True}, "bundle is True"),
        ({"bundle": 1001}, "1 to 1000"),
        ({"timeout_seconds": 0}, "timeout_seconds"),
        ({"retry": -1}, "retry"),
        ({"tags": ["a"]}, "tags is"),
        ({"tags": {"a": 1}}, "tags is"),
        ({"tags": {f"t{n}": "" for n in range(49)}}, "tags has 49 labels"),
        ({"env": {"A-B": "1"}}, "env has 'A-B'"),
        ({"env": "A=1"}, "env is 'A=1'"),
        ({"api_url": "localhost:4200"}, "api_url is"),
        ({"environment": "Not a name"}, "cannot be a stack name"),
        ({"scheduler": 7}, "scheduler is int"),
    ],
)
def test_bad_input_is_refused_before_anything_happens(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        SchedulerTaskRunner(**arguments)


def test_a_runner_is_pickled_with_its_settings_alone() -> None:
    own = SchedulerTaskRunner("sched", "grid", bundle=3, tags={"a": "b"})
    assert pickle.loads(pickle.dumps(own)) == own
    assert own.duplicate() == own
    assert own != SchedulerTaskRunner("sched", "grid")
    with pytest.raises(RuntimeError, match="must be started"):
        own.submit(double, {"x": 1})


def test_jobs_get_the_settings_of_prefect_but_none_of_this_machine() -> None:
    known = {"PREFECT_API_URL": "http://127.0.0.1:4200/api", "PREFECT_API_KEY": "k", "PREFECT_HOME": "/x"}
    found = job_variables(JobSettings(env={"A": "1"}), known, is_loopback=True)
    assert found["PREFECT_API_KEY"] == "k"
    assert found["A"] == "1"
    assert "PREFECT_HOME" not in found
    with pytest.raises(InvalidSettings, match="no worker on AWS can reach"):
        job_variables(JobSettings(), known, is_loopback=False)
    given = job_variables(JobSettings(api_url="https://prefect.example/api"), known, is_loopback=False)
    assert given["PREFECT_API_URL"] == "https://prefect.example/api"
    with pytest.raises(InvalidSettings, match="PREFECT_API_URL is not set"):
        job_variables(JobSettings(), {}, is_loopback=True)


def test_the_environment_of_the_flow_stays_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "planted-key")
    mine, raw = os.environ, os.environb

    def work() -> tuple[str | None, bytes | None]:
        return mine.get("WHERE"), raw.get(b"WHERE")

    text = payload.dumps({"task": work})
    assert b"planted-key" not in text
    monkeypatch.setenv("WHERE", "in the job")
    assert payload.loads(text)["task"]() == ("in the job", b"in the job")


def test_a_secret_is_not_carried_and_a_saved_block_travels_by_name() -> None:
    with pytest.raises(InvalidInput, match="SecretStr would be written to S3"):
        payload.dumps({"a": [SecretStr("hidden")]})
    block = HasSecret(value="hidden")
    with pytest.raises(InvalidInput):
        payload.dumps(block)
    block._block_document_name = "mine"
    text = payload.dumps([block])
    assert b"mine" in text
    assert b"hidden" not in text


def test_the_users_own_modules_travel_by_value(tmp_path: Path) -> None:
    def module(name: str, text: str) -> ModuleType:
        (tmp_path / f"{name}.py").write_text(text)
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        made = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        return made

    inner = module("own_inner", "def half(x):\n    return x / 2\n")
    outer = module("own_outer", "import json, own_inner\ndef quarter(x):\n    return own_inner.half(x) / 2\n")
    try:
        found = payload.own_modules(outer.quarter)
        assert found == {inner, outer}
        with payload.by_value(found):
            text = payload.dumps([outer.quarter, inner.half])
        assert not cloudpickle.list_registry_pickle_by_value()
    finally:
        del sys.modules["own_outer"], sys.modules["own_inner"]
    assert payload.loads(text)[1](4) == 2
    assert payload.own_modules(len) == set()


def test_what_a_script_imports_travels_too(tmp_path: Path) -> None:
    (tmp_path / "own_part.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "script.py").write_text(
        "import own_part\n"
        "from sched_plugins.prefect.task_runner import payload\n"
        "def quarter(x):\n    return own_part.half(x) / 2\n"
        "print(sorted(module.__name__ for module in payload.own_modules(quarter)))\n"
    )
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "['own_part']\n"


def test_an_exception_keeps_where_and_from_what_it_was_raised() -> None:
    def raise_it() -> None:
        try:
            raise KeyError("inner")
        except KeyError as error:
            raise ValueError("outer") from error

    try:
        raise_it()
    except ValueError as error:
        add_traceback(error)
        chain = chain_of(error)
        found = pickle.loads(pickle.dumps((error, chain)))
    restore_chain(*found)
    shown = "".join(traceback.format_exception(found[0]))
    assert "in raise_it" in shown
    assert isinstance(found[0].__cause__, KeyError)
    assert str(found[0]) == "outer"


class Odd(Exception):
    def __init__(self, a: str, b: int) -> None:
        super().__init__(f"{a} {b}")
        self.a, self.b = a, b


class Named(ValueError):
    def __init__(self, *, case: int) -> None:
        super().__init__(f"case {case}")
        self.case = case


class Missing(OSError):
    def __init__(self, where: str) -> None:
        super().__init__(2, "nothing there", where)


class Frozen(Exception):
    def __init__(self, a: int, b: int) -> None:
        self.__dict__["a"] = a + b

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class Custom(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__("custom")
        self.sum = a + b

    def __reduce__(self) -> Any:
        return Custom, (self.sum, 0)


@pytest.mark.parametrize(
    "error",
    [Odd("x", 1), Named(case=3), Missing("/x"), Frozen(1, 2), Custom(1, 2), KeyError("k"), ImportError("i", name="n")],
)
def test_an_exception_with_a_constructor_of_its_own_comes_back_as_itself(error: Exception) -> None:
    if not isinstance(error, Frozen):
        error.add_note("a note")
    found = payload.loads(payload.dumps([error]))[0]
    assert type(found) is type(error)
    assert (found.args, str(found), vars(found)) == (error.args, str(error), vars(error))
    for name in ("errno", "filename", "name"):
        assert getattr(found, name, None) == getattr(error, name, None)


def test_what_an_exception_was_raised_during_is_carried_and_what_cannot_be_is_told() -> None:
    first, second, third = Odd("a", 1), ValueError(threading.Lock()), Odd("b", 2)
    third.__context__, second.__cause__ = second, first
    first.__context__ = third  # A circle.
    found = payload.loads(payload.dumps((third, chain_of(third, _or_instead))))
    restore_chain(*found)
    assert type(found[0].__context__) is NotCarriedBack
    assert "ValueError" in str(found[0].__context__)
    assert type(found[0].__context__.__cause__) is Odd
    assert not found[0].__suppress_context__


RUNNING, RETRY, CRASHED = Running(), AwaitingRetry(), Crashed()


@pytest.mark.parametrize(
    ("states", "first"),
    [
        ([Pending(), RUNNING], 1),
        ([RUNNING, RUNNING], 1),
        ([Pending(), RUNNING, CRASHED, Pending(), RUNNING, Scheduled(), RUNNING], 1),
        ([RUNNING, RETRY, RUNNING], 2),
        ([RUNNING, RETRY, RUNNING, CRASHED, RUNNING], 2),
        ([RUNNING, CRASHED, RUNNING, Failed(), RETRY, RUNNING], 3),
        ([RUNNING, Cancelled(), Scheduled(), RUNNING, Failed()], 2),
        ([], 1),
    ],
)
def test_a_try_goes_on_with_killed_ones_and_with_none_that_has_ended(states: list[State[Any]], first: int) -> None:
    assert series_of(states) == first


@pytest.mark.parametrize(
    ("left", "is_so"),
    [
        ("prefect/f/try-1/t/3-5/a", False),
        ("prefect/f/try-1/t/3-5/b", True),
        ("prefect/f/try-1/t/5/b", True),
        ("prefect/f/try-1/t/5-9/b", True),
        ("prefect/f/try-1/t/6-9/b", False),
        ("prefect/f/try-1/other/3-5/b", False),
    ],
)
def test_a_job_for_the_same_call_with_another_content_is_in_the_way(left: str, is_so: bool) -> None:
    assert is_in_the_way(left, "prefect/f/try-1/t/3-5/a") is is_so


def test_the_content_of_a_call_is_told_alike_in_every_process() -> None:
    code = (
        "from dataclasses import dataclass\n"
        "from sched_plugins.prefect.task_runner import payload\n"
        "@dataclass\nclass Case:\n    x: int = 1\n"
        "def work(case):\n    return case in {'a', 'b'}\n"
        "text = payload.dumps([Case()])\n"
        "print(payload.digest(payload.source(work), payload.told([Case()], text)))\n"
    )
    told = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(told) == 1
    assert payload.source(lambda x: x + 1) != payload.source(lambda x: x + 2)


@pytest.mark.parametrize(
    ("standing", "status", "name", "told"),
    [
        (Standing.ENDED, Status.FAILED, "Crashed", r"ended FAILED \(exit code 9\) .*: killed"),
        (Standing.ENDED, Status.SUCCEEDED, "Crashed", "ended SUCCEEDED"),
        (Standing.ENDED, Status.CANCELLED, "Cancelled", "was cancelled"),
        (Standing.SUPERSEDED, Status.RUNNING, "Crashed", "has taken the place"),
        (Standing.MISSING, None, "Crashed", "is lost"),
    ],
)
def test_a_silent_end_is_never_success(standing: Standing, status: Status | None, name: str, told: str) -> None:
    fake = FakeEnvironment()
    fake.submit_many([fields("a")], run_ids=["r-1"])
    job = None if status is None else replace(fake.jobs["a"], status=status, exit_code=9, status_reason="killed")
    state = state_of_silent(Ended(Run("a", "r-1"), standing, job))
    assert state.name == name
    assert re.search(told, str(state.message))


def fields(job_id: str) -> dict[str, Any]:
    """A job's fields."""
    return {
        "job_id": job_id, "retry": 0, "ssm_document": "AWS-RunShellScript", "commands": ("true",),
    }  # fmt: skip


def test_futures_are_found_where_prefect_looks() -> None:
    one, two, hidden = (SchedulerFuture[Any](uuid4()) for _ in range(3))
    assert futures_in({"a": [one, {"b": (two,)}], "c": quote([hidden])}) == {one, two}


class FakeSecrets:
    """As Parameter Store."""

    def __init__(self, *_: Any) -> None:
        self.written: dict[str, str] = {}
        self.deleted: list[str] = []
        self.old: list[str] = []

    def put_many(self, secrets: dict[str, str]) -> dict[str, None]:
        self.written |= secrets
        return dict.fromkeys(secrets)

    def delete_many(self, found: list[str]) -> None:
        self.deleted += found

    def written_before(self, prefix: str, moment: datetime) -> list[str]:
        assert prefix == "/sched/fake/workloads/prefect-tasks"
        assert datetime.now(UTC) - moment > timedelta(days=2), "a job may run for two days"
        return self.old

    def close(self) -> None:
        pass


def test_secrets_that_killed_runners_left_are_swept_up_but_none_of_live_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "SecretStore", FakeSecrets)
    monkeypatch.setattr(settings, "_SWEPT", {})
    fake: Any = FakeEnvironment()
    fake.list = lambda *, statuses, group, limit: ["a job"] if group == "prefect-live" else []
    secret = settings.JobSecret(fake, "own", {"A": "1"}, "")
    store: Any = secret._store
    store.old = [f"/sched/fake/workloads/prefect-tasks/{owner}.1" for owner in ("live", "dead")]
    secret.sweep()
    secret.sweep()
    assert store.deleted == ["/sched/fake/workloads/prefect-tasks/dead.1"]
    secret.write()
    secret.write()
    secret.delete()
    assert list(store.written) == [secret.name]
    assert store.deleted[-1] == secret.name


def test_a_runner_without_an_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCHED_SCHEDULER", raising=False)
    with SchedulerTaskRunner("sched") as started, pytest.raises(InvalidInput, match="give environment="):
        started.submit(double, {"x": 1})
    with SchedulerTaskRunner() as started, pytest.raises(InvalidInput, match="no scheduler is named"):
        started.submit(double, {"x": 1})
