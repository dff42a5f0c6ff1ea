"""Airflow for tests: a home of its own, its database made once, and one laptop stack for all of them."""

from __future__ import annotations

import atexit
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

try:
    importlib.metadata.version("apache-airflow")  # not by importing it: see below
except importlib.metadata.PackageNotFoundError:
    pytest.skip("the airflow extra is not installed", allow_module_level=True)

# Before Airflow is imported, which reads its configuration then.
HOME = Path(tempfile.mkdtemp(prefix="airflow-test-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ.update(
    AIRFLOW_HOME=str(HOME),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(HOME / "dags"),
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{HOME / 'airflow.db'}",
    AIRFLOW__LOGGING__LOGGING_LEVEL="INFO",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
    DO_NOT_TRACK="1",
    SCARF_ANALYTICS="false",
)
for folder in ("stack", "unit"):
    sys.path.append(str(Path(__file__).parents[1] / folder))

from deployed import SCHEDULER, DeployedStack, deployed  # noqa: E402
from workers import ENVIRONMENT, workers  # noqa: E402


@pytest.fixture(scope="session")
def airflow_database() -> None:
    """The metadata database, migrated once."""
    from airflow.utils.db import initdb

    (HOME / "dags").mkdir()
    initdb()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, airflow_database: None) -> Iterator[DeployedStack]:
    """A laptop stack with a scheduler and an environment, and workers whenever there are jobs."""
    with deployed(tmp_path_factory.mktemp("laptop"), {ENVIRONMENT: {"MaxWorkers": 1}}) as found, workers(found):
        extra = {"endpoint_url": found.info.endpoint, "region_name": found.info.region, "scheduler": SCHEDULER}
        connection = json.dumps({"conn_type": "aws", "login": "test", "password": "test", "extra": extra})
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = connection
        yield found
        del os.environ["AIRFLOW_CONN_AWS_DEFAULT"]


IGNORED = (
    # What Airflow's own imports raise, by exact message.
    "ignore:Using `httpx` with `starlette.testclient` is deprecated; install `httpx2` instead.",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let Airflow's own warnings pass, and no others."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for ignored in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(ignored))
