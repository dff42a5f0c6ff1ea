"""Run thousands of jobs as one task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sched_plugins.airflow.exceptions import InvalidRequestException, JobFailedException, as_airflow, named, translated
from sched_plugins.airflow.identity import TaskIdentity
from sched_plugins.airflow.operators.submitting import UNCERTAIN, SubmittingTask
from sched_plugins.airflow.ranges import compact
from sched_plugins.airflow.settings import AS_OBJECT, fields_of
from sched_plugins.airflow.triggers.base import ERROR
from sched_plugins.airflow.triggers.job import JobsTrigger, numbered_job
from sched_plugins.client.identity import Step, decide, is_ending

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sched_plugins.client import Job, Submitted

NOT_SUBMITTED = "NOT SUBMITTED"
FAILURES_KEPT = 1_000
"""Failures that the XCom lists."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that did not succeed."""

    job_id: str
    status: str
    reason: str
    stdout_uri: str = ""


class SubmitJobsOperator(SubmittingTask):
    """
    Run many jobs, in batches, and wait for all of them together: one wait, however many jobs.

    The jobs are numbered: ``<the task's job id>/000000`` and so on, and share a ``group_id``. A retry of the task
    waits for those that are live and submits only those again that failed or were cancelled; a clear runs all of them
    anew.

    Returns ``{"jobs", "succeeded", "failed", "cancelled", …}``, the numbers of jobs, which the XCom ``summary`` tells
    also when the task fails; the XCom ``failures`` lists up to 1,000 of those that did not succeed. Without
    ``wait_for_completion`` it returns the list of the jobs' ids.

    :param jobs: The jobs: for each the fields of its spec that differ (templated).
    :param common: Fields of every job's spec (templated).
    :param job_queue: The job queue, instead of the scheduler's own (templated).
    :param allowed_failures: How many jobs may end otherwise than SUCCEEDED before the task fails
        (templated).
    :param failures_shown: How many of them the task log and the error show.

    See :class:`~sched_plugins.airflow.operators.submitting.SubmittingTask` for the parameters about the jobs' ids,
    waiting and killing, and :class:`~sched_plugins.airflow.task.SchedulerTask` for those about the connection.
    """

    template_fields: Sequence[str] = (
        *SubmittingTask.template_fields,
        "jobs",
        "common",
        "job_queue",
        "allowed_failures",
    )
    template_fields_renderers = {"jobs": "json", "common": "json"}
    ui_color = "#e6f2ef"

    def __init__(
        self,
        *,
        jobs: Sequence[Mapping[str, Any]],
        common: Mapping[str, Any] | None = None,
        job_queue: str | None = None,
        allowed_failures: int | str = 0,
        failures_shown: int = 20,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.jobs = jobs
        self.common = common
        self.job_queue = job_queue
        self.allowed_failures = allowed_failures
        self.failures_shown = failures_shown

    def execute(self, context: Context) -> dict[str, int] | list[str]:
        """Submit those that have not succeeded, and wait for all that are live."""
        identity, ids = self.identity(context), self.own_jobs(context)
        self._allowed()
        with translated():
            self._end_earlier(identity, ids)
            waiting = self._submit(context, identity, ids)
            if not self.wait_for_completion:
                return ids
            if waiting and self.deferrable:
                numbers = {run_id: compact(found) for run_id, found in waiting.items()}
                trigger = JobsTrigger(
                    base=self._base(identity), numbers=numbers, own_prefix=identity.run_prefix,
                    cancel_on_kill=self.cancel_on_kill, **self.trigger_settings(),
                )  # fmt: skip
                # Told on, since they would come out otherwise if somebody edits the DAG meanwhile.
                those = {"base": self._base(identity), "number": len(ids), "digest": identity.digest}
                timeout = self.execution_timeout
                self.defer(trigger=trigger, method_name="execute_complete", kwargs=those, timeout=timeout)
            self._wait(ids, waiting)
            return self._finish(context, ids, identity.digest)

    def execute_complete(
        self, context: Context, event: Mapping[str, Any] | None = None, base: str = "", number: int = 0,
        digest: str = "",
    ) -> dict[str, int]:  # fmt: skip
        """Go on when the trigger has seen the last end."""
        told = event or {}
        if told.get("status") == ERROR:
            raise named(str(told.get("kind")), str(told.get("message")))
        with translated():
            return self._finish(context, self.ids_of(base, number), digest)

    def own_jobs(self, context: Context) -> list[str]:
        """List the ids of the jobs."""
        if isinstance(self.jobs, str) or not isinstance(self.jobs, Sequence):
            raise InvalidRequestException(f"jobs is {str(self.jobs)[:80]!r}, not a list of jobs; {AS_OBJECT}")
        if not self.jobs:
            raise InvalidRequestException("jobs is empty; give at least one job")
        return self.ids_of(self._base(self.identity(context)), len(self.jobs))

    def ids_of(self, base: str, number: int) -> list[str]:
        """List the ids of numbered jobs."""
        return [numbered_job(base, one) for one in range(number)]

    def _base(self, identity: TaskIdentity) -> str:
        return self.job_id or identity.job_id

    def _allowed(self) -> int:
        try:
            return int(self.allowed_failures)
        except (TypeError, ValueError):
            raise InvalidRequestException(f"allowed_failures is {self.allowed_failures!r}, not a number") from None

    def _known(self, identity: TaskIdentity, ids: list[str]) -> dict[str, Job]:
        """The jobs' records; those that are being cancelled are waited for."""
        known = self.hook.client.get_many(ids)
        ending = [job for job_id, job in known.items() if is_ending(decide(job_id, identity.digest, job), job)]
        self._await_ends(ending)
        return known | (self.hook.client.get_many([job.job_id for job in ending]) if ending else {})

    def _submit(self, context: Context, identity: TaskIdentity, ids: list[str]) -> dict[str, list[int]]:
        """Submit what has to be; the numbers of all jobs that are to be waited for, by their run ids."""
        known, common = self._known(identity, ids), fields_of(self.common or {}, "common")
        waiting: dict[str, list[int]] = {}
        numbers, specs, run_ids = [], [], []
        for number, job_id in enumerate(ids):
            decision = decide(job_id, identity.digest, known.get(job_id))
            if decision.step is Step.ATTACH:
                waiting.setdefault(decision.run_id, []).append(number)
            elif decision.step is Step.SUBMIT:
                group = {"group_id": f"airflow-{identity.digest}"}
                own = fields_of(self.jobs[number], f"jobs[{number}]")
                specs.append({**group, **common, **own, "job_id": job_id})
                run_ids.append(decision.run_id)
                numbers.append(number)
        queue = self.job_queue or ""
        self._claim(context, ids)
        with self._submitting():
            answers = self.hook.client.submit_many(specs, run_ids=run_ids, queue=queue, known=known)
            answers = self._found(identity, answers)
            if answers:
                self._tell_if_unserved(context, queue)
        refused = [answer for answer in answers if answer.error is not None]
        if len(refused) == len(ids):  # otherwise some are live, or have succeeded: the failures are counted at the end
            error = refused[0].error
            assert error is not None
            raise as_airflow(error) from error
        for answer in refused[: self.failures_shown]:
            self.log.error("Job %s was refused: %s", answer.job_id, answer.error)
        if len(refused) > self._allowed() and not self.wait_for_completion:
            raise JobFailedException(
                f"{len(refused)} of {len(ids)} jobs were refused ({self.allowed_failures} are allowed): job "
                f"{refused[0].job_id!r}: {refused[0].error}. A retry submits only these again."
            )
        for number, answer in zip(numbers, answers, strict=True):
            if answer.error is None:
                waiting.setdefault(answer.run_id, []).append(number)
        self.log.info(
            "%s jobs: %s submitted, %s live already, %s succeeded already, %s refused",
            len(ids), len(answers) - len(refused), sum(map(len, waiting.values())) - len(answers) + len(refused),
            len(ids) - len(answers) - sum(map(len, waiting.values())) + len(answers) - len(refused), len(refused),
        )  # fmt: skip
        return waiting

    def _found(self, identity: TaskIdentity, answers: list[Submitted]) -> list[Submitted]:
        """The answers; a job that was submitted without one is as good as the others."""
        unsure = [answer.job_id for answer in answers if isinstance(answer.error, UNCERTAIN)]
        try:
            known = self.hook.client.get_many(unsure) if unsure else {}
        except UNCERTAIN:
            return answers  # The others are not to be left alone for these.
        decisions = {job_id: decide(job_id, identity.digest, job) for job_id, job in known.items()}
        there = {one: told.run_id for one, told in decisions.items() if told.step in (Step.ATTACH, Step.TAKE)}
        if there:
            self.log.warning("%s jobs are submitted, though their submission was not answered", len(there))
        return [
            replace(answer, run_id=there[answer.job_id], error=None) if answer.job_id in there else answer
            for answer in answers
        ]

    def _wait(self, ids: list[str], waiting: Mapping[str, list[int]]) -> None:
        from sched_plugins.client import Run

        runs = [Run(ids[number], run_id) for run_id, numbers in waiting.items() for number in numbers]
        for done, _ in enumerate(self.hook.client.watch(runs, patient=True), 1):
            if done % 500 == 0:
                self.log.info("%s of %s jobs have ended", done, len(runs))

    def _finish(self, context: Context, ids: list[str], digest: str) -> dict[str, int]:
        self._own_jobs = []
        records = self.hook.client.get_many(ids)
        failures = list(_failures(ids, records, digest))
        counts = Counter(failure.status for failure in failures)
        summary = {"jobs": len(ids), "succeeded": len(ids) - len(failures)}
        summary |= {status.lower().replace(" ", "_"): number for status, number in counts.items()}
        self.log.info("%s", ", ".join(f"{number} {name}" for name, number in summary.items()))
        shown = [f"{one.job_id}: {one.status}, {one.reason}" for one in failures[: self.failures_shown]]
        for line, failure in zip(shown, failures, strict=False):
            self.log.error("%s%s", line, f". Its output: {failure.stdout_uri}" if failure.stdout_uri else "")
        if self.do_xcom_push:
            told = [{name: getattr(one, name) for name in Failure.__slots__} for one in failures[:FAILURES_KEPT]]
            context["ti"].xcom_push(key="failures", value=told)
            context["ti"].xcom_push(key="summary", value=summary)
        if len(failures) > self._allowed():
            more = f"; and {len(failures) - len(shown)} more" if len(failures) > len(shown) else ""
            raise JobFailedException(
                f"{len(failures)} of {len(ids)} jobs did not succeed ({self.allowed_failures} are allowed): "
                f"{'; '.join(shown)}{more}. A retry submits only these again."
            )
        return summary


def _failures(ids: Sequence[str], records: Mapping[str, Job], digest: str) -> Iterator[Failure]:
    for job_id in ids:
        record = records.get(job_id)
        decision = decide(job_id, digest, record)
        if decision.step is Step.TAKE:
            continue
        if record is None or decision.run_id == f"{digest}-1":
            yield Failure(job_id, NOT_SUBMITTED, "the scheduler refused it; the log above says why")
        elif decision.step is Step.LOST:
            yield Failure(job_id, "LOST", f"run {record.run_id!r} has taken its place")
        else:
            yield Failure(job_id, str(record.status), record.status_reason or "no reason given", record.stdout_uri)
