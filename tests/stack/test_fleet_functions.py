"""Instances of functions: forked where they can be, and with their own environment, streams and end."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sched_plugins.local.fleet.functions import Fork, Forks, SharedCode

PROGRAM = """
import os, sys
print("started", os.environ["NAME"], "HOME" in os.environ, os.getcwd(), flush=True)
for line in sys.stdin:
    if line == "fail\\n":
        raise RuntimeError("as told")
    print("heard", line.strip(), "boto3" in sys.modules, flush=True)
"""


@pytest.fixture
def function(tmp_path: Path) -> Path:
    """A function with the scheduler's code, as far as its folder shows."""
    (tmp_path / "code" / "sched_plugins").mkdir(parents=True)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def forking() -> list[psutil.Process]:
    """The processes from which functions are forked. Others of this test process may be over and not yet collected."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "preload.py" in str(child.cmdline())]


class Started(Forks):
    """Those whose streams are closed at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Fork] = []


@pytest.fixture
def forks() -> Iterator[Started]:
    made = Started()
    yield made
    made.close()
    for process in made.processes:
        process.kill()
        process.wait(20)
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
    assert forking() == []


def start(forks: Started, function: Path, name: str, code: str = "code") -> Fork:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, str(function / "program.py")]
    started: Fork = forks.popen(command, cwd=function / code, env={"NAME": name}, text=True, bufsize=1, **pipes)
    forks.processes.append(started)
    return started


def ask(process: Fork, line: str) -> str:
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_instances_have_an_environment_and_streams_of_their_own_and_share_what_was_imported(
    forks: Started, function: Path
) -> None:
    one, two = start(forks, function, "one"), start(forks, function, "two")
    assert isinstance(one, Fork)
    assert one.stdout.readline() == f"started one False {function}/code\n"
    assert two.stdout.readline() == f"started two False {function}/code\n"
    assert (ask(one, "a"), ask(two, "b")) == ("heard a True\n", "heard b True\n")
    assert one.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        one.wait(0.01)
    one.terminate()
    two.kill()
    assert (one.wait(20), two.wait(20)) == (-1, -1)
    one.kill()  # there is nobody left, and nothing happens


def test_one_that_fails_says_so_and_ends_alone(forks: Started, function: Path) -> None:
    bad, good = start(forks, function, "bad"), start(forks, function, "good")
    bad.stdin.write("fail\n")
    bad.stdin.flush()
    assert "RuntimeError: as told" in bad.stderr.read()
    assert bad.wait(20) is not None
    good.stdout.readline()
    assert ask(good, "c") == "heard c True\n"
    good.stdin.close()
    good.wait(20)


def test_when_the_forking_process_was_killed_the_next_instance_starts_all_the_same(
    forks: Started, function: Path
) -> None:
    first = start(forks, function, "first")
    first.stdin.close()
    first.wait(20)
    [parent] = forking()
    parent.kill()
    parent.wait(20)
    for name in ("second", "third"):
        process = start(forks, function, name)
        assert process.stdout.readline().startswith(f"started {name} ")
        process.stdin.close()
        process.wait(20)


def test_a_function_of_someone_else_gets_a_process_of_its_own(forks: Started, function: Path) -> None:
    (function / "other").mkdir()
    process = start(forks, function, "other", "other")
    assert isinstance(process, subprocess.Popen)
    process.stdout.readline()
    assert ask(process, "d") == "heard d False\n"


def test_code_is_unpacked_once_and_linked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("package/module.py", "x = 1\n")
    shared = SharedCode(tmp_path / "shared").archive()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with shared(tmp_path / "code.zip") as archive:
            archive.extractall(tmp_path / name)
        assert (tmp_path / name / "package" / "module.py").read_text() == "x = 1\n"
    assert (tmp_path / "one").resolve() == (tmp_path / "two").resolve()
    assert len(list((tmp_path / "shared").iterdir())) == 1
