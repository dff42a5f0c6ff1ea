"""Keys of artifacts, as Prefect takes them: lower-case letters, digits and dashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Final

from sched_plugins.errors import InvalidInput

MAX_KEY: Final = 120
"""Own: short enough for the UI's lists."""
_KEY: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def check_key(key: str) -> str:
    """The key itself, if it can be one.

    Raises:
        InvalidInput: it cannot.
    """
    if not _KEY.fullmatch(key) or len(key) > MAX_KEY:
        raise InvalidInput(
            f"{key!r} cannot be an artifact's key: use at most {MAX_KEY} lower-case letters, digits and dashes, "
            f"beginning and ending with a letter or a digit, as in {key_of(key)!r}"
        )
    return key


def key_of(*parts: str) -> str:
    """A key made of any text; a long one ends with a digest of the whole."""
    text = "-".join(parts)
    key = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "artifact"
    if len(key) <= MAX_KEY:
        return key
    return f"{key[: MAX_KEY - 9].rstrip('-')}-{_digest(text)}"


def keys_of(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """A key for each of several names, all different."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        key = key_of(prefix, name)
        if key in taken:
            key = f"{key[: MAX_KEY - 9]}-{_digest(name)}"
        taken.add(key)
        found[name] = key
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
