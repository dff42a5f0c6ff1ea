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

    def results(self, run_id: str) -> str:
        """What the keys of a job run's results begin with: a later run never reads what an earlier one has left."""
        return f"{ROOT}/{self.owner}/results/{run_id}"


def result_key(results: str, number: int) -> str:
    """Key of the result of the call with that number.

    Not the task run's id: a try that goes on with the job of another has task runs of its own.
    """
    return f"{results}/{number}"
