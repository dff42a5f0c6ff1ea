"""Cancel jobs as a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sched_plugins.airflow.exceptions import as_airflow, translated
from sched_plugins.airflow.settings import job_ids_of
from sched_plugins.airflow.task import SchedulerTask
from sched_plugins.errors import JobNotFound

if TYPE_CHECKING:
    from airflow.sdk import Context


class CancelJobOperator(SchedulerTask):
    """
    Cancel one or many jobs. One that is queued ends at once, a running one when its command has ended.

    Returns what became of each: ``cancelled``, ``requested``, ``ended already`` or ``missing``, by job id.

    :param job_ids: The jobs, or one of them (templated).
    :param missing_ok: Take a job that does not exist for cancelled.

    See :class:`~sched_plugins.airflow.task.SchedulerTask` for the parameters about the connection.
    """

    template_fields: Sequence[str] = (*SchedulerTask.template_fields, "job_ids")
    ui_color = "#f6e3de"

    def __init__(
        self,
        *,
        job_ids: str | Sequence[str],
        missing_ok: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_ids = job_ids
        self.missing_ok = missing_ok

    def execute(self, context: Context) -> dict[str, str]:
        """Cancel the jobs; the first that cannot be fails the task, after all were tried."""
        wanted = job_ids_of(self.job_ids)
        with translated():
            answers = self.hook.client.cancel_many(wanted)
        outcomes: dict[str, str] = {}
        for answer in answers:
            missing = isinstance(answer.error, JobNotFound) and self.missing_ok
            outcomes[answer.job_id] = "missing" if missing else answer.outcome
            self.log.info("Cancelling job %s: %s", answer.job_id, answer.error or answer.outcome)
        for answer in answers:
            if answer.error is not None and outcomes[answer.job_id] != "missing":
                raise as_airflow(answer.error) from answer.error
        return outcomes
