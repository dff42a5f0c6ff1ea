"""Errors as the functions that people call answer with them."""

from __future__ import annotations

from typing import Any


def error_answer(error: Exception) -> dict[str, Any]:
    """``{"error": {"type", "message"}}``; the type is a class of :mod:`sched_plugins.errors`."""
    return {"error": {"type": type(error).__name__, "message": str(error)}}
