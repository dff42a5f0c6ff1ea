"""``python -m sched_plugins.cli``: the ``sched`` command where its script is not on the path."""

from __future__ import annotations

from sched_plugins.cli.main import run

if __name__ == "__main__":
    run()
