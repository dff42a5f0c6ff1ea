"""What the rules sustain by themselves: jobs a second of computing time, with every service a fake in memory.

``python benchmarks/rules.py [--jobs N]`` prints two tables. The first counts whole jobs, from submission to the
told end, through every use case and port; the fakes' own work is included. The second counts single decisions.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from sched_plugins.core import claim, conclude, message, submission, worker
from sched_plugins.core.claim import Round, Start
from sched_plugins.core.job import parse_spec
from sched_plugins.core.judge import Invocation, Succeeded, judge
from sched_plugins.core.message import JobMessage
from sched_plugins.core.record import from_item, to_item
from sched_plugins.core.state import Status
from sched_plugins.core.submission import Submission
from sched_plugins.testing import Behaviour, Simulation
from sched_plugins.testing.clock import BEGINNING

FIELDS = {
    "job_id": "job", "retry": 3, "job_success_string": "done", "ssm_document": "AWS-RunShellScript",
    "commands": ["cd /scratch", "./run.sh"],
}  # fmt: skip


def whole_jobs(jobs: int, workers: int) -> tuple[float, float]:
    """Jobs a second of computing time, and calls through ports a job."""
    simulation = Simulation(maximum=workers)
    simulation.default_behaviour = Behaviour(seconds=1.0, stdout="done")
    batch = [Submission(simulation.spec(f"job-{n}", job_success_string="done"), "run-1", simulation.queue)
             for n in range(jobs)]  # fmt: skip
    began = time.perf_counter()
    for request in batch:
        simulation.submit_spec(request)
    if not simulation.run_until_quiet(hours=1_000):
        raise SystemExit("the simulation did not come to rest")
    seconds = time.perf_counter() - began
    ends = Counter(simulation.job(one.spec.job_id).status for one in batch)
    if ends != {Status.SUCCEEDED: jobs}:
        raise SystemExit(f"not every job succeeded: {dict(ends)}")
    return jobs / seconds, len(simulation.faults.calls) / jobs


def decisions() -> dict[str, Callable[[], object]]:
    """Each kind of decision, ready to be made again and again."""
    spec = parse_spec(FIELDS)
    request = Submission(spec, "run-1", "demo-job-queue")
    queued = submission.new_run(request, None, BEGINNING)
    slot, _ = worker.new_slot("i-0123456789abcdef0", "demo-job-queue", BEGINNING)
    read, round_ = JobMessage(spec, "run-1", 1), Round(slot.slot_id, "token", 1)
    start = claim.decide(read, "message", queued, slot, round_, BEGINNING)
    if not isinstance(start, Start):
        raise SystemExit("the benchmark's job was not claimed")
    live = start.job.changed(status=Status.RUNNING, command_id="command")
    answer = Invocation("command", slot.worker_id, "", "Success", "Success", 0, "all done")
    body, item = message.compose(queued), to_item(live)
    return {
        "read a message": lambda: message.parse(body),
        "decide a submission": lambda: submission.decide(request, None, BEGINNING),
        "decide a claim": lambda: claim.decide(read, "message", queued, slot, round_, BEGINNING),
        "judge an answer": lambda: judge(answer, spec),
        "conclude an attempt": lambda: conclude.conclude(live, start.slot, Succeeded(), BEGINNING, answer),
        "record to item and back": lambda: from_item(to_item(live)),
        "item to record": lambda: from_item(item),
    }


def rate(decide: Callable[[], object], seconds: float = 0.3) -> float:
    """How often a second it can be done."""
    count, began = 0, time.perf_counter()
    while (taken := time.perf_counter() - began) < seconds:
        for _ in range(50):
            decide()
        count += 50
    return count / taken


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--jobs", type=int, default=1_000, help="jobs a run (1,000)")
    options = parser.parse_args()
    console = Console()
    whole = Table("workers", "jobs a second", "calls a job", title=f"{options.jobs:,} jobs on the fakes")
    for workers in (1, 4, 8):
        jobs, calls = whole_jobs(options.jobs, workers)
        whole.add_row(str(workers), f"{jobs:,.0f}", f"{calls:.1f}")
    console.print(whole)
    single = Table("decision", "a second", title="Single decisions")
    for name, decide in decisions().items():
        single.add_row(name, f"{rate(decide):,.0f}")
    console.print(single)


if __name__ == "__main__":
    main()
