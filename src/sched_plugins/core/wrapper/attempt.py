"""Which attempt a command is."""

from __future__ import annotations

from dataclasses import dataclass

from sched_plugins.core import names


@dataclass(frozen=True, slots=True)
class AttemptContext:
    """What the wrapper must know besides the job spec."""

    job_id: str
    run_id: str
    attempt: int
    """Counts every try of the run, from 1."""
    queue: str
    start_by: int
    """Epoch seconds after which the commands must not start any more."""

    @property
    def key(self) -> str:
        """64 hexadecimal digits: the attempt's marker, and the mark in the environment of its processes."""
        return names.comment(self.job_id, self.run_id, self.attempt).rpartition(" ")[2]
