"""The flows and tasks around the present one, in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import Token
from typing import Any


def around(context: Any) -> Iterator[Any]:
    """A context of Prefect's, and those within which it was entered, the outermost last.

    Prefect tells no flow and no task which one has called it; the context variable that it sets does, for it will be
    set back to that.
    """
    while context is not None:
        yield context
        token = getattr(context, "_token", None)
        context = None if token is None or token.old_value is Token.MISSING else token.old_value
