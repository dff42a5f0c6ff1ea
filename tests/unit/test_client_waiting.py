"""Waiting: pace, patience and timeouts in virtual time; the poller that all waiters of an event loop share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from client_stack import VirtualTime
from test_client_watch import Table, clock_of

from sched_plugins.client import waiting
from sched_plugins.client.retry import Pace
from sched_plugins.client.run import Run, Standing
from sched_plugins.client.waiting import SharedPoller, as_they_end, ended_in_order, shared_poller, watching
from sched_plugins.client.watch import Watch
from sched_plugins.core.record import JobRecord
from sched_plugins.core.state import Status
from sched_plugins.errors import Conflict, JobFailed, JobNotFound, LaptopStackError, Throttled, WaitTimeout


def followed(table: Table, time: VirtualTime, *runs: Run) -> Watch:
    watch = Watch(table, clock_of(time))
    watch.add(runs)
    return watch


def test_looks_become_rarer_while_nothing_happens() -> None:
    table, time = Table(), VirtualTime()
    table.submit("j", "r")
    with pytest.raises(WaitTimeout, match=r"after 600 s 1 of the jobs had not ended \('j'\)"):
        list(watching(followed(table, time, Run("j")), 600, clock_of(time)))
    assert 600 <= time.seconds < 601
    assert 70 < len(table.read) < 130


def test_the_end_is_seen_within_a_tenth_of_the_wait() -> None:
    for after in (1.0, 30.0, 80.0):
        table, time = Table(), VirtualTime()
        table.submit("j", "r")
        watch = followed(table, time, Run("j"))

        class Ending(Table):
            def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
                if time.seconds >= after and not table.records["j"].is_terminal:  # noqa: B023
                    table.end("j", 0)  # noqa: B023
                return table.get_many(job_ids)  # noqa: B023

        watch._reader = Ending()
        [ended] = watching(watch, None, clock_of(time))
        assert ended.standing is Standing.ENDED
        assert time.seconds - after <= max(0.3, 0.13 * after)


def test_a_wait_of_no_time_is_one_look() -> None:
    table, time = Table(), VirtualTime()
    table.submit("j", "r")
    with pytest.raises(WaitTimeout):
        list(watching(followed(table, time, Run("j")), 0, clock_of(time)))
    assert len(table.read) == 1


def test_jitter_stays_within_a_fifth() -> None:
    time = VirtualTime()
    pace = Pace(1, 10, clock_of(time))
    time.seconds = 1000
    delays = [pace.delay() for _ in range(200)]
    assert 8 <= min(delays) < max(delays) <= 12
    pace.news()
    assert pace.delay() <= 1.2


class Outage(Table):
    """Reads fail from one moment to another."""

    def __init__(self, time: VirtualTime, begin: float, end: float) -> None:
        super().__init__()
        self._time, self._begin, self._end = time, begin, end

    def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
        if self._begin <= self._time.seconds < self._end:
            raise Throttled("slow down")
        return super().get_many(job_ids)


def test_a_wait_bears_with_a_short_outage() -> None:
    time = VirtualTime()
    table = Outage(time, 5, 50)
    table.submit("j", "r")
    looks = watching(followed(table, time, Run("j")), None, clock_of(time))
    time.then = [lambda: None] * 4 + [lambda: table.end("j", 0)]
    assert [one.run.job_id for one in looks] == ["j"]


def test_a_long_outage_ends_the_wait() -> None:
    time = VirtualTime()
    table = Outage(time, 5, 500)
    table.submit("j", "r")
    with pytest.raises(Throttled):
        list(watching(followed(table, time, Run("j")), None, clock_of(time)))
    assert 60 < time.seconds < 90


def test_the_first_look_must_succeed() -> None:
    time = VirtualTime()
    table = Outage(time, 0, 1)
    with pytest.raises(Throttled):
        list(watching(followed(table, time, Run("j")), None, clock_of(time)))
    assert time.seconds == 0


def test_what_became_of_a_run_is_told_or_raised() -> None:
    table, time = Table(), VirtualTime()
    table.submit("j", "one")
    table.end("j", 1)
    table.submit("j", "two")
    told = {
        one.run: one
        for one in watching(followed(table, time, Run("j", "one"), Run("k"), Run("j", "x")), 1, clock_of(time))
    }
    with pytest.raises(Conflict, match="run 'one' of job 'j' is over, and its record now tells of run 'two'"):
        waiting.result(told[Run("j", "one")])
    with pytest.raises(JobNotFound, match="no job has the id 'k'"):
        waiting.result(told[Run("k")])
    with pytest.raises(JobNotFound, match="job 'j' knows no run 'x'; its present run is 'two'"):
        waiting.result(told[Run("j", "x")])


def test_a_failure_carries_its_reason_and_the_place_of_its_output() -> None:
    table = Table()
    table.submit("j", "r")
    table.end("j", 1, status=Status.FAILED)
    job = table.records["j"].changed(status_reason="exit code 3", stdout_uri="s3://out/j")
    with pytest.raises(JobFailed, match=r"job 'j' ended FAILED: exit code 3. Its output: s3://out/j"):
        waiting.check_succeeded(job)
    succeeded = job.changed(status=Status.SUCCEEDED)
    assert waiting.check_succeeded(succeeded) is succeeded


# The poller of an event loop


class Gentle(SharedPoller):
    GATHER = 0.0


def poller(table: Table, monkeypatch: pytest.MonkeyPatch) -> SharedPoller:
    monkeypatch.setattr(waiting, "SHORTEST", 0.01)
    monkeypatch.setattr(waiting, "SHORTEST_INDEXED", 0.01)
    time = waiting.Clock()
    return Gentle(Watch(table, time), time)


def test_a_thousand_waiters_share_one_poller(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    for number in range(1000):
        table.submit(f"j{number}", "r")

    async def scenario() -> None:
        shared = poller(table, monkeypatch)
        waits = [asyncio.create_task(shared.wait(Run(f"j{number}", "r"))) for number in range(1000)]
        await asyncio.sleep(0.05)
        assert table.read == [1000], "each is read once, on subscribing, and all of them together"
        for number in range(1000):
            table.end(f"j{number}", number)
        ended = await asyncio.gather(*waits)
        assert [one.run.job_id for one in ended] == [f"j{number}" for number in range(1000)]
        assert sum(table.read[1:]) == 1000

    asyncio.run(scenario())


def test_several_waiters_of_one_run_and_one_that_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    table.submit("j", "r")

    async def scenario() -> None:
        shared = poller(table, monkeypatch)
        one, other, gone = (asyncio.create_task(shared.wait(Run("j", "r"))) for _ in range(3))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.02)
        table.end("j", 1)
        assert (await one).standing is (await other).standing is Standing.ENDED
        assert gone.cancelled()

    asyncio.run(scenario())


def test_what_nobody_waits_for_any_more_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    table.submit("a", "r")
    table.submit("b", "r")

    async def scenario() -> None:
        shared = poller(table, monkeypatch)
        stays, gone = (asyncio.create_task(shared.wait(Run(name, "r"))) for name in "ab")
        while table.read[-1:] != [2]:
            await asyncio.sleep(0.01)
        gone.cancel()
        while table.read[-1:] != [1]:
            await asyncio.sleep(0.01)
        table.end("a", 1)
        assert (await stays).run.job_id == "a"

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_the_poller_stops_asking_when_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    table.submit("j", "r")

    async def scenario() -> None:
        shared = poller(table, monkeypatch)
        with pytest.raises(WaitTimeout):
            await ended_in_order(shared, [Run("j", "r")], 0.05)
        await asyncio.sleep(0.05)
        looks = len(table.read)
        await asyncio.sleep(0.05)
        assert len(table.read) == looks
        table.end("j", 1)
        [ended] = await ended_in_order(shared, [Run("j", "r")], 5)
        assert ended.standing is Standing.ENDED

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [LaptopStackError("gone"), RuntimeError("a bug")])
def test_an_error_of_the_poller_reaches_every_waiter(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Table):
        def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
            raise error

    async def scenario() -> None:
        shared = poller(Broken(), monkeypatch)
        waits = await asyncio.gather(shared.wait(Run("a")), shared.wait(Run("b")), return_exceptions=True)
        assert waits == [error, error]

    asyncio.run(scenario())


def test_runs_are_told_of_as_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    for name in "abc":
        table.submit(name, "r")

    async def scenario() -> list[str]:
        shared = poller(table, monkeypatch)
        table.end("b", 1)
        found = []
        async for ended in as_they_end(shared, [Run("a"), Run("b"), Run("c")], 5):
            found.append(ended.run.job_id)
            if len(found) < 3:
                table.end("ca"[len(found) - 1], len(found))
        return found

    assert asyncio.run(scenario()) == ["b", "c", "a"]


def test_each_event_loop_has_its_own_poller_and_closed_ones_are_forgotten() -> None:
    made: list[Mapping[str, Any]] = []

    def make() -> SharedPoller:
        made.append({})
        time = waiting.Clock()
        return SharedPoller(Watch(Table(), time), time)

    async def twice() -> bool:
        return shared_poller("key", make) is shared_poller("key", make)

    assert asyncio.run(twice())
    assert asyncio.run(twice())
    assert len(made) == 2
    assert len(waiting._POLLERS) == 1
