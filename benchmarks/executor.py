"""What Airflow's scheduling loop spends in the executor, and the AWS calls it takes, with few and with many tasks.

    python benchmarks/executor.py [--tasks 10 100] [--workers 4] [--hold 10]

Starts a real Airflow (API server, DAG processor, scheduler) and a laptop stack. For each number of mapped tasks it
queues them all, leaves them without a worker for a while, and then starts the workers. The time is that of each
`executor.heartbeat()`, which is what the metric `scheduler.executor_heartbeat_duration` tells. Tasks are stood in for
by a program that speaks with the real execution API, because importing Airflow would keep both cores busy.
"""

from __future__ import annotations

import argparse
import collections
import json
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sched_plugins.core import names

TESTS = Path(__file__).parents[1] / "tests" / "airflow"
sys.path.insert(0, str(TESTS))

from executor_stack import SCHEDULER, SOURCE, Airflow, airflow_on_jobs, eventually  # noqa: E402

PATIENCE = 900.0
POLL_SECONDS = 1.0  # the default
# Airflow loads it in its scheduler's process.
TIMED_EXECUTOR = """
import collections, json, os, threading, time
from botocore.client import BaseClient
from sched_plugins.airflow.executors.scheduler_executor import SchedulerExecutor

CALLS, LOCK, call = collections.Counter(), threading.Lock(), BaseClient._make_api_call

def counted(self, operation, params):
    with LOCK:
        CALLS[operation] += 1
    return call(self, operation, params)

BaseClient._make_api_call = counted

class TimedExecutor(SchedulerExecutor):
    def heartbeat(self):
        began = time.perf_counter()
        super().heartbeat()
        seconds = time.perf_counter() - began
        with LOCK:
            calls = dict(CALLS)
            CALLS.clear()
        line = {"at": time.time(), "seconds": seconds, "tasks": len(self.running), "calls": calls}
        with open(os.environ["BENCHMARK_RECORD"], "a") as file:
            print(json.dumps(line), file=file)
"""
DAGS = """
from airflow.sdk import dag, task

for count in {counts}:
    @dag(dag_id=f"mapped_{{count}}", schedule=None)
    def made():
        @task(executor_config={{"environment": {environment}}})
        def one(number):
            pass

        one.expand(number=list(range(count)))
    made()
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--hold", type=float, default=10.0, help="seconds for which the tasks wait without a worker")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that Airflow and the stack are ended
    figures = []
    with tempfile.TemporaryDirectory(prefix="sched-bench-") as folder:
        home = Path(folder)
        modules = home / "modules"
        modules.mkdir()
        (modules / "timed_executor.py").write_text(TIMED_EXECUTOR)
        standin = {"PYTHONPATH": f"{TESTS / 'standin'}:{SOURCE}", "STANDIN_RECORD": str(home / "ran")}
        settings = {
            "PYTHONPATH": f"{modules}:{SOURCE}",
            "BENCHMARK_RECORD": str(home / "loops"),
            "AIRFLOW__CORE__EXECUTOR": "timed_executor.TimedExecutor",
            "AIRFLOW__SCHED_EXECUTOR__POLL_INTERVAL": str(POLL_SECONDS),
            "AIRFLOW__CORE__PARALLELISM": str(max(options.tasks) + 16),
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": str(max(options.tasks)),
            "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": str(max(options.tasks)),
        }
        dags = {"dags.py": DAGS.format(counts=options.tasks, environment=standin)}
        with airflow_on_jobs(home, dags, settings=settings) as airflow, airflow.scheduling():
            for count in options.tasks:
                figures += measure(airflow, home, count, options.workers, options.hold)
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(airflow: Airflow, home: Path, count: int, workers: int, hold: float) -> list[dict[str, Any]]:
    """One run of a DAG: figures of its submission, of the wait, and of the run itself."""
    dag_id, began = f"mapped_{count}", time.time()
    before = len(lines(home / "ran"))
    known = jobs(airflow)
    run = airflow.trigger(dag_id)
    eventually(lambda: jobs(airflow) >= known + count, PATIENCE)
    submitted = time.time()
    time.sleep(hold)
    held = time.time()
    started = [airflow.stack.worker() for _ in range(workers)]
    eventually(lambda: airflow.state(dag_id, run) in ("success", "failed"), PATIENCE)
    ended = time.time()
    assert airflow.state(dag_id, run) == "success", airflow.log("scheduler")[-3000:]
    assert len(lines(home / "ran")) - before == count
    for worker in started:
        airflow.stack.gone(worker)  # or it would run the next tasks before they have waited
    loops = lines(home / "loops")
    spans = {"submitted": (began, submitted), "all waiting": (submitted, held), "running": (held, ended)}
    return [
        {"tasks": count, "phase": phase, **figures_of([one for one in loops if first <= one["at"] < last])}
        for phase, (first, last) in spans.items()
    ]


def jobs(airflow: Airflow) -> int:
    """How many jobs there have been."""
    count: int = airflow.stack.dynamodb.scan(TableName=names.job_table(SCHEDULER), Select="COUNT")["Count"]
    return count


def lines(path: Path) -> list[dict[str, Any]]:
    """What was recorded so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def figures_of(loops: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of some loops; times in milliseconds."""
    times = sorted(1000 * one["seconds"] for one in loops)
    calls: collections.Counter[str] = collections.Counter()
    for one in loops:
        calls.update(one["calls"])
    return {
        "loops": len(loops),
        "median_ms": statistics.median(times),
        "p95_ms": times[int(0.95 * (len(times) - 1))],
        "longest_ms": times[-1],
        "calls_a_loop": sum(calls.values()) / len(loops),
        "calls": dict(calls.most_common()),
    }


def print_figures(figures: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table("tasks", "phase", "loops", "median ms", "p95 ms", "longest ms", "calls a loop", "calls")
    for one in figures:
        numbers = [f"{one[name]:.2f}" for name in ("median_ms", "p95_ms", "longest_ms", "calls_a_loop")]
        calls = ", ".join(f"{count} {name}" for name, count in one["calls"].items())
        table.add_row(str(one["tasks"]), one["phase"], str(one["loops"]), *numbers, calls)
    Console(width=200).print(table)


if __name__ == "__main__":
    sys.exit(main())
