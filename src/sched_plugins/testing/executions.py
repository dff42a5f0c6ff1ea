"""Step Functions running the worker state machine: Ready, NextJob, Choice, Retire, Renew."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from sched_plugins.core import limits, names
from sched_plugins.core.claim import Round
from sched_plugins.core.slot import Slot, Wake
from sched_plugins.core.state import Verdict
from sched_plugins.testing.clock import VirtualClock

READY_INTERVAL = 10.0
"""Seconds between two questions whether a worker's agent answers."""
RETRIES = 6
"""How often a task whose function failed is tried again."""
TASK_TIMEOUT = 176_400.0
"""Seconds after which NextJob's task gives up a token that nobody completed."""
BACKOFF = 2.0
"""Seconds before a failed task is tried again."""


class State(StrEnum):
    """Where an execution is."""

    READY = "Ready"
    NEXT_JOB = "NextJob"
    RETIRE = "Retire"
    RENEW = "Renew"
    ENDED = "ended"
    FAILED = "failed"


class Functions(Protocol):
    """What the state machine's tasks call. Each may fail with any exception, or say None for "failed"."""

    def ready(self, slot_id: str) -> bool | None:
        """Whether the worker's agent answers."""

    def next_job(self, round_: Round) -> bool:
        """Claim; whether the function returned without failing."""

    def renew(self, slot_id: str, execution: int) -> Verdict | None:
        """Hand over to the next execution."""

    def retire(self, slot_id: str, execution: int, unready: bool) -> Verdict | None:
        """End the worker."""


@dataclass
class Execution:
    """One execution."""

    name: str
    slot_id: str
    number: int
    started_at: datetime
    state: State = State.READY
    token: str = ""
    """The task token that it waits for."""
    round: int = 0
    retry: int = 0
    events: int = 0
    ended_at: datetime | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None


class MemoryExecutions:
    """The ``Executions`` port, in memory.

    Attributes:
        executions: every execution that was ever started, by name.
        functions: what its tasks call; set by the simulation.
        listing_lag: seconds for which ``running`` does not know what has begun or ended.
        events_a_round: history events counted for one job.
        hears_of_deaths: whether a task learns at once that its function died; otherwise it waits for its timeout.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.executions: dict[str, Execution] = {}
        self.functions: Functions | None = None
        self.listing_lag = 3.0
        self.events_a_round = limits.EVENTS_A_ROUND
        self.hears_of_deaths = True
        self._clock = clock
        self._numbers = itertools.count(1)

    def start(self, slot: Slot) -> None:
        """Start the slot's execution of its present number; "already exists" is success."""
        name = names.execution(slot.slot_id, slot.execution)
        if name in self.executions:
            return
        execution = Execution(name, slot.slot_id, slot.execution, self._clock.now())
        self.executions[name] = execution
        self._soon(lambda: self._ready(execution))

    def running(self) -> set[str]:
        """Names of the running executions; one just started may be missing, one just ended still listed."""
        then = self._clock.now() - timedelta(seconds=self.listing_lag)
        return {
            one.name
            for one in self.executions.values()
            if one.started_at <= then and (one.ended_at is None or one.ended_at > then)
        }

    def wake(self, wake: Wake) -> bool:
        """Complete a task token with its verdict. False: nobody waits for it."""
        waiting = next((one for one in self.active() if one.token == wake.token), None)
        if waiting is None:
            return False
        waiting.token = ""
        self._soon(lambda: self._choose(waiting, wake.verdict))
        return True

    def active(self) -> list[Execution]:
        """The executions that have not ended."""
        return [one for one in self.executions.values() if one.is_running]

    def abort(self, name: str) -> None:
        """End an execution from outside, as somebody might in the console."""
        self._end(self.executions[name], State.FAILED)

    def time_out(self, name: str) -> None:
        """The function of an execution's task is given up and called again, although the first call may go on."""
        execution = self.executions[name]
        if execution.state is State.NEXT_JOB and execution.token:
            execution.token = ""
            self._again(execution, lambda: self._next_job(execution))

    def _soon(self, action: Callable[[], None], seconds: float = 0.1) -> None:
        self._clock.after(seconds, action)

    def _end(self, execution: Execution, state: State = State.ENDED) -> None:
        if execution.is_running:
            execution.state, execution.ended_at, execution.token = state, self._clock.now(), ""

    def _enter(self, execution: Execution, state: State) -> bool:
        if not execution.is_running:
            return False
        if execution.state is not state:
            execution.retry = 0
        execution.state = state
        return True

    def _ready(self, execution: Execution) -> None:
        if not self._enter(execution, State.READY) or self.functions is None:
            return
        patience = timedelta(seconds=limits.READY_PATIENCE)
        if self.functions.ready(execution.slot_id):
            self._next_job(execution)
        elif self._clock.now() - execution.started_at < patience:
            self._soon(lambda: self._ready(execution), READY_INTERVAL)
        else:
            self._retire(execution, unready=True)

    def _next_job(self, execution: Execution) -> None:
        if not self._enter(execution, State.NEXT_JOB) or self.functions is None:
            return
        execution.events += self.events_a_round if execution.retry == 0 else limits.EVENTS_A_RETRY
        token = execution.token = f"token-{next(self._numbers)}"
        round_ = Round(
            execution.slot_id, token, execution.number, execution.round, execution.retry, execution.events
        )  # fmt: skip
        self._soon(lambda: self._give_up(execution, token), TASK_TIMEOUT)
        if not self.functions.next_job(round_) and self.hears_of_deaths:
            # The function failed before anybody completed its token, which is dead from now on.
            self._give_up(execution, token)

    def _give_up(self, execution: Execution, token: str) -> None:
        if execution.token == token:
            execution.token = ""
            self._again(execution, lambda: self._next_job(execution))

    def _again(self, execution: Execution, task: Callable[[], None]) -> None:
        execution.retry += 1
        if execution.retry > RETRIES:
            self._end(execution, State.FAILED)
        else:
            self._soon(task, BACKOFF)

    def _choose(self, execution: Execution, verdict: Verdict) -> None:
        match verdict:
            case Verdict.NEXT:
                execution.round += 1
                execution.retry = 0
                self._next_job(execution)
            case Verdict.RETIRE:
                self._retire(execution)
            case Verdict.RENEW:
                self._renew(execution)
            case Verdict.STOP:
                self._end(execution)

    def _retire(self, execution: Execution, *, unready: bool = False) -> None:
        if self._enter(execution, State.RETIRE) and self.functions is not None:
            verdict = self.functions.retire(execution.slot_id, execution.number, unready)
            if verdict is None:
                self._again(execution, lambda: self._retire(execution, unready=unready))
            else:
                self._choose(execution, verdict)

    def _renew(self, execution: Execution) -> None:
        if self._enter(execution, State.RENEW) and self.functions is not None:
            verdict = self.functions.renew(execution.slot_id, execution.number)
            if verdict is None:
                self._again(execution, lambda: self._renew(execution))
            else:
                self._choose(execution, verdict)
