"""The demo's flow, run as its users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytest.importorskip("prefect", reason="the prefect extra is not installed")
pytest.importorskip("ngsolve", reason="the demo extra is not installed")

TOP = Path(__file__).parents[2]
LIMITS = {"drag_coefficient": 1e-5, "lift_coefficient": 5e-4, "pressure_difference": 1e-4}


def test_the_demo_matches_the_published_values_and_leaves_nothing(tmp_path: Path) -> None:
    state, results = tmp_path / "state", tmp_path / "results"
    done = subprocess.run(
        [sys.executable, "prefect_flows/cylinder_flow.py", "--mode", "chained", "--results", str(results)],
        cwd=TOP,
        env={**os.environ, "SCHED_LOCAL_STATE": str(state)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("preprocess   RUNNING", "postprocess  SUCCEEDED", "published", "drag coefficient"):
        assert words in done.stdout
    report = json.loads((results / "results.json").read_text())
    assert {name: abs(report["relative_error"][name]) <= limit for name, limit in LIMITS.items()} == dict.fromkeys(
        LIMITS, True
    )
    assert [stage["status"] for stage in report["stages"]] == ["SUCCEEDED"] * 4
    assert {"velocity.png", "pressure.png", "mesh.png"} <= {path.name for path in results.iterdir()}
    left = [process.cmdline() for process in psutil.process_iter(["cmdline"]) if names_the(state, process)]
    assert left == []


def names_the(state: Path, process: psutil.Process) -> bool:
    """Whether a process has to do with a state folder."""
    try:
        texts = [*process.cmdline(), *process.environ().values()]
    except (psutil.Error, OSError):
        return False
    return process.pid != os.getpid() and any(str(state) in text for text in texts)
