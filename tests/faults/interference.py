"""Others act between any two calls of a use case: time passes, messages come again, workers vanish, people cancel.

A use case decides on what it has read. Here everything that it has read may have changed when it comes to write, as
it may for a function that the platform froze for minutes. The conditions of the writes must notice.
"""

from __future__ import annotations

from collections.abc import Callable

from matrix import EVERYTHING, READS
from story import Story

from sched_plugins.core.state import Status
from sched_plugins.core.submission import Submission, upload_run_id
from sched_plugins.core.write import Table
from sched_plugins.testing import Faults, Simulation, violations

Disturbance = Callable[[Simulation], None]


def freeze(simulation: Simulation) -> None:
    """Minutes pass."""
    simulation.run_for(200)


def cancel(simulation: Simulation) -> None:
    """Somebody cancels every job."""
    for job_id in list(simulation.tables.items(Table.JOBS)):
        simulation.cancel(job_id)
    simulation.run_for(3)


def deliver_again(simulation: Simulation) -> None:
    """Every message comes again, and a second worker is there to take it."""
    for sent in [one for one in simulation.queues.sent if one.queue == simulation.queue]:
        simulation.queues.deliver_again(sent)
    simulation.workers.launch(simulation.queue)
    simulation.run_for(60)


def terminate(simulation: Simulation) -> None:
    """Every worker is taken away without notice, and the jobs go on elsewhere."""
    for instance in simulation.workers.alive():
        simulation.workers.interrupt(instance.worker_id, notice=0)
    simulation.run_for(200)


def submit_again(simulation: Simulation) -> None:
    """Every job is submitted again, as it is, with another spec, and as a newer upload."""
    number = len(simulation.accepted)
    for job_id in list(simulation.tables.items(Table.JOBS)):
        job = simulation.job(job_id)
        if job.status is not Status.REJECTED:
            for keep, spec in ((False, job.spec), (False, simulation.spec(job_id, retry=1)), (True, job.spec)):
                number += 1
                run_id = upload_run_id(f"{number:08X}") if keep else f"again-{number}"
                simulation.submit_spec(Submission(spec, run_id, job.queue, keep))
    simulation.run_for(20)


def time_out(simulation: Simulation) -> None:
    """Step Functions gives up the calls of its tasks, and makes them again."""
    for execution in simulation.executions.active():
        simulation.executions.time_out(execution.name)
    simulation.run_for(3)


def sweep(simulation: Simulation) -> None:
    """Two sweeps, the second when every listing has caught up."""
    simulation.sweep()
    simulation.run_for(5)
    simulation.sweep()


COMMITS = frozenset({"tables.write", "tables.write_each", "tables.transact", "commands.send"})
DISTURBANCES: tuple[Disturbance, ...] = (
    freeze, cancel, deliver_again, terminate, submit_again, time_out, sweep
)  # fmt: skip


def disturbed(story: Story, number: int, disturbance: Disturbance) -> Simulation:
    """Play a story, in which a call with this number comes late, after the disturbance."""

    def look(call: int, _: str) -> None:
        if call == number:
            faults.before = None
            disturbance(simulation)

    faults = Faults(before=look)
    simulation = story.begin(faults)
    return story.finish(simulation)


def moments(story: Story) -> list[tuple[int, str]]:
    """The calls before which others act: those that commit what was decided, or with ``SCHED_FAULTS=all`` every one."""
    clean = Faults()
    story.simulate(clean)
    return [
        (number, call)
        for number, call in enumerate(clean.calls)
        if (call not in READS if EVERYTHING else call in COMMITS)
    ]


def interfere(story: Story, disturbance: Disturbance) -> tuple[int, list[str]]:
    """Let others act before each of the story's moments, one at a time; how many there are, and what that broke."""
    chosen = moments(story)
    found = []
    for number, call in chosen:
        simulation = disturbed(story, number, disturbance)
        found += [f"before call {number}, {call}: {one}" for one in violations(simulation, at_rest=True)]
    return len(chosen), found
