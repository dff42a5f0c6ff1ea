"""Many effects are due at once, and some of them take long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from sched_plugins import scheduler as use_cases
from sched_plugins.core import submission, write
from sched_plugins.core.record import JobRecord
from sched_plugins.core.state import Status
from sched_plugins.core.submission import Submission
from sched_plugins.errors import Throttled
from sched_plugins.scheduler.outbox import MANIFESTS_BEGIN_WITHIN
from sched_plugins.testing import Habits, Simulation
from sched_plugins.testing.faults import Crash


def due(simulation: Simulation, job_id: str, *, ended: bool = False, staged: bool = False) -> JobRecord:
    """A stored record whose effect is due: a message, or with ``staged`` a manifest first."""
    stage: dict[str, Any] = {"stage": {"executable": "/run", "output": f"s3://bucket/{job_id}/"}, "commands": []}
    spec = simulation.spec(job_id, **(stage if staged else {}))
    job = submission.new_run(Submission(spec, "run-1", simulation.queue), None, simulation.clock.now())
    if ended or staged:
        job = job.changed(status=Status.SUCCEEDED, finished_at=simulation.clock.now(), queued_at=None)
        job = job.changed(pending=job.event_id)
    simulation.tables.write(write.job("submit.first", None, job))
    return job


def quiet() -> Simulation:
    """A simulation in which nothing happens by itself."""
    return Simulation(maximum=0, habits=Habits(stream_copies=0))


def told(simulation: Simulation) -> set[str]:
    """Jobs of which any message was sent."""
    return {str(json.loads(one.body)["job_id"]) for one in simulation.queues.sent}


def settled(simulation: Simulation, records: Sequence[JobRecord]) -> set[str]:
    return {record.job_id for record in records if not simulation.job(record.job_id).pending}


def take(simulation: Simulation, seconds: float) -> None:
    """Let every listing take so long."""

    def wait(_: int, call: str) -> None:
        if call == "objects.listing":
            simulation.clock.sleep(seconds)

    simulation.faults.before = wait


def test_who_waits_for_a_message_waits_for_no_manifest() -> None:
    simulation = quiet()
    staged = [due(simulation, f"stage-{number}", staged=True) for number in range(3)]
    plain = [due(simulation, f"job-{number}", ended=number % 2 == 1) for number in range(20)]

    def die(_: int, call: str) -> None:
        if call == "objects.listing":
            raise Crash(call)

    simulation.faults.before = die
    with pytest.raises(Crash):
        use_cases.publish(simulation.world, [*staged, *plain])
    names = {record.job_id for record in plain}
    assert told(simulation) == names
    assert settled(simulation, [*staged, *plain]) == names


def test_what_was_sent_is_settled_before_the_next_manifest_is_begun() -> None:
    simulation = quiet()
    staged = [due(simulation, f"stage-{number}", staged=True) for number in range(4)]
    listings = 0

    def die(_: int, call: str) -> None:
        nonlocal listings
        listings += call == "objects.listing"
        if listings == 3:
            raise Crash(call)

    simulation.faults.before = die
    with pytest.raises(Crash):
        use_cases.publish(simulation.world, staged)
    assert len(settled(simulation, staged)) == len(told(simulation)) == 2


def test_manifests_beyond_what_a_call_may_take_are_left_to_the_next_and_all_get_done() -> None:
    simulation = quiet()
    seconds = MANIFESTS_BEGIN_WITHIN / 2 - 1
    staged = [due(simulation, f"stage-{number}", staged=True) for number in range(8)]
    take(simulation, seconds)
    left = [8]
    while left[-1]:
        began = simulation.clock.now()
        failed = use_cases.publish(simulation.world, staged)
        assert (simulation.clock.now() - began).total_seconds() <= MANIFESTS_BEGIN_WITHIN + seconds
        assert all(isinstance(error, Throttled) for error in failed.values())
        left.append(len(failed))
    assert left == [8, 5, 2, 0]
    assert settled(simulation, staged) == {record.job_id for record in staged}
    assert simulation.faults.calls.count("objects.put") == len(staged)


def test_one_that_always_takes_long_and_fails_starves_no_other() -> None:
    simulation = quiet()
    staged = [due(simulation, f"stage-{number}", staged=True) for number in range(5)]
    listing = simulation.objects.listing

    def slow(folder: str, maximum: int) -> Any:
        if "stage-0" in folder:
            simulation.clock.sleep(MANIFESTS_BEGIN_WITHIN * 2)
            raise Throttled("S3 is slow")
        return listing(folder, maximum)

    simulation.objects.listing = slow  # type: ignore[method-assign]
    for _ in range(8):
        use_cases.publish(simulation.world, staged)
    assert settled(simulation, staged) == {f"stage-{number}" for number in range(1, 5)}


def test_a_manifest_that_another_wrote_meanwhile_is_not_written_again() -> None:
    simulation = quiet()
    staged = [due(simulation, f"stage-{number}", staged=True) for number in range(2)]
    first = True

    def overtake(_: int, call: str) -> None:
        nonlocal first
        if call == "objects.listing" and first:
            first = False
            use_cases.publish(simulation.world, staged)

    simulation.faults.before = overtake
    assert use_cases.publish(simulation.world, staged) == {}
    assert simulation.faults.calls.count("objects.put") == 3
