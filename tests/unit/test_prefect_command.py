"""What ``prefect_command`` changes about ``prefect``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

_SCRIPT = """
import gc, json, runpy, signal, sys, threading, time

found = {}

class Leaf:
    def __del__(self):
        found["collected in"] = threading.current_thread().name

def prefect(module, **options):
    found["ran"] = module
    leaf = Leaf()
    leaf.itself = leaf
    del leaf
    found["kept"] = [[] for _ in range(100_000)] != []
    until = time.monotonic() + float(sys.argv.pop())
    while "collected in" not in found and time.monotonic() < until:
        time.sleep(0.05)
    found["own collector"] = not gc.isenabled()
    found["SIGINT raises"] = signal.getsignal(signal.SIGINT) is signal.default_int_handler

runpy.run_module = prefect
from sched_plugins.local import prefect_command
prefect_command.main()
print(json.dumps(found))
"""


def _run(*arguments: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *arguments],
        capture_output=True, text=True, timeout=60, check=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_server_collects_its_garbage_in_a_thread_of_its_own() -> None:
    assert _run("server", "start", "30") == {
        "ran": "prefect", "kept": True, "collected in": "garbage collection", "own collector": True,
        "SIGINT raises": True,
    }  # fmt: skip


def test_anything_else_is_prefect_as_it_is_but_for_sigint() -> None:
    assert _run("worker", "start", "0") == {
        "ran": "prefect", "kept": True, "collected in": "MainThread", "own collector": False, "SIGINT raises": True,
    }  # fmt: skip
