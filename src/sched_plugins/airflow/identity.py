"""Who the job of a task is, and what an execution of the task has to do with it. Knows nothing of Airflow.

A task may execute several times: Airflow retries it, a worker dies, somebody clears it. Its job must run once,
unless it failed or was cleared. Two names see to that::

    job id   <prefix>/<dag>/<run>/<task>[/<map index>][/clear-<n>]     who the job is
    run id   <digest of that identity>-<number>                          which try of Airflow's it serves

All executions between two clears find the same job id, and so each other's job;
:func:`sched_plugins.client.identity.decide` says what each has to do.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from sched_plugins.client.identity import digest, escaped, fitted
from sched_plugins.core import limits

DEFAULT_PREFIX: Final = "airflow"
_EARLIER: Final = 100
"""Jobs that one BatchGetItem reads."""


@dataclass(frozen=True, slots=True)
class TaskIdentity:
    """A task instance between two clears."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1
    """Of a mapped task; -1 if it is not mapped."""
    generation: int = 0
    """``max_tries - task.retries`` of Airflow 3.3: constant over retries, raised by each clear."""
    prefix: str = DEFAULT_PREFIX
    """Tells several Airflow installations apart that share a scheduler."""

    @property
    def job_id(self) -> str:
        """The job's id, at most 1,200 bytes. Different identities have different ids, whatever characters they use."""
        parts = [self.prefix, self.dag_id, self.run_id, self.task_id]
        if self.map_index >= 0:
            parts.append(f"{self.map_index}")
        if self.generation > 0:
            parts.append(f"clear-{self.generation}")
        # A mapped and an unmapped task cannot be taken for each other: an index is digits alone, a clear is not.
        return fitted("/".join(escaped(part) for part in parts), limits.MAX_JOB_ID_BYTES)

    @property
    def earlier(self) -> list[TaskIdentity]:
        """The same task before it was cleared, as often as it may have been; the last hundred times at most."""
        return [replace(self, generation=n) for n in range(max(0, self.generation - _EARLIER), self.generation)]

    def run(self, number: int) -> str:
        """The run id of the job's ``number``-th submission."""
        return f"{self.run_prefix}{number}"

    @property
    def run_prefix(self) -> str:
        """What the run ids of this identity, and no others, begin with."""
        return f"{self.digest}-"

    @property
    def digest(self) -> str:
        """Who this is, in 96 bits."""
        return digest(self.prefix, self.dag_id, self.run_id, self.task_id, str(self.map_index), str(self.generation))
