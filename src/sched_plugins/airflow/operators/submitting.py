"""What operators that submit jobs have in common: who their jobs are, and that these end with the task."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowException, TaskDeferralTimeout

from sched_plugins.airflow.exceptions import JobCancelledException, translated
from sched_plugins.airflow.identity import TaskIdentity
from sched_plugins.airflow.settings import default_deferrable
from sched_plugins.airflow.task import SchedulerTask
from sched_plugins.core import names
from sched_plugins.errors import Busy, JobNotFound, SchedulerError, Throttled, Unknown

if TYPE_CHECKING:
    from airflow.sdk import Context

    from sched_plugins.client import Job

END_SECONDS: Final = 60.0
"""How long a task waits for the end of an earlier run that is being cancelled."""
UNCERTAIN: Final = (Busy, Throttled, Unknown)
"""After these a job may have been submitted all the same: by a request whose answer was lost. Its record tells."""
_LATE_SECONDS: Final = 4
"""How long a request that was broken off may still arrive. Airflow kills a task 5 s after it asked it to end."""
_ONE_REQUEST: Final = 100
"""Jobs that are submitted by one request; of more, none is under way when the submission has been left."""


class SubmittingTask(SchedulerTask):
    """
    Base of the operators that submit jobs of their own.

    :param job_id: The job's id, or what the ids of the jobs begin with; by default it follows from the task.
    :param wait_for_completion: Whether to wait for the end; without, the task succeeds once its jobs are submitted.
    :param deferrable: Whether to wait in the triggerer, without a worker; by default as ``[operators]
        default_deferrable`` says.
    :param cancel_on_kill: Cancel the jobs when the task is killed: cleared, marked, or timed out.
    """

    template_fields: Sequence[str] = (*SchedulerTask.template_fields, "job_id")

    def __init__(
        self,
        *,
        job_id: str | None = None,
        wait_for_completion: bool = True,
        deferrable: bool | None = None,
        cancel_on_kill: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.cancel_on_kill = cancel_on_kill
        self._own_jobs: list[str] = []
        self._run_prefix = ""
        self._submits = False
        self._broken_off = False
        self._killed = False

    def own_jobs(self, context: Context) -> list[str]:
        """List the ids of the task's jobs."""
        raise NotImplementedError

    def ids_of(self, base: str, number: int) -> list[str]:
        """List the ids of so many jobs, whose ids begin with the base."""
        raise NotImplementedError

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Resume after deferral; when the time for that is over, cancel the jobs, as on a worker."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            try:
                self._claim(context, self.own_jobs(context))
                self.on_kill()
            except AirflowException as error:  # The timeout is what the task has to end with.
                self.log.error("The jobs could not be cancelled: %s", error)
            raise

    def on_kill(self) -> None:
        """Cancel the jobs: the task was killed on its worker. Airflow calls this amid whatever the task is doing."""
        if not self._ends_its_jobs:
            return
        self._killed = True
        if self._submits:
            self.hook.client.stop_submitting()  # What was submitted is cancelled where the submission ends.
        elif self._own_jobs:
            self._cancel()

    @property
    def _ends_its_jobs(self) -> bool:
        return self.cancel_on_kill and self.wait_for_completion

    def _claim(self, context: Context, job_ids: list[str]) -> None:
        """From here on a kill cancels these jobs."""
        self._run_prefix, self._own_jobs = self.identity(context).run_prefix, job_ids

    def _go_on(self) -> None:
        """Do not, if the task was killed meanwhile."""
        if self._killed:
            self._cancel()
            raise JobCancelledException("the task was killed while it submitted its jobs: they were cancelled")

    @contextmanager
    def _submitting(self) -> Iterator[None]:
        """The submission of the task's jobs: if the task is killed meanwhile, it ends, and they are cancelled."""
        self._submits = True
        try:
            if not self._killed:
                yield
        except SchedulerError:
            if not self._killed:
                raise
        except BaseException:
            self._broken_off = True  # By the task's own timeout.
            raise
        finally:
            self._submits = False
        self._go_on()

    def _tell_if_unserved(self, context: Context, queue: str) -> None:
        """Warn of a queue that nothing serves. One Scan where something does; of mapped tasks only the first asks."""
        if (self.environment and not queue) or (context["ti"].map_index or 0) > 0:
            return
        client = self.hook.client
        if why := client.unserved(queue or names.job_queue(client.scheduler)):
            self.log.warning("%s", why)

    def _cancel(self) -> None:
        """Cancel the task's jobs; one that does not exist was not submitted, unless its request is still on its way."""
        client, left = self.hook.client, self._own_jobs
        if len(left) > _ONE_REQUEST:
            with translated():
                client.request_cancel(self._of_this_task(left)[0])  # Soon there may be no time for answers.
        for late in range(_LATE_SECONDS + 1):
            with translated():
                own, missing = self._of_this_task(left)
                answers = client.cancel_many(own)
            missing += [one.job_id for one in answers if isinstance(one.error, JobNotFound)]
            told = Counter(one.outcome or str(one.error) for one in answers if not isinstance(one.error, JobNotFound))
            told += Counter({"not submitted": len(missing)})
            self.log.info("Cancelling %s: %s", _these(self._own_jobs), dict(told))
            left = missing
            if not left or not self._broken_off or len(left) > _ONE_REQUEST or late == _LATE_SECONDS:
                return
            time.sleep(1)

    def _of_this_task(self, job_ids: list[str]) -> tuple[list[str], list[str]]:
        """Those of the jobs whose runs are the task's own, and those that do not exist."""
        if not self.job_id:
            return job_ids, []  # Nobody else has these ids.
        known = self.hook.client.get_many(job_ids)
        own = [job_id for job_id, job in known.items() if job.run_id.startswith(self._run_prefix)]
        return own, [job_id for job_id in job_ids if job_id not in known]

    def _end_earlier(self, identity: TaskIdentity, job_ids: list[str]) -> None:
        """
        Cancel what the task ran before it was cleared; those that have the same ids are waited for.

        Airflow lets a trigger do so, but only one that runs: not in the seconds until a triggerer has taken it, nor
        while no triggerer runs.
        """
        if not self._ends_its_jobs or not identity.earlier:
            return
        client = self.hook.client
        if not self.job_id:
            firsts = client.get_many([self.ids_of(one.job_id, 1)[0] for one in identity.earlier])
            for one in identity.earlier:
                if self.ids_of(one.job_id, 1)[0] in firsts:
                    self._cancel_earlier(self._there(one.job_id, len(job_ids)))
            return
        prefixes = tuple(one.run_prefix for one in identity.earlier)
        known = self._there(self.job_id, len(job_ids))
        earlier = {job_id: job for job_id, job in known.items() if job.run_id.startswith(prefixes)}
        self._await_ends(self._cancel_earlier(earlier))

    def _there(self, base: str, number: int) -> dict[str, Job]:
        """The records of so many jobs whose ids begin with the base, and of those after them: there may be more."""
        known = self.hook.client.get_many(self.ids_of(base, number))
        while more := self.hook.client.get_many(self.ids_of(base, number + _ONE_REQUEST)[number:]):
            known |= more
            number += _ONE_REQUEST
        return known

    def _cancel_earlier(self, known: dict[str, Job]) -> list[Job]:
        live = {job_id: job for job_id, job in known.items() if not job.is_terminal}
        for answer in self.hook.client.cancel_many(live):
            self.log.info("Cancelling job %s of before the clear: %s", answer.job_id, answer.error or answer.outcome)
        return list(live.values())

    def _await_ends(self, jobs: Sequence[Job]) -> None:
        """Wait until these runs, which are being cancelled, have ended."""
        from sched_plugins.client import Run

        if not jobs:
            return
        self.log.info("Waiting for the end of %s, being cancelled", _these([job.job_id for job in jobs]))
        runs = [Run(job.job_id, job.run_id) for job in jobs]
        for _ in self.hook.client.watch(runs, timeout=END_SECONDS, patient=True):
            pass


def _these(job_ids: Sequence[str]) -> str:
    return f"job {job_ids[0]}" if len(job_ids) == 1 else f"{len(job_ids)} jobs"
