"""An executor that runs each Airflow task as a job of the scheduler.

The id that Airflow gives a task instance together with the state QUEUED, its external executor id, is the job's id and
the key of its submission. So a job can be submitted again without effect, found again by the next Airflow scheduler,
and told from that of the same task after a deferral, a retry or a clear.

*What keeps a task from running twice*: a job id is accepted once; its workload can be taken once; and Airflow's own
API starts a task instance only while it is QUEUED.

*Known limitation*: tasks of one environment run under one role, so a task's code could read the workload of another
one that waits for the same environment. Give teams that do not trust each other environments of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from airflow.executors.base_executor import BaseExecutor, get_execution_api_server_url
from airflow.executors.workloads import ExecuteTask
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from sched_plugins.airflow.exceptions import translated
from sched_plugins.airflow.executors.connection import connect
from sched_plugins.airflow.executors.courier import Courier, Task
from sched_plugins.airflow.executors.health import Check, checks
from sched_plugins.airflow.executors.settings import ExecutorSettings, read_settings
from sched_plugins.airflow.executors.task_options import job_fields, job_id, parameter_name, task_options
from sched_plugins.client.secret_store import SecretStore
from sched_plugins.errors import SchedulerError

if TYPE_CHECKING:
    from airflow.cli.cli_config import GroupCommand
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.executors.workloads.types import WorkloadKey

    from sched_plugins.client import SchedulerClient

_STOP_SECONDS = 15.0


class SchedulerExecutor(BaseExecutor):
    """Runs tasks as jobs. Its configuration is the section ``[sched_executor]``, of a team or of all.

    A task chooses with ``executor_config``: ``queue`` (an environment), ``timeout`` (seconds), ``tags`` and
    ``environment`` (variables).
    """

    is_local: bool = False
    is_production: bool = True
    serve_logs: bool = False
    supports_multi_team: bool = True
    pre_assigns_external_executor_id: ClassVar[bool] = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._job_ids: dict[WorkloadKey, str] = {}
        """The job of each task that is followed."""
        self._keys: dict[str, tuple[WorkloadKey, str]] = {}
        """The task and the task instance's id of each job."""
        self._waiting: set[str] = set()
        """Ids of task instances of which Airflow is to be told that they are not stuck."""

    @cached_property
    def settings(self) -> ExecutorSettings:
        """The checked configuration."""
        return read_settings(self.conf)

    @cached_property
    def client(self) -> SchedulerClient:
        """The scheduler's client."""
        return connect(self.settings)

    @cached_property
    def store(self) -> SecretStore:
        """Parameter Store."""
        return SecretStore(self.client.connection, self.settings.kms_key_id, self.settings.put_concurrency)

    @cached_property
    def courier(self) -> Courier:
        """Makes the calls."""
        return Courier(self.client, self.client.new_watch(), self.store, self.settings, time.monotonic)

    # Life

    def start(self) -> None:
        """
        Begin; unless told otherwise, only when the scheduler can be reached.

        :raises SchedulerException: A setting is wrong, or a call that tasks need does not work.
        """
        with translated():
            if self.settings.check_health:
                self.check_health()
            self.courier.start()

    def health(self) -> Iterator[Check]:
        """Make each kind of call that tasks need once, to no effect; what comes of each, as it is made."""
        yield from checks(self.client, self.store, self.settings)

    def check_health(self) -> None:
        """Require that each kind of call works.

        Raises:
            SchedulerError: of the kind of the first that failed; it tells of each, with what to do next.
        """
        told = ["the executor cannot do its work; `airflow sched-executor check` shows each call"]
        first: SchedulerError | None = None
        for one in self.health():
            if one.error is not None:
                first = first or one.error
                told.append(f"{one.name} ({one.action}): {one.outcome}")
        if first is not None:
            raise type(first)("\n".join(told)) from first

    def end(self) -> None:
        """Airflow's scheduler ends: jobs go on, and the next one adopts them."""
        self.courier.stop(_STOP_SECONDS)

    def terminate(self) -> None:
        """As :meth:`end`, without waiting for calls that are under way."""
        self.courier.stop(0.0)

    # Tasks

    def _process_workloads(self, workload_items: Sequence[ExecutorWorkload]) -> None:
        handed = []
        for workload in workload_items:
            if not isinstance(workload, ExecuteTask):
                raise TypeError(f"{type(self).__name__} runs tasks, not {type(workload).__name__}")
            self.queued_tasks.pop(workload.key, None)
            self.running.add(workload.key)
            try:
                handed.append(self._task(workload))
            except Exception as error:
                # It would end Airflow's scheduler, and again after each restart, since the task is still to be run.
                if not isinstance(error, SchedulerError):
                    self.log.exception("No job can be made of %s", workload.key)
                self.log_task_event(event="not submitted", extra=str(error), ti_key=workload.key)
                self.fail(workload.key, info=str(error))
        self.courier.hand_over(handed)
        self.courier.ask()

    def _task(self, workload: ExecuteTask) -> Task:
        ti = workload.ti
        options = task_options(ti.executor_config, ti.queue, self.settings)
        # Only `dag.test` queues a task instance without such an id.
        job = job_id(ti.external_executor_id or str(ti.id))
        if not ti.external_executor_id:
            self.running_state(workload.key, str(ti.id))
        labels = {name: getattr(ti, name) for name in ("dag_id", "task_id", "run_id", "map_index", "try_number")}
        fields = job_fields(
            job,
            options,
            self.settings,
            api_url=get_execution_api_server_url(self.conf),
            region=self.client.connection.region,
            labels=labels,
        )
        task = Task(job, parameter_name(options.environment, job), fields, lambda: self._workload_text(workload))
        return self._follow(workload.key, str(ti.id), task)

    def _follow(self, key: WorkloadKey, ti_id: str, task: Task) -> Task:
        self._job_ids[key] = task.job_id
        self._keys[task.job_id] = (key, ti_id)
        return task

    def _workload_text(self, workload: ExecuteTask) -> str:
        """The workload as JSON, its token as fresh as can be: the time in the queue counts from its submission."""
        token = self.jwt_generator.generate(
            extras={"sub": str(workload.ti.id), "scope": "workload"}, valid_for=self.settings.token_lifetime
        )
        return workload.model_copy(update={"token": token}).model_dump_json()

    def sync(self) -> None:
        """Take what has become known, and ask for more. No call is made here."""
        for news in self.courier.news():
            key, ti_id = self._keys.get(news.job_id, (None, ""))
            if key is None:
                continue
            if news.outcome is None:
                self._waiting.add(ti_id)
                continue
            del self._keys[news.job_id]
            if self._job_ids.get(key) != news.job_id:
                # The job of the task before it was deferred; the one after has been submitted already.
                continue
            del self._job_ids[key]
            if news.outcome.succeeded:
                self.success(key)
            else:
                self.log_task_event(event="job failed", extra=news.outcome.reason, ti_key=key)
                self.fail(key, info=news.outcome.reason)
        if self._waiting:
            try:
                _keep_queued(self._waiting)
                self._waiting.clear()
            except SQLAlchemyError:
                # A locked table, say; there are many loops before Airflow's patience ends.
                self.log.warning("Tasks that wait are told of in the next loop", exc_info=True)
        self.courier.ask()

    def revoke_task(self, *, ti: TaskInstance) -> None:
        """Cancel a task's job; Airflow asks for it when a task instance is stuck in the queue."""
        try:
            self.queued_tasks.pop(ti.key, None)
            self.running.discard(ti.key)
            job = self._job_ids.pop(ti.key, None)
            if job is None and ti.external_executor_id:
                job = job_id(ti.external_executor_id)
            if job is not None:
                self._keys.pop(job, None)
                self.courier.revoke(job)
                self.courier.ask()
        except Exception:
            self.log.exception("Could not revoke %s", ti)

    def try_adopt_task_instances(self, tis: Sequence[TaskInstance]) -> Sequence[TaskInstance]:
        """Follow the jobs of another, dead Airflow scheduler; those task instances that have none.

        One call for 100 task instances. While the jobs cannot be read all are adopted: the next looks show which are
        lost.
        """
        jobs = {ti: job_id(ti.external_executor_id) for ti in tis if ti.external_executor_id}
        try:
            known = self.client.get_many(jobs.values()).keys() if jobs else set()
        except SchedulerError as error:
            self.log.warning("Adopting %d task instances unseen: %s", len(jobs), error)
            known = set(jobs.values())
        adopted = {ti: job for ti, job in jobs.items() if job in known}
        self.courier.adopt([self._adopted(ti, job) for ti, job in adopted.items()])
        for job in set(jobs.values()) - set(adopted.values()):
            # Its submission may be under way still, from whoever died.
            self.courier.revoke(job)
        self.log.info("Adopted %d of %d task instances", len(adopted), len(tis))
        return [ti for ti in tis if ti not in adopted]

    def _adopted(self, ti: TaskInstance, job: str) -> Task:
        self.running.add(ti.key)
        environment, remake = self.settings.environment, None
        try:
            environment = task_options(ti.executor_config, ti.queue, self.settings).environment
            if ti.state == TaskInstanceState.QUEUED:
                workload = ExecuteTask.make(ti)
                remake = lambda: self._workload_text(workload)  # noqa: E731 - as for one that is new
        except Exception:
            # Its token is not renewed then, which matters only if it waits for long.
            self.log.warning("The workload of %s cannot be made again", ti, exc_info=True)
        return self._follow(ti.key, str(ti.id), Task(job, parameter_name(environment, job), workload=remake))

    def get_task_log(self, ti: TaskInstance, try_number: int) -> tuple[list[str], list[str]]:
        """What a running task's job has written, as far as AWS gives it."""
        if not ti.external_executor_id or ti.try_number != try_number:
            return [], []
        job = job_id(ti.external_executor_id)
        try:
            text = "".join(chunk.text for chunk in self.client.logs(job))
        except SchedulerError as error:
            return [f"The output of job {job!r} cannot be read: {error}"], []
        return [f"Output of job {job!r}"], [text]

    @staticmethod
    def get_cli_commands() -> list[GroupCommand]:
        """``airflow sched-executor …``."""
        from sched_plugins.airflow.executors.cli import commands

        return commands()


def _keep_queued(ti_ids: Iterable[str]) -> None:
    """Tell Airflow that these task instances are not stuck: their jobs wait for a worker."""
    waiting = (TaskInstance.id.in_([UUID(one) for one in ti_ids]), TaskInstance.state == TaskInstanceState.QUEUED)
    with create_session() as session:
        session.execute(
            update(TaskInstance)
            .where(*waiting)
            .values(queued_dttm=datetime.now(UTC))
            .execution_options(synchronize_session=False)
        )
