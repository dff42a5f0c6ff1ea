"""Prefect for tests: a home of its own, one real server and one laptop stack for all tests of a process."""

from __future__ import annotations

import atexit
import fcntl
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from urllib.error import URLError

import pytest

if find_spec("prefect") is None:
    pytest.skip("the prefect extra is not installed", allow_module_level=True)

# Before Prefect is imported, which reads its settings then.
HOME = Path(tempfile.mkdtemp(prefix="prefect-test-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
for name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[name]
SETTINGS = {
    "PREFECT_HOME": str(HOME),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_PROMPT": "false",
    "DO_NOT_TRACK": "1",
    # SQLite has one writer, and a loaded machine is not a failure.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "15",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "15",
    "PREFECT_CLIENT_MAX_RETRIES": "20",
    "PREFECT_API_REQUEST_TIMEOUT": "120",
}
os.environ.update(SETTINGS)
for folder in ("stack", "unit"):
    sys.path.append(str(Path(__file__).parents[1] / folder))

from deployed import DeployedStack, deployed  # noqa: E402
from prefect_stack import ENVIRONMENT  # noqa: E402

_PATIENCE = 180.0


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server; the address of its API, which this process uses as well."""
    shutil.copy(_database(tmp_path_factory), HOME / "prefect.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    options = ("server", "start", "--host", "127.0.0.1", "--port", str(port))
    command = [sys.executable, "-m", "sched_plugins.local.prefect_command", *options]
    with (HOME / "server.log").open("wb") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PREFECT_API_URL": url}
        )
    try:
        _wait(url, server)
        from prefect.context import refresh_global_settings_context

        with pytest.MonkeyPatch.context() as set_:
            set_.setenv("PREFECT_API_URL", url)
            refresh_global_settings_context()  # For all threads, unlike settings that are set for a context.
            yield url
            _end_threads()
        refresh_global_settings_context()
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedStack]:
    """A laptop stack with a scheduler and an environment."""
    with deployed(tmp_path_factory.mktemp("laptop"), {ENVIRONMENT: {"MaxWorkers": 3}}) as found:
        yield found


@pytest.fixture(scope="session")
def prefect_and_stack(prefect_server: str, stack: DeployedStack) -> DeployedStack:
    """Both."""
    return stack


def _database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of Prefect's: its hundred migrations are made once for all processes of a run."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    home = folder / "prefect-database"
    with (folder / "prefect-database.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
            subprocess.run(
                upgrade, check=True, timeout=_PATIENCE, stdout=subprocess.DEVNULL,
                env={**os.environ, "PREFECT_HOME": str(home)},
            )  # fmt: skip
    return home / "prefect.db"


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (URLError, OSError):
            assert server.poll() is None, (HOME / "server.log").read_text()[-3000:]
            time.sleep(0.2)
    raise AssertionError((HOME / "server.log").read_text()[-3000:])


def _end_threads() -> None:
    """End the threads that send events and logs: left over, they would look for the server during other tests."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    EventsWorker.drain_all()
    APILogWorker.drain_all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


IGNORED = (
    # Prefect leaves connections to its server to the garbage collector.
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed <socket.socket:ResourceWarning",
    "ignore:Exception ignored in. <function _SelectorTransport.__del__:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed transport:ResourceWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let Prefect's own warnings pass, and no others."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for ignored in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(ignored))
