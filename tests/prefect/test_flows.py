"""What ``make prefect`` starts, and every flow of prefect_flows/ run there, through the work pool: as a job."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sched_plugins.client import SchedulerClient
from sched_plugins.local import lifecycle, processes
from sched_plugins.local.prefect import ENVIRONMENT, SCHEDULER, WORK_POOL, LocalPrefect

for wanted in ("prefect", "ngsolve"):  # looked for, not imported: only the flows need them
    if find_spec(wanted) is None:
        pytest.skip(f"{wanted} is not installed", allow_module_level=True)

TOP = Path(__file__).parents[2]
PATIENCE = 400.0
"""Seconds for all flow runs, which share two cores."""
RUNS = {
    "cylinder-flow/once": {"reynolds": 20},
    "nightly-sweep/nightly": {"reynolds": [10, -5]},
    "parallel-tasks/once": {"tasks": 20, "darts": 20_000},
}


class Started:
    """``make prefect``, as the program that it is, and what its users do with it."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        options = ("--flows", "prefect_flows", "pipelines/cylinder_flow")
        self.program = subprocess.Popen(
            [sys.executable, "-m", "sched_plugins.local.prefect", *options],
            cwd=TOP, env=os.environ | {"SCHED_LOCAL_STATE": str(self.state)}, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.said = self._until("logs: ")
        [line] = [line for line in self.said.splitlines() if "Prefect: http" in line]
        url = line.partition("Prefect: ")[2].split()[0]
        stack = lifecycle.require(self.state)
        self.prefect = LocalPrefect(url, self.state / "prefect", {}, stack)
        self.client = SchedulerClient(SCHEDULER, endpoint_url=stack.endpoint, region=stack.region)

    def stop(self) -> str:
        """Ctrl-C; what it said then."""
        self.program.send_signal(signal.SIGINT)
        said = self.program.communicate(timeout=60)[0]
        assert self.program.returncode == 0, said
        assert processes.marked(processes.STACK_MARK, f"{self.state}#", prefix=True) == []
        return said

    def _until(self, words: str) -> str:
        said = ""
        assert self.program.stdout is not None
        for line in self.program.stdout:
            said += line
            if words in line:
                return said
        raise AssertionError(f"it ended by itself: {said}")

    def run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Start a flow run of a deployment; its id."""
        found = self.prefect.request("GET", f"/deployments/name/{deployment}")
        made = self.prefect.request("POST", f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def ended(self, flow_run_id: str) -> dict[str, Any]:
        """A flow run once it is over."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found: dict[str, Any] = self.prefect.request("GET", f"/flow_runs/{flow_run_id}")
            if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found
            assert time.monotonic() < deadline, found["state_name"]
            time.sleep(1)

    def artifacts(self, flow_run_id: str) -> dict[str, Any]:
        """The data of a flow run's artifacts, by key."""
        asked = {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}}
        return {one["key"]: one["data"] for one in self.prefect.request("POST", "/artifacts/filter", asked)}

    def logs(self, flow_run_id: str) -> str:
        """What a flow run logged."""
        found = self.prefect.request(
            "POST", "/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "TIMESTAMP_ASC"}
        )
        return "\n".join(one["message"] for one in found)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """All of it, for the length of this file; stopped by Ctrl-C."""
    with ExitStack() as last, pytest.MonkeyPatch.context() as set_:
        found = Started(tmp_path_factory.mktemp("laptop"))
        last.callback(found.program.kill)
        for name, value in lifecycle.environment(found.prefect.stack).items():
            set_.setenv(name, value)
        set_.delenv("AWS_PROFILE", raising=False)
        yield found
        assert found.stop().rstrip().endswith("stopped")


@pytest.fixture(scope="module")
def runs(started: Started) -> dict[str, str]:
    """A run of each deployment, all at once; their ids."""
    return {deployment: started.run(deployment, parameters) for deployment, parameters in RUNS.items()}


def completed(started: Started, flow_run_id: str) -> dict[str, Any]:
    """The artifacts of a flow run that has succeeded."""
    run = started.ended(flow_run_id)
    assert run["state_type"] == "COMPLETED", f"{run['state']}\n{started.logs(flow_run_id)}"
    return started.artifacts(flow_run_id)


def pictures(artifacts: dict[str, Any]) -> dict[str, bytes]:
    """The pictures among artifacts, which hold them as data URIs."""
    prefix = "data:image/png;base64,"
    found = {key: data for key, data in artifacts.items() if isinstance(data, str) and data.startswith(prefix)}
    return {key: base64.b64decode(data.removeprefix(prefix)) for key, data in found.items()}


def test_it_tells_what_to_do_next(started: Started) -> None:
    for deployment in RUNS:
        assert f"prefect deployment run {deployment} --watch" in started.said
    for words in (SCHEDULER, ENVIRONMENT, WORK_POOL, "activate", str(started.prefect.shell_file)):
        assert words in started.said


def test_the_work_pool_fits_the_stack_and_the_night_has_its_schedule(started: Started) -> None:
    pool = started.prefect.request("GET", f"/work_pools/{WORK_POOL}")
    assert pool["type"] == "serverless-scheduler"
    defaults = {name: one.get("default") for name, one in pool["base_job_template"]["variables"]["properties"].items()}
    assert (defaults["scheduler"], defaults["environment"], defaults["python"]) == (
        SCHEDULER, ENVIRONMENT, sys.executable,
    )  # fmt: skip
    assert started.prefect.has_worker()
    nightly = started.prefect.request("GET", "/deployments/name/nightly-sweep/nightly")
    assert [one["schedule"]["cron"] for one in nightly["schedules"]] == ["0 2 * * *"]
    assert nightly["global_concurrency_limit"]["limit"] == 1
    asked = {
        "deployments": {"id": {"any_": [nightly["id"]]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
    }
    assert processes.wait_until(lambda: started.prefect.request("POST", "/flow_runs/filter", asked) != [], PATIENCE, 1)


def test_cylinder_flow_is_a_job_and_its_pictures_and_values_are_artifacts(
    started: Started, runs: dict[str, str]
) -> None:
    flow_run_id = runs["cylinder-flow/once"]
    artifacts = completed(started, flow_run_id)
    shown = pictures(artifacts)
    assert {"cylinder-flow-mesh-png", "cylinder-flow-pressure-png", "cylinder-flow-velocity-png"} <= shown.keys()
    assert all(picture.startswith(b"\x89PNG") for picture in shown.values())
    assert "drag coefficient | 5.57" in artifacts["values"]
    assert [row["status"] for row in json.loads(artifacts["stages"])] == ["SUCCEEDED"] * 4
    pid = started.ended(flow_run_id)["infrastructure_pid"]
    assert started.client.wait(pid, timeout=60).status == "SUCCEEDED"
    stages = [job.job_id for job in started.client.list(group=f"prefect-{flow_run_id}")]
    assert len(stages) == 4


def test_nightly_sweep_goes_on_without_the_case_that_failed(started: Started, runs: dict[str, str]) -> None:
    artifacts = completed(started, runs["nightly-sweep/nightly"])
    good, bad = json.loads(artifacts["cases"])
    assert (good["Reynolds number"], good["why not"]) == (10, "")
    assert good["drag coefficient"] > 5.6  # it grows as the Reynolds number falls
    assert (bad["Reynolds number"], bad["drag coefficient"]) == (-5, None)
    assert "exit code 1" in bad["why not"]
    [plot] = pictures(artifacts).values()
    assert plot.startswith(b"\x89PNG")
    assert "must be from 0.01 to 45, not -5.0" in started.logs(runs["nightly-sweep/nightly"])


def test_parallel_tasks_are_jobs_in_bundles(started: Started, runs: dict[str, str]) -> None:
    flow_run_id = runs["parallel-tasks/once"]
    artifacts = completed(started, flow_run_id)
    estimate = float(artifacts["pi"].split("**")[1])
    assert abs(estimate - 3.14159) < 0.02
    found = started.prefect.request("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run_id]}}})
    assert sorted(one["state_type"] for one in found) == ["COMPLETED"] * 21
    assert len(list(started.client.list(group=f"prefect-{flow_run_id}"))) == 4  # 20 in bundles of 8, and the sum
