#!/usr/bin/env python3
"""Third stage: the steady flow, by the finite element method.

Solves the stationary Navier-Stokes equations  ρ (-ν Δu + (u·∇)u) + ∇p = 0,  div u = 0  with Taylor-Hood
elements on the curved mesh: no slip at the walls and the cylinder, a parabolic inflow, and
ρ ν ∂u/∂n - p n = 0 at the outflow. Newton's method starts from the Stokes flow; unknowns inside elements
are eliminated before each factorization. Units are SI; forces are those on 1 m of the cylinder's length.

The force on the cylinder is the residual of the discrete momentum equation, tested with a velocity that
is one at the cylinder and zero on all other boundaries. This volume formula has twice the order of
convergence of an integral of stresses over the boundary (V. John, G. Matthies: Higher-order finite element
discretizations in a benchmark problem for incompressible flows, 2001).

Reads `case.json`, `mesh.vol` and `mesh.png`. Writes `forces.json`, `fields.npz` (the solution in points
inside every element, for pictures), `mesh_picture.png`, and `case.json` with an entry for the solver;
nothing when the iteration does not converge.
Needs ngsolve and numpy.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

# Before ngsolve, whose OpenBLAS reads it. The factorization's dense blocks are so small that further threads
# only wait for each other: with them it takes half as long again, and twice the processor time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import ngsolve as ng
import numpy as np

TOLERANCE = 1e-11  # of the residual, relative to that of the fluid at rest with the given inflow
MOST_ITERATIONS = 20
PIECES = 8  # that each side of an element is cut into for pictures


class Flow:
    """Steady flow on a mesh: finite element spaces, equations, and the solution once solved."""

    def __init__(self, case: dict[str, Any], mesh: Any) -> None:
        self.mesh = mesh
        velocity = ng.VectorH1(mesh, order=case["order"], dirichlet="wall|inflow|cylinder")
        self.space = velocity * ng.H1(mesh, order=case["order"] - 1)
        (u, p), (v, q) = self.space.TnT()
        density, viscosity = case["density"], case["density"] * case["kinematic_viscosity"]
        stokes = viscosity * ng.InnerProduct(ng.Grad(u), ng.Grad(v)) - ng.div(v) * p - ng.div(u) * q
        convection = density * ng.InnerProduct(ng.Grad(u) * u, v)
        self.stokes = ng.BilinearForm(self.space, condense=True)
        self.stokes += stokes * ng.dx
        self.navier_stokes = ng.BilinearForm(self.space, condense=True)
        self.navier_stokes += (stokes + convection) * ng.dx
        self.solution = ng.GridFunction(self.space)
        self.velocity, self.pressure = self.solution.components
        height = case["channel"]["height"]
        inflow = 4 * case["peak_velocity"] * ng.y * (height - ng.y) / height**2
        self.velocity.Set(ng.CoefficientFunction((inflow, 0)), definedon=mesh.Boundaries("inflow"))
        self.free = np.array(list(self.space.FreeDofs()), dtype=bool)

    def residual(self, form: Any) -> tuple[Any, float]:
        """The residual of `form` at the solution, and its Euclidean norm over the unknowns."""
        vector = self.solution.vec.CreateVector()
        form.Apply(self.solution.vec, vector)
        return vector, float(np.linalg.norm(vector.FV().NumPy()[self.free]))

    def improve(self, form: Any, residual: Any) -> None:
        """One Newton step for `form`."""
        form.AssembleLinearization(self.solution.vec)
        inverse = form.mat.Inverse(self.space.FreeDofs(coupling=True), inverse="umfpack")
        residual.data += form.harmonic_extension_trans * residual
        step = self.solution.vec.CreateVector()
        step.data = inverse * residual
        step.data += form.harmonic_extension * step
        step.data += form.inner_solve * residual
        self.solution.vec.data -= step

    def solve(self) -> dict[str, Any]:
        """Stokes flow, then Newton's method, until the residual is `TOLERANCE` of the first one.

        Ends the program when that does not happen within `MOST_ITERATIONS`, or when it grows beyond reach.
        """
        residual, first = self.residual(self.stokes)
        print(f"at rest          residual {first:.3e}", flush=True)
        self.improve(self.stokes, residual)
        for iteration in range(MOST_ITERATIONS + 1):
            residual, norm = self.residual(self.navier_stokes)
            name = f"Newton step {iteration:2d}" if iteration else "Stokes flow   "
            print(f"{name}   residual {norm:.3e}   relative {norm / first:.3e}", flush=True)
            if norm <= TOLERANCE * first:
                return {"iterations": iteration, "residual": norm / first, "unknowns": int(self.free.sum())}
            if not norm < 1e6 * first:
                break
            if iteration < MOST_ITERATIONS:
                self.improve(self.navier_stokes, residual)
        raise SystemExit(
            f"simulate: no steady flow found: the relative residual is {norm / first:.3e} after {iteration} "
            f"Newton steps, and not {TOLERANCE:g}; use a smaller Reynolds number or a finer mesh"
        )

    def force(self) -> tuple[float, float]:
        """What the fluid does to the cylinder, along x and y, in N for each metre of its length."""
        residual, _ = self.residual(self.navier_stokes)
        test = ng.GridFunction(self.space)
        components = []
        for direction in ((1, 0), (0, 1)):
            test.vec[:] = 0
            value = ng.CoefficientFunction(direction)
            test.components[0].Set(value, definedon=self.mesh.Boundaries("cylinder"))
            components.append(-float(ng.InnerProduct(residual, test.vec)))
        return components[0], components[1]

    def pressure_at(self, name: str) -> float:
        """The pressure at the vertex called `name`, in Pa."""
        vertex = next(point.vertices[0] for point in self.mesh.Elements(ng.BBND) if point.mat == name)
        return float(self.pressure.vec[self.pressure.space.GetDofNrs(vertex)[0]])

    def stream_function(self) -> Any:
        """The function whose contours are the streamlines: u = (∂ψ/∂y, -∂ψ/∂x), zero on the cylinder."""
        space = ng.H1(self.mesh, order=self.velocity.space.globalorder + 1, dirichlet_bbnd="front")
        psi, test = space.TnT()
        laplace = ng.BilinearForm(space, symmetric=True)
        laplace += ng.grad(psi) * ng.grad(test) * ng.dx
        rotated = ng.CoefficientFunction((-self.velocity[1], self.velocity[0]))
        right = ng.LinearForm(space)
        right += rotated * ng.grad(test) * ng.dx
        laplace.Assemble()
        right.Assemble()
        function = ng.GridFunction(space)
        function.vec.data = laplace.mat.Inverse(space.FreeDofs(), inverse="sparsecholesky") * right.vec
        return function

    def sample(self, pieces: int) -> dict[str, Any]:
        """The fields at the corners of small triangles, `pieces`² of them in each element.

        The triangles are mapped as the element is, so that curved sides stay curved.
        """
        lattice = [(i, j) for j in range(pieces + 1) for i in range(pieces + 1 - j)]
        at = {point: k for k, point in enumerate(lattice)}
        cut = [(at[i, j], at[i + 1, j], at[i, j + 1]) for i, j in lattice if i + j < pieces]
        cut += [(at[i, j], at[i, j - 1], at[i - 1, j]) for i, j in lattice if i > 0 and j > 0]
        rule = ng.IntegrationRule([(i / pieces, j / pieces) for i, j in lattice], [0.0] * len(lattice))
        points = self.mesh.MapToAllElements({ng.ET.TRIG: rule}, ng.VOL)
        xy = ng.CoefficientFunction((ng.x, ng.y))(points)
        # Neighbours share the points on their common side, where the fields are continuous.
        _, first, merged = np.unique(xy.round(9), axis=0, return_index=True, return_inverse=True)
        offsets = len(lattice) * np.arange(self.mesh.ne)
        triangles = merged.ravel()[(offsets[:, None, None] + np.array(cut)).reshape(-1, 3)]
        velocity, pressure = self.velocity(points)[first], self.pressure(points)[first, 0]
        stream = self.stream_function()(points)[first, 0]
        names = ("x", "y", "velocity_x", "velocity_y", "pressure", "stream_function")
        columns = (*xy[first].T, *velocity.T, pressure, stream)
        return {name: column.astype(np.float32) for name, column in zip(names, columns, strict=True)} | {
            "triangles": triangles.astype(np.int32)
        }


def main() -> None:
    started = time.monotonic()
    case = json.loads(Path("case.json").read_text(encoding="utf-8"))
    mesh = ng.Mesh("mesh.vol")
    mesh.Curve(case["order"])
    with ng.TaskManager():
        flow = Flow(case, mesh)
        print(f"{mesh.ne} triangles, {flow.space.ndof} unknowns and boundary values", flush=True)
        case["solver"] = flow.solve()
        force_x, force_y = flow.force()
        fields = flow.sample(PIECES)
    forces = {
        "force_x": force_x,
        "force_y": force_y,
        "pressure_front": flow.pressure_at("front"),
        "pressure_rear": flow.pressure_at("rear"),
    }
    np.savez_compressed("fields.npz", **fields)
    # Under a new name, because a file that a stage leaves as it is goes no further.
    shutil.copyfile("mesh.png", "mesh_picture.png")
    case["solver"]["seconds"] = round(time.monotonic() - started, 3)
    for name, value in (("forces.json", forces), ("case.json", case)):
        Path(name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    if metrics := os.environ.get("SCHED_METRICS"):
        Path(metrics).write_text(json.dumps(case["solver"]), encoding="utf-8")
    print(f"force on the cylinder ({force_x:.6e}, {force_y:.6e}) N/m", flush=True)
    print("FLOW CONVERGED", flush=True)


if __name__ == "__main__":
    main()
