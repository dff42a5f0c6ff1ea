"""Submit jobs to a scheduler, watch them, fetch what they made, cancel them.

::

    from sched_plugins.client import SchedulerClient

    client = SchedulerClient("sim")
    submitted = client.submit({"commands": ["echo Hello"], "job_success_string": "Hello"})
    job = client.wait(submitted)

:class:`EnvironmentClient` does the same for an environment's jobs, and uploads job folders. Everything that is
raised is a :class:`~sched_plugins.errors.SchedulerError`.
"""

from __future__ import annotations

from sched_plugins.client.connection import Connection
from sched_plugins.client.environment import EnvironmentClient
from sched_plugins.client.fleet import Queue, Worker
from sched_plugins.client.jobs import Job, Waitable, plain
from sched_plugins.client.logs import LogChunk
from sched_plugins.client.results import Fetched
from sched_plugins.client.run import Run, Standing
from sched_plugins.client.scheduler import SchedulerClient
from sched_plugins.client.submission import Cancellation, Submitted
from sched_plugins.client.transfer import Progress
from sched_plugins.client.uploads import Uploaded
from sched_plugins.client.watch import Ended, Watch
from sched_plugins.core.job import JobSpec
from sched_plugins.core.state import Status
from sched_plugins.core.submission import Outcome

__all__ = [
    "Cancellation",
    "Connection",
    "Ended",
    "EnvironmentClient",
    "Fetched",
    "Job",
    "JobSpec",
    "LogChunk",
    "Outcome",
    "Progress",
    "Queue",
    "Run",
    "SchedulerClient",
    "Standing",
    "Status",
    "Submitted",
    "Uploaded",
    "Waitable",
    "Watch",
    "Worker",
    "plain",
]
