"""The shipped scheduler template on a laptop stack: jobs as plain messages, workers by their tag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from deployed import SCHEDULER, DeployedStack, deployed
from fleet_client import eventually

from sched_plugins.local import control

FINISHED, FAILED = f"{SCHEDULER}-job-queue-finished", f"{SCHEDULER}-job-queue-failed"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedStack]:
    with deployed(tmp_path_factory.mktemp("scheduler")) as client:
        yield client


def test_the_original_example(stack: DeployedStack) -> None:
    for number, wanted in enumerate(("Hello EVERYONE", "Hello")):
        stack.send_job(f"jobId_{number}", "echo Hello World", retry="3", job_success_string=wanted)
    worker = stack.worker()
    first, second = stack.ended("jobId_0"), stack.ended("jobId_1")
    assert (first["status"], first["retries"], first["output"]) == ("FAILED", "3 of 3", "Hello World\n")
    assert (second["status"], second["retries"], second["output"]) == ("SUCCEEDED", "0 of 3", "Hello World\n")
    assert [entry["attempt"] for entry in first["attempts"]] == [1, 2, 3, 4]
    failed, finished = stack.told(FAILED, "jobId_0"), stack.told(FINISHED, "jobId_1")
    assert (failed["retries"], failed["job_success_string"]) == ("3 of 3", "Hello EVERYONE")
    assert finished["event_id"] == f"jobId_1:{second['run_id']}:1:SUCCEEDED"
    stack.gone(worker)


def test_two_transitions_a_job_however_long_it_runs(stack: DeployedStack) -> None:
    counts = []
    for seconds in ("0.1", "4"):
        job_id = f"long-{seconds}"
        stack.send_job(job_id, f"sleep {seconds}")
        worker = stack.worker()
        assert stack.ended(job_id)["status"] == "SUCCEEDED"
        stack.gone(worker)
        eventually(lambda: "ExecutionSucceeded" in stack.history(worker))  # noqa: B023 - called at once
        counts.append([kind for kind in stack.history(worker) if kind.endswith("StateEntered")])
    job, last_look = ["TaskStateEntered", "ChoiceStateEntered"], ["TaskStateEntered", "ChoiceStateEntered"]
    ready, retired = ["TaskStateEntered"], ["TaskStateEntered", "ChoiceStateEntered", "SucceedStateEntered"]
    assert counts[0] == counts[1] == ready + job + last_look + retired


def test_an_untagged_instance_is_attached_by_hand(stack: DeployedStack) -> None:
    worker = stack.launch()
    stack.send_job("by-hand", "echo here")
    start = f"{SCHEDULER}-start"
    answer = stack.call(start, {"worker_id": "i-0123456789abcdef0", "queue": f"{SCHEDULER}-job-queue"})
    assert answer["error"]["type"] == "NotFound"
    answer = stack.call(start, {"worker_id": worker, "queue": "no-queue"})
    assert answer["error"]["type"] == "QueueNotFound"
    answer = stack.call(start, {"worker_id": worker, "queue": f"{SCHEDULER}-job-queue"})
    assert answer == {"slot_id": f"{worker}-0"}
    assert stack.ended("by-hand")["worker_id"] == worker
    stack.gone(worker)


def test_bad_messages_are_told_of_and_stop_nobody(stack: DeployedStack) -> None:
    good = {
        "job_id": "after-the-bad", "retry": 0, "job_success_string": "", "ssm_document": "AWS-RunShellScript",
        "commands": ["true"],
    }  # fmt: skip
    bad = {
        "not JSON": "it is",
        "job_id: is missing": json.dumps({name: value for name, value in good.items() if name != "job_id"}),
        "at most 65,536": json.dumps(good | {"commands": ["x" * 66_000]}),
        "the message is 900,000 bytes": "n" * 900_000,
        "retry": json.dumps(good | {"retry": "-1"}),
        "timeout_seconds": json.dumps(good | {"timeout_seconds": 3 * 24 * 3600}),
    }
    for body in bad.values():
        stack.send_text(body)
    stack.send_text(json.dumps(good | {"job_id": "no-document", "ssm_document": "No-Such-Document"}))
    stack.send_text(json.dumps(good))
    worker = stack.worker()
    assert stack.ended("after-the-bad")["status"] == "SUCCEEDED"
    assert stack.ended("no-document")["status"] == "FAILED"
    stack.gone(worker)
    reasons: list[str] = []

    def all_told() -> bool:
        reasons.extend(message["status_reason"] for message in stack.messages(FAILED))
        return all(any(part in reason for reason in reasons) for part in (*bad, "No-Such-Document"))

    eventually(all_told)


def test_success_is_sought_in_the_whole_of_stdout_and_nowhere_else(stack: DeployedStack) -> None:
    stack.send_job("at-the-end", "seq 1 20000; echo finally", job_success_string="finally")
    stack.send_job("only-elsewhere", "echo elsewhere >&2 # elsewhere", job_success_string="elsewhere")
    ran = Path(stack.info.state_dir) / "ran"
    stack.send_job("reboot-code", f'echo "$SCHED_ATTEMPT" >> "{ran}"; exit 194', retry="1")
    worker = stack.worker()
    assert stack.ended("at-the-end")["status"] == "SUCCEEDED"
    assert stack.ended("only-elsewhere")["status"] == "FAILED"
    rebooted = stack.ended("reboot-code")
    assert (rebooted["status"], rebooted["exit_code"], rebooted["retries"]) == ("FAILED", 194, "1 of 1")
    assert ran.read_text() == "1\n2\n"
    stack.gone(worker)


def test_a_worker_that_is_interrupted_loses_no_job(stack: DeployedStack) -> None:
    marker = Path(stack.info.state_dir) / "go-on"
    stack.send_job("interrupted", f'while [ ! -e "{marker}" ]; do sleep 0.1; done', retry="2")
    first = stack.worker()
    assert stack.running("interrupted")["worker_id"] == first
    control.interrupt(stack.info, first)
    eventually(lambda: stack.record("interrupted").get("losses") == 1)
    assert not stack.processes(first)
    marker.touch()
    second = stack.worker()
    record = stack.ended("interrupted")
    assert (record["status"], record["retries"], record["worker_id"]) == ("SUCCEEDED", "0 of 2", second)
    assert first in record["attempts"][0]["status_reason"]
    stack.gone(second)


def test_a_running_job_is_cancelled_with_its_processes(stack: DeployedStack) -> None:
    stack.send_job("cancelled", "sleep 300 & sleep 300")
    worker = stack.worker()
    stack.running("cancelled")
    eventually(lambda: stack.processes(worker))
    answer = stack.call(f"{SCHEDULER}-cancel", {"job_ids": ["cancelled", "nobody"]})["results"]
    assert answer[0]["outcome"] == "requested"
    assert answer[1]["error"]["type"] == "JobNotFound"
    assert stack.ended("cancelled")["status"] == "CANCELLED"
    assert stack.told(FAILED, "cancelled")["status_reason"] == "cancelled on request"
    stack.gone(worker)
    assert not stack.processes(worker)


def test_a_submitted_job_runs_and_a_repetition_changes_nothing(stack: DeployedStack) -> None:
    spec = {
        "job_id": "submitted", "run_id": str(uuid4()), "retry": 0, "job_success_string": "",
        "ssm_document": "AWS-RunShellScript", "commands": ["echo submitted"],
    }  # fmt: skip
    submit = f"{SCHEDULER}-submit"
    results = stack.call(submit, {"jobs": [spec, spec, spec | {"run_id": str(uuid4())}]})["results"]
    assert [result["outcome"] for result in results] == ["accepted", "duplicate", "existing"]
    worker = stack.worker()
    record = stack.ended("submitted")
    assert (record["status"], record["attempt"]) == ("SUCCEEDED", 1), record
    [again] = stack.call(submit, {"jobs": [spec]})["results"]
    assert (again["outcome"], again["status"]) == ("duplicate", "SUCCEEDED")
    stack.gone(worker)


def test_what_events_do_not_tell_the_sweep_finds(stack: DeployedStack) -> None:
    with stack.settings(event_drop_fraction=1.0):
        stack.send_job("unseen", "echo unseen")
        worker = stack.worker()
        # Neither "running" nor the command's end is told: every sweep takes it one step further.
        eventually(lambda: stack.sweep() and stack.record("unseen").get("status") == "RUNNING")
        stack.call(f"{SCHEDULER}-cancel", {"job_ids": ["unseen"]})  # also asks the sweep to look
        eventually(lambda: stack.sweep() and stack.record("unseen").get("status") in ("CANCELLED", "SUCCEEDED"))
        stack.gone(worker)
    eventually(lambda: stack.sweep() and not stack.slots())


def test_at_rest_nothing_is_left(stack: DeployedStack) -> None:
    eventually(lambda: stack.sweep() and not stack.slots())
    items = stack.dynamodb.scan(TableName=f"{SCHEDULER}-job-monitoring")["Items"]
    assert not [item["job_id"] for item in items if "pending" in item]
    for queue in (f"{SCHEDULER}-job-queue", f"{SCHEDULER}-dead-letters", f"{SCHEDULER}-outbox-failures"):
        assert stack.messages(queue) == []
