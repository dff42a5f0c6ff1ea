"""The states of a job and the moves between them."""

from __future__ import annotations

import itertools

import pytest

from sched_plugins.core.state import LIVE, TERMINAL, TRANSITIONS, Event, Status, permitted

NEW_RUN = {Event.SUBMITTED, Event.RAW_CLAIMED}


def test_every_state_is_queued_live_or_terminal() -> None:
    assert set(Status) == {Status.QUEUED} | LIVE | TERMINAL
    assert not LIVE & TERMINAL


def test_every_event_and_every_state_occurs() -> None:
    assert {move.event for move in TRANSITIONS} == set(Event)
    assert {move.target for move in TRANSITIONS} == set(Status)


def test_only_a_new_run_leaves_a_terminal_state() -> None:
    assert {move.event for move in TRANSITIONS if move.source in TERMINAL} == NEW_RUN


def test_a_rejected_message_stays_rejected() -> None:
    assert not any(permitted(Status.REJECTED, target) for target in Status)


def test_every_live_state_can_end_in_every_way() -> None:
    for live, target in itertools.product(LIVE, {Status.QUEUED, *TERMINAL} - {Status.REJECTED}):
        assert permitted(live, target)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (None, Status.RUNNING), (None, Status.SUCCEEDED), (Status.QUEUED, Status.RUNNING),
        (Status.QUEUED, Status.SUCCEEDED), (Status.QUEUED, Status.FAILED), (Status.RUNNING, Status.STARTING),
        (Status.SUCCEEDED, Status.FAILED), (Status.CANCELLED, Status.SUCCEEDED), (Status.FAILED, Status.RUNNING),
    ],
)  # fmt: skip
def test_these_moves_are_never_permitted(source: Status | None, target: Status) -> None:
    assert not permitted(source, target)


def test_an_event_leads_from_a_state_to_one_other_but_for_refused_workers() -> None:
    targets: dict[tuple[Status | None, Event], set[Status]] = {}
    for move in TRANSITIONS:
        targets.setdefault((move.source, move.event), set()).add(move.target)
    several = {key for key, found in targets.items() if len(found) > 1}
    assert several == {(Status.STARTING, Event.REFUSED_WORKER)}
