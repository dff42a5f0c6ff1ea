"""The end of an attempt: what becomes of its job and of the slot."""

from __future__ import annotations

from datetime import timedelta

import pytest
from rule_records import COMMAND, LATER, NOW, WORKER, answer, held_slot, queued, running

from sched_plugins.core import limits
from sched_plugins.core.conclude import cancel_queued, conclude, request_cancel
from sched_plugins.core.judge import End, Failed, Lost, Succeeded
from sched_plugins.core.record import JobRecord, NextRun
from sched_plugins.core.slot import Wake
from sched_plugins.core.state import SlotState, Status, Verdict

ASKED = "2026-03-01T12:00:00.000Z"
FAST = answer(1, finished_at=NOW + timedelta(seconds=0.5))


@pytest.mark.parametrize(
    ("changes", "end", "status", "attempt", "losses", "reason"),
    [
        ({}, Succeeded(), Status.SUCCEEDED, 1, 0, ""),
        ({}, Failed("exit code 3", 3), Status.QUEUED, 2, 0, "exit code 3"),
        ({"attempt": 3}, Failed("exit code 3", 3), Status.FAILED, 3, 0, "exit code 3"),
        ({"attempt": 3, "losses": 1}, Failed("exit code 3", 3), Status.QUEUED, 4, 1, "exit code 3"),
        ({}, Failed("unknown document", final=True), Status.FAILED, 1, 0, "unknown document"),
        ({}, Lost("gone"), Status.QUEUED, 2, 1, "gone"),
        ({"attempt": 3}, Lost("gone"), Status.QUEUED, 4, 1, "gone"),
        ({"attempt": 6, "losses": 5}, Lost("gone"), Status.FAILED, 6, 6, "WorkerLost: 6 times, last: gone"),
        ({"attempt": 9, "losses": 8, "unsent": 8}, Lost("throttled", unsent=True), Status.QUEUED, 10, 9, "throttled"),
        ({"attempt": 9, "losses": 8, "unsent": 4}, Lost("gone"), Status.QUEUED, 10, 9, "gone"),
        ({"cancel_requested": ASKED}, Succeeded(), Status.CANCELLED, 1, 0, "cancelled on request"),
        ({"cancel_requested": ASKED}, Failed("killed", 143), Status.CANCELLED, 1, 0, "cancelled on request"),
        ({"cancel_requested": ASKED}, Lost("gone"), Status.CANCELLED, 1, 0, "cancelled on request"),
    ],
)
def test_what_becomes_of_the_job(
    changes: dict[str, object], end: End, status: Status, attempt: int, losses: int, reason: str
) -> None:
    job = conclude(running(**changes), held_slot(), end, LATER, answer()).job
    assert (job.status, job.attempt, job.losses, job.status_reason) == (status, attempt, losses, reason)
    assert job.pending == job.event_id
    assert (job.finished_at is None) == (status is Status.QUEUED)


def test_a_requeued_job_belongs_to_no_worker_and_has_no_code() -> None:
    job = conclude(running(), held_slot(), Failed("exit code 3", 3), LATER, answer(3)).job
    assert (job.worker_id, job.command_id, job.exit_code, job.started_at, job.queued_at) == ("", "", None, None, LATER)


def test_every_ended_attempt_is_in_the_history() -> None:
    job = conclude(running(), held_slot(), Failed("exit code 3", 3), LATER, answer(3)).job
    [entry] = job.attempts
    assert (entry.attempt, entry.worker_id, entry.command_id, entry.exit_code) == (1, WORKER, COMMAND, 3)
    assert entry.stdout_uri == "s3://out/stdout"


def test_a_loss_has_no_exit_code() -> None:
    job = conclude(running(exit_code=3), held_slot(), Lost("gone"), LATER).job
    assert job.attempts[0].exit_code is None


def test_what_waits_for_the_run_stays() -> None:
    waiting = running(next_run=NextRun("upload-2", running().spec))
    assert conclude(waiting, held_slot(), Lost("gone"), LATER).job.next_run == waiting.next_run


def test_the_tail_of_the_output_is_kept() -> None:
    job = conclude(running(), held_slot(), Succeeded(), LATER, answer(stdout="x" * 9_000 + "end")).job
    assert job.output.endswith("end")
    assert len(job.output) == limits.MAX_OUTPUT_TAIL


def test_a_reason_is_cut() -> None:
    job = conclude(running(attempt=3), held_slot(), Failed("r" * 5_000, 1), LATER).job
    assert len(job.status_reason) == limits.MAX_REASON_BYTES


@pytest.mark.parametrize(
    ("slot", "end", "state", "verdict"),
    [
        ({}, Succeeded(), SlotState.FREE, Verdict.NEXT),
        ({}, Failed("x", 1), SlotState.FREE, Verdict.NEXT),
        ({}, Lost("x"), SlotState.FREE, Verdict.NEXT),
        ({}, Lost("x", retire=True), SlotState.RETIRING, Verdict.RETIRE),
        ({"draining": "Spot"}, Succeeded(), SlotState.RETIRING, Verdict.RETIRE),
        ({"streak": ("a", "b")}, Lost("x"), SlotState.RETIRING, Verdict.RETIRE),
        ({"streak": ("a", "b")}, Lost("x", unsent=True), SlotState.FREE, Verdict.NEXT),
        ({"streak": ("a", "job")}, Lost("x"), SlotState.FREE, Verdict.NEXT),
        ({"streak": ("a", "b")}, Succeeded(), SlotState.FREE, Verdict.NEXT),
    ],
)
def test_what_becomes_of_the_slot(slot: dict[str, object], end: End, state: SlotState, verdict: Verdict) -> None:
    freed = conclude(running(), held_slot(**slot), end, LATER, answer(1)).slot
    assert (freed.state, freed.wake) == (state, Wake("token-0", verdict))
    assert (freed.job_id, freed.token, freed.attempt, freed.lease_until, freed.look_at) == ("", "", 0, None, None)


@pytest.mark.parametrize(
    ("changes", "end", "told", "streak"),
    [
        ({}, Lost("x"), None, ("a", "job")),
        ({}, Failed("x", 1), FAST, ("a", "job")),
        ({}, Failed("x", 1), answer(1), ()),
        ({}, Failed("x", 1), None, ()),
        ({}, Failed("x", final=True), FAST, ()),
        ({}, Succeeded(), FAST, ()),
        ({"cancel_requested": ASKED}, Lost("x"), None, ()),
    ],
)
def test_what_counts_against_the_machine(
    changes: dict[str, object], end: End, told: object, streak: tuple[str, ...]
) -> None:
    freed = conclude(running(**changes), held_slot(streak=("a",)), end, LATER, told).slot  # type: ignore[arg-type]
    assert freed.streak == streak


def test_one_job_that_fails_again_and_again_is_not_the_machines_fault() -> None:
    slot = held_slot(streak=("job",))
    assert conclude(running(), slot, Failed("x", 1), LATER, FAST).slot.streak == ("job",)


def test_a_slot_without_a_token_keeps_the_wake_it_has() -> None:
    wake = Wake("token-8", Verdict.NEXT)
    assert conclude(running(), held_slot(token="", wake=wake), Succeeded(), LATER).slot.wake == wake


def test_a_queued_job_is_cancelled_at_once() -> None:
    job, _ = cancel_queued(queued(), LATER)
    assert (job.status, job.pending, job.finished_at) == (Status.CANCELLED, job.event_id, LATER)


@pytest.mark.parametrize("before", [running(), running(cancel_requested=ASKED)])
def test_a_live_job_is_asked_once(before: JobRecord) -> None:
    job, _ = request_cancel(before, NOW)
    assert (job.status, job.cancel_requested) == (Status.RUNNING, ASKED)
