"""The progress of a batch of jobs, as an artifact that Prefect's UI shows while they run."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Final
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate

from sched_plugins.client import Job
from sched_plugins.errors import InvalidInput
from sched_plugins.prefect.artifact_keys import check_key
from sched_plugins.prefect.events import current_run_ids
from sched_plugins.prefect.records import JobResult

INTERVAL: Final = 2.0
"""Seconds between two updates of one artifact, at least."""
CLOSING_SECONDS: Final = 10.0
"""For how long the end of a batch waits for its last update."""
_WORST_FIRST: Final = ("unknown", "REJECTED", "FAILED", "CANCELLED", "SUCCEEDED")

_log = logging.getLogger(__name__)


class BatchProgress:
    """A progress artifact for a batch: made once, then updated as jobs end, at most once in two seconds.

    Nothing here blocks: one thread of the process sends the updates of all batches. Nothing here fails a task either:
    what Prefect's API does not take is logged. Use it as a context manager, or call :meth:`close`.

    Args:
        total: how many jobs the batch has.
        key: the artifact's key: lower-case letters, digits and dashes.
        title: what the batch is, for the artifact's description.
        interval: seconds between two updates, at least.

    Raises:
        InvalidInput: there are no jobs, or Prefect takes no such key.
    """

    def __init__(
        self, total: int, *, key: str = "job-progress", title: str = "Jobs", interval: float = INTERVAL
    ) -> None:
        if total < 1:
            raise InvalidInput(f"the progress of a batch needs at least 1 job, not {total}")
        self.total = total
        self._key = check_key(key)
        self._title = title
        self.interval = interval
        self._ended: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._artifact: UUID | None = None
        self._task_run_id, self._flow_run_id = current_run_ids()
        # Prefect's settings and the run are context variables: the updates are sent as if from here.
        self.context = contextvars.copy_context()
        self.changed = True
        self.closing = False
        self.due_at = 0.0
        self.written = threading.Event()
        self._warned = False
        _updates.open(self)

    def ended(self, job: JobResult | Job | None) -> None:
        """One more job has ended; None if it is not known how."""
        with self._lock:
            self._ended[str(job.status) if job is not None else "unknown"] += 1
        _updates.change(self)

    @property
    def percent(self) -> float:
        """How much of the batch has ended; 100 only when all of it has."""
        with self._lock:
            return min(100.0, 1000 * self._ended.total() // self.total / 10)

    @property
    def description(self) -> str:
        """The numbers, in words."""
        with self._lock:
            counts = dict(self._ended)
        known = [name for name in _WORST_FIRST if name in counts]
        parts = [f"{counts[name]:,} {name}" for name in (*known, *sorted(set(counts) - set(known)))]
        told = f"{self._title}: {sum(counts.values()):,} of {self.total:,} ended"
        return f"{told} ({', '.join(parts)})" if parts else told

    def close(self) -> None:
        """Send the last update and wait for it, at most ten seconds. Calling it again does nothing."""
        _updates.close(self)
        if not self.written.wait(CLOSING_SECONDS):
            _log.warning("The last update of artifact %s takes too long; it may be missing", self._key)

    async def aclose(self) -> None:
        """As :meth:`close`, for an event loop."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> BatchProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> BatchProgress:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def write(self) -> None:
        """Make or update the artifact. Called by the thread that sends the updates alone."""
        percent, description = self.percent, self.description
        try:
            with get_client(sync_client=True) as client:
                if self._artifact is not None:
                    client.update_artifact(self._artifact, ArtifactUpdate(data=percent, description=description))
                    return
                made = client.create_artifact(
                    ArtifactCreate(
                        type="progress", key=self._key, data=percent, description=description,
                        task_run_id=self._task_run_id, flow_run_id=self._flow_run_id,
                    )
                )  # fmt: skip
                self._artifact = made.id
        except Exception as error:  # noqa: BLE001 - a picture of the progress is not worth a failed task
            _log.log(
                logging.DEBUG if self._warned else logging.WARNING, "No update of artifact %s: %s", self._key, error
            )
            self._warned = True


class _Updates:
    """The thread that sends the updates of all open batches of the process. It ends with the last of them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._changed = threading.Condition()
        self._open: set[BatchProgress] = set()
        self._thread: threading.Thread | None = None

    def open(self, batch: BatchProgress) -> None:
        with self._changed:
            self._open.add(batch)
            # A thread is not there any more after a fork.
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="sched-progress", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def change(self, batch: BatchProgress) -> None:
        with self._changed:
            batch.changed = True
            self._changed.notify_all()

    def close(self, batch: BatchProgress) -> None:
        with self._changed:
            if batch in self._open:
                batch.closing, batch.due_at = True, 0.0
                self._changed.notify_all()

    def _run(self) -> None:
        while (due := self._next()) is not None:
            due.context.run(due.write)
            with self._changed:
                due.due_at = self._now() + due.interval

    def _next(self) -> BatchProgress | None:
        """The next batch to be written; None when there are none left, which ends the thread."""
        with self._changed:
            while True:
                for batch in [one for one in self._open if one.closing and not one.changed]:
                    self._open.discard(batch)
                    batch.written.set()
                waiting = [batch for batch in self._open if batch.changed]
                due = min(waiting, key=lambda one: (not one.closing, one.due_at), default=None)
                if due is not None and (due.closing or due.due_at <= self._now()):
                    due.changed = False
                    return due
                if not self._open:
                    self._thread = None
                    return None
                self._changed.wait(None if due is None else due.due_at - self._now())


_updates = _Updates()
