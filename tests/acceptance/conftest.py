"""One laptop stack a test process, deployed with the ``sched`` command, shared by all modules.

Every module has job ids and queues of its own, so modules run in any order and beside each other.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from account import SCHEDULER, Account
from rest import comes_to_rest

from sched_plugins.local import lifecycle, processes
from sched_plugins.local.state import StateFolder

MAX_WORKERS = 8


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """A stack with a scheduler from the shipped template. In the end nothing may be left of any test."""
    folder = tmp_path_factory.mktemp("account")
    try:
        account = Account(lifecycle.up(state_dir=folder))
        account.run("sched", "deploy", "scheduler", SCHEDULER)
        yield account
        comes_to_rest(account)
    finally:
        lifecycle.down(folder)
    assert processes.marked(processes.STACK_MARK, StateFolder.locate(folder).mark, prefix=True) == []


@pytest.fixture(scope="session")
def environment(account: Account) -> str:
    """The name of an environment from the shipped template."""
    name = "drops"
    options = ["--scheduler", SCHEDULER, "--max-workers", str(MAX_WORKERS), "--trigger-suffix", "run.sh"]
    account.run("sched", "deploy", "environment", name, *options)
    return name
