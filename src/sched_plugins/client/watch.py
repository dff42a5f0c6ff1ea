"""Following any number of runs with a few calls a look."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, Final, Literal, Protocol

from sched_plugins.client.records import Row
from sched_plugins.client.retry import Clock
from sched_plugins.client.run import Run, Standing, standing
from sched_plugins.core import limits
from sched_plugins.core.record import JobRecord, from_item, to_text, to_time

DIRECT: Final = 10
"""Up to so many jobs are read themselves at each look; more are followed by the index of ended jobs."""
OVERLAP: Final = timedelta(seconds=30)
"""How far each look reaches back over what earlier looks saw: the end that a function wrote with its own clock may
enter the index after a later one's. Own: function clocks differ by well under a second, the index follows in
seconds; what comes later still is found by the level check."""
LEVEL_SECONDS: Final = 180.0
"""How often every followed job is read itself, whatever the index said."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a followed run."""

    run: Run
    standing: Standing
    """ENDED, SUPERSEDED or MISSING."""
    job: JobRecord | None
    """The record as it was read: of the run itself if it is ENDED, of a later run if it is SUPERSEDED."""


class Reader(Protocol):
    """What a watch reads; :class:`~sched_plugins.client.records.Records` does."""

    def get_many(self, job_ids: Iterable[str]) -> Mapping[str, JobRecord]:
        """The records of those jobs that exist, strongly consistent."""

    def newest_end(self, shard: int) -> str:
        """When the newest ended job of a shard ended; empty if there is none."""

    def ended_since(self, shard: int, since: str) -> Iterable[Row]:
        """Ended jobs of a shard from that moment on."""


class AsyncReader(Protocol):
    """The same for an event loop; :class:`~sched_plugins.client.async_records.AsyncRecords` does."""

    def get_many(self, job_ids: Iterable[str]) -> Awaitable[Mapping[str, JobRecord]]:
        """As of :class:`Reader`."""

    def newest_end(self, shard: int) -> Awaitable[str]:
        """As of :class:`Reader`."""

    def ended_since(self, shard: int, since: str) -> Awaitable[Iterable[Row]]:
        """As of :class:`Reader`."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a look asks of the job table: a method of its reader, and the arguments."""

    method: Literal["get_many", "newest_end", "ended_since"]
    arguments: tuple[Any, ...]


Looking = Generator[Question, Any, list["Ended"]]
"""A look as a conversation: it asks, and is sent the answers. Who asks AWS, and how, is not its concern."""


class Watch:
    """Runs that somebody waits for, and the looks that find out which have ended.

    A look costs one BatchGetItem while at most :data:`DIRECT` jobs are followed. With more it costs one Query for each
    of the 4 shards of the index of ended jobs, and one BatchGetItem for 100 jobs that the index says have ended.
    On subscribing, and every :data:`LEVEL_SECONDS`, each followed job is read itself, so that nothing depends on
    the index being complete or in order. No clock of this machine is compared with AWS's.

    A watch is used by one thread at a time.

    Args:
        reader: the job table.
        clock: time, for the level checks.
        seen: told of each record that was read and differs from when it was last read.
        level_seconds: how often followed jobs are read themselves, whatever the index said.
        level_jobs: how many are read each time, those first that were read longest ago; all by default. With a number,
            the calls do not grow with the jobs that are followed.
    """

    def __init__(
        self,
        reader: Reader | AsyncReader,
        clock: Clock,
        seen: Callable[[JobRecord], None] | None = None,
        *,
        level_seconds: float = LEVEL_SECONDS,
        level_jobs: int | None = None,
    ) -> None:
        self._reader = reader
        self._seen = seen
        self._level_seconds = level_seconds
        self._level_jobs = level_jobs
        self._clock = clock
        self._runs: dict[str, set[Run]] = {}
        self._fresh: set[str] = set()
        self._cursors: dict[int, str] = {}
        self._handled: set[tuple[str, str]] = set()
        self._known: dict[str, tuple[str, int, str]] = {}
        self._next_level = clock.now() + level_seconds

    @property
    def runs(self) -> list[Run]:
        """The runs that are still followed."""
        return [run for runs in self._runs.values() for run in runs]

    @property
    def unseen(self) -> frozenset[str]:
        """Followed jobs of which no record has been read."""
        return frozenset(self._runs.keys() - self._known.keys())

    def add(self, runs: Iterable[Run]) -> None:
        """Follow these runs too; the next look reads their jobs themselves."""
        for run in runs:
            self._runs.setdefault(run.job_id, set()).add(run)
            self._fresh.add(run.job_id)

    def discard(self, run: Run) -> None:
        """Follow this run no longer."""
        runs = self._runs.get(run.job_id, set())
        runs.discard(run)
        if not runs:
            self._runs.pop(run.job_id, None)
            self._fresh.discard(run.job_id)
            self._known.pop(run.job_id, None)

    def look(self) -> list[Ended]:
        """The followed runs that turn out to be over; they are followed no longer.

        A look that raises has changed nothing: look again.
        """
        looking, answer = self.looking(), None
        while True:
            try:
                question = looking.send(answer)
            except StopIteration as over:
                return list(over.value)
            answer = getattr(self._reader, question.method)(*question.arguments)

    async def alook(self) -> list[Ended]:
        """As :meth:`look`, with an :class:`AsyncReader`. Nothing else may use the watch meanwhile."""
        looking, answer = self.looking(), None
        while True:
            try:
                question = looking.send(answer)
            except StopIteration as over:
                return list(over.value)
            answer = await getattr(self._reader, question.method)(*question.arguments)

    def looking(self) -> Looking:
        """A look, asking its questions one by one."""
        if not self._runs:
            return []
        if len(self._runs) <= DIRECT:
            self._cursors.clear()
            return (yield from self._settle(self._runs, {}))
        if not self._cursors:
            # The cursors first: what ends after them is found by the index, what ended before by the level check.
            cursors = {}
            for shard in range(limits.INDEX_SHARDS):
                cursors[shard] = yield Question("newest_end", (shard,))
            self._cursors = cursors
            self._handled.clear()
            self._fresh.update(self._runs)
        due = self._clock.now() >= self._next_level
        rows, cursors = yield from self._ended_rows()
        level = set(islice(self._runs, self._level_jobs)) if due else set()
        ended = yield from self._settle(level | self._fresh | rows.keys(), rows)
        self._cursors = cursors
        self._forget_handled()
        self._handled |= {(job_id, str(row["state_at"])) for job_id, row in rows.items()}
        if due:
            self._next_level = self._clock.now() + self._level_seconds
        return ended

    def _ended_rows(self) -> Generator[Question, Any, tuple[dict[str, Row], dict[int, str]]]:
        """Rows about followed jobs that were not handled before, and how far each shard has been read."""
        rows: dict[str, Row] = {}
        cursors = dict(self._cursors)
        for shard, cursor in self._cursors.items():
            ended: Iterable[Row] = yield Question("ended_since", (shard, _reach_back(cursor)))
            for row in ended:
                job_id, at = str(row["job_id"]), str(row["state_at"])
                cursors[shard] = max(cursors[shard], at)
                if job_id in self._runs and (job_id, at) not in self._handled:
                    rows[job_id] = row
        return rows, cursors

    def _forget_handled(self) -> None:
        oldest = _reach_back(min(self._cursors.values()))
        self._handled = {(job_id, at) for job_id, at in self._handled if at >= oldest}

    def _settle(self, job_ids: Iterable[str], rows: Mapping[str, Row]) -> Looking:
        """Read these jobs, and stop following the runs of theirs that are over."""
        looked_at = list(job_ids)
        records: Mapping[str, JobRecord] = {}
        if looked_at:
            records = yield Question("get_many", (looked_at,))
        ended: list[Ended] = []
        for job_id in looked_at:
            record = records.get(job_id)
            if record is not None:
                self._tell(record)
            self._runs[job_id] = self._runs.pop(job_id)  # to the end of those whose level is checked next
            for run in list(self._runs[job_id]):
                found = standing(run, record)
                if found is Standing.WAITING or (found is Standing.MISSING and run.may_come):
                    continue
                told = _told_by(run, rows.get(job_id)) if found is Standing.SUPERSEDED else None
                ended.append(Ended(run, Standing.ENDED, told) if told else Ended(run, found, record))
        for one in ended:
            self.discard(one.run)
        self._fresh.difference_update(looked_at)
        return ended

    def _tell(self, record: JobRecord) -> None:
        state = (record.run_id, record.attempt, str(record.status))
        if self._known.get(record.job_id) != state:
            self._known[record.job_id] = state
            if self._seen is not None:
                self._seen(record)


def _reach_back(cursor: str) -> str:
    return to_text(to_time(cursor) - OVERLAP) if cursor else ""


def _told_by(run: Run, row: Row | None) -> JobRecord | None:
    """What the index told of a run whose record a later run has taken meanwhile; None if it told too little."""
    if row is None or row.get("run_id") != run.run_id or "status" not in row:
        return None
    return from_item(row)
