"""What Prefect and its users find of the collection."""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys

import pytest
from pydantic import ValidationError

import sched_plugins.prefect
from sched_plugins.errors import InvalidInput
from sched_plugins.prefect import SchedulerJob, SchedulerWorker, ServerlessScheduler
from sched_plugins.prefect.blocks.scheduler import as_scheduler


def test_the_entry_point_imports_every_block_and_the_worker() -> None:
    [entry] = [one for one in importlib.metadata.entry_points(group="prefect.collections") if "sched" in one.value]
    module = entry.load()
    assert {module.ServerlessScheduler, module.SchedulerJob, module.SchedulerWorker} == {
        ServerlessScheduler,
        SchedulerJob,
        SchedulerWorker,
    }


def test_every_public_name_is_there_and_documented() -> None:
    for name, member in inspect.getmembers(sched_plugins.prefect):
        assert name in sched_plugins.prefect.__all__
        assert member.__doc__, name


def test_importing_the_package_needs_no_prefect() -> None:
    code = "import sys, sched_plugins, sched_plugins.client, sched_plugins.prefect; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.usefixtures("prefect_server")
def test_a_block_is_stored_with_its_description_and_logo_and_loaded_again() -> None:
    from prefect.client.orchestration import get_client

    ServerlessScheduler(scheduler="sim", environment="solver").save("here", overwrite=True)
    found = ServerlessScheduler.load("here")
    assert (found.scheduler, found.environment) == ("sim", "solver")
    SchedulerJob(scheduler=found, commands=["./run.sh"], fields={"retry": 2}).save("solve", overwrite=True)
    loaded = SchedulerJob.load("solve")
    assert loaded.job() == {"retry": 2, "commands": ["./run.sh"]}
    with get_client(sync_client=True) as client:
        for slug in ("serverless-scheduler", "scheduler-job"):
            kind = client.read_block_type_by_slug(slug)
            assert kind.description
            assert str(kind.logo_url).endswith(".png")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scheduler": "No Such_Name"}, "No Such_Name"),
        ({"scheduler": "sim", "environment": "-"}, "'-'"),
    ],
)
def test_a_block_refuses_what_can_be_no_stack(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ServerlessScheduler(**fields)


def test_a_job_block_refuses_what_is_no_job() -> None:
    with pytest.raises(ValidationError, match="retrys: is no field of a job"):
        SchedulerJob(scheduler=ServerlessScheduler(scheduler="sim"), commands=["x"], fields={"retrys": 1})


def test_a_scheduler_is_named_by_a_block_a_name_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCHED_SCHEDULER", "by-variable")
    block = ServerlessScheduler(scheduler="by-block")
    assert [as_scheduler(one).scheduler for one in (block, "by-name", None)] == ["by-block", "by-name", "by-variable"]
    for wrong, words in (
        (["a"], "unmapped"),
        (7, "not a stack name"),
        ("block/x", r"ServerlessScheduler\.load\('x'\)"),
    ):
        with pytest.raises(InvalidInput, match=words):
            as_scheduler(wrong)
