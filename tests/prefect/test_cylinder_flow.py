"""The flow of ``make demo``, run as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

for wanted in ("prefect", "ngsolve"):  # looked for, not imported: only the demo's own process needs them
    if find_spec(wanted) is None:
        pytest.skip(f"{wanted} is not installed", allow_module_level=True)

TOP = Path(__file__).parents[2]
LIMITS = {"drag_coefficient": 1e-5, "lift_coefficient": 5e-4, "pressure_difference": 1e-4}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo keeps what it needs again the second time: Prefect's database, whose making takes long."""
    return tmp_path_factory.mktemp("demo") / "state"


def demo(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the demo on a laptop stack of its own."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "sched_plugins.local.prefect", "pipelines/cylinder_flow", "--"),
            *(sys.executable, "prefect_flows/demo.py", *options),
        ],
        cwd=TOP,
        env={**os.environ, "SCHED_LOCAL_STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=400,
    )


def test_the_demo_matches_the_published_values_and_leaves_nothing(state: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = demo(state, "--mode", "chained", "--results", str(results))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("preprocess   RUNNING on worker i-", "postprocess  SUCCEEDED", "published", "drag coefficient"):
        assert words in done.stdout
    report = json.loads((results / "results.json").read_text())
    assert {name: abs(report["relative_error"][name]) <= limit for name, limit in LIMITS.items()} == dict.fromkeys(
        LIMITS, True
    )
    assert [stage["status"] for stage in report["stages"]] == ["SUCCEEDED"] * 4
    assert {"velocity.png", "pressure.png", "mesh.png"} <= {path.name for path in results.iterdir()}
    assert left_of(state) == []


def test_a_stage_that_fails_tells_why_in_its_own_words_and_nothing_is_left(state: Path, tmp_path: Path) -> None:
    done = demo(state, "--reynolds=-5", "--results", str(tmp_path / "results"))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "preprocess   FAILED" in done.stdout
    assert "must be from 0.01 to 45, not -5.0" in done.stdout
    assert "JobRunFailed: job 'prefect/" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr == ""
    assert left_of(state) == []


def left_of(state: Path) -> list[list[str]]:
    """The commands of the processes that a stack of this state folder has left."""
    return [process.cmdline() for process in psutil.process_iter(["cmdline"]) if names_the(state, process)]


def names_the(state: Path, process: psutil.Process) -> bool:
    """Whether a process has to do with a state folder."""
    try:
        texts = [*process.cmdline(), *process.environ().values()]
    except (psutil.Error, OSError):
        return False
    return process.pid != os.getpid() and any(str(state) in text for text in texts)
