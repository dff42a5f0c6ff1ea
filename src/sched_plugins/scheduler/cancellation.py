"""Cancel jobs. A queued job ends at once; a live one is asked to end, and ends when its command has."""

from __future__ import annotations

from enum import StrEnum

from sched_plugins.core import claim as claiming
from sched_plugins.core import conclude, names
from sched_plugins.core.record import JobRecord
from sched_plugins.core.state import Status
from sched_plugins.errors import JobConflict, JobNotFound, ServiceError
from sched_plugins.ports import ConditionFailed, World

_ROUNDS = 5


class Cancelled(StrEnum):
    """What a request to cancel came to."""

    DONE = "cancelled"
    REQUESTED = "requested"
    ENDED = "ended already"


def cancel(world: World, job_id: str, queue: str = "") -> tuple[Cancelled, JobRecord]:
    """Cancel a job.

    Args:
        world: the ports.
        job_id: the job.
        queue: if given, the only queue whose jobs the caller may cancel.

    Raises:
        JobNotFound: there is no such job.
        JobConflict: it belongs to another queue, or its record kept changing.
    """
    for _ in range(_ROUNDS):
        job = world.tables.job(job_id)
        if job is None:
            raise JobNotFound(f"no job has the id {job_id!r}; `sched list` shows the ids that there are")
        if queue and job.queue != queue:
            raise JobConflict(
                f"job {job_id!r} belongs to queue {job.queue!r}, which this caller may not touch; "
                "name the scheduler instead of the environment"
            )
        if job.is_terminal:
            return Cancelled.ENDED, job
        now = world.clock.now()
        try:
            if job.status is Status.QUEUED:
                ended, write = conclude.cancel_queued(job, now)
                world.tables.write(write)
                return Cancelled.DONE, ended
            asked, write = conclude.request_cancel(job, now)
            world.tables.write(write)
        except ConditionFailed:
            continue
        stop_command(world, asked)
        return Cancelled.REQUESTED, asked
    raise JobConflict(f"the record of job {job_id!r} kept changing; cancel it again")


def stop_command(world: World, job: JobRecord) -> None:
    """Ask Systems Manager to end a live job's command, and let the sweep see that it does."""
    slot = world.tables.slot(names.slot_id(job.worker_id)) if job.worker_id else None
    try:
        if job.command_id:
            world.commands.cancel(job.command_id, job.worker_id)
    except ServiceError:
        pass  # The sweep asks again, until the command is over.
    if slot is not None and slot.holds(job.job_id, job.run_id, job.attempt):
        try:
            world.tables.write(claiming.look_later(slot, world.clock.now()))
        except ConditionFailed:
            pass  # The attempt has ended meanwhile, which is what was wanted.
