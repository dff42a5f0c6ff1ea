"""The last line of a command's stderr, in which the wrapper says what an exit code cannot."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from sched_plugins.core import limits

TRAILER: Final = "sched-trailer: "
# How much of the end of stderr is sure to hold a trailer: reason and metrics at their bounds, in base64.
TRAILER_BYTES: Final = 16 * limits.KIB

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
        None without such a line, or if the last one is malformed. Metrics that are not a JSON object of
        at most 4 KiB are left out.
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
        reason=reason[: limits.MAX_REASON_CHARACTERS],
    )


def _decode(word: str) -> object:
    try:
        return json.loads(base64.b64decode(word, validate=True).decode(errors="replace"), parse_constant=_no_constant)
    except (binascii.Error, ValueError, RecursionError):
        return None


def _no_constant(name: str) -> object:
    # NaN and Infinity are not JSON, and DynamoDB has no such numbers.
    raise ValueError(f"{name} is not JSON")


def _metrics(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return value if len(json.dumps(value).encode()) <= limits.MAX_METRICS_BYTES else {}
