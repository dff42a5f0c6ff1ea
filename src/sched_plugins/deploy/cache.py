"""What takes a second or a network to make, kept in the user's cache folder for the next deployment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

#: How many files of one sort are kept; older ones go.
KEPT_FILES = 4


def folder() -> Path:
    """``sched-plugins`` in ``XDG_CACHE_HOME``, or in ``~/.cache``; it need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sched-plugins"


def kept(sort: str, digest: str, suffix: str, make: Callable[[], bytes]) -> bytes:
    """The bytes that ``digest`` stands for, from the cache or else from ``make``.

    A cache that cannot be read or written is as good as none.
    """
    path = folder() / f"{sort}-{digest}{suffix}"
    try:
        content = path.read_bytes()
        path.touch()
        return content
    except OSError:
        content = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(name).replace(path)
        found = sorted(path.parent.glob(f"{sort}-*{suffix}"), key=lambda one: one.stat().st_mtime, reverse=True)
        for old in found[KEPT_FILES:]:
            old.unlink(missing_ok=True)
    except OSError:
        pass  # full, read-only, or another deployment was tidying at the same time
    return content
