"""A whole scheduler in virtual time: the fakes, and what drives the use cases as AWS would."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar, cast

from sched_plugins import scheduler as use_cases
from sched_plugins.core import limits, names
from sched_plugins.core import record as records
from sched_plugins.core import slot as slots
from sched_plugins.core.claim import Round
from sched_plugins.core.job import LINUX_DOCUMENT, JobSpec, parse_spec
from sched_plugins.core.record import JobRecord
from sched_plugins.core.slot import Slot
from sched_plugins.core.state import SlotState, Verdict
from sched_plugins.core.submission import Outcome, Submission
from sched_plugins.core.write import Table
from sched_plugins.errors import SchedulerError
from sched_plugins.ports import InstanceState, World
from sched_plugins.scheduler.cancellation import Cancelled
from sched_plugins.testing.clock import VirtualClock
from sched_plugins.testing.commands import Attempt, Behaviour, MemoryCommands, Run
from sched_plugins.testing.events import MemoryEvents
from sched_plugins.testing.executions import MemoryExecutions
from sched_plugins.testing.faults import Crash, Faults, Watched
from sched_plugins.testing.objects import MemoryObjects
from sched_plugins.testing.queues import MemoryQueues
from sched_plugins.testing.tables import Change, MemoryTables
from sched_plugins.testing.workers import Instance, MemoryWorkers

T = TypeVar("T")
_LEAVING = frozenset({InstanceState.SHUTTING_DOWN, InstanceState.STOPPED, InstanceState.TERMINATED})

MINUTE = 60.0
CLIENT_TRIES = 6
"""How often a client repeats a request whose answer it did not get."""


@dataclass
class Habits:
    """How events behave. Every one may be changed while a simulation runs."""

    command_events: int = 1
    """How often the event of a command's end comes: 0 for never, 2 for twice."""
    command_event_delay: float = 0.2
    """Seconds; below zero: while the command's end is still unknown to its sender, if it ends that fast."""
    instance_events: int = 1
    """How often the event of an instance's new state comes."""
    warnings: int = 1
    """How often the warning of a Spot interruption comes."""
    stream_delay: float = 0.1
    stream_copies: int = 1
    stream_tries: int = 3
    """How often a stream's record is tried before the sweep has to make up for it."""
    event_tries: int = 1
    """How often a function that handles an event is tried; Lambda does it three times."""


class Simulation:
    """A scheduler with one environment, in virtual time.

    ::

        simulation = Simulation(maximum=4)
        simulation.behave("job-1", Behaviour(exit_code=3))
        simulation.submit("job-1", retry=1)
        simulation.run_until_quiet()
        assert simulation.job("job-1").status == "FAILED"

    Attributes:
        world: the ports, each watched by ``faults``.
        tables, queues, commands, objects, workers, executions, events: the fakes behind them.
        habits: how events behave.
        sweeps: when the sweeps began that ran to their end and reported no error.
        accepted: job id, run id and outcome of every submission that was answered.
        invocations_failed: what ended invocations otherwise than well.
        empty_queue_wait: seconds for which a free worker waits for a message.
        requeue_after: seconds after which a QUEUED job's message is sent again.
        queue, group: the environment's job queue and Auto Scaling group.
    """

    def __init__(
        self,
        *,
        scheduler: str = "sched",
        environment: str = "demo",
        maximum: int = 2,
        faults: Faults | None = None,
        habits: Habits | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.habits = habits or Habits()
        self.faults = faults or Faults()
        self.faults.later = self.clock.after
        dead_letters = f"{scheduler}-dead-letters"
        self.tables = MemoryTables(self.clock)
        self.queues = MemoryQueues(self.clock, scheduler, dead_letters)
        self.workers = MemoryWorkers(self.clock)
        self.objects = MemoryObjects(self.clock)
        self.commands = MemoryCommands(self.clock, self.workers, self.objects)
        self.executions = MemoryExecutions(self.clock)
        self.events = MemoryEvents()
        self.queue, self.group = names.job_queue(environment), names.group(environment)
        self.queues.create_trio(self.queue)
        self.workers.add_group(self.group, self.queue, maximum)
        self.invocations_failed: list[str] = []
        self.sweeps: list[datetime] = []
        self.requeue_after = limits.REQUEUE_AFTER
        self.empty_queue_wait = 5
        self.accepted: list[tuple[str, str, Outcome]] = []
        self.world = self._watch(scheduler, dead_letters)
        self._behaviours: dict[str, Behaviour | Callable[[Attempt], Behaviour]] = {}
        self.default_behaviour = Behaviour()
        self.commands.behave = self._behaviour
        self.executions.functions = _Functions(self)
        self.tables.listeners.append(self._changed)
        self.commands.listeners.append(self._command_ended)
        self.workers.state_listeners.append(self._instance_changed)
        self.workers.warning_listeners.append(self._instance_warned)
        self.clock.after(MINUTE, self._minute)

    def _watch(self, scheduler: str, dead_letters: str) -> World:
        ports = {
            name: cast("Any", Watched(name, getattr(self, name), self.faults))
            for name in ("tables", "queues", "commands", "objects", "workers", "executions", "events")
        }
        return World(scheduler=scheduler, dead_letters=dead_letters, clock=self.clock, **ports)

    # What people do

    def spec(self, job_id: str, **fields: Any) -> JobSpec:
        """A valid job spec of the standard Linux document, with some fields as given."""
        plain: dict[str, Any] = {
            "job_id": job_id, "retry": 0, "job_success_string": "", "ssm_document": LINUX_DOCUMENT,
            "commands": ["./run.sh"], "timeout_seconds": 60,
        }  # fmt: skip
        return parse_spec(plain | fields)

    def submit(
        self, job_id: str, run_id: str = "run-1", *, queue: str = "", keep: bool = False, **fields: Any
    ) -> Outcome | None:
        """Submit a job as a client does: repeating the request until it has an answer. None: it got none."""
        return self.submit_spec(Submission(self.spec(job_id, **fields), run_id, queue or self.queue, keep))

    def submit_spec(self, submission: Submission) -> Outcome | None:
        """Submit one submission, repeating the request until it has an answer."""
        for _ in range(CLIENT_TRIES):
            answers = self.invoke("submit", lambda: use_cases.submit(self.world, [submission]))
            if answers and answers[0].error is None and answers[0].decision is not None:
                outcome = answers[0].decision.outcome
                if outcome is not Outcome.BUSY:
                    self.accepted.append((submission.spec.job_id, submission.run_id, outcome))
                    self.invoke("scale", lambda: self._scale(at_least=1))
                    return outcome
            self.clock.sleep(2)
        return None

    def send_raw(self, body: str | Mapping[str, Any], queue: str = "") -> str:
        """Send a message with plain SQS, and return its id."""
        text = body if isinstance(body, str) else json.dumps(body)
        return self.queues.put(queue or self.queue, text)

    def cancel(self, job_id: str) -> Cancelled | None:
        """Cancel a job as a client does, repeating the request until it has an answer."""
        for _ in range(CLIENT_TRIES):
            answer = self.invoke("cancel", lambda: use_cases.cancel(self.world, job_id))
            if answer is not None:
                return answer[0]
            self.clock.sleep(2)
        return None

    def behave(self, job_id: str, behaviour: Behaviour | Callable[[Attempt], Behaviour]) -> None:
        """Say what a job does when it runs, perhaps by attempt."""
        self._behaviours[job_id] = behaviour

    def _behaviour(self, attempt: Attempt) -> Behaviour:
        chosen = self._behaviours.get(attempt.job_id, self.default_behaviour)
        return chosen if isinstance(chosen, Behaviour) else chosen(attempt)

    def job(self, job_id: str) -> JobRecord:
        """The record of a job that there is."""
        record = self.tables.job(job_id)
        if record is None:
            raise KeyError(job_id)
        return record

    # What AWS does

    def invoke(self, name: str, action: Callable[[], T]) -> T | None:
        """Run one use case as a function does; None if it failed or died."""
        try:
            return action()
        except (SchedulerError, Crash) as error:
            self.invocations_failed.append(f"{name}: {type(error).__name__}: {error}")
            return None

    def _minute(self) -> None:
        self.clock.after(MINUTE, self._minute)
        self.sweep()
        self.invoke("scale", self._scale)

    def sweep(self) -> None:
        """What the minutely rule starts."""
        began = self.clock.now()
        report = self.invoke("sweep", lambda: use_cases.sweep(self.world, self.requeue_after))
        if report is not None and not report.errors:
            self.sweeps.append(began)
        elif report is not None:
            self.invocations_failed += [f"sweep: {error}" for error in report.errors]

    def _scale(self, at_least: int = 0) -> int:
        return use_cases.scale(self.world, self.queue, self.group, at_least).desired

    def _event(self, name: str, copies: int, action: Callable[[], object], delay: float = 0.2) -> None:
        for copy in range(copies):
            self.clock.after(delay + copy, lambda: self._handle(name, action))

    def _handle(self, name: str, action: Callable[[], object]) -> None:
        for _ in range(self.habits.event_tries):
            if self.invoke(name, lambda: (action(),)) is not None:
                return

    def _changed(self, change: Change) -> None:
        """A table's stream: due effects and wakes go to the outbox."""
        item = change.after
        if item is None:
            return
        if change.write.table is Table.SLOTS:
            if not {"start_by", "wake"} & change.write.changes.keys():
                return
            slot = slots.from_item(item)
            if slot.state is SlotState.HELD and "start_by" in change.write.changes:
                self.commands.expect(names.comment(slot.job_id, slot.run_id, slot.attempt), slot)
            if slot.wake is not None and "wake" in change.write.changes:
                self._stream(lambda: self._wake(slot))
        elif "pending" in change.write.changes:
            record = records.from_item(item)
            self._stream(lambda: not use_cases.publish(self.world, [record]))

    def _wake(self, slot: Slot) -> bool:
        use_cases.wake(self.world, slot)
        return True

    def _stream(self, action: Callable[[], bool]) -> None:
        def deliver(tries: int) -> None:
            if not self.invoke("outbox", action) and tries > 1:
                self.clock.after(1.0, lambda: deliver(tries - 1))

        for copy in range(self.habits.stream_copies):
            self.clock.after(self.habits.stream_delay + copy, lambda: deliver(self.habits.stream_tries))

    def _command_ended(self, run: Run) -> None:
        def tell() -> object:
            return use_cases.observe(self.world, run.command_id, run.command.worker_id)

        self._event("observe", self.habits.command_events, tell, max(0.0, self.habits.command_event_delay))

    def _instance_changed(self, instance: Instance) -> None:
        state = instance.state
        if state is InstanceState.RUNNING and instance.tag:

            def attach() -> object:
                return use_cases.attach(self.world, instance.worker_id, instance.tag)

            self._event("attach", self.habits.instance_events, attach)
        elif state in _LEAVING:
            self._event("reap", self.habits.instance_events, lambda: self._reap(instance.worker_id, state))

    def _reap(self, worker_id: str, state: InstanceState) -> None:
        slot = self.world.tables.slot(names.slot_id(worker_id))
        if slot is not None and slot.job_id:
            use_cases.reap(self.world, slot, state)

    def _instance_warned(self, instance: Instance) -> None:
        def warn() -> object:
            return use_cases.warn(self.world, instance.worker_id, "Spot interruption")

        self._event("warn", self.habits.warnings, warn)

    # Time

    def run_for(self, seconds: float) -> None:
        """Let so much time pass."""
        self.clock.sleep(seconds)

    def is_quiet(self) -> bool:
        """Whether nothing is left to be done: no worker, no message, no live or queued job, nothing pending."""
        if self.workers.alive() or self.executions.active() or self.tables.items(Table.SLOTS):
            return False
        if any(self.queues.stored(name) for name in (*self.queues.job_queues(), self.world.dead_letters)):
            return False
        return all(
            "pending" not in item and str(item["state_shard"]).startswith("ended")
            for item in self.tables.items(Table.JOBS).values()
        )

    def run_until_quiet(self, hours: float = 8.0) -> bool:
        """Let time pass until nothing is left to be done, at most so long. Returns whether that was reached."""
        end = self.clock.now() + timedelta(hours=hours)
        while not self.is_quiet():
            if self.clock.now() >= end:
                return False
            self.clock.sleep(MINUTE / 2)
        return True


class _Functions:
    """The functions of the worker state machine's tasks."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation

    def ready(self, slot_id: str) -> bool | None:
        return self._simulation.invoke("ready", lambda: use_cases.ready(self._simulation.world, slot_id))

    def next_job(self, round_: Round) -> bool:
        world, wait = self._simulation.world, self._simulation.empty_queue_wait
        return self._simulation.invoke("claim", lambda: (use_cases.claim(world, round_, wait),)) is not None

    def renew(self, slot_id: str, execution: int) -> Verdict | None:
        world = self._simulation.world
        return self._simulation.invoke("renew", lambda: use_cases.renew(world, slot_id, execution))

    def retire(self, slot_id: str, execution: int, unready: bool) -> Verdict | None:
        world = self._simulation.world
        return self._simulation.invoke("retire", lambda: use_cases.retire(world, slot_id, execution, unready=unready))
