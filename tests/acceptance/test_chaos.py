"""Many jobs on a few workers while everything goes wrong: all end as they should, and nothing runs twice."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from account import Account, eventually
from chaos import Chaos
from rest import comes_to_rest

JOBS = int(os.environ.get("SCHED_TEST_CHAOS_JOBS", "40"))
SEED = int(os.environ.get("SCHED_TEST_CHAOS_SEED", "1"))
SECONDS = float(os.environ.get("SCHED_TEST_CHAOS_SECONDS", "16"))
# A claim that dies between its commit and its command is made up for two minutes later, when the command can come no
# more: too long for every run of the tests.
SPARED = tuple(os.environ.get("SCHED_TEST_CHAOS_SPARED", "claim").split())
WORKERS = 4
CANCELLED = 4


def job(number: int, folder: Path) -> dict[str, Any]:
    """A job of one of five kinds, and how it should end. Each start of its commands adds a line to a file."""
    started = f"echo started >> {folder}/{number}.$SCHED_ATTEMPT"
    kinds: list[dict[str, Any]] = [
        {"commands": [started, "sleep 0.3", "echo good"], "job_success_string": "good"},
        {"commands": [started, "echo quick"]},
        {"commands": [started, "setsid sleep 2 & sleep 2", "echo slow"], "job_success_string": "slow"},
        # Once it has failed by itself, not merely been lost, it succeeds.
        {"commands": [started, f"sleep 1; test -e {folder}/{number}.ok || {{ touch {folder}/{number}.ok; exit 5; }}"]},
        {"commands": [started, "sleep 1", "exit 3"], "wrong": True},
    ]
    return {"job_id": f"chaos/{number}", "retry": "1", **kinds[number % len(kinds)]}


def unclaimed(account: Account, jobs: Iterable[str]) -> list[str]:
    """The jobs that wait in the queue, with a record or without one yet."""
    found = account.records(jobs)
    return [job_id for job_id in jobs if job_id not in found or found[job_id]["status"] == "QUEUED"]


def test_nothing_is_lost_and_nothing_runs_twice(account: Account, tmp_path: Path) -> None:
    queue = account.trio("chaos")
    jobs = {fields["job_id"]: fields for fields in (job(number, tmp_path) for number in range(JOBS))}
    expected = {job_id: "FAILED" if fields.pop("wrong", False) else "SUCCEEDED" for job_id, fields in jobs.items()}
    for number, (job_id, fields) in enumerate(jobs.items()):
        if number % 2:
            account.send(queue, **fields)
        else:
            document = "AWS-RunShellScript"
            asked = {**fields, "queue": queue.name, "run_id": job_id, "ssm_document": document}
            [answer] = account.invoke("submit", {"jobs": [asked]})["results"]
            assert answer["outcome"] == "accepted"
    cancelled = random.Random(SEED).sample(sorted(jobs), CANCELLED)
    with Chaos(account, queue, SEED, WORKERS, SPARED) as chaos:
        eventually(lambda: any(one["status"] == "RUNNING" for one in account.records(jobs).values()))
        chaos.rage()
        deadline = time.monotonic() + SECONDS
        for job_id in cancelled:
            time.sleep(SECONDS / 8)
            account.invoke("cancel", {"job_ids": [job_id]})
        while time.monotonic() < deadline and len(unclaimed(account, jobs)) > WORKERS:
            time.sleep(0.5)
        chaos.calm()
        ended = account.ended(*jobs)
    outcomes = Counter(one["status"] for one in ended.values())
    print(
        f"seed {SEED}: {dict(sorted(chaos.done.items()))}, losses {sum(int(one['losses']) for one in ended.values())}"
    )
    print(f"  {dict(outcomes)}")
    assert chaos.errors == []
    starts = Counter({path.name: len(path.read_text().splitlines()) for path in tmp_path.glob("*.*[0-9]")})
    assert [name for name, count in starts.items() if count > 1] == []
    for job_id, one in ended.items():
        if not (job_id in cancelled and one["status"] == "CANCELLED"):
            assert one["status"] == expected[job_id], one
        number = job_id.partition("/")[2]
        attempts = {int(name.partition(".")[2]) for name in starts if name.partition(".")[0] == number}
        assert max(attempts, default=0) <= one["attempt"]
        assert one["attempt"] in attempts or one["status"] == "CANCELLED"
        used = int(one["retries"].partition(" ")[0])
        assert used == one["attempt"] - 1 - one["losses"]
        assert used == 1 or one["status"] != "FAILED"
    comes_to_rest(account)
