"""What keeps a queued job waiting, told once for each queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sched_plugins.cli.command import Shell

if TYPE_CHECKING:
    from sched_plugins.client import EnvironmentClient, Job, SchedulerClient


class QueueAdvice:
    """Says of queues that nothing takes jobs from them. Each is looked at once."""

    def __init__(self, shell: Shell, client: SchedulerClient | EnvironmentClient) -> None:
        self._shell = shell
        self._client = client
        self._looked_at: set[str] = set()

    def of_job(self, job: Job) -> None:
        """Of the job's queue, if the job waits in it."""
        if job.status == "QUEUED":
            self.of_queue(job.queue)

    def of_queue(self, queue: str) -> None:
        """Of a queue in which jobs wait."""
        if queue not in self._looked_at:
            self._looked_at.add(queue)
            if why := self._client.unserved(queue):
                self._shell.output.say(why, "yellow")
