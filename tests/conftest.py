"""Settings of all tests."""

from __future__ import annotations

import functools
import gc
import os
import signal
from itertools import zip_longest
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, and no limit in seconds: a loaded machine is not a failure. HYPOTHESIS_PROFILE=long
# looks for new ones.
settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# Many sessions live in one process here. They may share the API's descriptions, which take long to read.
botocore.session.create_loader = functools.cache(botocore.session.create_loader)

# moto would list hundreds of machine images for each test, and no test asks for one.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"

# A shell starts what it runs in its background with SIGINT and SIGQUIT ignored, and a process inherits that. Tests
# interrupt what they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

TESTS = Path(__file__).parent
WAITING = {"acceptance", "airflow", "prefect", "stack"}
"""Folders whose tests wait for processes; the others compute."""
TOGETHER = {"acceptance", "airflow", "prefect"}
"""Folders whose files share what takes long to start, a stack, Airflow's database or Prefect's server: one process runs
them all."""
APART = {
    "test_standalone.py", "test_executor_runs.py", "test_make_airflow.py", "test_cylinder_flow.py",
    "test_flows.py", "test_make_prefect.py", "test_calls.py",
}  # fmt: skip
"""Files of theirs that start all that they need themselves, or need little."""
LONG = (
    "test_standalone.py", "prefect", "test_worker", "test_flows.py", "acceptance", "test_task_runner",
    "test_make_prefect.py", "test_cylinder_flow.py", "test_calls.py", "test_executor_runs.py", "airflow",
    "test_client.py", "test_pipelines.py", "test_local_server.py", "test_staging.py", "test_environment_stack.py",
    "test_cli_stack.py", "test_scheduler_stack.py",
)  # fmt: skip
"""What takes longest, the longest first: begun late, it would be left over with a core idle."""
SHARES = {
    "test_worker": "test_worker",
    "test_task_runner": "test_task_runner",
    "test_flow_timeouts": "test_task_runner",
}
"""Which files of Prefect's, by how their names begin, share a server with each other alone: each takes long enough."""


def together(file: Path) -> str:
    """The name of what one process runs together with a file: its folder, some files of it, or the file alone."""
    folder = file.parent.name
    if folder == "prefect":
        for begin, share in SHARES.items():
            if file.name.startswith(begin):
                return share
    return folder if folder in TOGETHER and file.name not in APART else file.name


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that wait take turns with tests that compute: several that wait at once leave a core idle."""
    groups = {together(item.path): item.path.relative_to(TESTS).parts[0] in WAITING for item in items}
    waiting = [name for name, waits in groups.items() if waits]
    computing = [name for name, waits in groups.items() if not waits]
    waiting.sort(key=lambda name: LONG.index(name) if name in LONG else len(LONG))
    turns = [name for pair in zip_longest(waiting, computing) for name in pair if name]
    place = {name: number for number, name in enumerate(turns)}
    items.sort(key=lambda item: place[together(item.path)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process of ``pytest -n`` whole files or folders."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(Path(nodeid.partition("::")[0]))

    return Together(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what the imports made out of the search for garbage: a fifth of the tests on moto went into that."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
