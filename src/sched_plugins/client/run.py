"""What one waits for: a run of a job; and where a record says that this run stands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sched_plugins.core.record import JobRecord


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a job, to wait for.

    With neither ``run_id`` nor ``after`` it is whichever run the record shows.
    """

    job_id: str
    run_id: str = ""
    """That very run: a later run of the same job is not taken for it."""
    after: str = ""
    """Any run but this one: for whoever cannot know the run id beforehand, as after an upload."""
    may_come: bool = False
    """The job, or the run, need not exist yet (an upload is on its way, a message is still in the queue)."""


class Standing(StrEnum):
    """Where a run stands."""

    MISSING = "missing"
    """There is no such job, or its record knows no such run."""
    WAITING = "waiting"
    """It has not ended."""
    ENDED = "ended"
    """It has ended, and the record tells how."""
    SUPERSEDED = "superseded"
    """It has ended and a later run has taken its place in the record, which no longer tells how it ended."""


def standing(run: Run, record: JobRecord | None) -> Standing:
    """Where a run stands, as the record of its job tells.

    ``run_ids`` lists earlier runs before the current one, and after it those that the current run serves as well
    (submissions of the same spec while it was live).
    """
    if record is None:
        return Standing.MISSING
    if run.after and record.run_id == run.after:
        return Standing.WAITING
    if run.run_id and run.run_id != record.run_id:
        if record.next_run is not None and record.next_run.run_id == run.run_id:
            return Standing.WAITING
        if run.run_id not in record.run_ids:
            return Standing.MISSING
        later = record.run_ids[record.run_ids.index(run.run_id) :]
        if record.run_id in later:
            return Standing.SUPERSEDED
    return Standing.ENDED if record.is_terminal else Standing.WAITING
