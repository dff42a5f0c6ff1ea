"""One watch for all that wait in a process: whoever comes and goes, each is served, and the thread ends."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, wait
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_client_watch import Table

from sched_plugins.client import Ended, Job, Run
from sched_plugins.client.jobs import JobClient
from sched_plugins.client.retry import Clock
from sched_plugins.client.shared_watch import SharedWatch, await_end, shared_watch
from sched_plugins.client.watch import Watch
from sched_plugins.errors import NotPermitted, Throttled, Unknown, WaitTimeout


class Client:
    """What a shared watch needs of a client."""

    def __init__(self, table: Any, scheduler: str = "sim") -> None:
        self.table = table
        self.scheduler = scheduler
        self.connection = SimpleNamespace(identity=("here", id(self)))

    def new_watch(self, on_change: Any = None, **level: Any) -> Watch:
        """A watch of the table."""
        return Watch(self.table, Clock(), on_change, **level)

    def get_watch(self) -> SharedWatch:
        """The shared one."""
        return shared_watch(cast("JobClient", self))


@pytest.fixture
def table() -> Table:
    return Table()


def ended(future: Future[Ended]) -> str:
    job = future.result(20).job
    assert job is not None
    return job.job_id


def none_left() -> bool:
    for thread in threading.enumerate():
        if thread.name == "sched-watch":
            thread.join(20)
    return not any(thread.name == "sched-watch" for thread in threading.enumerate())


def test_all_waiters_of_a_process_share_one_thread_which_ends_with_the_last(table: Table) -> None:
    client = Client(table)
    futures = []
    for number in range(30):
        table.submit(f"j{number}", "r")
        futures.append(client.get_watch().follow(Run(f"j{number}", "r")))
    assert [thread.name for thread in threading.enumerate()].count("sched-watch") == 1
    for number in range(30):
        table.end(f"j{number}", number)
    assert [ended(future) for future in futures] == [f"j{number}" for number in range(30)]
    assert none_left()


def test_two_waiters_for_one_run_are_both_served_and_a_late_one_too(table: Table) -> None:
    client = Client(table)
    table.submit("j", "r")
    both = [client.get_watch().follow(Run("j", "r")) for _ in range(2)]
    table.end("j", 0)
    assert [ended(future) for future in both] == ["j", "j"]
    assert ended(client.get_watch().follow(Run("j", "r"))) == "j"


def test_one_that_is_cancelled_is_followed_no_longer_and_the_thread_ends(table: Table) -> None:
    client = Client(table)
    table.submit("j", "r")
    future = client.get_watch().follow(Run("j", "r"))
    assert not wait([future], 0.5).done
    assert future.cancel()
    assert none_left()


def test_changes_are_told_of_and_a_teller_that_fails_harms_nobody(table: Table) -> None:
    client, seen = Client(table), []

    def tell(job: Job) -> None:
        seen.append(str(job.status))
        raise RuntimeError("no")

    table.submit("j", "r")
    future = client.get_watch().follow(Run("j", "r"), tell)
    assert not wait([future], 0.6).done
    table.end("j", 0)
    assert ended(future) == "j"
    assert len(seen) == 2


def test_a_passing_outage_is_borne_and_another_error_is_told_to_all(table: Table) -> None:
    client, troubles = Client(table), [Throttled("later"), Throttled("later")]
    real = table.get_many

    def get_many(job_ids: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return real(job_ids)

    table.get_many = get_many  # type: ignore[method-assign]
    table.submit("j", "r")
    future = client.get_watch().follow(Run("j", "r"))
    table.end("j", 0)
    assert ended(future) == "j"
    assert not troubles
    troubles.append(NotPermitted("no"))  # type: ignore[arg-type]
    with pytest.raises(NotPermitted):
        client.get_watch().follow(Run("j", "r")).result(20)
    assert ended(client.get_watch().follow(Run("j", "r"))) == "j", "later ones are served again"
    assert none_left()


def test_what_nobody_expected_is_unknown_and_no_answer_about_the_job(table: Table) -> None:
    client = Client(table)

    def get_many(job_ids: Any) -> Any:
        raise KeyError("odd")

    table.get_many = get_many  # type: ignore[method-assign]
    with pytest.raises(Unknown, match="KeyError"):
        client.get_watch().follow(Run("j", "r")).result(20)
    assert none_left()


def test_a_forked_process_has_a_watch_of_its_own(table: Table) -> None:
    client = Client(table)
    table.submit("j", "r")
    future = client.get_watch().follow(Run("j", "r"))
    child = os.fork()
    if not child:
        table.end("j", 0)
        found = ended(client.get_watch().follow(Run("j", "r"))) == "j"
        os._exit(0 if found else 1)
    assert os.waitpid(child, 0)[1] == 0
    table.end("j", 0)
    assert ended(future) == "j"
    assert none_left()


def test_a_wait_that_is_over_says_so(table: Table) -> None:
    table.submit("j", "r")
    with pytest.raises(WaitTimeout, match=r"after 0\.3 s .*'j'"):
        await_end(cast("JobClient", Client(table)), Run("j", "r"), timeout=0.3)
    assert none_left()
