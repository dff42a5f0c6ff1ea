"""Settings of all tests."""

from __future__ import annotations

import functools
import gc
import os
import signal
from itertools import zip_longest
from pathlib import Path

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

# A shell starts what it runs in its background with SIGINT ignored, and a process inherits that. Tests interrupt what
# they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TESTS = Path(__file__).parent
WAITING = {"acceptance", "airflow", "prefect", "stack"}
"""Folders whose tests wait for processes; the others compute."""
LONG = (
    "test_standalone.py", "test_cylinder_flow.py", "test_uploads.py", "test_executor_runs.py", "test_cli_stack.py",
    "test_pipelines.py", "test_local_server.py", "test_staging.py", "test_environment_stack.py",
    "test_scheduler_stack.py", "test_operators.py", "test_chaos.py",
)  # fmt: skip
"""Those of them that take longest, the longest first: begun late, they would be left over with a core idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait take turns with files that compute: several that wait at once leave a core idle."""
    files = dict.fromkeys(item.path for item in items)
    waiting = [file for file in files if file.relative_to(TESTS).parts[0] in WAITING]
    computing = [file for file in files if file not in waiting]
    waiting.sort(key=lambda file: LONG.index(file.name) if file.name in LONG else len(LONG))
    turns = [file for pair in zip_longest(waiting, computing) for file in pair if file]
    place = {file: number for number, file in enumerate(turns)}
    items.sort(key=lambda item: place[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what the imports made out of the search for garbage: a fifth of the tests on moto went into that."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
