"""A worker is taken away in the middle of a job."""

from __future__ import annotations

from pathlib import Path

from account import SCHEDULER, Account, eventually

from sched_plugins.local import control, processes


def test_a_job_whose_worker_is_taken_away_succeeds_on_another(account: Account, tmp_path: Path) -> None:
    queue = account.trio("interrupted")
    mark = tmp_path / "pids"
    # The first attempt would never end by itself, and has a child that hides in a session of its own.
    script = [
        f"echo $$ >> {mark}",
        f"test $SCHED_ATTEMPT = 2 || {{ setsid sleep 600 & echo $! >> {mark}; echo begun; sleep 600; }}",
        "echo done",
    ]
    account.send(queue, job_id="interrupted", retry="2", job_success_string="done", commands=script)
    first = account.launch(queue)[0]
    eventually(lambda: mark.exists() and len(mark.read_text().split()) == 2)
    held = account.record("interrupted")
    assert (held["worker_id"], held["attempt"]) == (first, 1)

    account.run("sched", "local", "interrupt", first)
    left = [int(pid) for pid in mark.read_text().split()]
    eventually(lambda: not any(processes.start_time(pid) for pid in left))
    eventually(lambda: account.state(first) == "terminated")
    assert processes.marked(processes.INSTANCE_MARK, first) == []

    second = account.launch(queue)[0]
    job = account.ended("interrupted")["interrupted"]
    assert (job["status"], job["worker_id"], job["output"]) == ("SUCCEEDED", second, "done\n")
    assert (job["losses"], job["attempt"], job["retries"]) == (1, 2, "0 of 2")
    assert account.told_of(queue.finished, "interrupted")["retries"] == "0 of 2"
    [lost, won] = job["attempts"]
    assert (lost["attempt"], lost["worker_id"]) == (1, first)
    assert lost["status_reason"] == f"worker {first} was terminated"
    assert (won["attempt"], won["worker_id"]) == (2, second)
    told = account.sched("status", "--scheduler", SCHEDULER, "interrupted")
    assert lost["status_reason"] in str(told)


def test_a_warned_worker_finishes_what_it_holds_and_takes_nothing_more(account: Account, tmp_path: Path) -> None:
    queue = account.trio("warned")
    go = tmp_path / "go"
    account.send(queue, job_id="held/by-warned", commands=[f"while ! test -e {go}; do sleep 0.1; done"])
    first = account.launch(queue)[0]
    eventually(lambda: account.record("held/by-warned").get("status") == "RUNNING")
    account.run("sched", "local", "interrupt", first, "--warning", "600")
    eventually(lambda: any(slot["worker_id"] == first and slot.get("draining") for slot in account.slots()))
    account.send(queue, job_id="after/the-warning")
    go.touch()
    assert account.ended("held/by-warned")["held/by-warned"]["status"] == "SUCCEEDED"
    eventually(lambda: account.state(first) == "terminated")
    assert account.record("after/the-warning") == {}
    [second] = account.launch(queue)
    job = account.ended("after/the-warning")["after/the-warning"]
    assert (job["status"], job["worker_id"], job["losses"]) == ("SUCCEEDED", second, 0)


def test_the_execution_of_a_worker_taken_away_before_it_was_ready_ends_with_it(account: Account) -> None:
    queue = account.trio("unready")
    [worker] = account.launch(None)
    eventually(lambda: account.state(worker) == "running")
    control.set_agent(account.info, worker, online=False)
    account.sched("attach", worker, "--scheduler", SCHEDULER, "--queue", queue.name)
    eventually(lambda: "NotReady" in account.errors(worker))
    account.run("sched", "local", "interrupt", worker)
    eventually(lambda: account.state(worker) == "terminated")
    account.sweep()
    history = account.finished_history(worker)
    assert set(account.errors(worker)) == {"NotReady"}
    assert history[-1] == "ExecutionSucceeded"


def test_a_worker_whose_next_job_function_dies_asks_again(account: Account) -> None:
    queue = account.trio("claimless")
    [worker] = account.launch(queue)

    def kill() -> list[str]:
        for name, process in account.function_processes():
            if name == "claim":
                process.kill()
        return account.errors(worker)

    eventually(kill, every=0.5)
    assert account.entered(worker)[-1] == "NextJob"
    account.send(queue, job_id="claimless")
    job = account.ended("claimless")["claimless"]
    assert (job["status"], job["worker_id"], job["losses"]) == ("SUCCEEDED", worker, 0)
