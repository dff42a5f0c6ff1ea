"""Carries calls to jobs and brings their outcomes back, beside the flow, which never waits for AWS.

One thread submits what is due, up to 100 bundles a round. A call whose inputs are futures is due when the last of them
is done, which these tell; nobody waits for them. The process's shared watch follows the jobs, however many they are. A
few threads fetch outcomes. A job that ends without an outcome gives its task runs the state that its record tells of.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from typing import Any, Final

from prefect.client.schemas.objects import State
from prefect.exceptions import UpstreamTaskError
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Crashed
from prefect.task_engine import run_task_async, run_task_sync

from sched_plugins.client import Ended, EnvironmentClient, Job, Run, Status
from sched_plugins.client.shared_watch import shared_watch
from sched_plugins.errors import SchedulerError, Throttled, Unknown
from sched_plugins.prefect.task_runner import outcome
from sched_plugins.prefect.task_runner.calls import Bundle, Call
from sched_plugins.prefect.task_runner.place import result_key
from sched_plugins.prefect.task_runner.submission import Prepared, Sent, Submitter, patiently

log = logging.getLogger(__name__)
AT_ONCE: Final = 100
"""Bundles in one round: one request."""
FETCHERS: Final = 8
LAST_WORDS: Final = 4_000
"""Characters of a silent job's stderr in the flow run's log."""
TRIES: Final = 3
"""Rounds in which a submission stays without an answer before its tasks are given up. Each is patient by itself."""
INTERRUPTED_SECONDS: Final = 3.0
"""How long a flow that is interrupted waits for the ends of the jobs that it has cancelled."""
RETRIED_SECONDS: Final = 60.0
"""The same of one that is tried again; what goes on after that the next try ends first."""


class End(StrEnum):
    """How a flow ends, and what that means for its tasks."""

    SUCCEEDED = "succeeded"
    """Those that were submitted run to their end, and are waited for."""
    FAILED = "failed"
    """Those that run are waited for; the others are cancelled."""
    RETRIED = "retried"
    """The next try makes them anew: all are cancelled, and have ended before it begins."""
    INTERRUPTED = "interrupted"
    """All are cancelled."""


class Dispatcher:
    """See the module. :meth:`add` and :meth:`cancel` may be called by any thread; :meth:`close` once.

    Args:
        client: the environment's.
        submitter: makes jobs of bundles.
        say: told in words of what a user should know.
    """

    def __init__(self, client: EnvironmentClient, submitter: Submitter, say: Callable[[str], None]) -> None:
        self._client = client
        self._submitter = submitter
        self._say = say
        self._changed = threading.Condition()
        self._new: deque[Bundle] = deque()
        self._due: deque[Bundle] = deque()
        self._waiting: set[Bundle] = set()
        self._unregistered: deque[Bundle] = deque()
        self._open: set[Call] = set()
        self._sending: set[str] = set()
        self._live: dict[str, Future[Ended]] = {}
        self._stopped = ""
        self._over = False
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(FETCHERS, thread_name_prefix="sched-task-outcome")
        self._thread = threading.Thread(target=self._work, name="sched-task-runner", daemon=True)
        self._thread.start()

    def beside(self, work: Callable[[], None]) -> None:
        """Do something that nobody waits for."""
        self._pool.submit(work)

    def add(self, bundles: Iterable[Bundle]) -> None:
        """Run these as soon as their inputs are there."""
        added = list(bundles)
        with self._changed:
            for bundle in added:
                self._open.update(bundle.calls)
                self._new.append(bundle)
            self._changed.notify_all()

    def _upstream_done(self, bundle: Bundle, future: PrefectFuture[Any]) -> None:
        with self._changed:
            if future not in bundle.waits_for:
                return
            bundle.waits_for.discard(future)
            if not bundle.waits_for and bundle in self._waiting:
                self._waiting.discard(bundle)
                self._due.append(bundle)
                self._changed.notify_all()

    def cancel(self, why: str) -> None:
        """Cancel every job, and start no more; their task runs end when the jobs have."""
        with self._changed:
            self._stop(why)
            job_ids = sorted({*self._live, *self._sending})
        self._request_end(job_ids)

    def _stop(self, why: str) -> None:
        self._stopped = self._stopped or why
        self._due.extend(self._waiting)  # To be ended.
        self._due.extend(self._new)
        self._waiting.clear()
        self._new.clear()
        self._changed.notify_all()

    def close(self, end: End) -> None:
        """Do with the tasks what the end of the flow means for them, and leave no thread."""
        try:
            if end is End.FAILED:
                self._cancel_queued()
            if end is End.RETRIED:
                self.cancel("the flow is tried again")
                self._wait_for_end(RETRIED_SECONDS)
            elif end is not End.INTERRUPTED:
                self._wait_for_end(None)
        except BaseException:
            end = End.INTERRUPTED
            raise
        finally:
            if end is End.INTERRUPTED:
                self.cancel("the flow run was interrupted")
                self._wait_for_end(INTERRUPTED_SECONDS)
            self._finish()

    def _finish(self) -> None:
        self._closing.set()
        with self._changed:
            self._over = True
            self._changed.notify_all()
            followed = list(self._live.values())
        for future in followed:
            future.cancel()
        self._thread.join()
        self._pool.shutdown()
        self._request_end(self._submitter.earlier.unwanted())
        self._end_rest()

    def _wait_for_end(self, seconds: float | None) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._open, seconds)

    def _cancel_queued(self) -> None:
        """Cancel the jobs that wait for a worker. One BatchGetItem and one Lambda call for 100 jobs."""
        with self._changed:
            self._stop("the flow failed before the task was started")
            self._changed.wait_for(lambda: not self._sending)
            job_ids = list(self._live)
        try:
            known = self._client.get_many(job_ids) if job_ids else {}
        except SchedulerError as error:
            log.warning("It is not known which jobs of the flow run have not started, so all are waited for: %s", error)
            return
        self._request_end([job_id for job_id, job in known.items() if job.status is Status.QUEUED])

    def _request_end(self, job_ids: Sequence[str]) -> None:
        if not job_ids:
            return
        try:
            answers = patiently(lambda: self._client.cancel_many(job_ids))
        except SchedulerError as error:
            self._say(f"{len(job_ids)} jobs could not be cancelled: {error}")
            return
        for answer in answers:
            if answer.error is not None and answer.job_id not in self._sending:
                log.warning("Job %s could not be cancelled: %s", answer.job_id, answer.error)

    def _end_rest(self) -> None:
        with self._changed:
            rest = [call for call in self._open if not call.future.is_done]
        self._ended([(call, Cancelled(message=f"Cancelled: {self._stopped}")) for call in rest], reported=False)

    # The thread that submits

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._new or self._unregistered or self._over)
                if self._over and not self._due and not self._new:
                    return
                new = [self._new.popleft() for _ in range(min(AT_ONCE, len(self._new)))]
                batch = [] if new else [self._due.popleft() for _ in range(min(AT_ONCE, len(self._due)))]
                waiting = None if new or batch or not self._unregistered else self._unregistered.popleft()
                stopped = self._stopped
            try:
                if stopped:
                    self._not_started([*new, *batch], stopped)
                elif new:
                    self._look_through(new)
                elif batch:
                    self._round(batch)
                elif waiting is not None:
                    for call in waiting.calls:
                        call.register()
            except Exception as error:
                # A thread that ended would leave every task waiting for ever.
                log.exception("Tasks could not be submitted as jobs")
                self._failed([(call, error) for bundle in [*new, *batch] for call in bundle.calls])

    def _look_through(self, new: Sequence[Bundle]) -> None:
        """Find out what new bundles wait for."""
        for bundle in new:
            for call in list(bundle.calls):
                try:
                    bundle.waits_for |= bundle.group.look_through(call)
                except Exception as error:  # noqa: BLE001 - what Prefect refuses as an input
                    bundle.calls.remove(call)
                    self._failed([(call, error)])
            upstream = list(bundle.waits_for)
            with self._changed:
                if upstream and not self._stopped:
                    self._waiting.add(bundle)
                    self._unregistered.append(bundle)
                elif bundle.calls:
                    self._due.append(bundle)
            for future in upstream:
                future.add_done_callback(partial(self._upstream_done, bundle))

    def _not_started(self, batch: Sequence[Bundle], why: str) -> None:
        calls = [call for bundle in batch for call in bundle.calls]
        self._ended([(call, Cancelled(message=f"Cancelled: {why}")) for call in calls], reported=False)

    def _round(self, batch: Sequence[Bundle]) -> None:
        prepared: list[Prepared] = []
        for bundle in batch:
            one, failed = self._submitter.prepare(bundle)
            if one is not None:
                prepared.append(one)
            for call, error in failed:
                if isinstance(error, UpstreamTaskError):
                    self._pool.submit(self._end_not_ready, call)
                else:
                    self._failed([(call, error)])
        with self._changed:
            self._sending = {one.identity.job_id for one in prepared}
        try:
            sent = self._submitter.send(prepared)
        except Exception as error:  # noqa: BLE001 - told to those whose tasks these are
            self._failed([(call, error) for one in prepared for call in one.calls])
            sent = []
        for answer in sent:
            self._sent(answer)
        with self._changed:
            self._sending = set()
            stopped = self._stopped
            self._changed.notify_all()
        if stopped:
            # They were submitted while somebody cancelled all that was there.
            self._request_end([answer.run.job_id for answer in sent if answer.error is None])

    def _sent(self, sent: Sent) -> None:
        one = sent.prepared
        if sent.error is None:
            for call in one.calls:
                call.future.job_id = sent.run.job_id
            self._follow(one, sent.run)
            return
        one.bundle.tries += 1
        if sent.again and one.bundle.tries < TRIES:
            log.warning("Tasks %s are not submitted yet: %s", one.bundle.fields_for_log(), sent.error)
            one.bundle.calls[:] = one.calls
            with self._changed:
                self._due.append(one.bundle)
            return
        if sent.again:
            self._request_end([sent.run.job_id])  # An earlier request may be carried out late.
        self._failed([(call, sent.error) for call in one.calls])

    def _follow(self, one: Prepared, run: Run) -> None:
        future = shared_watch(self._client).follow(run)
        with self._changed:
            self._live[run.job_id] = future
        future.add_done_callback(partial(self._job_ended, one, run))

    # The ends of jobs

    def _job_ended(self, one: Prepared, run: Run, future: Future[Ended]) -> None:
        """Called by the watch, which is not to be kept."""
        if future.cancelled():
            return
        try:
            self._pool.submit(self._conclude, one, run, future)
        except RuntimeError:
            log.debug("Job %s has ended after its runner", run.job_id)

    def _conclude(self, one: Prepared, run: Run, future: Future[Ended]) -> None:
        try:
            ended = future.result()
        except (Throttled, Unknown) as error:
            log.warning("Whether job %s has ended is not known yet: %s", run.job_id, error)
            if not self._over:
                self._follow(one, run)
            return
        except Exception as error:  # noqa: BLE001 - no task may be left waiting
            self._forget(run)
            self._failed([(call, error) for call in one.calls])
            return
        reported: list[tuple[Call, State[Any]]] = []
        silent: list[tuple[Call, State[Any]]] = []
        for call in one.calls:
            state, is_reported = self._outcome(run, call, ended)
            # A process that was killed may have left an outcome, and its states unsent.
            is_reported = is_reported and ended.job is not None and ended.job.status is Status.SUCCEEDED
            (reported if is_reported else silent).append((call, state))
        self._forget(run)
        self._ended(reported, reported=True)
        self._ended(silent, reported=False)
        if any(state.is_crashed() for _, state in silent) and ended.job is not None:
            self._tell_last_words(ended.job)

    def _tell_last_words(self, job: Job) -> None:
        """Show the end of what a job wrote that died silently."""
        if not job.stderr_uri:
            return
        try:
            said = "".join(chunk.text for chunk in self._client.logs(job.job_id, stream="stderr"))
        except SchedulerError as error:
            log.debug("The output of job %s cannot be shown: %s", job.job_id, error)
        else:
            self._say(f"The end of what job {job.job_id} wrote:\n{said[-LAST_WORDS:]}")

    def _forget(self, run: Run) -> None:
        with self._changed:
            self._live.pop(run.job_id, None)

    def _outcome(self, run: Run, call: Call, ended: Ended) -> tuple[State[Any], bool]:
        """The state of a call whose job has ended, and whether Prefect knows it. No answer of S3 is no absence."""
        key = result_key(self._submitter.place.results(run.run_id), call.number)
        try:
            text = self._submitter.get(key, self._closing.wait)
        except Exception as error:  # noqa: BLE001 - no task may be left waiting
            told = f"The outcome of the task could not be read: {type(error).__name__}: {error}"
            return Crashed(message=told, data=error), False
        return outcome.told_by(text, call, ended)

    def _end_not_ready(self, call: Call) -> None:
        """Let Prefect's engine find out here that an input has failed: it comes no further than that."""
        run = call.register()
        arguments: dict[str, Any] = {
            "task": call.task,
            "task_run": run,
            "parameters": call.parameters,
            "wait_for": call.wait_for or None,
            "return_type": "state",
        }
        try:
            if call.task.isasync:
                state = call.within(asyncio.run, run_task_async(**arguments))
            else:
                state = call.within(run_task_sync, **arguments)
        except Exception as error:  # noqa: BLE001 - no task may be left waiting
            self._failed([(call, error)])
        else:
            self._ended([(call, state)], reported=True)

    def _failed(self, failed: Sequence[tuple[Call, Exception]]) -> None:
        """End calls that could not be run: not by their own fault, so they have crashed."""
        states: list[tuple[Call, State[Any]]] = [
            (call, Crashed(message=f"The task could not be run as a job: {type(error).__name__}: {error}", data=error))
            for call, error in failed
        ]
        self._ended(states, reported=False)

    def _ended(self, ended: Sequence[tuple[Call, State[Any]]], *, reported: bool) -> None:
        if not ended:
            return
        try:
            outcome.end_all(ended, reported=reported)
        except Exception as error:
            log.exception("The states of %d task runs could not be told to Prefect", len(ended))
            for call, _ in ended:
                call.future.finish(Crashed(message=f"Its state could not be told to Prefect: {error}", data=error))
        for call, state in ended:
            if not reported and state.is_crashed():
                self._say(f"Task run {call.task.name}-{call.number}: {state.message}")
        with self._changed:
            self._open.difference_update(call for call, _ in ended)
            self._changed.notify_all()
