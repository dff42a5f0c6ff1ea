"""``sched workers``, ``queues`` and ``attach``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sched_plugins.cli.advice import QueueAdvice
from sched_plugins.cli.command import EnvironmentName, SchedulerName, Shell, command
from sched_plugins.cli.output import duration


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "workers")(workers)
    command(app, "queues")(queues)
    command(app, "attach")(attach)


def workers(
    shell: Shell,
    scheduler: SchedulerName = None,
    environment: EnvironmentName = None,
    queue: Annotated[str, typer.Option(metavar="NAME", help="Only of this queue.")] = "",
) -> None:
    """List workers and what they are doing."""
    from sched_plugins.client import Status

    client = shell.jobs(scheduler, environment)
    found = client.workers(queue)
    shell.output.document([asdict(worker) for worker in found])
    rows = [
        (
            one.worker_id, f"{one.state} ({one.draining})" if one.draining else one.state, one.queue, one.job_id,
            duration(one.held_since, None), one.instance_type, "spot" if one.spot else "", one.launched_at,
        )
        for one in found
    ]  # fmt: skip
    columns = ("WORKER", "STATE", "QUEUE", "JOB", "FOR", "TYPE", "SPOT", "LAUNCHED")
    shell.output.table(columns, rows, empty="no workers")
    if not found:
        advice = QueueAdvice(shell, client)
        for job in client.list(statuses={Status.QUEUED}, queue=queue, limit=1):
            advice.of_job(job)


def queues(shell: Shell, scheduler: SchedulerName = None, environment: EnvironmentName = None) -> None:
    """List the queues of a scheduler and its environments, or an environment's; SQS's counts are approximate."""
    client = shell.jobs(scheduler, environment)
    found = client.queues()
    shell.output.document([asdict(queue) for queue in found])
    rows = [
        (one.name, one.owner, one.waiting, one.workers_busy, one.workers_free, one.finished, one.failed)
        for one in found
    ]
    shell.output.table(("QUEUE", "OF", "WAITING", "BUSY", "FREE", "FINISHED", "FAILED"), rows)
    advice = QueueAdvice(shell, client)
    for one in found:
        if one.waiting and not one.workers_busy + one.workers_free:
            advice.of_queue(one.name)


def attach(
    shell: Shell,
    instance: Annotated[str, typer.Argument(metavar="INSTANCE", help="An EC2 instance (i-…).", show_default=False)],
    scheduler: SchedulerName = None,
    queue: Annotated[str, typer.Option(metavar="NAME", help="Job queue; by default the scheduler's own.")] = "",
) -> None:
    """Make an instance a worker, whatever launched it. It ends itself when its queue is empty."""
    client = shell.scheduler(scheduler)
    slot = client.attach(instance, queue)
    shell.output.document({"worker_id": instance, "slot_id": slot})
    shell.output.line(f"{instance} takes jobs from {queue or client.name + '-job-queue'} (slot {slot})")
