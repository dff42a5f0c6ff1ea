"""What ``make prefect`` keeps from one start to the next, what it takes from the shell, and how it ends.

A program of a few lines stands in for Prefect, whose server takes a dozen seconds to start: it answers that it is
healthy, writes a database and ends on SIGINT. The laptop stack is the real one; tests/prefect/test_flows.py starts all.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sched_plugins.errors import LaptopStackError
from sched_plugins.local import processes
from sched_plugins.local.prefect import SCHEDULER, LocalPrefect, running, settings_of

STAND_IN = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

home = Path(os.environ["PREFECT_HOME"])
with (home / "prefect.db").open("a") as database:
    database.write("a run\\n")
(home / "environment.json").write_text(json.dumps(dict(os.environ)))
print("this is what Prefect says", flush=True)

class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *told):
        pass

try:
    HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Pages).serve_forever()
except KeyboardInterrupt:
    sys.exit(0)
"""


class Laptop:
    """A folder of state, and a program to start in Prefect's place."""

    def __init__(self, folder: Path) -> None:
        self.state, program = folder / "state", folder / "program" / "prefect"
        program.mkdir(parents=True)
        (program / "__init__.py").touch()
        (program / "__main__.py").write_text(STAND_IN)
        self.settings = {"PYTHONPATH": os.pathsep.join([str(program.parent), os.environ.get("PYTHONPATH", "")])}

    @contextmanager
    def start(self, **settings: str) -> Iterator[LocalPrefect]:
        with running(state_dir=self.state, settings=self.settings | settings) as prefect:
            yield prefect
        assert self.left() == []

    def command(self, *command: str) -> subprocess.Popen[str]:
        """The program itself, in a process of its own, with a command beside it."""
        return subprocess.Popen(
            [sys.executable, "-m", "sched_plugins.local.prefect", "--", *command],
            env=os.environ | self.settings | {"SCHED_LOCAL_STATE": str(self.state)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def left(self) -> list[int]:
        """Processes of the stack and of Prefect."""
        return processes.marked(processes.STACK_MARK, f"{self.state}#", prefix=True)


@pytest.fixture
def laptop(tmp_path: Path) -> Laptop:
    return Laptop(tmp_path)


def told(prefect: LocalPrefect) -> dict[str, str]:
    """The variables that the server was started with."""
    found: dict[str, str] = json.loads((prefect.home / "environment.json").read_text())
    return found


def test_runs_and_the_address_outlast_a_restart(laptop: Laptop) -> None:
    with laptop.start() as first:
        assert told(first)["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == f"sqlite+aiosqlite:///{first.home}/prefect.db"
    with laptop.start() as second:
        assert (second.home / "prefect.db").read_text().splitlines() == ["a run", "a run"]
        assert second.url == first.url
        assert second.log.with_suffix(".log.1").read_text() == second.log.read_text() == "this is what Prefect says\n"


def test_an_address_that_another_program_has_taken_is_left_to_it(laptop: Laptop) -> None:
    with laptop.start() as first:
        pass
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", int(first.url.rpartition(":")[2])))
        other.listen()
        with laptop.start() as second:
            assert second.url != first.url
            assert second.is_healthy()


def test_settings_go_ahead_of_defaults_but_not_of_what_makes_it_a_prefect_of_its_own(laptop: Laptop) -> None:
    given = {
        "PREFECT_WORKER_QUERY_SECONDS": "7",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_HOME": "/elsewhere",
        "PREFECT_API_URL": "https://production.example/api",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://production",
        "AWS_ENDPOINT_URL": "https://elsewhere.example",
    }
    with laptop.start(**given) as prefect:
        taken = told(prefect)
    assert {name: value for name, value in given.items() if taken[name] == value} == {
        "PREFECT_WORKER_QUERY_SECONDS": "7",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
    }
    assert taken["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


def test_a_second_one_is_refused_with_the_way_to_end_the_first(laptop: Laptop) -> None:
    with laptop.start() as prefect:
        with pytest.raises(LaptopStackError, match=r"a Prefect runs already .*Ctrl-C"), laptop.start():
            pass
        assert prefect.is_healthy()


def test_a_shell_finds_the_server_the_stack_and_the_scheduler(laptop: Laptop) -> None:
    with laptop.start() as prefect:
        script = f'. {prefect.shell_file} && echo "$PREFECT_API_URL $AWS_ENDPOINT_URL $SCHED_SCHEDULER"'
        shown = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=True).stdout
        assert shown.split() == [f"{prefect.url}/api", prefect.stack.endpoint, SCHEDULER]


def test_a_command_has_the_server_its_exit_code_is_handed_on_and_all_ends_with_it(laptop: Laptop) -> None:
    script = "import os; print('flow at', os.environ['PREFECT_API_URL'], flush=True); raise SystemExit(3)"
    program = laptop.command(sys.executable, "-c", script)
    said = program.communicate(timeout=120)[0]
    assert program.returncode == 3, said
    assert "flow at http://127.0.0.1:" in said
    assert laptop.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_the_server_and_the_stack(laptop: Laptop, number: signal.Signals) -> None:
    mark = laptop.state.parent / "runs"
    script = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(600)"
    program = laptop.command(sys.executable, "-c", script)
    assert processes.wait_until(mark.exists, 120)
    started = time.monotonic()
    program.send_signal(number)
    said = program.communicate(timeout=60)[0]
    assert time.monotonic() - started < 30  # not the ten minutes of the command
    assert program.returncode == 130, said
    assert 'Traceback (most recent call last):\n  File "<string>"' in said  # the command's own end, by Ctrl-C
    assert laptop.left() == []


def test_settings_are_taken_from_the_shell_but_no_address_no_database_no_keys() -> None:
    wanted = {"PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_WORKER_QUERY_SECONDS": "5"}
    dangerous = {
        "PREFECT_API_URL": "https://api.prefect.cloud/api/accounts/a/workspaces/w",
        "PREFECT_API_KEY": "pnu_secret",
        "PREFECT_API_AUTH_STRING": "admin:secret",
        "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://production",
        "PREFECT_CLIENT_CUSTOM_HEADERS": '{"Authorization": "secret"}',
        "PREFECT_HOME": "/elsewhere",
        "PREFECT_PROFILE": "cloud",
        "PREFECT_SERVER_API_AUTH_STRING": "admin:secret",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://production",
        "AWS_PROFILE": "production",
    }
    assert settings_of(wanted | dangerous) == wanted


def test_a_folder_without_deployments_is_named(laptop: Laptop, tmp_path: Path) -> None:
    with (
        pytest.raises(LaptopStackError, match=r"there is no prefect.yaml in '.*'; name the folder"),
        running(flows=tmp_path, state_dir=laptop.state),
    ):
        pass


def test_a_server_that_does_not_start_tells_what_it_said(laptop: Laptop) -> None:
    program = laptop.state.parent / "program" / "prefect" / "__main__.py"
    program.write_text("raise SystemExit('the database is of a later version')")
    told_why = r"(?s)did not start.*of a later version.*delete .*prefect"
    with pytest.raises(LaptopStackError, match=told_why), laptop.start():
        pass
    assert laptop.left() == []
