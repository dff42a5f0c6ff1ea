"""The worker slot: what one worker is doing, and how its execution is woken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sched_plugins.core.record import to_text, to_time
from sched_plugins.core.state import SlotState, Verdict


@dataclass(frozen=True, slots=True)
class Wake:
    """A task token that waits to be completed, and the verdict to complete it with."""

    token: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot of a worker. A HELD slot and its job point at each other."""

    slot_id: str
    worker_id: str
    queue: str
    """The queue it takes jobs from, as the worker's tag names it."""
    state: SlotState
    execution: int
    """Number of the execution that should be running for it."""
    execution_at: datetime
    """When that execution was (to be) started; a younger one may not be listed yet."""
    ticket: str = ""
    """Of the latest NextJob invocation; an older one may not write."""
    token: str = ""
    """The task token that the held job's end completes."""
    job_id: str = ""
    run_id: str = ""
    attempt: int = 0
    claimed_at: datetime | None = None
    start_by: datetime | None = None
    """After this moment the wrapper refuses to start; a command not seen by then will not be awaited."""
    lease_until: datetime | None = None
    """After this moment nothing of the attempt can still be running; the last bound only."""
    look_at: datetime | None = None
    """When the sweep is to look at the held job, because something is unknown."""
    absent_since: datetime | None = None
    """Since when the S3 object of stdout, needed to seek the success string, has been missing."""
    asked_at: datetime | None = None
    """When its execution was last known to ask for a job: the slot was freed for it, or it asked in vain."""
    missing_since: datetime | None = None
    """Since when EC2's answers have lacked the worker; one such answer alone proves nothing."""
    wake: Wake | None = None
    draining: str = ""
    """Why the worker must claim no more (a Spot warning, a bad machine); empty if it may."""
    streak: tuple[str, ...] = ()
    """Different jobs that failed in a row at once, or through no fault of their own."""

    def changed(self, **fields: Any) -> Slot:
        """A copy with some fields replaced."""
        return replace(self, **fields)

    def holds(self, job_id: str, run_id: str, attempt: int) -> bool:
        """Whether it holds that very attempt."""
        return self.state is SlotState.HELD and (self.job_id, self.run_id, self.attempt) == (job_id, run_id, attempt)

    def released(self, state: SlotState, verdict: Verdict, streak: tuple[str, ...], now: datetime) -> Slot:
        """The slot without its job, its execution about to be woken."""
        return replace(
            self, state=state, wake=Wake(self.token, verdict) if self.token else self.wake, streak=streak,
            token="", job_id="", run_id="", attempt=0, claimed_at=None, start_by=None, lease_until=None,
            look_at=None, absent_since=None, asked_at=now,
        )  # fmt: skip


_TIMES = (
    "execution_at", "claimed_at", "start_by", "lease_until", "look_at", "absent_since", "asked_at", "missing_since",
)  # fmt: skip
_TEXTS = ("slot_id", "worker_id", "queue", "ticket", "token", "job_id", "run_id", "draining")


def to_item(slot: Slot) -> dict[str, Any]:
    """The slot as a flat item of plain types; empty fields are left out."""
    item: dict[str, Any] = {name: value for name in _TEXTS if (value := getattr(slot, name))}
    item |= {name: to_text(value) for name in _TIMES if (value := getattr(slot, name)) is not None}
    item |= {"state": str(slot.state), "execution": slot.execution}
    if slot.attempt:
        item["attempt"] = slot.attempt
    if slot.wake is not None:
        item |= {"wake": slot.wake.token, "wake_verdict": str(slot.wake.verdict)}
    if slot.streak:
        item["streak"] = list(slot.streak)
    return item


def from_item(item: Mapping[str, Any]) -> Slot:
    """The slot that :func:`to_item` wrote."""
    times: dict[str, Any] = {name: to_time(item[name]) if item.get(name) else None for name in _TIMES}
    return Slot(
        state=SlotState(item["state"]),
        execution=int(item["execution"]),
        attempt=int(item.get("attempt", 0)),
        wake=Wake(item["wake"], Verdict(item["wake_verdict"])) if item.get("wake") else None,
        streak=tuple(item.get("streak", ())),
        **{name: item.get(name, "") for name in _TEXTS},
        **times,
    )
