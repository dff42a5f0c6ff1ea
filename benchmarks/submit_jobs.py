"""Thousands of jobs from one SubmitJobsOperator: time to submit, AWS calls, memory.

    python benchmarks/submit_jobs.py [--jobs 500 5000]

Starts a laptop stack of its own and deploys the scheduler. For each number of jobs (`true`), a process of its own
executes one `SubmitJobsOperator(wait_for_completion=False)`, and once more as Airflow's retry would, which finds all
of them submitted. Nothing runs: no worker is attached. Calls are counted twice: those of the operator, and all that
the stack has had, its functions' included. Memory is the peak of the process (`ru_maxrss`) above what it had before its
first execution, which is Airflow itself.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sched_plugins import deploy
from sched_plugins.core import names
from sched_plugins.local import lifecycle

if TYPE_CHECKING:
    from sched_plugins.client import SchedulerClient

SCHEDULER = "bench"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, nargs="+", default=[500, 5000])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--execute", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.execute:
        print(json.dumps(execute(options.execute)))
        return 0
    figures = []
    with tempfile.TemporaryDirectory(prefix="sched-bench-") as state:
        stack = lifecycle.up(state_dir=state)
        try:
            os.environ.update(lifecycle.environment(stack), AIRFLOW_HOME=state, AIRFLOW__CORE__LOAD_EXAMPLES="False")
            deploy.deploy_scheduler(SCHEDULER)
            for count in options.jobs:
                command = [sys.executable, __file__, "--execute", str(count)]
                output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
                figures.append({"jobs": count, **json.loads(output.splitlines()[-1])})
        finally:
            lifecycle.down(state_dir=state)
    print_figures(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def execute(count: int) -> dict[str, Any]:
    """Execute the operator twice in this process; what it took."""
    from sched_plugins.airflow.operators.submit_jobs import SubmitJobsOperator
    from sched_plugins.client import SchedulerClient

    ti = SimpleNamespace(dag_id="bench", run_id=str(count), task_id="many", map_index=-1, max_tries=0)
    client = SchedulerClient(SCHEDULER)
    client.list(limit=1)  # botocore has read its files, and the functions are warm
    own = counted_calls()
    stack = lifecycle.require()
    told: dict[str, Any] = {"megabytes_before": megabytes()}
    for name in ("first", "retry"):
        operator = SubmitJobsOperator(
            task_id="many", jobs=[{"commands": [f"true {number}"]} for number in range(count)],
            scheduler=SCHEDULER, wait_for_completion=False,
        )  # fmt: skip
        before = lifecycle.describe(stack)["calls"]
        own.clear()
        began, worked = time.monotonic(), time.process_time()
        operator.execute({"ti": ti})  # type: ignore[typeddict-item]
        seconds, cpu, calls, peak = time.monotonic() - began, time.process_time() - worked, dict(own), megabytes()
        if name == "first":
            queued = until_queued(client, count) - began
            told["seconds_until_queued"] = queued
        after = lifecycle.describe(stack)["calls"]
        told[name] = {
            "seconds": seconds,
            "own_cpu_seconds": cpu,
            "megabytes_peak": peak,
            "own_calls": calls,
            "all_calls": {service: after[service] - before.get(service, 0) for service in sorted(after)},
        }
    return told


def counted_calls() -> Counter[str]:
    """Count the AWS calls of this process from now on."""
    from botocore.client import BaseClient

    counted: Counter[str] = Counter()
    made = BaseClient._make_api_call

    def counting(client: Any, operation: str, parameters: Any) -> Any:
        counted[operation] += 1
        return made(client, operation, parameters)

    BaseClient._make_api_call = counting
    return counted


def until_queued(client: SchedulerClient, count: int) -> float:
    """When the queue held the messages of all jobs; each of an earlier round is still there."""
    sqs = client.connection.client("sqs")
    url = sqs.get_queue_url(QueueName=names.job_queue(SCHEDULER))["QueueUrl"]
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"]
        if int(found["ApproximateNumberOfMessages"]) >= count:
            sqs.purge_queue(QueueUrl=url)
            return time.monotonic()
        time.sleep(0.1)
    raise SystemExit("the jobs did not come into the queue")


def megabytes() -> float:
    """The most memory that this process has had (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_figures(figures: list[dict[str, Any]]) -> None:
    """The table."""
    table = Table(title="Jobs submitted by one SubmitJobsOperator")
    for heading in ("jobs", "execution", "seconds", "jobs/s", "own CPU", "peak memory added", "AWS calls"):
        table.add_column(heading, justify="left" if heading == "AWS calls" else "right")
    for one in figures:
        for name in ("first", "retry"):
            found = one[name]
            calls = ", ".join(f"{count} {operation}" for operation, count in sorted(found["own_calls"].items()))
            table.add_row(
                f"{one['jobs']:,}",
                name,
                f"{found['seconds']:.1f}",
                f"{one['jobs'] / found['seconds']:.0f}",
                f"{found['own_cpu_seconds']:.1f} s",
                f"{found['megabytes_peak'] - one['megabytes_before']:.0f} MiB",
                calls,
            )
    console = Console()
    console.print(table)
    for one in figures:
        calls = ", ".join(f"{count:,} {service}" for service, count in one["first"]["all_calls"].items() if count)
        console.print(
            f"{one['jobs']:,} jobs: all queued after {one['seconds_until_queued']:.1f} s; until then, with what "
            f"the functions called: {calls}"
        )


if __name__ == "__main__":
    sys.exit(main())
