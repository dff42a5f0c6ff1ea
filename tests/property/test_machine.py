"""Anything may happen at any time: a machine that plays a scheduler's bad days and checks every invariant.

After each step what must always be true is checked; in the end everything drains to rest and all is checked.
``SCHED_EXAMPLES=5000`` plays so many times, longer, and differently every time.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import HealthCheck, note, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sched_plugins.core.submission import Submission, upload_run_id
from sched_plugins.core.write import Table
from sched_plugins.ports import ConditionFailed, InstanceState, RefusedForJob, RefusedForWorker
from sched_plugins.testing import Behaviour, Faults, Habits, Simulation, Way, violations
from sched_plugins.testing.commands import Attempt

LONG = int(os.environ.get("SCHED_EXAMPLES", "0"))
SETTINGS = settings(
    max_examples=LONG or 500,
    stateful_step_count=60 if LONG else 25,
    deadline=None,
    derandomize=not LONG,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
JOBS = st.sampled_from(["a", "b", "c"])
SMALL = st.integers(0, 40)
TEXTS = {"nothing": "", "word": "well", "word last": "." * 30_000 + "well", "long": "." * 30_000}
BODIES = {"empty": "", "no JSON": "no JSON", "no fields": "{}", "a list": "[1]", "noise": "x" * 300_000}


def text(name: str) -> str:
    """What a job writes; a function, so that no failing example prints it all."""
    return TEXTS[name]


BEHAVIOURS = st.builds(
    Behaviour,
    seconds=st.sampled_from([0.0, 0.3, 10.0, 90.0, 400.0]),
    exit_code=st.sampled_from([0, 0, 0, 1]),
    stdout=st.sampled_from(sorted(TEXTS)).map(text),
    stderr=st.sampled_from(["nothing", "long"]).map(text),
    heeds_cancel=st.booleans(),
    output_delay=st.sampled_from([0.0, 0.0, 90.0]),
    refused=st.sampled_from([None, None, None, None, RefusedForJob, RefusedForWorker]),
)
DOCUMENTS = st.sampled_from(["AWS-RunShellScript", "AWS-RunShellScript", "Own-Document"])


class BadDays(RuleBasedStateMachine):
    """A scheduler with one environment, and everybody and everything that disturbs it."""

    @initialize(
        maximum=st.integers(1, 3),
        copies=st.sampled_from([0, 1, 1, 2]),
        stream_copies=st.sampled_from([0, 1, 1, 2]),
        visibility=st.sampled_from([5.0, 60.0]),
        max_receives=st.sampled_from([1, 3, 10]),
        events_a_round=st.sampled_from([12, 10_000]),
    )
    def begin(
        self, maximum: int, copies: int, stream_copies: int, visibility: float, max_receives: int, events_a_round: int
    ) -> None:
        """Deploy."""
        habits = Habits(command_events=copies, instance_events=copies, stream_copies=stream_copies)
        self.simulation = Simulation(maximum=maximum, habits=habits, faults=Faults(plan={}))
        self.simulation.queues.visibility = visibility
        self.simulation.queues.max_receives = max_receives
        self.simulation.executions.events_a_round = events_a_round
        self.simulation.commands.documents.add("Own-Document")
        self.simulation.requeue_after = 3_000
        self.number = 0

    def _next(self) -> int:
        self.number += 1
        return self.number

    def _spec(self, job_id: str, retry: int, word: bool, document: str) -> dict[str, object]:
        commands = ["./run.sh"] if document.startswith("AWS") else []
        return {"retry": retry, "job_success_string": "well" if word else "", "ssm_document": document,
                "commands": commands}  # fmt: skip

    # Submitters

    @rule(job_id=JOBS, retry=st.integers(0, 2), word=st.booleans(), document=DOCUMENTS, behaviour=BEHAVIOURS)
    def submit(self, job_id: str, retry: int, word: bool, document: str, behaviour: Behaviour) -> None:
        """A new run: the first, one more of the same, or one with another spec."""
        self.simulation.behave(job_id, self._first(behaviour))
        self.simulation.submit(job_id, f"run-{self._next()}", **self._spec(job_id, retry, word, document))

    def _first(self, behaviour: Behaviour) -> Callable[[Attempt], Behaviour]:
        """So at the first two attempts; later ones end, so that every job does."""
        later = Behaviour(stdout="well", seconds=5.0)
        return lambda attempt: behaviour if attempt.attempt <= 2 else later

    @rule(job_id=JOBS, retry=st.integers(0, 1), past=SMALL)
    def resubmit(self, job_id: str, retry: int, past: int) -> None:
        """A client repeats an old request, perhaps with another spec."""
        self.simulation.submit(job_id, f"run-{max(1, self.number - past)}", retry=retry)

    @rule(job_id=JOBS, retry=st.integers(0, 1), past=st.sampled_from([0, 0, 0, 1, 5]))
    def upload(self, job_id: str, retry: int, past: int) -> None:
        """An upload, perhaps during a live run, perhaps told of late."""
        run_id = upload_run_id(f"{max(1, self._next() - past):08X}")
        spec = self.simulation.spec(job_id, retry=retry)
        self.simulation.submit_spec(Submission(spec, run_id, self.simulation.queue, keep=True))

    @rule(job_id=JOBS, retry=st.integers(0, 1))
    def raw_message(self, job_id: str, retry: int) -> None:
        """A client uses plain SQS."""
        self.simulation.send_raw(self.simulation.spec(job_id, retry=retry).to_plain())

    @rule(kind=st.sampled_from(sorted(BODIES)))
    def bad_message(self, kind: str) -> None:
        """A client sends what is no job."""
        self.simulation.send_raw(BODIES[kind])

    @rule(job_id=JOBS)
    def cancel(self, job_id: str) -> None:
        """Somebody cancels a job that there may be."""
        if self.simulation.tables.job(job_id) is not None:
            self.simulation.cancel(job_id)

    # Time

    @rule(seconds=st.sampled_from([0.2, 1, 5, 20, 60, 200]))
    def wait(self, seconds: float) -> None:
        """Time passes, and what is due happens."""
        self.simulation.run_for(seconds)

    @rule(seconds=st.sampled_from([30, 150, 1_000, 4_500]))
    def jump(self, seconds: float) -> None:
        """Everything stands still for a while."""
        self.simulation.clock.jump(seconds)

    @rule()
    def sweep(self) -> None:
        """A sweep comes out of turn."""
        self.simulation.sweep()

    # What services do

    @rule(which=SMALL)
    def deliver_again(self, which: int) -> None:
        """A message comes again, whatever became of it."""
        sent = [one for one in self.simulation.queues.sent if one.queue == self.simulation.queue]
        if sent:
            self.simulation.queues.deliver_again(sent[which % len(sent)])

    @rule(newest_first=st.booleans())
    def reorder(self, newest_first: bool) -> None:
        """Messages come in another order."""
        self.simulation.queues.newest_first = newest_first

    @rule(after=SMALL, way=st.sampled_from(list(Way)))
    def fault(self, after: int, way: Way) -> None:
        """One of the next calls goes wrong: it fails, loses its reply, kills its caller, or comes late."""
        faults = self.simulation.faults
        faults.plan = {**faults.plan, len(faults.calls) + after: way}

    @rule(after=SMALL, seconds=st.sampled_from([5, 70, 200]))
    def freeze(self, after: int, seconds: float) -> None:
        """One of the next calls comes only after everybody else has gone on for a while."""
        faults = self.simulation.faults
        target = len(faults.calls) + after

        def look(number: int, _: str) -> None:
            if number >= target:
                faults.before = None
                self.simulation.run_for(seconds)

        faults.before = look

    @rule(copies=st.sampled_from([0, 1, 2]), delay=st.sampled_from([0.0, 0.2, 30.0]))
    def events_change(self, copies: int, delay: float) -> None:
        """Events of commands are lost, early, late, or come twice."""
        self.simulation.habits.command_events = copies
        self.simulation.habits.command_event_delay = delay

    @rule(which=SMALL)
    def zombie_write(self, which: int) -> None:
        """A write that was decided long ago arrives once more: of an older attempt, it changes nothing."""
        history = [one for one in self.simulation.tables.history if one.write.table is Table.JOBS and one.before]
        if not history:
            return
        change = history[which % len(history)]
        stored = self.simulation.tables.item(Table.JOBS, change.write.key)
        assert change.before is not None
        assert stored is not None
        if any(change.before[field] != stored[field] for field in ("run_id", "attempt")):
            try:
                self.simulation.tables.write(change.write)
            except ConditionFailed:
                return
            raise AssertionError(f"{change.write.name} of {change.before['run_id']} changed {stored['run_id']}")

    # What workers suffer

    def _workers(self) -> list[str]:
        running = [one for one in self.simulation.workers.alive() if one.state is InstanceState.RUNNING]
        return [one.worker_id for one in running]

    @rule(which=SMALL, notice=st.sampled_from([0.0, 120.0]))
    def interrupt(self, which: int, notice: float) -> None:
        """Spot takes a worker away."""
        if workers := self._workers():
            self.simulation.workers.interrupt(workers[which % len(workers)], notice=notice)

    @rule(which=SMALL, sweeps=st.sampled_from([1, 1, 2]))
    def ec2_forgets(self, which: int, sweeps: int) -> None:
        """An answer of EC2 lacks a worker that lives, and the next one, within the minute, may lack it too."""
        if workers := self._workers():
            self.simulation.workers.left_out.add(workers[which % len(workers)])
            for _ in range(sweeps):
                self.simulation.sweep()
            self.simulation.workers.left_out.clear()

    @rule(which=SMALL)
    def restart_agent(self, which: int) -> None:
        """An agent is restarted and runs its documents again."""
        if workers := self._workers():
            self.simulation.commands.restart_agent(workers[which % len(workers)])

    @rule(which=SMALL)
    def stop_worker(self, which: int) -> None:
        """Somebody stops a worker."""
        if workers := self._workers():
            self.simulation.workers.stop(workers[which % len(workers)])

    @rule(has_agent=st.sampled_from([True, True, False]))
    def worker_boots(self, has_agent: bool) -> None:
        """Somebody launches a worker with the tag."""
        if len(self.simulation.workers.alive()) < 5:
            self.simulation.workers.launch(self.simulation.queue, has_agent=has_agent)

    @rule(which=SMALL, aborted=st.booleans())
    def execution_suffers(self, which: int, aborted: bool) -> None:
        """Step Functions gives up a task and tries it again, or somebody aborts an execution."""
        if active := self.simulation.executions.active():
            name = active[which % len(active)].name
            (self.simulation.executions.abort if aborted else self.simulation.executions.time_out)(name)

    # What must be true

    @invariant()
    def always(self) -> None:
        """Nothing that must always be true is broken."""
        if hasattr(self, "simulation"):
            found = violations(self.simulation)
            assert not found, found

    def teardown(self) -> None:
        """In the end everything comes to rest, and every invariant holds."""
        if not hasattr(self, "simulation"):
            return
        self.simulation.run_until_quiet(hours=24)
        note(f"failed invocations: {self.simulation.invocations_failed[-20:]}")
        found = violations(self.simulation, at_rest=True)
        assert not found, found


BadDays.TestCase.settings = SETTINGS
TestBadDays = BadDays.TestCase
