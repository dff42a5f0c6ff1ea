"""Cancelling, as a user does it."""

from __future__ import annotations

import time
from pathlib import Path

from account import SCHEDULER, Account, eventually

from sched_plugins.local import processes


def test_cancel_of_a_running_job_ends_its_processes(account: Account, tmp_path: Path) -> None:
    queue = account.trio("cancelled")
    mark = tmp_path / "pids"
    # A shell, a child, a daemon in a session of its own, and one that ignores SIGTERM.
    script = [
        "trap '' TERM",
        f"echo $$ >> {mark}",
        f"sleep 600 & echo $! >> {mark}",
        f"setsid sleep 600 & echo $! >> {mark}",
        f"(trap '' TERM HUP; while :; do sleep 1; done) & echo $! >> {mark}",
        "wait",
    ]
    account.send(queue, job_id="cancelled/running", retry="3", commands=script)
    worker = account.launch(queue)[0]
    eventually(lambda: mark.exists() and len(mark.read_text().split()) == 4)
    left = [int(pid) for pid in mark.read_text().split()]
    assert all(processes.start_time(pid) for pid in left)
    # It waits behind the running one, and is never started.
    account.send(queue, job_id="cancelled/after")

    asked = time.monotonic()
    account.sched("cancel", "--scheduler", SCHEDULER, "cancelled/running")
    answered = time.monotonic()
    eventually(lambda: not any(processes.start_time(pid) for pid in left))
    gone = time.monotonic()
    print(f"cancel answered in {answered - asked:.1f} s, the processes were gone after {gone - asked:.1f} s")

    job = account.ended("cancelled/running")["cancelled/running"]
    assert (job["status"], job["attempt"], job["retries"]) == ("CANCELLED", 1, "0 of 3")
    assert account.told_of(queue.failed, "cancelled/running")["status"] == "CANCELLED"
    # The worker is kept, and goes on.
    after = account.ended("cancelled/after")["cancelled/after"]
    assert (after["status"], after["worker_id"]) == ("SUCCEEDED", worker)


def test_cancel_of_a_waiting_job_ends_it_at_once_and_it_never_runs(account: Account, tmp_path: Path) -> None:
    queue = account.trio("cancelled-early")
    mark = tmp_path / "started"
    submit = ["submit", "--scheduler", SCHEDULER, "--queue", queue.name, "--job-id", "cancelled/waiting"]
    account.sched(*submit, "--", f"touch {mark}")
    assert account.record("cancelled/waiting")["status"] == "QUEUED"
    account.sched("cancel", "--scheduler", SCHEDULER, "cancelled/waiting")
    assert account.record("cancelled/waiting")["status"] == "CANCELLED"
    assert account.told_of(queue.failed, "cancelled/waiting")["status"] == "CANCELLED"
    [worker] = account.launch(queue)
    # Its message is still in the queue; the worker finds that it is needed no more.
    eventually(lambda: account.state(worker) == "terminated")
    assert account.waiting(queue.url) == 0
    assert account.record("cancelled/waiting")["status"] == "CANCELLED"
    assert not mark.exists()
