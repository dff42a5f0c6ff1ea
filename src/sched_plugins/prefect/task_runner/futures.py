"""The future of a task that runs as a job."""

from __future__ import annotations

import uuid
from concurrent.futures import Future, InvalidStateError
from typing import Any, TypeVar

from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture

R = TypeVar("R")


class SchedulerFuture(PrefectConcurrentFuture[R]):
    """A task run whose task is, or will be, a job. Works with everything of ``prefect.futures``.

    A job that dies without a word ends it too: its state is Crashed then.
    """

    def __init__(self, task_run_id: uuid.UUID) -> None:
        super().__init__(task_run_id, Future())
        self.job_id = ""
        """The job, once it has been submitted; several tasks of a bundle have the same one."""

    @property
    def is_done(self) -> bool:
        """Whether it has its final state."""
        return self.wrapped_future.done()

    def finish(self, state: State[Any]) -> bool:
        """Give it its final state, and tell those who wait; False if it has one."""
        if self.is_done:
            return False
        # First, so that who is told finds the state here, and need not ask Prefect's API.
        self._final_state = state
        try:
            self.wrapped_future.set_result(state)  # type: ignore[arg-type]
        except InvalidStateError:
            return False  # Somebody else was a moment faster.
        return True
