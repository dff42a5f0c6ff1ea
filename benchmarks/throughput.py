"""Jobs a second on the laptop stack, the gap between jobs on a worker, and AWS calls a job.

    python benchmarks/throughput.py [--jobs 200] [--workers 1 4 8]

Starts a laptop stack of its own, deploys the scheduler, and for each number of workers submits the jobs (`true`)
before it attaches the workers, so that no worker waits for a submission. Rates are read off the job records: from the
first start to the last end. The gap is from one job's end to the next one's start on the same worker. One more round
runs as many jobs through the rules alone, on the fakes and in virtual time. What the processors were busy with in
each round says what bounds it: the machine, or waiting.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import os
import resource
import statistics
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from sched_plugins import deploy
from sched_plugins.client import SchedulerClient
from sched_plugins.core import names
from sched_plugins.core.record import JobRecord
from sched_plugins.local import lifecycle

SCHEDULER = "bench"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    console = Console()
    figures = []
    with tempfile.TemporaryDirectory(prefix="sched-bench-") as state:
        stack = lifecycle.up(state_dir=state)
        try:
            os.environ.update(lifecycle.environment(stack))
            deploy.deploy_scheduler(SCHEDULER)
            for workers in options.workers:
                figures.append(measure(stack, workers, options.jobs))
                console.print(f"{workers} workers: {figures[-1]['jobs_a_second']:.1f} jobs/s")
        finally:
            lifecycle.down(state_dir=state)
    print_figures(console, figures, rules_alone(max(options.workers), options.jobs))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(stack: lifecycle.StackInfo, workers: int, jobs: int) -> dict[str, Any]:
    """One round: so many workers, so many jobs each a `true`."""
    import boto3

    client = SchedulerClient(SCHEDULER)
    group = f"{workers}-{uuid.uuid4().hex[:6]}"
    specs = [{"job_id": f"bench/{group}/{number}", "commands": ["true"]} for number in range(jobs)]
    began = time.monotonic()
    submitted = client.submit_many(specs)
    submit_seconds = time.monotonic() - began
    before, busy = lifecycle.describe(stack).get("calls", {}), busy_seconds()
    boto3.client("ec2").run_instances(
        ImageId="ami-local",
        InstanceType="c7i.large",
        MinCount=workers,
        MaxCount=workers,
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": SCHEDULER, "Value": names.job_queue(SCHEDULER)}]}
        ],
    )
    began = time.monotonic()
    records = client.wait_all([one.run for one in submitted], timeout=600)
    cores = (busy_seconds() - busy) / (time.monotonic() - began)
    after = lifecycle.describe(stack).get("calls", {})
    return {
        "workers": workers,
        "jobs": jobs,
        "submitted_a_second": jobs / submit_seconds,
        **_rates(list(records)),
        "cores_busy": cores,
        "calls_a_job": {
            name: round((after[name] - before.get(name, 0)) / jobs, 2)
            for name in sorted(after)
            if after[name] != before.get(name, 0)
        },
    }


def busy_seconds() -> float:
    """Seconds for which this machine's processors have worked, all together, for anyone."""
    user, nice, system = (int(ticks) for ticks in Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def rules_alone(workers: int, jobs: int) -> float:
    """Jobs a second of processor time through the rules and the fakes, in one thread."""
    from sched_plugins.testing import Simulation

    simulation = Simulation(maximum=workers)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for number in range(jobs):
        simulation.submit(f"job-{number}")
    if not simulation.run_until_quiet() or simulation.job(f"job-{jobs - 1}").status != "SUCCEEDED":
        raise SystemExit("the jobs did not end on the fakes")
    return jobs / (resource.getrusage(resource.RUSAGE_SELF).ru_utime - began)


def _rates(records: list[JobRecord]) -> dict[str, Any]:
    by_worker: dict[str, list[JobRecord]] = collections.defaultdict(list)
    for record in records:
        by_worker[record.worker_id].append(record)
    gaps = []
    for mine in by_worker.values():
        mine.sort(key=lambda record: record.started_at or record.updated_at)
        for one, following in itertools.pairwise(mine):
            if one.finished_at and following.started_at:
                gaps.append((following.started_at - one.finished_at).total_seconds())
    first = min(record.started_at for record in records if record.started_at)
    last = max(record.finished_at for record in records if record.finished_at)
    return {
        "jobs_a_second": len(records) / (last - first).total_seconds(),
        "gap_median_ms": 1000 * statistics.median(gaps),
        "gap_p95_ms": 1000 * statistics.quantiles(gaps, n=20)[-1],
    }


def print_figures(console: Console, figures: list[dict[str, Any]], rules: float) -> None:
    """The tables."""
    rates = Table(title="Throughput on the laptop stack")
    for heading in ("workers", "jobs", "submitted/s", "jobs/s", "gap, median", "gap, p95", "cores busy"):
        rates.add_column(heading, justify="right")
    for one in figures:
        rates.add_row(
            str(one["workers"]),
            str(one["jobs"]),
            f"{one['submitted_a_second']:.0f}",
            f"{one['jobs_a_second']:.1f}",
            f"{one['gap_median_ms']:.0f} ms",
            f"{one['gap_p95_ms']:.0f} ms",
            f"{one['cores_busy']:.1f} of {os.cpu_count()}",
        )
    console.print(rates)
    console.print(f"The rules alone, on the fakes, in one thread: {rules:.0f} jobs/s")
    calls = Table(title="AWS calls a job (most workers)")
    calls.add_column("call")
    calls.add_column("a job", justify="right")
    for name, count in sorted(figures[-1]["calls_a_job"].items(), key=lambda item: -item[1]):
        calls.add_row(name, f"{count:.2f}")
    console.print(calls)


if __name__ == "__main__":
    sys.exit(main())
