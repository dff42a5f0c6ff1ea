"""Remove each condition of each conditional write, one at a time, and tell which test notices.

Run it with ``make mutants``. Exit code 1 says that some condition could be removed without any test failing. Each
mutant runs in a process of its own, forked from one that has imported everything already, and only the quick
tests of the rules run: those of single decisions first, then whole stories in virtual time.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import pytest

from sched_plugins.core import write
from sched_plugins.testing import Simulation  # noqa: F401 - imported once here, for every fork

HERE = Path(__file__).parent
TESTS = (
    HERE / "unit" / "test_write_guards.py",
    HERE / "faults" / "test_crash_matrix.py",
    HERE / "faults" / "test_crash_matrix_of_workers.py",
)
CONSTRUCTORS = ("job", "slot", "drop_slot")
Mutant = tuple[str, str]
"""Name of a write, and the field of the condition that it lacks."""


def watch(see: Callable[[str, write.Condition], bool]) -> None:
    """Show ``see`` every condition that a write is made with, and leave out those of which it returns False."""
    for constructor in CONSTRUCTORS:
        real = getattr(write, constructor)

        def construct(name: str, *arguments: Any, real: Any = real) -> write.Write:
            kept = [one for one in arguments if not isinstance(one, write.Condition) or see(name, one)]
            return real(name, *kept)  # type: ignore[no-any-return]

        setattr(write, constructor, construct)


def forked(tasks: Sequence[Callable[[], object]]) -> Iterator[tuple[int, Any]]:
    """Do each task in a process of its own, as many at a time as there are cores; its number and result, as JSON."""
    waiting = list(enumerate(tasks))[::-1]
    running: dict[int, tuple[int, IO[str]]] = {}
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            number, task = waiting.pop()
            result = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when its process has ended
            child = os.fork()
            if child == 0:
                _carry_out(task, result)
            running[child] = (number, result)
        ended, _ = os.wait()
        number, result = running.pop(ended)
        with result:
            result.seek(0)
            yield number, json.loads(result.read() or "null")


def _carry_out(task: Callable[[], object], result: IO[str]) -> NoReturn:
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        json.dump(task(), result)
        result.flush()
    except BaseException:  # noqa: BLE001 - nobody else hears of it in this process
        traceback.print_exc()
    finally:
        os._exit(0)


class FirstFailure:
    """Remembers the first test that failed."""

    def __init__(self) -> None:
        self.name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest for every phase of every test."""
        if report.failed and not self.name:
            self.name = report.nodeid

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called by pytest for every file."""
        if report.failed and not self.name:
            self.name = f"{report.nodeid} (cannot be imported)"


def run_tests() -> str:
    """Name of the first test that fails; empty if none does."""
    first = FirstFailure()
    pytest.main(["-x", "-q", "-p", "no:cacheprovider", *map(str, TESTS), "-k", "not one_fault_anywhere"], [first])
    return first.name


def conditions() -> list[Mutant]:
    """Every condition of every write that the stories and the single decisions make."""
    seen: set[Mutant] = set()

    def see(name: str, condition: write.Condition) -> bool:
        seen.add((name, condition.field))
        return True

    watch(see)
    if failed := run_tests():
        raise SystemExit(f"without any mutant this test fails: {failed}")
    return sorted(seen)


def caught_by(mutant: Mutant) -> str:
    """The test that notices that this condition is missing; empty if none does."""
    watch(lambda name, condition: (name, condition.field) != mutant)
    return run_tests()


def main() -> int:
    """Try every mutant, on every core."""
    began = time.monotonic()
    [(_, found)] = forked([conditions])
    mutants: list[Mutant] = [(name, field) for name, field in found or ()]
    if not mutants:
        print("the tests fail, or make no conditional write, even without a mutant", file=sys.stderr)
        return 1
    outcomes: list[str | None] = [None] * len(mutants)
    for number, test in forked([partial(caught_by, mutant) for mutant in mutants]):
        outcomes[number] = test
        name, field = mutants[number]
        print(f"{name:16} without {field:17} {test.removeprefix('tests/') if test else 'SURVIVED'}", flush=True)
    survivors = outcomes.count("") + outcomes.count(None)
    seconds = time.monotonic() - began
    print(f"{len(mutants)} mutants, {len(mutants) - survivors} caught, {survivors} survived, in {seconds:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
