#!/usr/bin/env python3
"""First stage: turn a few parameters into the complete description of one flow, `case.json`.

The flow is the DFG benchmark 2D-1: steady laminar flow around a cylinder between two walls, with a
parabolic inflow (M. Schäfer, S. Turek: Benchmark computations of laminar flow around a cylinder,
1996). Lengths are in metres, velocities in metres a second.

Reads the parameters listed in `PARAMETERS`, all optional, from `parameters.json` and then from the
environment variable SCHED_PARAMETERS. Writes `case.json`, or nothing when a parameter is refused.
Needs Python 3.9 or later and no packages.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

CHANNEL_LENGTH = 2.2
CHANNEL_HEIGHT = 0.41
DENSITY = 1.0  # kg/m³
KINEMATIC_VISCOSITY = 1e-3  # m²/s

# G. Nabh: On high order methods for the stationary incompressible Navier-Stokes equations, Heidelberg 1998.
REFERENCE = {
    "drag_coefficient": 5.57953523384,
    "lift_coefficient": 0.010618948146,
    "pressure_difference": 0.11752016697,
}


class Parameter(NamedTuple):
    """What a parameter means, its value when not given, and the range, ends included, it must lie in."""

    meaning: str
    default: float
    lowest: float
    highest: float


PARAMETERS = {
    "reynolds": Parameter("mean inflow velocity x diameter / viscosity", 20.0, 0.01, 45.0),
    "order": Parameter("polynomial order of the velocity; the pressure has one less", 5, 2, 8),
    "mesh_size": Parameter("size of the largest elements, m", 0.08, 0.01, 0.2),
    "mesh_size_cylinder": Parameter("size of the elements at the cylinder, m", 0.01, 0.001, 0.03),
    "mesh_size_stagnation": Parameter(
        "size of the elements at the cylinder's front and rear point, m", 0.002, 0.0005, 0.03
    ),
    "cylinder_x": Parameter("distance of the cylinder's centre from the inflow, m", 0.2, 0.12, 1.0),
    "cylinder_y": Parameter("distance of the cylinder's centre from the lower wall, m", 0.2, 0.03, 0.38),
    "cylinder_radius": Parameter("radius of the cylinder, m", 0.05, 0.01, 0.1),
}
UNSTEADY = "; soon above that the wake sheds vortices, and this pipeline computes steady flow only"
SMALLEST_GAP = 0.02  # between cylinder and wall, m: the default mesh does not resolve a narrower one


def refuse(reason: str) -> NoReturn:
    """End the program with exit code 1 and `reason` on stderr."""
    raise SystemExit(f"preprocess: {reason}")


def json_object(text: str, source: str) -> dict[str, Any]:
    """The JSON object in `text`, which came from `source`."""
    try:
        value = json.loads(text)
    except ValueError as error:
        refuse(f'{source} is not JSON ({error}); write an object like {{"reynolds": 20}}')
    if not isinstance(value, dict):
        refuse(f'{source} must be a JSON object like {{"reynolds": 20}}, not {json.dumps(value)}')
    return value


def given_parameters() -> dict[str, Any]:
    """`parameters.json`, if there is one, overridden by SCHED_PARAMETERS."""
    file = Path("parameters.json")
    given = json_object(file.read_text("utf-8", "replace"), "parameters.json") if file.is_file() else {}
    return given | json_object(os.environ.get("SCHED_PARAMETERS") or "{}", "SCHED_PARAMETERS")


def checked(name: str, value: Any) -> float:
    """`value`, if parameter `name` may have it."""
    if name not in PARAMETERS:
        refuse(f"there is no parameter {name!r}; there are {', '.join(PARAMETERS)}")
    known = PARAMETERS[name]
    must = f"{name} ({known.meaning}) must be"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        refuse(f"{must} a number, not {json.dumps(value)}")
    # Comparisons with NaN are false, so this refuses NaN as well.
    if not known.lowest <= value <= known.highest:
        reason = UNSTEADY if name == "reynolds" and value > known.highest else ""
        refuse(f"{must} from {known.lowest:g} to {known.highest:g}, not {value}{reason}")
    if isinstance(known.default, int) and value != int(value):
        refuse(f"{must} a whole number, not {value}")
    return type(known.default)(value)


def build_case(given: dict[str, Any]) -> dict[str, Any]:
    """The flow that the parameters describe, every value with its default filled in."""
    value = {name: known.default for name, known in PARAMETERS.items()}
    value |= {name: checked(name, number) for name, number in given.items()}
    x, y, radius = value["cylinder_x"], value["cylinder_y"], value["cylinder_radius"]
    gap = min(x, y, CHANNEL_HEIGHT - y) - radius
    if gap < SMALLEST_GAP:
        refuse(
            f"a cylinder of radius {radius:g} m at ({x:g}, {y:g}) leaves a gap of {gap:.4g} m; "
            f"keep {SMALLEST_GAP:g} m from walls and inflow"
        )
    mean_velocity = value["reynolds"] * KINEMATIC_VISCOSITY / (2 * radius)
    changed = {name for name in value if value[name] != PARAMETERS[name].default}
    published = changed.isdisjoint({"reynolds", "cylinder_x", "cylinder_y", "cylinder_radius"})
    return {
        "name": "DFG 2D-1" if published else "like DFG 2D-1",
        "reynolds": value["reynolds"],
        "density": DENSITY,
        "kinematic_viscosity": KINEMATIC_VISCOSITY,
        "mean_velocity": mean_velocity,
        "peak_velocity": 1.5 * mean_velocity,  # of a parabola
        "channel": {"length": CHANNEL_LENGTH, "height": CHANNEL_HEIGHT},
        "cylinder": {"x": x, "y": y, "radius": radius},
        "order": value["order"],
        "mesh_size": {
            "largest": value["mesh_size"],
            "cylinder": value["mesh_size_cylinder"],
            "stagnation": value["mesh_size_stagnation"],
        },
        "reference": REFERENCE if published else None,
    }


def main() -> None:
    case = build_case(given_parameters())
    Path("case.json").write_text(json.dumps(case, indent=2) + "\n", encoding="utf-8")
    if metrics := os.environ.get("SCHED_METRICS"):
        Path(metrics).write_text(json.dumps({"reynolds": case["reynolds"]}), encoding="utf-8")
    print(f"Reynolds number {case['reynolds']:g}, mean inflow velocity {case['mean_velocity']:.4g} m/s")
    print("compared with published values" if case["reference"] else "no published values for this flow")
    print("CASE READY", flush=True)


if __name__ == "__main__":
    main()
