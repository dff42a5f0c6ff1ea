"""Total time and overhead of mapped tasks that run as jobs, beside threads and, where it is installed, Dask.

    python benchmarks/task_runner.py [--tasks 200] [--workers 8] [--bundles 25 1] [--seconds 0] [--json FILE]

Starts a real Prefect server and a laptop stack with one environment of so many workers, which starts them, from none,
when the tasks are submitted. Each task returns the square of its number, after sleeping for `--seconds`, and each
result is compared. The overhead of a task is the total time less what the workers would need for the sleeping alone,
divided by the tasks. On a laptop all workers share its cores, which the start of each job keeps busy; on AWS each
worker has its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

from rich.console import Console
from rich.table import Table

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "stack")]

HOME = tempfile.TemporaryDirectory(prefix="sched-bench-")
os.environ.update(
    PREFECT_HOME=HOME.name,
    PREFECT_SERVER_ANALYTICS_ENABLED="false",
    DO_NOT_TRACK="1",
    PREFECT_LOGGING_LEVEL="WARNING",
    PREFECT_SERVER_DATABASE_TIMEOUT="120",
    PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT="120",
    PREFECT_API_REQUEST_TIMEOUT="300",
)
os.environ.pop("PREFECT_API_URL", None)

from deployed import SCHEDULER, deployed  # noqa: E402
from fleet_client import eventually  # noqa: E402
from prefect import flow, task, unmapped  # noqa: E402
from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402

from sched_plugins.prefect import SchedulerTaskRunner, ServerlessScheduler  # noqa: E402

ENVIRONMENT = "bench-box"


@task
def square(number: int, seconds: float) -> int:
    """What is run."""
    time.sleep(seconds)
    return number * number


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--bundles", type=int, nargs="+", default=[25, 1], help="tasks in a job")
    parser.add_argument("--seconds", type=float, default=0.0, help="for which each task sleeps")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    figures: list[dict[str, Any]] = []
    with server() as url, temporary_settings({PREFECT_API_URL: url}):
        os.environ["PREFECT_API_URL"] = url
        threads = f"ThreadPoolTaskRunner, {options.workers} threads"
        figures.append(measure(threads, options, lambda: ThreadPoolTaskRunner(max_workers=options.workers)))
        if importlib.util.find_spec("prefect_dask"):
            figures.append(measure(f"DaskTaskRunner, {options.workers} processes", options, lambda: dask(options)))
        with deployed(Path(HOME.name) / "stack", {ENVIRONMENT: {"MaxWorkers": options.workers}}):
            here = ServerlessScheduler(scheduler=SCHEDULER, environment=ENVIRONMENT)
            for bundle in options.bundles:
                name = f"SchedulerTaskRunner, {options.workers} workers, bundle={bundle}"
                figures.append(measure(name, options, lambda bundle=bundle: SchedulerTaskRunner(here, bundle=bundle)))
    print_figures(figures, options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


@contextmanager
def server() -> Iterator[str]:
    """A Prefect server of its own; the address of its API."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (Path(HOME.name) / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        eventually(lambda: is_healthy(port), 120)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        process.wait(30)


def is_healthy(port: int) -> bool:
    """Whether the server answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
            return True
    except (URLError, OSError):
        return False


def dask(options: argparse.Namespace) -> Any:
    """Dask's runner with as many processes."""
    from prefect_dask import DaskTaskRunner

    return DaskTaskRunner(cluster_kwargs={"n_workers": options.workers, "threads_per_worker": 1})


def measure(name: str, options: argparse.Namespace, make: Callable[[], Any]) -> dict[str, Any]:
    """Run the map once with a runner."""
    took: dict[str, float] = {}

    @flow(name=name, task_runner=make())
    def mapped() -> list[int]:
        began = time.perf_counter()
        futures = square.map(range(options.tasks), seconds=unmapped(options.seconds))
        took["map returned after"] = time.perf_counter() - began
        found: list[int] = futures.result()
        took["total"] = time.perf_counter() - began
        return found

    cpu = resource.getrusage(resource.RUSAGE_SELF)
    results = mapped()
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert results == [number * number for number in range(options.tasks)], "results are exact"
    least = options.seconds * options.tasks / options.workers
    return {
        "runner": name,
        "tasks": options.tasks,
        "total": took["total"],
        "overhead": (took["total"] - least) / options.tasks,
        "map": took["map returned after"],
        "cpu": after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime,
    }


def print_figures(figures: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """A table."""
    table = Table(title=f"{options.tasks} mapped tasks of {options.seconds:g} s")
    for column in ("runner", "total, s", "overhead a task, s", "map returned after, s", "CPU of the flow's process, s"):
        table.add_column(column, justify="left" if column == "runner" else "right")
    for one in figures:
        table.add_row(
            one["runner"], f"{one['total']:.1f}", f"{one['overhead']:.3f}", f"{one['map']:.3f}", f"{one['cpu']:.1f}"
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    sys.exit(main())
