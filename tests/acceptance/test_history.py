"""What a job costs: state transitions of its worker's execution, however long it runs."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from account import Account

LONG = os.environ.get("SCHED_TEST_LONG_SECONDS", "8")
"""Seconds that the long job runs."""
MANY = 6


@pytest.fixture(scope="module")
def histories(account: Account) -> dict[str, list[str]]:
    """Event types of three workers' executions: of a short job, of a long one, and of several short ones."""
    scripts = {"short": ["sleep 1"], "long": [f"sleep {LONG}"], "many": ["true"]}
    counts = {"short": 1, "long": 1, "many": MANY}
    workers, jobs = {}, []
    for name, script in scripts.items():
        queue = account.trio(f"cost-{name}")
        jobs += [account.send(queue, job_id=f"cost/{name}/{i}", commands=script) for i in range(counts[name])]
    for name in scripts:
        [workers[name]] = account.launch(account.trio(f"cost-{name}"))
    for job_id, job in account.ended(*jobs).items():
        assert (job["status"], job["worker_id"]) == ("SUCCEEDED", workers[job_id.split("/")[1]])
    return {name: account.finished_history(worker) for name, worker in workers.items()}


def transitions(history: list[str]) -> int:
    """State transitions, as Step Functions charges for them."""
    return sum(kind.endswith("StateEntered") for kind in history)


def test_a_job_costs_the_same_however_long_it_runs(histories: dict[str, list[str]]) -> None:
    assert transitions(histories["short"]) == transitions(histories["long"])
    assert Counter(histories["short"]) == Counter(histories["long"])


def test_a_job_costs_two_transitions_and_a_worker_a_constant(histories: dict[str, list[str]]) -> None:
    constant = transitions(histories["short"]) - 2
    # Ready; NextJob and Decide that find nothing; Retire and Decide; Done.
    assert constant <= 6
    assert transitions(histories["many"]) == constant + 2 * MANY
