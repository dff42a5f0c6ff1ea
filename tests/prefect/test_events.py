"""Events that tell of jobs, and the automations that react to them."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any
from uuid import UUID, uuid4

import pytest
from fleet_client import eventually
from job_results import message, result, stored
from prefect import flow, task
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.runtime import flow_run
from prefect.states import Running

from sched_plugins.errors import InvalidInput, InvalidSettings, NotFound
from sched_plugins.prefect import events
from sched_plugins.prefect.automations import (
    acreate_recommended_automations,
    create_recommended_automations,
    recommended,
)
from sched_plugins.prefect.events import Recent, describe, emit_job_event, event_uuid, flow_run_of
from sched_plugins.prefect.records import JobResult

PATIENCE = 60.0


def test_an_event_names_the_job_its_state_and_what_is_around_it() -> None:
    job = result("case/7", status="FAILED", exit_code=3, attempt=2, tags={"case": "7", "prefect_flow_name": "f"})
    event = Event(**describe(job, scheduler="sim"))
    assert event.event == "sched.job.failed"
    assert event.occurred == job.finished_at
    assert dict(event.resource.items()) == {
        "prefect.resource.id": "sched.job.case/7", "prefect.resource.name": "case/7", "sched.status": "FAILED",
        "sched.run-id": "run-1", "sched.attempt": "2", "sched.exit-code": "3", "sched.queue": "sim-job-queue",
        "sched.worker": "i-0123456789abcdef0", "sched.scheduler": "sim", "sched.tag.case": "7",
    }  # fmt: skip
    assert [(one.role, one.id) for one in event.related] == [
        ("scheduler", "sched.scheduler.sim"), ("queue", "sched.queue.sim-job-queue"),
    ]  # fmt: skip
    assert event.payload["event_id"] == "case/7:run-1:2:FAILED"
    assert event.payload["exit_code"] == 3


def test_what_a_job_runs_is_not_told() -> None:
    job = JobResult.model_validate(message())
    assert "planted" not in Event(**describe(job)).model_dump_json()
    assert "secret.sh" not in Event(**describe(job)).model_dump_json()


def test_whoever_tells_of_the_same_end_tells_the_same_event() -> None:
    own = describe(result())["id"]
    assert own == describe(JobResult.model_validate(message()), event_id=message()["event_id"])["id"]
    assert own == event_uuid("job:run-1:1:SUCCEEDED")
    others = (result("other"), result(run_id="run-2"), result(attempt=2), result(status="FAILED"))
    assert own not in {describe(job)["id"] for job in others}


def test_a_flow_run_is_found_by_the_jobs_tags_or_group() -> None:
    run = uuid4()
    assert flow_run_of({"prefect_flow_run_id": str(run)}) == run
    assert flow_run_of({}, f"prefect-{run}") == run
    for tags, group in (({}, ""), ({"prefect_flow_run_id": "x"}, "prefect-x"), ({}, str(run))):
        assert flow_run_of(tags, group) is None


def test_only_the_newest_ids_are_remembered() -> None:
    recent, ids = Recent(2), [uuid4() for _ in range(3)]
    assert [recent.add(one) for one in ids] == [True] * 3
    assert [one in recent for one in ids] == [False, True, True]
    assert not recent.add(ids[1])
    recent.forget(ids[1])
    assert recent.add(ids[1])


def test_of_many_waits_for_one_job_one_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(events, "emit_event", lambda **event: told.append(event) or event)
    job, ready = result(f"shared-{uuid4()}"), threading.Barrier(8)

    def wait() -> None:
        ready.wait()
        emit_job_event(job)

    threads = [threading.Thread(target=wait) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event["id"] for event in told] == [event_uuid(f"{job.job_id}:run-1:1:SUCCEEDED")]


def test_an_event_that_cannot_be_told_fails_nobody_and_may_be_told_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def down(**event: Any) -> None:
        raise ConnectionError("Prefect is not there")

    job = result(f"late-{uuid4()}")
    monkeypatch.setattr(events, "emit_event", down)
    assert emit_job_event(job) is None
    assert "Prefect is not there" in caplog.text
    monkeypatch.setattr(events, "emit_event", lambda **event: event)
    assert emit_job_event(job) is not None
    assert emit_job_event(job) is None


@pytest.mark.usefixtures("prefect_server")
def test_in_a_flow_the_event_belongs_to_the_run_and_outside_to_the_one_that_the_job_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    inside, outside, run = result(f"in-{uuid4()}"), f"out-{uuid4()}", uuid4()

    @task
    def wait() -> None:
        for _ in range(3):  # Several waits for one job.
            emit_job_event(inside, scheduler="sim")

    @flow(name="events-of-jobs")
    def waiting() -> str:
        wait()
        return str(flow_run.id)

    run_id = waiting()
    emit_job_event(result(outside, status="FAILED", tags={"prefect_flow_run_id": str(run)}))
    first = stored(f"{inside.job_id}:run-1:1:SUCCEEDED")
    assert first.resource.id == f"sched.job.{inside.job_id}"
    around = {one.role: one for one in first.related}
    assert around["flow-run"].id == f"prefect.flow-run.{run_id}"
    assert around["flow"]["prefect.resource.name"] == "events-of-jobs"
    assert around["scheduler"].id == "sched.scheduler.sim"
    second = stored(f"{outside}:run-1:1:FAILED")
    assert (second.event, {one.role: one.id for one in second.related}["flow-run"]) == (
        "sched.job.failed", f"prefect.flow-run.{run}",
    )  # fmt: skip
    assert "failed to process item" not in caplog.text


@pytest.mark.usefixtures("prefect_server")
def test_automations_are_made_once_and_stay_off_when_they_were_turned_off() -> None:
    name = f"ops-{uuid4().hex[:8]}"
    Secret(value="a notification block stands here").save(name, _sync=True)  # type: ignore[call-arg]
    choice: dict[str, Any] = {"notification": f"secret/{name}", "work_pool": "laptop", "scheduler": "once"}
    made = create_recommended_automations(**choice, cancel_after=5)
    assert isinstance(made, dict)
    assert sorted(made) == [
        "sched: cancel a flow run whose jobs of once fail", "sched: tell of crashed flow runs of laptop",
        "sched: tell of failed jobs of once", "sched: tell of laptop without a worker",
    ]  # fmt: skip
    with get_client(sync_client=True) as client:
        client.pause_automation(made["sched: tell of failed jobs of once"])
        assert asyncio.run(acreate_recommended_automations(**choice, cancel_after=7)) == made
        found = {one.name: one for one in client.read_automations() if one.name in made}
        assert {one.name: one.id for one in found.values()} == made
        assert not found["sched: tell of failed jobs of once"].enabled
        cancelling = found["sched: cancel a flow run whose jobs of once fail"]
        assert (cancelling.enabled, cancelling.trigger.threshold) == (True, 7)  # type: ignore[union-attr]
        for one in made.values():
            client.delete_automation(one)


@pytest.mark.usefixtures("prefect_server")
def test_a_notification_block_that_is_not_there_is_told() -> None:
    with pytest.raises(NotFound, match="no block 'secret/nobody'"):
        create_recommended_automations(notification="secret/nobody")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({}, "no automation is asked for"),
        ({"cancel_after": -1}, "cancel_after is -1"),
        ({"cancel_after": True}, "cancel_after is True"),
        ({"notification": "ops"}, "'ops' names no notification block"),
        ({"work_pool": "laptop", "cancel_after": 1}, "work pool 'laptop'"),
        ({"cancel_after": 1, "scheduler": "No Name"}, "'No Name' cannot be a stack name"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(choice: dict[str, Any], words: str) -> None:
    with pytest.raises((InvalidInput, InvalidSettings), match=words):
        create_recommended_automations(**choice)


@pytest.mark.usefixtures("prefect_server")
def test_failed_jobs_cancel_their_flow_run() -> None:
    made = create_recommended_automations(scheduler="reacting", cancel_after=2)
    assert isinstance(made, dict)
    with get_client(sync_client=True) as client:

        @flow(name="of-failing-jobs")
        def failing() -> None: ...

        run = client.create_flow_run(failing, state=Running())
        tags = {"prefect_flow_run_id": str(run.id)}

        def fail(run_id: UUID) -> None:
            # Anew each time: an automation that was just made may not be watched for yet.
            for _ in range(2):
                emit_job_event(
                    result(f"bad-{uuid4()}", status="FAILED", tags=tags, finished_at=None), scheduler="reacting"
                )

        def cancelled() -> bool:
            fail(run.id)
            state = client.read_flow_run(run.id).state
            return state is not None and state.name in ("Cancelling", "Cancelled")

        assert eventually(cancelled, PATIENCE)
        for one in made.values():
            client.delete_automation(one)


def test_automations_watch_the_jobs_of_the_scheduler_that_was_named() -> None:
    [one] = recommended(None, "sim", "", 3)
    trigger = one.trigger
    failed = Event(**describe(result(status="FAILED"), scheduler="sim"))
    other = Event(**describe(result(status="FAILED"), scheduler="other"))
    assert trigger.match.matches(failed.resource)  # type: ignore[union-attr]
    assert not trigger.match.matches(other.resource)  # type: ignore[union-attr]
