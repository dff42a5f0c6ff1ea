#!/usr/bin/env python3
"""Last stage: coefficients, the comparison with published values, and pictures of the flow.

Coefficients are forces divided by ρ U² D / 2, with the density ρ, the mean inflow velocity U and the
cylinder's diameter D (M. Schäfer, S. Turek, 1996). The pressure difference is that between the cylinder's
front and rear point, in Pa.

Reads `case.json`, `forces.json`, `fields.npz` and `mesh_picture.png`. Writes `results.json`,
`velocity.png`, `pressure.png` and `mesh.png`.
Needs numpy and matplotlib.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

LABELS = {
    "drag_coefficient": "drag coefficient",
    "lift_coefficient": "lift coefficient",
    "pressure_difference": "pressure difference (Pa)",
}

STREAMLINES = 20  # on each side of the cylinder, closest to it first
ISOBARS = 30


def evaluate(case: dict[str, Any], forces: dict[str, float]) -> dict[str, Any]:
    """What `results.json` holds; errors are fractions of the published values."""
    scale = 0.5 * case["density"] * case["mean_velocity"] ** 2 * 2 * case["cylinder"]["radius"]
    values = {
        "drag_coefficient": forces["force_x"] / scale,
        "lift_coefficient": forces["force_y"] / scale,
        "pressure_difference": forces["pressure_front"] - forces["pressure_rear"],
    }
    reference = case["reference"]
    errors = {name: abs(values[name] / reference[name] - 1) for name in values} if reference else None
    return values | {
        "case": case["name"],
        "reynolds": case["reynolds"],
        "reference": reference,
        "relative_error": errors,
        "mesh": case["mesh"],
        "solver": case["solver"] | {"order": case["order"]},
    }


def report(results: dict[str, Any]) -> None:
    """Print the three values, and the published ones where there are some."""
    print(f"Reynolds number {results['reynolds']:g}")
    for name, label in LABELS.items():
        line = f"{label:25} {results[name]:.9f}"
        if results["reference"]:
            line += f"   published {results['reference'][name]:.9f}"
            line += f"   error {100 * results['relative_error'][name]:.5f} %"
        print(line)
    if not results["reference"]:
        print("no published values for this flow", flush=True)


def quiet_matplotlib() -> None:
    """Keep matplotlib from printing notes on its caches, and from keeping them among the results."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if Path(os.environ.get("HOME", "/")).resolve() == Path.cwd():
        os.environ["HOME"] = os.devnull  # it takes a temporary directory then


class Pictures:
    """Draws fields of one flow, each over the whole channel and, enlarged, around the cylinder."""

    def __init__(self, case: dict[str, Any], fields: dict[str, Any]) -> None:
        quiet_matplotlib()
        from matplotlib.tri import Triangulation

        self.case = case
        self.fields = fields
        self.triangulation = Triangulation(fields["x"], fields["y"], fields["triangles"])

    def velocity(self, file: Path) -> None:
        """The velocity's magnitude, with streamlines around the cylinder."""
        magnitude = np.hypot(self.fields["velocity_x"], self.fields["velocity_y"])
        stream = self.fields["stream_function"]
        # It is zero on the cylinder; squares put more lines near it, some in the weak vortices behind it.
        roots = np.linspace(-1, 1, 2 * STREAMLINES + 1)
        levels = np.abs(stream).max() * np.sign(roots) * roots**2
        figure, _, detail = self.coloured(magnitude, "Velocity magnitude", "m/s", "viridis")
        self.contours(detail, stream, levels)
        figure.savefig(file)

    def pressure(self, file: Path) -> None:
        """The pressure, with isobars."""
        figure, whole, detail = self.coloured(self.fields["pressure"], "Pressure", "Pa", "plasma")
        for axes in (whole, detail):
            self.contours(axes, self.fields["pressure"], ISOBARS)
        figure.savefig(file)

    def contours(self, axes: Any, values: Any, levels: Any) -> None:
        style = {"colors": "white", "linewidths": 0.6, "linestyles": "solid"}
        axes.tricontour(self.triangulation, values, levels, **style)

    def coloured(self, values: Any, title: str, unit: str, colours: str) -> tuple[Any, Any, Any]:
        """A figure with `values` in colours; returns it with its two axes, whole channel and detail."""
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle

        cylinder, channel = self.case["cylinder"], self.case["channel"]
        x, y, diameter = cylinder["x"], cylinder["y"], 2 * cylinder["radius"]
        figure = Figure(figsize=(10, 6), dpi=150, layout="compressed")
        whole, detail = figure.subplots(2, 1, height_ratios=(1, 2))
        for axes in (whole, detail):
            image = axes.tripcolor(self.triangulation, values, shading="gouraud", cmap=colours)
            axes.add_patch(Circle((x, y), diameter / 2, facecolor="0.85", edgecolor="0.3", zorder=3))
            axes.set(aspect="equal", xlabel="x in m", ylabel="y in m")
        whole.set(xlim=(0, channel["length"]), ylim=(0, channel["height"]))
        whole.set_title(f"{title}, Reynolds number {self.case['reynolds']:g}")
        detail.set(xlim=(x - 1.2 * diameter, x + 4 * diameter), ylim=(y - diameter, y + diameter))
        detail.set_title("Around the cylinder")
        figure.colorbar(image, ax=[whole, detail], label=f"{title} in {unit}", aspect=35)
        return figure, whole, detail


def main() -> None:
    case = json.loads(Path("case.json").read_text(encoding="utf-8"))
    forces = json.loads(Path("forces.json").read_text(encoding="utf-8"))
    results = evaluate(case, forces)
    with np.load("fields.npz") as archive:
        fields = dict(archive)
    pictures = Pictures(case, fields)
    pictures.velocity(Path("velocity.png"))
    pictures.pressure(Path("pressure.png"))
    shutil.copyfile("mesh_picture.png", "mesh.png")
    Path("results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if metrics := os.environ.get("SCHED_METRICS"):
        Path(metrics).write_text(json.dumps({name: results[name] for name in LABELS}), encoding="utf-8")
    report(results)
    print("RESULTS READY", flush=True)


if __name__ == "__main__":
    main()
