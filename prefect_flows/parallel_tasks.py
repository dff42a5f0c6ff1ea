"""Prefect tasks as jobs: the flow stays as it is, and its task runner sends its tasks to the workers.

π by throwing darts, as a stand-in for anything that falls into many like parts. What a task returns, or raises, comes
back to the flow as it is. Eight tasks are bundled into each job here, since each takes less time than a job's start.
"""

from __future__ import annotations

import os
import random

from prefect import flow, task, unmapped
from prefect.artifacts import create_markdown_artifact

from sched_plugins.prefect import SchedulerTaskRunner

ENVIRONMENT = os.environ.get("SCHED_ENVIRONMENT", "solver")
"""Whose workers run the tasks; their Python has Prefect, this package and what the tasks import."""


@task
def throw(seed: int, darts: int) -> int:
    """How many of so many darts hit the quarter circle."""
    thrower = random.Random(seed)  # noqa: S311 - no secret
    return sum(thrower.random() ** 2 + thrower.random() ** 2 < 1 for _ in range(darts))


@task
def add_up(hits: list[int], darts: int) -> float:
    """What the hits say about π."""
    return 4 * sum(hits) / (len(hits) * darts)


@flow(task_runner=SchedulerTaskRunner(environment=ENVIRONMENT, bundle=8))
def parallel_tasks(tasks: int = 32, darts: int = 100_000) -> float:
    """Estimate π with this many tasks, each of which throws this many darts."""
    hits = throw.map(range(tasks), darts=unmapped(darts))
    # It is submitted as soon as the last of them has its result; nothing waits for them here.
    estimate = add_up.submit(hits, darts).result()
    create_markdown_artifact(f"π ≈ **{estimate:.5f}** from {tasks:,} × {darts:,} darts", key="pi")
    return estimate


if __name__ == "__main__":
    print(parallel_tasks())
