"""Running one job as a task: start it once, wait for it, show what it wrote, hand on what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from sched_plugins.airflow.exceptions import (
    ConflictException,
    JobCancelledException,
    JobFailedException,
    named,
    translated,
)
from sched_plugins.airflow.links.scheduler import JOB_LINKS, XCOM_KEY, addresses
from sched_plugins.airflow.operators.submitting import END_SECONDS, UNCERTAIN, SubmittingTask
from sched_plugins.airflow.triggers.base import ERROR
from sched_plugins.airflow.triggers.job import JobTrigger
from sched_plugins.client import output
from sched_plugins.client.identity import Decision, Step, decide, is_ending
from sched_plugins.errors import JobNotFound, SchedulerError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sched_plugins.client import Job, Submitted


class JobRunOperator(SubmittingTask):
    """
    Base of the operators that run one job.

    A subclass says in :meth:`submit` how its job is submitted, and in :meth:`result` what the task returns.

    The job's id and run id come from the task, so that a job is never run twice by mistake: a retry of the task
    attaches to its job while that is live, takes the result if it succeeded meanwhile, and submits it anew only after
    it failed or was cancelled. Clearing the task runs it anew.

    When it has ended, the job's stdout is in the task log, and three XComs tell of it: ``record``, ``metrics`` and
    ``results_uri``.

    :param max_log_characters: How much of the job's output the task log shows.

    See :class:`~sched_plugins.airflow.operators.submitting.SubmittingTask` for the parameters about waiting and
    killing.
    """

    operator_extra_links = tuple(link() for link in JOB_LINKS)
    ui_color = "#e6f2ef"

    def __init__(
        self,
        *,
        max_log_characters: int = output.DEFAULT_MAXIMUM,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_log_characters = max_log_characters
        self._read: Sequence[str] = ()
        self._written: Sequence[str] = ()

    def submit(self, context: Context, job_id: str, run_id: str) -> Submitted:
        """Submit the job; called with the same run id again after a crash."""
        raise NotImplementedError

    def result(self, context: Context, job: Job) -> Any:
        """Tell what the task returns when its job has succeeded."""
        raise NotImplementedError

    def planned_results(self, job_id: str) -> str:
        """Tell where the results of the job will be; empty if it names no folder."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Submit the job unless it was submitted before, and wait for it."""
        with translated():
            [job_id] = self.own_jobs(context)
            decision = self._decide(context, job_id)
            self._claim(context, [job_id])
            run_id = decision.run_id
            if decision.step is Step.TAKE:
                self.log.info("Job %s has succeeded already (run %s)", job_id, run_id)
            elif decision.step is Step.ATTACH:
                self.log.info("Job %s is live: waiting for run %s", job_id, run_id)
            else:
                self._end_earlier(self.identity(context), [job_id])
                with self._submitting():
                    run_id = self._submitted(context, job_id, run_id)
            self._go_on()
            self._tell_links(context, job_id, None)
            if not self.wait_for_completion:
                return job_id
            if decision.step is not Step.TAKE:
                if self.deferrable:
                    self._defer(job_id, run_id)
                return self._finish(context, self._wait(job_id, run_id), told=True)
            return self._finish(context, self.hook.client.get(job_id))

    def execute_complete(self, context: Context, event: Mapping[str, Any] | None = None) -> Any:
        """Go on when the trigger has seen the end of the job."""
        told = event or {}
        if told.get("status") == ERROR:
            raise named(str(told.get("kind")), str(told.get("message")))
        with translated():
            run_id = str(told.get("run_id", ""))
            return self._finish(context, self._ended(str(told["job_id"]), run_id))

    def own_jobs(self, context: Context) -> list[str]:
        """List the one job."""
        return self.ids_of(self.job_id or self.identity(context).job_id, 1)

    def ids_of(self, base: str, number: int) -> list[str]:
        """List the one job."""
        return [base]

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Tell OpenLineage which S3 folders the job read and wrote."""
        from airflow.providers.common.compat.openlineage.facet import Dataset
        from airflow.providers.openlineage.extractors import OperatorLineage

        def datasets(uris: Sequence[str]) -> list[Any]:
            parted = [uri.removeprefix("s3://").partition("/") for uri in uris if uri]
            return [Dataset(namespace=f"s3://{bucket}", name=key.strip("/") or "/") for bucket, _, key in parted]

        return OperatorLineage(inputs=datasets(self._read), outputs=datasets(self._written))

    def _decide(self, context: Context, job_id: str) -> Decision:
        digest, record = self.identity(context).digest, self._record(job_id)
        decision = decide(job_id, digest, record)
        if record is not None and is_ending(decision, record):
            self._await_ends([record])
            record = self._record(job_id)
            decision = decide(job_id, digest, record)
        if decision.step is Step.LOST and record is not None:
            raise ConflictException(
                f"run {decision.run_id!r} of job {job_id!r} is over, and its record now tells of run {record.run_id!r} "
                f"({record.status}); clear the task to run it anew"
            )
        return decision

    def _submitted(self, context: Context, job_id: str, run_id: str) -> str:
        """Submit the job; the id of the run that serves."""
        try:
            submitted = self.submit(context, job_id, run_id)
        except UNCERTAIN as error:
            found = decide(job_id, self.identity(context).digest, self._record(job_id))
            if found.step not in (Step.ATTACH, Step.TAKE):
                raise
            self.log.warning("Job %s is submitted (run %s), though: %s", job_id, found.run_id, error)
            return found.run_id
        self.log.info("Job %s: %s (run %s)", job_id, submitted.outcome, submitted.run_id)
        return submitted.run_id

    def _record(self, job_id: str) -> Job | None:
        try:
            return self.hook.client.get(job_id)
        except JobNotFound:
            return None

    def _defer(self, job_id: str, run_id: str) -> None:
        trigger = JobTrigger(
            job_id=job_id, run_id=run_id, **self.trigger_settings(),
            # With an id of its own choice it may wait for a run that another task has submitted.
            cancel_on_kill=self.cancel_on_kill and run_id.startswith(self._run_prefix),
        )  # fmt: skip
        timeout: timedelta | None = self.execution_timeout
        self.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)

    def _wait(self, job_id: str, run_id: str) -> Job:
        """Wait on the worker, with the output as it comes; the record of the run."""
        from sched_plugins.client import Run

        writer = output.LineWriter(self._say, self.max_log_characters)
        client, read = self.hook.client, True
        try:
            for chunk in client.logs(job_id, follow=True, run_id=run_id, on_change=self._tell_change):
                writer.add(chunk)
                if writer.is_full:
                    break
        except SchedulerError as error:
            self._tell_unreadable(job_id, error)
            read = False
        writer.close()
        job = client.wait(Run(job_id, run_id), patient=True)
        if read or writer.has_written:
            self._tell_cut(job, whole=read and not writer.is_full)
        else:
            self._tell_output(job)
        return job

    def _ended(self, job_id: str, run_id: str) -> Job:
        """The record of a run that has ended: waits no longer than a look."""
        from sched_plugins.client import Run

        return self.hook.client.wait(Run(job_id, run_id), timeout=END_SECONDS, patient=True)

    def _finish(self, context: Context, job: Job, *, told: bool = False) -> Any:
        """Show the output, hand on what came out, and fail if the job did."""
        if not told:
            self._tell_output(job)
        self._tell_stderr(job)
        self._own_jobs = []
        stage = job.spec.stage
        self._read = stage.inputs if stage else ()
        self._written = (self._results_uri(job), *(stage.outputs_too if stage else ()))
        self._tell_links(context, job.job_id, job)
        self._hand_on(context, job)
        self._check(job)
        return self.result(context, job)

    def _hand_on(self, context: Context, job: Job) -> None:
        from sched_plugins.client import plain

        if not self.do_xcom_push:
            return
        ti = context["ti"]
        ti.xcom_push(key="record", value=json.loads(json.dumps(plain(job), default=str)))
        ti.xcom_push(key="metrics", value=dict(job.metrics))
        ti.xcom_push(key="results_uri", value=self._results_uri(job))

    def _results_uri(self, job: Job) -> str:
        return job.spec.results_uri or (job.spec.stage.output if job.spec.stage else "")

    def _check(self, job: Job) -> None:
        from sched_plugins.client import Status

        if job.status is Status.SUCCEEDED:
            return
        kind = JobCancelledException if job.status is Status.CANCELLED else JobFailedException
        where = f" Its output: {job.stdout_uri}" if job.stdout_uri else ""
        raise kind(
            f"job {job.job_id!r} ended {job.status} after {job.attempt} attempt(s): "
            f"{job.status_reason or 'no reason given'}.{where}"
        )

    # What the task log says

    def _say(self, line: str) -> None:
        self.log.info("%s", line)

    def _tell_change(self, job: Job) -> None:
        where = f" on {job.worker_id}" if job.worker_id else ""
        self.log.info("Job %s is %s%s, attempt %s", job.job_id, job.status, where, job.attempt)

    def _tell_output(self, job: Job) -> None:
        self._tell_change(job)
        chunks = self.hook.client.logs(job.job_id)
        try:
            self._tell_cut(job, whole=output.write_lines(chunks, self._say, self.max_log_characters))
        except SchedulerError as error:
            self._tell_unreadable(job.job_id, error)

    def _tell_stderr(self, job: Job) -> None:
        from sched_plugins.client import Status

        if job.status is not Status.FAILED:
            return
        chunks = self.hook.client.logs(job.job_id, stream="stderr")
        try:
            if (first := next(chunks, None)) is not None:
                self._say("--- stderr ---")
                output.write_lines(chain([first], chunks), self._say, output.STDERR_MAXIMUM)
        except SchedulerError as error:
            self._tell_unreadable(job.job_id, error)

    def _tell_unreadable(self, job_id: str, error: SchedulerError) -> None:
        # How the job ended, and not whether its output can be shown, decides about the task.
        self.log.warning("The output of job %s cannot be shown here: %s", job_id, error)

    def _tell_cut(self, job: Job, *, whole: bool) -> None:
        if not whole:
            self.log.info("… the output goes on; the whole of it: %s", job.stdout_uri)

    def _tell_links(self, context: Context, job_id: str, job: Job | None) -> None:
        if not self.do_xcom_push:
            return
        connection = self.hook.client.connection
        local = connection.endpoint_url or ""
        account = ""
        if job is not None and job.worker_id and not local:
            try:
                account = self.hook.account_id
            except Exception as error:  # noqa: BLE001 - a link is not worth a failed task
                self.log.debug("No link to the worker's execution: %s", error)
        found = addresses(
            scheduler=self.hook.client.scheduler, region=connection.region, job=job, job_id=job_id, account=account,
            endpoint_url=local, results_uri=self._results_uri(job) if job else self.planned_results(job_id),
        )  # fmt: skip
        context["ti"].xcom_push(key=XCOM_KEY, value=found)
