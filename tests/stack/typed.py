"""``sched`` commands as processes of their own, forked from one that has imported what they all import.

A test of many commands spends half of its time on importing otherwise. That ``sched`` starts from nothing is shown by
the acceptance tests.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any, TextIO

_CONTEXT: Any = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["sched_plugins.cli.main", "sched_plugins.client", "boto3", __name__])


class Typed:
    """A ``sched`` command that was typed; as much of :class:`subprocess.Popen` as the tests want."""

    def __init__(self, words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        (out, their_out), (err, their_err) = os.pipe(), os.pipe()
        streams = [DupFd(their_out), DupFd(their_err)]
        self._process = _CONTEXT.Process(target=_become, args=(list(words), folder, dict(environment), streams))
        self._process.start()
        os.close(their_out)
        os.close(their_err)
        self.stdout: TextIO = os.fdopen(out)
        self.stderr: TextIO = os.fdopen(err)

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Wait until it ends; what it wrote."""
        said: dict[str, str] = {}
        readers = [
            threading.Thread(target=lambda name=name: said.update({name: getattr(self, name).read()}), daemon=True)
            for name in ("stdout", "stderr")
        ]
        for reader in readers:
            reader.start()
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still there after {timeout:g} s"
        for reader in readers:
            reader.join(timeout)
        self.stdout.close()
        self.stderr.close()
        return said["stdout"], said["stderr"]


def _become(words: list[str], folder: Path, environment: dict[str, str], streams: list[Any]) -> None:
    """Turn the forked process into the command."""
    for number, stream in enumerate(streams, start=1):
        ours = stream.detach()
        os.dup2(ours, number)
        os.close(ours)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = ["sched", *words]
    from sched_plugins.cli.main import run

    run()
