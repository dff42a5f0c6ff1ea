#!/usr/bin/env python3
"""Second stage: a mesh of curved triangles for the channel around the cylinder.

The cylinder's front and rear point, where the benchmark reads the pressure, are vertices of the mesh:
the pressure there is then a coefficient of the solution, and no point has to be searched on a curved
boundary. The mesh is finest at these two points, which decide the error of the pressure difference.

Reads `case.json`. Writes `mesh.vol` (Netgen's format, with the exact geometry, so that it can be curved
again after loading), `mesh.png`, and `case.json` with an entry for the mesh.
Needs ngsolve (which brings Netgen), numpy and matplotlib.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import ngsolve as ng
import numpy as np
from netgen.occ import ArcOfCircle, Face, OCCGeometry, Pnt, Wire, WorkPlane, X

GRADING = 0.2  # how fast elements may grow away from the cylinder; Netgen's scale from 0 to 1


def channel(case: dict[str, Any]) -> Any:
    """The fluid's domain, with the names of its boundaries and the wanted sizes of elements."""
    x, y, r = (case["cylinder"][name] for name in ("x", "y", "radius"))
    front, rear, top, bottom = Pnt(x - r, y, 0), Pnt(x + r, y, 0), Pnt(x, y + r, 0), Pnt(x, y - r, 0)
    cylinder = Face(Wire([ArcOfCircle(rear, top, front), ArcOfCircle(front, bottom, rear)]))
    cylinder.edges.name = "cylinder"
    cylinder.edges.maxh = case["mesh_size"]["cylinder"]
    for name, vertex in (("front", cylinder.vertices.Min(X)), ("rear", cylinder.vertices.Max(X))):
        vertex.name = name
        vertex.maxh = case["mesh_size"]["stagnation"]
    rectangle = WorkPlane().Rectangle(case["channel"]["length"], case["channel"]["height"]).Face()
    rectangle.edges.name = "wall"
    rectangle.edges.Min(X).name = "inflow"
    rectangle.edges.Max(X).name = "outflow"
    return rectangle - cylinder


def edges(mesh: Any, pieces: int) -> Any:
    """Every element's sides as polylines of `pieces` pieces: array (sides, points, 2)."""
    s = np.linspace(0, 1, pieces + 1)
    zero = np.zeros_like(s)
    outline = np.array([(s, zero), (1 - s, s), (zero, 1 - s)]).transpose(0, 2, 1).reshape(-1, 2)
    rule = ng.IntegrationRule([tuple(point) for point in outline.tolist()], [0.0] * len(outline))
    points = mesh.MapToAllElements({ng.ET.TRIG: rule}, ng.VOL)
    return ng.CoefficientFunction((ng.x, ng.y))(points).reshape(-1, pieces + 1, 2)


def quiet_matplotlib() -> None:
    """Keep matplotlib from printing notes on its caches, and from keeping them among the results."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if Path(os.environ.get("HOME", "/")).resolve() == Path.cwd():
        os.environ["HOME"] = os.devnull  # it takes a temporary directory then


def draw(mesh: Any, case: dict[str, Any], file: Path) -> None:
    """The whole mesh, and below it the part around the cylinder."""
    quiet_matplotlib()
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    cylinder = case["cylinder"]
    length, height = case["channel"]["length"], case["channel"]["height"]
    lines = edges(mesh, pieces=case["order"])
    figure = Figure(figsize=(10, 6.4), dpi=150, layout="compressed")
    whole, detail = figure.subplots(2, 1, height_ratios=(1, 2))
    for axes, width in ((whole, 0.35), (detail, 0.6)):
        axes.add_collection(LineCollection(lines, colors="#1f4e79", linewidths=width))
        axes.set_aspect("equal")
        axes.set_xlabel("x in m")
        axes.set_ylabel("y in m")
    whole.set(xlim=(0, length), ylim=(0, height))
    whole.set_title(f"Mesh: {mesh.ne} elements, curved triangles of order {case['order']}")
    x, y, diameter = cylinder["x"], cylinder["y"], 2 * cylinder["radius"]
    detail.set(xlim=(x - 1.2 * diameter, x + 4 * diameter), ylim=(y - diameter, y + diameter))
    detail.set_title("Around the cylinder")
    figure.savefig(file)


def main() -> None:
    case = json.loads(Path("case.json").read_text(encoding="utf-8"))
    sizes = case["mesh_size"]
    geometry = OCCGeometry(channel(case), dim=2)
    mesh = ng.Mesh(geometry.GenerateMesh(maxh=sizes["largest"], grading=GRADING))
    mesh.ngmesh.Save("mesh.vol")
    mesh.Curve(case["order"])
    print(f"{mesh.ne} triangles, {mesh.nv} vertices, order {case['order']}", flush=True)
    draw(mesh, case, Path("mesh.png"))
    case["mesh"] = {"elements": mesh.ne, "vertices": mesh.nv}
    Path("case.json").write_text(json.dumps(case, indent=2) + "\n", encoding="utf-8")
    if metrics := os.environ.get("SCHED_METRICS"):
        Path(metrics).write_text(json.dumps(case["mesh"]), encoding="utf-8")
    print("MESH READY", flush=True)


if __name__ == "__main__":
    main()
