"""Run any job as a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sched_plugins.airflow.operators.job_run import JobRunOperator
from sched_plugins.airflow.settings import fields_of

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sched_plugins.client import Job, Submitted

JOB_FIELDS: Mapping[str, str] = {
    "commands": "commands",
    "success_string": "job_success_string",
    "document": "ssm_document",
    "job_retries": "retry",
    "timeout_seconds": "timeout_seconds",
    "working_directory": "working_directory",
    "env": "environment",
    "parameters": "parameters",
    "results_uri": "results_uri",
    "group_id": "group_id",
    "tags": "tags",
}
"""The operator's parameters, and the fields of the job spec that they are."""


class SubmitJobOperator(JobRunOperator):
    """
    Run a job on a scheduler, once, and return its id.

    :param commands: The lines of the script (templated), or one text.
    :param success_string: Text that stdout must contain; by default the exit code decides alone (templated).
    :param document: The Systems Manager document; by default the shell's (templated).
    :param job_retries: How many more tries the scheduler gives the job after a failure of its own (templated).
        Airflow's ``retries`` count beside them.
    :param timeout_seconds: How long the job may run (templated).
    :param working_directory: An absolute directory on the worker; by default a fresh one (templated).
    :param env: Environment variables of the job (templated).
    :param parameters: Parameters of a document other than the standard ones (templated).
    :param results_uri: Where the results are, for those who look for them (templated).
    :param group_id: A label shared by jobs that belong together (templated).
    :param tags: Free labels (templated).
    :param job_queue: The job queue (its name, ARN or URL) instead of the scheduler's own (templated).
    :param job: Any fields of the job spec, ahead of the parameters above (templated).

    See :class:`~sched_plugins.airflow.operators.job_run.JobRunOperator` for the parameters about waiting and killing,
    and :class:`~sched_plugins.airflow.task.SchedulerTask` for those about the connection.
    """

    template_fields: Sequence[str] = (*JobRunOperator.template_fields, *JOB_FIELDS, "job_queue", "job")
    template_fields_renderers = {"commands": "bash", "env": "json", "parameters": "json", "tags": "json", "job": "json"}

    def __init__(
        self,
        *,
        commands: Sequence[str] | str = (),
        success_string: str | None = None,
        document: str | None = None,
        job_retries: int | str | None = None,
        timeout_seconds: int | str | None = None,
        working_directory: str | None = None,
        env: Mapping[str, str] | None = None,
        parameters: Mapping[str, Sequence[str]] | None = None,
        results_uri: str | None = None,
        group_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        job_queue: str | None = None,
        job: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.commands = commands
        self.success_string = success_string
        self.document = document
        self.job_retries = job_retries
        self.timeout_seconds = timeout_seconds
        self.working_directory = working_directory
        self.env = env
        self.parameters = parameters
        self.results_uri = results_uri
        self.group_id = group_id
        self.tags = tags
        self.job_queue = job_queue
        self.job = job

    def spec(self) -> dict[str, Any]:
        """Get the job's fields, without its id."""
        given = {field: getattr(self, name) for name, field in JOB_FIELDS.items()}
        spec = {field: value for field, value in given.items() if value is not None}
        if isinstance(self.commands, str):
            spec["commands"] = [self.commands]
        return {**spec, **fields_of(self.job or {}, "job")}

    def submit(self, context: Context, job_id: str, run_id: str) -> Submitted:
        """Submit the job."""
        queue = self.job_queue or ""
        submitted = self.hook.client.submit({**self.spec(), "job_id": job_id}, run_id=run_id, queue=queue)
        self._tell_if_unserved(context, queue)
        return submitted

    def planned_results(self, job_id: str) -> str:
        """Get the folder that the job's fields name."""
        return str(self.spec().get("results_uri") or "")

    def result(self, context: Context, job: Job) -> str:
        """Return the job's id."""
        return job.job_id
