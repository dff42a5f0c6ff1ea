"""The cylinder flow pipeline, its executables run one after another as a worker runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

PIPELINE = Path(__file__).parents[2] / "pipelines" / "cylinder_flow"
STAGES: list[dict[str, Any]] = yaml.safe_load((PIPELINE / "pipeline.yaml").read_text(encoding="utf-8"))["stages"]

# Written here again, so that a slip in the pipeline's own copy is noticed.
PUBLISHED = {
    "drag_coefficient": 5.57953523384,
    "lift_coefficient": 0.010618948146,
    "pressure_difference": 0.11752016697,
}
ALLOWED_ERROR = {"drag_coefficient": 1e-5, "lift_coefficient": 5e-4, "pressure_difference": 1e-4}
COARSE = {"order": 2, "mesh_size": 0.15, "mesh_size_cylinder": 0.02, "mesh_size_stagnation": 0.01}


@dataclass(frozen=True)
class StageRun:
    """One finished stage: how it ended, the files it wrote or changed, and the numbers it reported."""

    process: subprocess.CompletedProcess[str]
    results: dict[str, bytes]
    metrics: dict[str, Any]

    def json(self, name: str) -> Any:
        return json.loads(self.results[name])


def run_stage(
    name: str, folder: Path, inputs: dict[str, bytes], parameters: str | None = None, home: str = os.devnull
) -> StageRun:
    """Run one executable in a fresh directory with `inputs`, in the sparse environment of a worker."""
    work = folder / name
    work.mkdir(parents=True)
    for file, content in inputs.items():
        (work / file).write_bytes(content)
    metrics = folder / f"{name}-metrics.json"
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "HOME": home,
        "SCHED_METRICS": str(metrics),
    }
    if parameters is not None:
        environment["SCHED_PARAMETERS"] = parameters
    process = subprocess.run(
        [PIPELINE / f"{name}.py"], cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    after = {str(file.relative_to(work)): file.read_bytes() for file in work.rglob("*") if file.is_file()}
    results = {file: content for file, content in after.items() if inputs.get(file) != content}
    return StageRun(process, results, json.loads(metrics.read_text()) if metrics.exists() else {})


def run_pipeline(folder: Path, parameters: dict[str, Any], home_is_work: bool) -> dict[str, StageRun]:
    """Run all stages; each gets what its predecessor wrote or changed, and nothing else."""
    pytest.importorskip("ngsolve")
    runs: dict[str, StageRun] = {}
    for stage in STAGES:
        inputs = runs[stage["after"][0]].results if "after" in stage else {}
        home = str(folder / stage["name"]) if home_is_work else os.devnull
        run = run_stage(stage["name"], folder, inputs, json.dumps(parameters), home)
        assert run.process.returncode == 0, run.process.stderr
        runs[stage["name"]] = run
    return runs


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageRun]:
    """The pipeline with all parameters at their defaults, on a worker without a home."""
    return run_pipeline(tmp_path_factory.mktemp("benchmark"), {}, home_is_work=False)


@pytest.fixture(scope="module")
def slower(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageRun]:
    """The pipeline at half the benchmark's Reynolds number, on a coarse mesh, its work directory as home."""
    return run_pipeline(tmp_path_factory.mktemp("slower"), {"reynolds": 10, **COARSE}, home_is_work=True)


@pytest.fixture
def results(benchmark: dict[str, StageRun]) -> dict[str, Any]:
    found: dict[str, Any] = benchmark["postprocess"].json("results.json")
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_default_run_agrees_with_published_values(results: dict[str, Any], name: str) -> None:
    assert results["reynolds"] == 20
    assert results["reference"] == PUBLISHED
    error = abs(results[name] - PUBLISHED[name]) / PUBLISHED[name]
    assert error <= ALLOWED_ERROR[name]
    assert results["relative_error"][name] == pytest.approx(error, abs=1e-12)
    assert set(results["relative_error"]) == set(PUBLISHED)


def test_pressure_is_read_at_vertices_of_the_mesh(benchmark: dict[str, StageRun], tmp_path: Path) -> None:
    import ngsolve

    (tmp_path / "mesh.vol").write_bytes(benchmark["mesh"].results["mesh.vol"])
    mesh = ngsolve.Mesh(str(tmp_path / "mesh.vol"))
    points = {point.mat: mesh[point.vertices[0]].point for point in mesh.Elements(ngsolve.BBND)}
    assert points["front"] == pytest.approx((0.15, 0.2), abs=1e-12)
    assert points["rear"] == pytest.approx((0.25, 0.2), abs=1e-12)


@pytest.mark.parametrize("which", ["benchmark", "slower"])
def test_stages_give_their_results_and_nothing_else(which: str, request: pytest.FixtureRequest) -> None:
    runs: dict[str, StageRun] = request.getfixturevalue(which)
    assert set(runs["mesh"].results) == {"case.json", "mesh.vol", "mesh.png"}
    assert set(runs["postprocess"].results) == {"results.json", "velocity.png", "pressure.png", "mesh.png"}
    assert runs["postprocess"].results["mesh.png"] == runs["mesh"].results["mesh.png"]


@pytest.mark.parametrize("name", ["velocity.png", "pressure.png", "mesh.png"])
def test_pictures_are_large_and_not_blank(benchmark: dict[str, StageRun], tmp_path: Path, name: str) -> None:
    from matplotlib.image import imread

    (tmp_path / name).write_bytes(benchmark["postprocess"].results[name])
    pixels = imread(tmp_path / name)
    height, width = pixels.shape[:2]
    assert width >= 1200
    assert height >= 600
    assert pixels[..., :3].std() > 0.1


def test_fields_for_the_pictures_are_those_of_the_flow(benchmark: dict[str, StageRun], tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "fields.npz").write_bytes(benchmark["simulate"].results["fields.npz"])
    with np.load(tmp_path / "fields.npz") as fields:
        x, y, stream, pressure = (fields[name] for name in ("x", "y", "stream_function", "pressure"))
        corners = np.stack([x, y], axis=1)[fields["triangles"]]
    # The small triangles fill the channel but for the cylinder.
    one, other = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    assert 0.5 * np.abs(one[:, 0] * other[:, 1] - one[:, 1] * other[:, 0]).sum() == pytest.approx(
        2.2 * 0.41 - np.pi * 0.05**2, abs=1e-5
    )
    on_cylinder = np.abs(np.hypot(x - 0.2, y - 0.2) - 0.05) < 1e-6
    assert on_cylinder.sum() > 100
    assert np.abs(stream[on_cylinder]).max() < 1e-6
    # The stream function grows by what flows through the channel: mean velocity times height.
    assert np.ptp(stream[x < 1e-6]) == pytest.approx(0.2 * 0.41, rel=1e-4)
    forces = benchmark["simulate"].json("forces.json")
    for point, name in ((0.15, "pressure_front"), (0.25, "pressure_rear")):
        assert pressure[np.argmin(np.hypot(x - point, y - 0.2))] == pytest.approx(forces[name], rel=1e-5)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: str(stage["name"]))
def test_stage_ends_with_its_success_string(benchmark: dict[str, StageRun], stage: dict[str, Any]) -> None:
    process = benchmark[stage["name"]].process
    assert process.stdout.splitlines()[-1] == stage["success_string"]
    assert process.stderr == ""


@pytest.mark.parametrize("stage", [stage["name"] for stage in STAGES])
def test_stage_reports_numbers(benchmark: dict[str, StageRun], stage: str) -> None:
    metrics = benchmark[stage].metrics
    assert metrics
    assert all(isinstance(value, int | float) for value in metrics.values())


def test_simulation_shows_how_its_residual_falls(benchmark: dict[str, StageRun]) -> None:
    lines = benchmark["simulate"].process.stdout.splitlines()
    residuals = [float(line.split("relative")[1]) for line in lines if "relative" in line]
    assert len(residuals) >= 3
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] <= 1e-11
    assert benchmark["simulate"].metrics["iterations"] == len(residuals) - 1


def test_other_reynolds_number_gives_other_values_and_no_comparison(
    slower: dict[str, StageRun], results: dict[str, Any]
) -> None:
    other = slower["postprocess"].json("results.json")
    assert other["reynolds"] == 10
    assert other["reference"] is None
    assert other["relative_error"] is None
    # Slower flow has the larger coefficient, but the smaller force.
    assert 1.2 < other["drag_coefficient"] / results["drag_coefficient"] < 2
    assert 0.2 < other["pressure_difference"] / results["pressure_difference"] < 0.5
    assert "published" not in slower["postprocess"].process.stdout.replace("no published values", "")


def test_simulation_that_does_not_converge_fails_and_writes_nothing(
    slower: dict[str, StageRun], tmp_path: Path
) -> None:
    inputs = dict(slower["mesh"].results)
    case = json.loads(inputs["case.json"])
    case["peak_velocity"] *= 1000
    inputs["case.json"] = json.dumps(case).encode()
    run = run_stage("simulate", tmp_path, inputs)
    assert run.process.returncode != 0
    assert "no steady flow found" in run.process.stderr
    assert "FLOW CONVERGED" not in run.process.stdout
    assert run.results == {}


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ('{"reynolds": 0}', "reynolds (mean inflow velocity x diameter / viscosity) must be from 0.01 to 45, not 0"),
        ('{"reynolds": -20}', "not -20"),
        ('{"reynolds": 46}', "steady flow only"),
        ('{"reynolds": "fast"}', 'must be a number, not "fast"'),
        ('{"reynolds": "20"}', 'must be a number, not "20"'),
        ('{"reynolds": true}', "must be a number, not true"),
        ('{"reynolds": null}', "must be a number, not null"),
        ('{"reynolds": NaN}', "not nan"),
        ('{"reynolds": Infinity}', "not inf"),
        ('{"reynolds": 1e999}', "not inf"),
        ('{"raynolds": 20}', "no parameter 'raynolds'"),
        ('{"order": 3.5}', "whole number, not 3.5"),
        ('{"order": 9}', "from 2 to 8, not 9"),
        ('{"mesh_size": 0}', "mesh_size"),
        ('{"cylinder_y": 0.06}', "leaves a gap of 0.01 m"),
        ("[20]", "must be a JSON object"),
        ("reynolds=20", "SCHED_PARAMETERS is not JSON"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_written(tmp_path: Path, parameters: str, reason: str) -> None:
    run = run_stage("preprocess", tmp_path, {}, parameters)
    assert run.process.returncode != 0
    assert reason in run.process.stderr
    assert "Traceback" not in run.process.stderr
    assert run.process.stdout == ""
    assert run.results == {}
    assert run.metrics == {}


def test_parameters_come_from_the_file_and_are_overridden_by_the_environment(tmp_path: Path) -> None:
    inputs = {"parameters.json": b'{"reynolds": 10, "order": 3}'}
    assert run_stage("preprocess", tmp_path / "file", inputs).json("case.json")["reynolds"] == 10
    case = run_stage("preprocess", tmp_path / "both", inputs, '{"reynolds": 12.5}').json("case.json")
    assert (case["reynolds"], case["order"]) == (12.5, 3)
    refused = run_stage("preprocess", tmp_path / "bad", {"parameters.json": b"\xff{"})
    assert "parameters.json is not JSON" in refused.process.stderr


@pytest.mark.parametrize(
    ("parameters", "published", "mean_velocity"),
    [
        ({}, True, 0.2),
        ({"reynolds": 20}, True, 0.2),
        ({"reynolds": 20, "order": 3, "mesh_size": 0.05}, True, 0.2),
        ({"reynolds": 40}, False, 0.4),
        ({"reynolds": 20.000001}, False, 0.20000001),
        ({"cylinder_radius": 0.04}, False, 0.25),
        ({"cylinder_y": 0.205}, False, 0.2),
    ],
)
def test_only_the_benchmark_itself_is_compared(
    tmp_path: Path, parameters: dict[str, float], published: bool, mean_velocity: float
) -> None:
    case = run_stage("preprocess", tmp_path, {}, json.dumps(parameters)).json("case.json")
    assert case["reference"] == (PUBLISHED if published else None)
    assert case["mean_velocity"] == pytest.approx(mean_velocity)
    assert case["peak_velocity"] == pytest.approx(1.5 * mean_velocity)
