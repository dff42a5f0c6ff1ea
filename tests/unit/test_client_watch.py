"""Following runs, against a table whose index lags and forgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from client_stack import VirtualTime
from hypothesis import given, settings
from hypothesis import strategies as st

from sched_plugins.client.retry import Clock
from sched_plugins.client.run import Run, Standing, standing
from sched_plugins.client.watch import DIRECT, LEVEL_SECONDS, OVERLAP, Ended, Watch
from sched_plugins.core import limits, names
from sched_plugins.core.job import JobSpec
from sched_plugins.core.record import JobRecord, NextRun, to_item, to_text
from sched_plugins.core.state import Status

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = JobSpec(job_id="j", retry=0, ssm_document="AWS-RunShellScript", commands=("x",))


def record(job_id: str, run_id: str, status: Status = Status.QUEUED, **fields: Any) -> JobRecord:
    return JobRecord(
        spec=SPEC.model_copy(update={"job_id": job_id}), run_id=run_id, status=status, queue="q",
        submitted_at=BEGIN, updated_at=BEGIN, **{"run_ids": (run_id,), **fields},
    )  # fmt: skip


@dataclass
class Table:
    """The job table, with an index that is told of what ended when a test says so."""

    records: dict[str, JobRecord] = field(default_factory=dict)
    index: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    lagging: list[JobRecord] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    queries: int = 0
    sinces: dict[int, str] = field(default_factory=dict)

    def submit(self, job_id: str, run_id: str) -> None:
        known = self.records[job_id].run_ids if job_id in self.records else ()
        self.records[job_id] = record(job_id, run_id, run_ids=(*known, run_id))
        self.index.pop(job_id, None)

    def end(self, job_id: str, seconds: float, *, indexed: bool = True, status: Status = Status.SUCCEEDED) -> None:
        ended = self.records[job_id].changed(status=status, finished_at=BEGIN + timedelta(seconds=seconds))
        self.records[job_id] = ended
        self.lagging.append(ended)
        if indexed:
            self.catch_up()

    def catch_up(self) -> None:
        for ended in self.lagging:
            if self.records[ended.job_id].run_id == ended.run_id:
                self.index[ended.job_id] = to_item(ended)
        self.lagging.clear()

    def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
        wanted = list(job_ids)
        self.read.append(len(wanted))
        return {job_id: self.records[job_id] for job_id in wanted if job_id in self.records}

    def _rows(self, shard: int) -> list[Mapping[str, Any]]:
        self.queries += 1
        return sorted(
            (row for job, row in self.index.items() if names.shard(job) == shard), key=lambda r: r["state_at"]
        )

    def newest_end(self, shard: int) -> str:
        rows = self._rows(shard)
        return str(rows[-1]["state_at"]) if rows else ""

    def ended_since(self, shard: int, since: str) -> Iterable[Mapping[str, Any]]:
        self.sinces[shard] = since
        return [row for row in self._rows(shard) if row["state_at"] >= since]


def clock_of(time: VirtualTime) -> Clock:
    clock = Clock()
    time.govern(clock)
    return clock


@dataclass
class Following:
    table: Table = field(default_factory=Table)
    time: VirtualTime = field(default_factory=VirtualTime)
    changes: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = Watch(self.table, clock_of(self.time), lambda job: self.changes.append((job.job_id, job.status)))

    def follow(self, count: int) -> None:
        """Follow so many queued jobs."""
        for number in range(count):
            self.table.submit(f"j{number}", "r")
        self.watch.add(Run(f"j{number}", "r") for number in range(count))

    def ended(self) -> dict[str, Standing]:
        return {one.run.job_id: one.standing for one in self.watch.look()}


MANY = 3 * DIRECT


def test_few_jobs_are_read_themselves() -> None:
    following = Following()
    following.follow(3)
    assert following.ended() == {}
    following.table.end("j1", 5, indexed=False)
    assert following.ended() == {"j1": Standing.ENDED}
    assert (following.table.read, following.table.queries) == ([3, 3], 0)
    assert [run.job_id for run in following.watch.runs] in (["j0", "j2"], ["j2", "j0"])


def test_many_jobs_are_followed_by_the_index_alone() -> None:
    following = Following()
    following.follow(MANY)
    following.watch.look()
    assert following.table.read == [MANY], "on subscribing each is read itself"
    following.table.queries = 0
    assert following.ended() == {}
    assert (following.table.read, following.table.queries) == ([MANY], limits.INDEX_SHARDS)
    following.table.end("j7", 5)
    following.table.end("j8", 6)
    assert following.ended() == {"j7": Standing.ENDED, "j8": Standing.ENDED}
    assert following.table.read == [MANY, 2]


def test_when_few_become_many_each_is_read_itself_once_more() -> None:
    following = Following()
    following.follow(2)
    following.watch.look()
    following.table.end("j1", -3600, indexed=False)
    for number in range(DIRECT):
        following.table.submit(f"k{number}", "r")
    following.watch.add(Run(f"k{number}", "r") for number in range(DIRECT))
    assert following.ended() == {"j1": Standing.ENDED}


def test_what_had_ended_before_is_found_on_subscribing() -> None:
    following = Following()
    following.follow(MANY)
    following.watch.look()
    following.table.submit("late", "r")
    following.table.end("late", -3600, indexed=False)
    following.watch.add([Run("late", "r")])
    assert following.ended() == {"late": Standing.ENDED}


def test_an_end_that_enters_the_index_after_later_ones_is_found_within_the_overlap() -> None:
    following = Following()
    following.follow(MANY)
    following.watch.look()
    following.table.end("j1", 1000)
    assert following.ended() == {"j1": Standing.ENDED}
    following.table.end("j2", 1000 - OVERLAP.total_seconds() + 1)
    assert following.ended() == {"j2": Standing.ENDED}


def test_what_was_read_before_the_overlap_is_not_read_again() -> None:
    following = Following()
    following.follow(MANY)
    following.watch.look()
    following.table.submit("other", "r")
    following.table.end("other", 1000)
    following.watch.look()
    following.watch.look()
    assert following.table.sinces[names.shard("other")] == to_text(BEGIN + timedelta(seconds=1000) - OVERLAP)


def test_what_the_index_never_shows_is_found_by_the_level_check() -> None:
    following = Following()
    following.follow(MANY)
    following.watch.look()
    following.table.end("j3", 5, indexed=False)
    assert following.ended() == {}
    following.time.seconds += LEVEL_SECONDS
    assert following.ended() == {"j3": Standing.ENDED}


def test_a_row_in_the_overlap_is_not_read_again_and_again() -> None:
    following = Following()
    following.follow(MANY)
    following.watch.add([Run("j0", after="r")])
    following.watch.look()
    following.table.end("j0", 5)
    assert following.ended() == {"j0": Standing.ENDED}
    reads = len(following.table.read)
    following.watch.look()
    following.watch.look()
    assert len(following.table.read) == reads
    following.table.submit("j0", "r2")
    following.table.end("j0", 6)
    [last] = following.watch.look()
    assert (last.run, last.job and last.job.run_id) == (Run("j0", after="r"), "r2")


def test_a_run_that_was_replaced_before_it_was_read_is_told_from_the_index() -> None:
    class Slow(Table):
        """Between the query and the read, the job is submitted again."""

        def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
            wanted = list(job_ids)
            if wanted == ["j4"]:
                self.submit("j4", "later")
            return super().get_many(wanted)

    following = Following(Slow())
    following.follow(MANY)
    following.watch.look()
    following.table.end("j4", 5, status=Status.FAILED)
    [ended] = following.watch.look()
    assert ended.standing is Standing.ENDED
    assert ended.job is not None
    assert (ended.job.run_id, ended.job.status) == ("r", Status.FAILED)


def test_a_look_that_fails_loses_nothing() -> None:
    class Failing(Table):
        fail = False

        def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
            if self.fail:
                raise ConnectionError
            return super().get_many(job_ids)

    table = Failing()
    following = Following(table)
    following.follow(MANY)
    table.fail = True
    with pytest.raises(ConnectionError):
        following.watch.look()
    table.fail = False
    following.watch.look()
    table.end("j1", 5)
    table.fail = True
    with pytest.raises(ConnectionError):
        following.watch.look()
    table.fail = False
    assert following.ended() == {"j1": Standing.ENDED}


def test_changes_are_told_once_each() -> None:
    following = Following()
    following.follow(1)
    following.watch.look()
    following.watch.look()
    following.table.records["j0"] = following.table.records["j0"].changed(status=Status.RUNNING)
    following.watch.look()
    following.table.end("j0", 5)
    following.watch.look()
    assert following.changes == [("j0", "QUEUED"), ("j0", "RUNNING"), ("j0", "SUCCEEDED")]


def test_several_runs_of_one_job_are_told_apart() -> None:
    following = Following()
    following.table.submit("j", "one")
    following.table.end("j", 1)
    following.table.submit("j", "two")
    following.watch.add([Run("j", "one"), Run("j", "two"), Run("j", "three", may_come=True)])
    assert [(one.run.run_id, one.standing) for one in following.watch.look()] == [("one", Standing.SUPERSEDED)]
    following.table.end("j", 2)
    assert [one.run.run_id for one in following.watch.look()] == ["two"]
    following.table.submit("j", "three")
    following.table.end("j", 3)
    assert [one.run.run_id for one in following.watch.look()] == ["three"]
    assert following.watch.runs == []


@pytest.mark.parametrize(
    ("run", "found", "expected"),
    [
        (Run("j"), None, Standing.MISSING),
        (Run("j"), record("j", "b"), Standing.WAITING),
        (Run("j"), record("j", "b", Status.CANCELLED), Standing.ENDED),
        (Run("j", "b"), record("j", "b", Status.REJECTED), Standing.ENDED),
        (Run("j", "x"), record("j", "b", Status.SUCCEEDED), Standing.MISSING),
        (Run("j", "a"), record("j", "b", run_ids=("a", "b")), Standing.SUPERSEDED),
        (Run("j", "c"), record("j", "b", run_ids=("b", "c")), Standing.WAITING),
        (Run("j", "c"), record("j", "b", Status.FAILED, run_ids=("b", "c")), Standing.ENDED),
        (Run("j", "c"), record("j", "b", Status.FAILED, next_run=NextRun("c", SPEC)), Standing.WAITING),
        (Run("j", after="a"), record("j", "a", Status.SUCCEEDED), Standing.WAITING),
        (Run("j", after="a"), record("j", "b", Status.SUCCEEDED), Standing.ENDED),
    ],
)  # fmt: skip
def test_where_a_run_stands(run: Run, found: JobRecord | None, expected: Standing) -> None:
    assert standing(run, found) is expected


Step = tuple[str, int, float]


@settings(max_examples=150, deadline=None)
@given(
    count=st.sampled_from([2, DIRECT, DIRECT + 1, 2 * DIRECT]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["end", "end lagging", "again", "catch up", "look", "wait"]),
            st.integers(0, 2 * DIRECT - 1),
            st.floats(-20, 20),
        ),
        max_size=60,
    ),
)
def test_every_run_is_told_of_once_and_as_it_ended(count: int, steps: list[Step]) -> None:
    """Whatever the index does: each followed run is told of exactly once, ENDED only with its own record."""
    following = Following()
    following.follow(count)
    table, told = following.table, list[Ended]()
    for number, (what, job, skew) in enumerate(steps):
        job_id = f"j{job % count}"
        if what.startswith("end") and not table.records[job_id].is_terminal:
            table.end(job_id, number * 10 + skew, indexed=what == "end")
        elif what == "again" and table.records[job_id].is_terminal:
            table.submit(job_id, f"r{number}")
        elif what == "catch up":
            table.catch_up()
        elif what == "look":
            told += following.watch.look()
        elif what == "wait":
            following.time.seconds += 60
    for job_id, job_record in table.records.items():
        if not job_record.is_terminal:
            table.end(job_id, 10_000)
    following.time.seconds += LEVEL_SECONDS
    told += following.watch.look()
    assert following.watch.runs == []
    assert sorted(one.run.job_id for one in told) == sorted(table.records)
    for one in told:
        assert one.job is not None
        assert (one.standing is Standing.ENDED) == (one.job.run_id == "r" and one.job.is_terminal)
