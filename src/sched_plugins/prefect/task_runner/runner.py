"""The task runner: Prefect tasks as jobs of an environment's workers."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, PrefectFutureList
from prefect.logging.loggers import get_run_logger
from prefect.settings.context import get_current_settings
from prefect.task_runners import TaskRunner

from sched_plugins.errors import InvalidInput
from sched_plugins.prefect.blocks.scheduler import ServerlessScheduler, as_scheduler
from sched_plugins.prefect.identity import Caller as JobCaller
from sched_plugins.prefect.interruption import has_timed_out
from sched_plugins.prefect.task_runner.calls import Call, Caller, Group, bundles
from sched_plugins.prefect.task_runner.dispatcher import Dispatcher, End
from sched_plugins.prefect.task_runner.futures import SchedulerFuture
from sched_plugins.prefect.task_runner.settings import JobSecret, JobSettings, job_variables
from sched_plugins.prefect.task_runner.submission import Submitter

if TYPE_CHECKING:
    from prefect.client.schemas.objects import RunInput
    from prefect.tasks import Task


class SchedulerTaskRunner(TaskRunner[SchedulerFuture[Any]]):
    """Runs the tasks that a flow submits, each as a job of an environment, or several of a map in one.

    What a task is given and what it returns travels through the environment's bucket, as pickles; functions of the
    user's own modules need not be on the workers' image, packages that they import must be, with Prefect and this one.

    A flow that succeeds waits for the tasks that it has submitted. One that fails cancels those that have not started;
    one that is interrupted, timed out or tried again cancels all. When the process of a flow was killed, the next try
    of the same flow run goes on with what that has begun: it waits for the jobs that still run, takes the results of
    tasks that have completed, and runs the others again. A job that it does not ask for again is cancelled.

    Args:
        scheduler: its stack name or a ServerlessScheduler block; by default that of the environment, or
            ``SCHED_SCHEDULER``.
        environment: the environment whose workers run the tasks; by default the block's.
        bundle: how many tasks of one ``map`` run in one job, one after the other. A job takes a second or two to start.
        timeout_seconds: of a job; by default the longest that there is (two days).
        retry: how often a job is tried again that ends without an outcome. Task retries are Prefect's own
            (``@task(retries=…)``), and are made within the job. Losing a Spot instance is not counted.
        tags: labels of the jobs.
        python: the Python of the workers, of the same version as the flow's; by default ``python3``, on a laptop stack
            this one.
        env: environment variables of the tasks' processes. They may be secrets: they travel encrypted.
        api_url: Prefect's API as the workers reach it; by default as the flow does.
        kms_key_id: the key that encrypts what the workers need to reach Prefect; by default the account's own.

    Raises:
        InvalidInput: an argument cannot be; the message names it.

    Example:
        ::

            @flow(task_runner=SchedulerTaskRunner(environment="solver", bundle=10))
            def sweep():
                return solve.map(range(200)).result()
    """

    def __init__(
        self,
        scheduler: str | ServerlessScheduler | None = None,
        environment: str = "",
        *,
        bundle: int = 1,
        timeout_seconds: int | None = None,
        retry: int = 0,
        tags: Mapping[str, str] | None = None,
        python: str = "",
        env: Mapping[str, str] | None = None,
        api_url: str = "",
        kms_key_id: str = "",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if scheduler is not None and not isinstance(scheduler, str | ServerlessScheduler):
            as_scheduler(scheduler)  # It says what is wrong.
        self._scheduler = scheduler
        self._settings = JobSettings(
            environment=environment,
            python=python,
            timeout_seconds=timeout_seconds,
            retry=retry,
            tags=dict(tags or {}) if isinstance(tags, Mapping | None) else tags,
            bundle=bundle,
            env=dict(env or {}) if isinstance(env, Mapping | None) else env,
            api_url=api_url,
            kms_key_id=kms_key_id,
        )
        self._settings.check()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._session = uuid4().hex
        self._numbers: dict[str, Any] = {}
        self._gathered = threading.local()
        self._flow: FlowRunContext | None = None
        self._flow_run: Any = None
        self._running: Any = None
        self._dispatcher: Dispatcher | None = None
        self._secret: JobSecret | None = None
        self._duplicates: weakref.WeakSet[SchedulerTaskRunner] = weakref.WeakSet()

    def duplicate(self) -> Self:
        """A runner with the same settings that has not started; :meth:`cancel_all` reaches it, too."""
        other = type(self).__new__(type(self))
        TaskRunner.__init__(other)  # type: ignore[no-untyped-call,arg-type]
        other._scheduler, other._settings = self._scheduler, self._settings
        other._reset()
        self._duplicates.add(other)
        return other

    def __eq__(self, value: object) -> bool:
        if not isinstance(value, SchedulerTaskRunner):
            return False
        return (self._scheduler, self._settings) == (value._scheduler, value._settings)

    __hash__ = object.__hash__

    def __getstate__(self) -> dict[str, Any]:
        """For flows that are pickled: the settings, and nothing of what is under way."""
        return {"_scheduler": self._scheduler, "_settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TaskRunner.__init__(self)  # type: ignore[no-untyped-call,arg-type]
        self.__dict__.update(state)
        self._reset()

    def submit(
        self,
        task: Task[Any, Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
        dependencies: dict[str, set[RunInput]] | None = None,
    ) -> SchedulerFuture[Any]:
        """Run a task as a job. Calls nothing and waits for nothing; the first time one DescribeStacks call.

        Args:
            task: the task.
            parameters: what it is given; futures among them are waited for by the job's submission.
            wait_for: what else has to have completed first.
            dependencies: further inputs that Prefect is to know of.

        Raises:
            InvalidInput: no environment is named, or Prefect's API cannot be reached by the workers.
            EnvironmentNotFound: there is no such environment.
        """
        if not self._started:
            raise RuntimeError("The task runner must be started before submitting work.")
        with self._lock:
            dispatcher = self._started_dispatcher()
            caller, numbers = self._caller()
            key = f"sched:{task.task_key}"
            number = numbers[key] = int(numbers.get(key, -1)) + 1
        future: SchedulerFuture[Any] = SchedulerFuture(caller.task_run_id(task.task_key, number))
        waits = list(wait_for) if isinstance(wait_for, Iterable) else [] if wait_for is None else [wait_for]
        call = Call(task, dict(parameters), waits, dependencies or {}, number, caller, copy_context(), future)
        gathered: list[Call] | None = getattr(self._gathered, "calls", None)
        if gathered is not None:
            gathered.append(call)
        else:
            dispatcher.add(bundles(Group.of([call]), 1))
        return future

    def map(
        self,
        task: Task[Any, Any],
        parameters: dict[str, Any],
        wait_for: Iterable[PrefectFuture[Any]] | None = None,
    ) -> PrefectFutureList[SchedulerFuture[Any]]:
        """Run a task for each element, as one batch: what the calls have in common is carried once.

        Args: as :meth:`submit`, with iterables among the parameters.
        """
        with self._gathering() as calls:
            futures = super().map(task, parameters, wait_for)
        if calls and self._dispatcher is not None:
            self._dispatcher.add(bundles(Group.of(calls), self._settings.bundle))
        return futures

    @contextmanager
    def _gathering(self) -> Iterator[list[Call]]:
        calls: list[Call] = []
        self._gathered.calls = calls
        try:
            yield calls
        finally:
            self._gathered.calls = None

    def cancel_all(self) -> None:
        """Cancel every job of this runner and of its duplicates, and start no more."""
        for runner in (self, *self._duplicates):
            if runner._dispatcher is not None:
                runner._dispatcher.cancel("the flow run was cancelled")

    def __enter__(self) -> Self:
        super().__enter__()
        self._session, self._numbers = uuid4().hex, {}
        self._flow = self._flow_run = self._running = None
        return self

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        secret, self._secret = self._secret, None
        try:
            if dispatcher is not None:
                dispatcher.close(End.INTERRUPTED if exc_type is not None else self._end_of_flow())
        finally:
            if secret is not None:
                secret.delete()
            super().__exit__(exc_type, exc_value, traceback)

    def _end_of_flow(self) -> End:
        """How the flow has ended: its exceptions do not come here, its state tells of them."""
        state = getattr(self._flow_run, "state", None)
        if state is not None and state.is_running() and state.id != self._running:
            return End.RETRIED  # Prefect has begun the next try already.
        if has_timed_out(self._flow):
            return End.INTERRUPTED
        has_failed = state is not None and not (state.is_completed() or state.is_running())
        return End.FAILED if has_failed else End.SUCCEEDED

    def _caller(self) -> tuple[Caller, dict[str, Any]]:
        """Who calls, and what counts the calls of each task: the same for all runners of a try of a flow run."""
        flow = FlowRunContext.get()
        if flow is None or flow.flow_run is None:
            return Caller("", self._session), self._numbers
        if self._flow_run is None:
            self._running = getattr(flow.flow_run.state, "id", None)
        self._flow, self._flow_run = flow, flow.flow_run
        name = flow.flow.name if flow.flow else ""
        run = flow.flow_run
        session, root = f"try-{run.run_count}", JobCaller().root_id
        caller = Caller(str(run.id), session, run.name or "", name, run.run_count or 0, root)
        return caller, flow.task_run_dynamic_keys

    def _started_dispatcher(self) -> Dispatcher:
        if self._dispatcher is None:
            block = as_scheduler(self._scheduler, environment=self._settings.environment)
            if not (self._settings.environment or block.environment):
                raise InvalidInput(
                    "SchedulerTaskRunner runs tasks on an environment's workers; give environment=, or a block that "
                    "names one"
                )
            client = block.environment_client(self._settings.environment)
            is_loopback = client.connection.is_loopback
            known = get_current_settings().to_environment_variables(exclude_unset=True)
            variables = job_variables(self._settings, known, is_loopback=is_loopback)
            caller, _ = self._caller()
            self._secret = JobSecret(client, caller.root_id or caller.owner, variables, self._settings.kms_key_id)
            submitter = Submitter(client, self._settings, caller, self._secret)
            self._dispatcher = Dispatcher(client, submitter, self._teller())
            self._dispatcher.beside(self._secret.sweep)
        return self._dispatcher

    def _teller(self) -> Any:
        """Says something in the flow run's log, whichever thread it is called in."""
        context = copy_context()
        logger = get_run_logger() if FlowRunContext.get() else self.logger
        return lambda told: context.copy().run(logger.error, "%s", told)
