"""What ``make demo`` shows: the flow of cylinder_flow.py in a terminal, its progress and its results as tables."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

import prefect  # noqa: F401 - first: it sets up its logging, which is changed below
from cylinder_flow import cylinder_flow
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sched_plugins.client import Status
from sched_plugins.errors import SchedulerError

console = Console(soft_wrap=True, highlight=False)
MARGIN = " " * 10


class Progress(logging.Handler):
    """Prints what becomes of the jobs, and what a failed one wrote; not Prefect's own lines and tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line of a task's log."""
        values, stage = record.args, getattr(record, "task_run_name", "")
        if isinstance(values, tuple) and values and isinstance(values[0], Status):
            status, where, again, _job, why = values
            console.print(f"{MARGIN}{stage:<12} {status}{where}{again}{escape(str(why))}")
        elif Path(record.pathname).name == "cylinder_flow.py" or (
            record.levelno >= logging.ERROR and "sched_plugins" in Path(record.pathname).parts
        ):
            console.print(f"{MARGIN}{escape(record.getMessage())}")


def print_report(report: dict[str, Any], folder: Path) -> None:
    """The tables at the end: computed and published values, and the time of each stage."""
    reference, error = report["reference"] or {}, report["relative_error"] or {}
    values = Table(title=f"Flow around a cylinder, Re = {report['reynolds']:g}")
    for heading in ("quantity", "computed", "published", "relative error"):
        values.add_column(heading, justify="left" if heading == "quantity" else "right")
    for key in ("drag_coefficient", "lift_coefficient", "pressure_difference"):
        published = f"{reference[key]:.9f}" if key in reference else "–"
        deviation = f"{100 * abs(error[key]):.6f} %" if key in error else "–"
        values.add_row(key.replace("_", " "), f"{report[key]:.9f}", published, deviation)
    stages = Table(title="Stages")
    for heading in ("stage", "status", "worker", "waited", "ran"):
        stages.add_column(heading, justify="right" if heading in ("waited", "ran") else "left")
    for stage in report["stages"]:
        waited, ran = f"{stage['waited_seconds']:.1f} s", f"{stage['ran_seconds']:.1f} s"
        stages.add_row(stage["name"], stage["status"], stage["worker_id"], waited, ran)
    console.print(values)
    console.print(stages)
    pictures = ", ".join(sorted(path.name for path in folder.glob("*.png")))
    console.print(f"{folder}/results.json; pictures: {pictures}")


def main() -> int:
    """Run the flow; 0 if every stage succeeded."""
    parser = argparse.ArgumentParser(description="Run the cylinder-flow pipeline.")
    parser.add_argument("--mode", choices=["orchestrated", "chained"], default="orchestrated")
    parser.add_argument("--reynolds", type=float, default=20.0)
    parser.add_argument("--results", type=Path, default=Path("demo-results"))
    options = parser.parse_args()
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.CRITICAL)
    logging.getLogger("prefect.task_runs").addHandler(Progress(logging.INFO))
    try:
        report = cylinder_flow(options.reynolds, options.mode, str(options.results))
    except SchedulerError as error:
        console.print(f"[red]{type(error).__name__}[/red]: {escape(str(error))}")
        return 1
    except KeyboardInterrupt:
        console.print(f"{MARGIN}interrupted; its jobs are cancelled")
        return 130
    print_report(report, options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
