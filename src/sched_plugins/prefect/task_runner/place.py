"""Where the payloads and results of a flow run's tasks are. Imported on workers, too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ROOT: Final = "_sched/prefect"
"""Below it in an environment's bucket; no trigger takes it for an upload, and it is deleted after some weeks."""
ENVIRONMENT_METADATA: Final = "sched-environment"


@dataclass(frozen=True, slots=True)
class Place:
    """Where things of one flow run, or of one runner outside flows, are kept."""

    bucket: str
    owner: str
    """The flow run's id."""

    def shared(self, digest: str) -> str:
        """Key of what many calls have in common."""
        return f"{ROOT}/{self.owner}/shared/{digest}"

    def calls(self, name: str) -> str:
        """Key of the calls that were submitted together."""
        return f"{ROOT}/{self.owner}/calls/{name}"

    def results(self, job: str) -> str:
        """What the keys of a job's results begin with."""
        return f"{ROOT}/{self.owner}/results/{job}"


def result_key(results: str, task_run_id: str) -> str:
    """Key of the result of one task run."""
    return f"{results}/{task_run_id}"
