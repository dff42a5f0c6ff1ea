"""Wait for jobs, whoever submitted them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import PokeReturnValue

from sched_plugins.airflow.exceptions import InvalidRequestException, JobFailedException, NotFoundException
from sched_plugins.airflow.sensors.base import SchedulerSensor
from sched_plugins.airflow.settings import job_ids_of
from sched_plugins.airflow.triggers.job import JobsTrigger
from sched_plugins.core.state import TERMINAL

if TYPE_CHECKING:
    from airflow.sdk import Context


class JobSensor(SchedulerSensor):
    """
    Wait until one or many jobs have ended, and return their statuses by job id.

    :param job_ids: The jobs, or one of them (templated).
    :param must_exist: Fail if one does not exist; otherwise it is waited for until it does.
    :param allowed_statuses: With which statuses a job may end (templated).

    See :class:`~sched_plugins.airflow.sensors.base.SchedulerSensor` for the other parameters.
    """

    template_fields: Sequence[str] = (*SchedulerSensor.template_fields, "job_ids", "allowed_statuses")

    def __init__(
        self,
        *,
        job_ids: str | Sequence[str],
        must_exist: bool = False,
        allowed_statuses: Sequence[str] = ("SUCCEEDED",),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_ids = job_ids
        self.must_exist = must_exist
        self.allowed_statuses = allowed_statuses

    @property
    def wanted(self) -> list[str]:
        """The jobs' ids."""
        return job_ids_of(self.job_ids)

    def look(self, context: Context) -> PokeReturnValue:
        """Read the jobs' records. One BatchGetItem for 100 jobs."""
        wanted = self.wanted
        ends = sorted(TERMINAL)
        if unknown := [status for status in self.allowed_statuses if status not in ends]:
            raise InvalidRequestException(
                f"allowed_statuses: {unknown[0]!r} is no status of an ended job; they are {', '.join(ends)}"
            )
        found = self.hook.client.get_many(wanted)
        if self.must_exist and (missing := [job_id for job_id in wanted if job_id not in found]):
            raise NotFoundException(f"no job has the id {missing[0]!r}; `sched list` shows the ids that there are")
        for job in found.values():
            if job.is_terminal and job.status not in self.allowed_statuses:
                raise JobFailedException(
                    f"job {job.job_id!r} ended {job.status}: {job.status_reason or 'no reason given'}. "
                    f"Allowed are {', '.join(self.allowed_statuses)}."
                )
        done = len(found) == len(set(wanted)) and all(job.is_terminal for job in found.values())
        return PokeReturnValue(done, {job_id: str(job.status) for job_id, job in found.items()} if done else None)

    def trigger(self) -> JobsTrigger:
        """Make the trigger: killing the sensor cancels no job."""
        return JobsTrigger(
            job_ids=self.wanted, may_come=not self.must_exist, cancel_on_kill=False, **self.trigger_settings()
        )
