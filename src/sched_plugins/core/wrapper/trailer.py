"""The last line of a command's stderr, in which the wrapper says what an exit code cannot."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from sched_plugins.core import limits, names

TRAILER: Final = "sched-trailer: "

# AWS DynamoDB, "Supported data types": 38 digits, magnitudes from 1E-130 to 9.99E+125, 32 levels.
MAX_NUMBER_DIGITS: Final = 38
MAX_METRICS_DEPTH: Final = 16

_LINE = re.compile(r"^" + TRAILER + r"([A-Za-z0-9+/=]+)(?: ([A-Za-z0-9+/=]+))?[ \r]*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Trailer:
    """What the wrapper told about the end of an attempt."""

    exit_code: int | None = None
    """The job's own exit code. It counts only where the command's is ``EXIT_REMAPPED``: a job can print such a
    line, too."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The JSON object that the job left in the file named by ``SCHED_METRICS``."""
    reason: str = ""
    """Why the attempt ended otherwise than through the job's own exit code."""


def read_trailer(stderr_tail: str) -> Trailer | None:
    """The trailer at the end of a command's stderr.

    The line is ``sched-trailer: <base64>``, a JSON object with ``exit_code``, ``reason`` and ``metrics``, where
    metrics may instead follow as a second base64 word: the file as the job wrote it, which a shell
    cannot check. Of several lines the last counts, so that none that a job prints hides the wrapper's own.

    Returns:
        None without such a line, or if the last one is malformed. Metrics that are not a JSON object
        of at most 4 KiB, or that DynamoDB cannot hold (a number over 38 digits), are left out.
    """
    lines = _LINE.findall(stderr_tail)
    if not lines:
        return None
    head, metrics = lines[-1]
    fields = _decode(head)
    if not isinstance(fields, dict):
        return None
    code, reason = fields.get("exit_code"), fields.get("reason", "")
    if not (code is None or type(code) is int) or not isinstance(reason, str):
        return None
    return Trailer(
        exit_code=code,
        metrics=_metrics(_decode(metrics) if metrics else fields.get("metrics", {})),
        reason=names.clip(reason, limits.MAX_REASON_BYTES),
    )


def _decode(word: str) -> object:
    try:
        return json.loads(base64.b64decode(word, validate=True).decode(errors="replace"))
    except (binascii.Error, ValueError, RecursionError):
        return None


def _metrics(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not _can_be_kept(value, MAX_METRICS_DEPTH):
        return {}
    return value if len(json.dumps(value).encode()) <= limits.MAX_METRICS_BYTES else {}


def _can_be_kept(value: object, depth: int) -> bool:
    """Whether a DynamoDB item can hold the value: odd metrics must not keep the end of a job from being written."""
    if isinstance(value, dict | list) and depth == 0:
        return False
    limit: int = 10**MAX_NUMBER_DIGITS
    match value:
        case dict():
            return all(name != "" and _can_be_kept(name, 0) and _can_be_kept(value[name], depth - 1) for name in value)
        case list():
            return all(_can_be_kept(item, depth - 1) for item in value)
        case str():
            return not any("\ud800" <= character <= "\udfff" for character in value)
        case bool() | None:
            return True
        case int():
            return -limit < value < limit
        case float():
            return value == 0 or 1e-128 < abs(value) < 1e125
    return False
