"""``prefect`` for local servers and workers: ``python -m sched_plugins.local.prefect_command server start``.

It differs from ``python -m prefect`` in two ways:

* SIGINT ends it also where that came in ignored, as in what a shell runs in its background.
* A thread of its own collects a server's garbage, never the thread of the event loop. On SQLite that thread would
  stand still for a minute now and then, and everybody with it: a cursor that the collector finds in it is closed there,
  which waits for the cursor's connection, which waits up to 60 s for the database's one writer, which is a task of this
  very event loop.
"""

from __future__ import annotations

import gc
import runpy
import signal
import sys
import threading
import time
from typing import Final

_SECONDS: Final = 1.0
"""How long garbage may lie about; the interpreter itself, on a busy server, would wait for tenths of a second."""
_LOOKS_A_FULL_ONE: Final = 60
"""How many looks at what is new there are to one at everything, which stops all threads for a quarter of a second."""


def main() -> None:
    """Run ``prefect`` with this process's arguments."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[1:2] == ["server"]:
        gc.disable()
        threading.Thread(target=_collect, name="garbage collection", daemon=True).start()
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


def _collect() -> None:
    looks = 0
    while True:
        time.sleep(_SECONDS)
        looks += 1
        gc.collect(1 if looks % _LOOKS_A_FULL_ONE else 2)


if __name__ == "__main__":
    main()
