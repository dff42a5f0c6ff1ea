"""Jobs from a file: JSON, JSON lines or YAML."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sched_plugins.errors import InvalidInput

_FORMS = 'give one job, a list of jobs, {"jobs": […]} or, as JSON, one job a line'


def read_jobs(path: Path, defaults: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The jobs of a file, ``-`` for stdin: one object, a list of them, ``{"jobs": […]}``, or one object a line.

    Args:
        path: the file; YAML if its name ends in ``.yaml`` or ``.yml``. stdin may be either.
        defaults: fields of jobs that do not have them.

    Raises:
        InvalidInput: the file cannot be read, or holds something else.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read --file {str(path)!r}: {error}") from None
    name = "stdin" if str(path) == "-" else repr(str(path))
    value = _yaml(name, text) if path.suffix in (".yaml", ".yml") else _json(name, text, or_yaml=name == "stdin")
    if isinstance(value, dict) and isinstance(value.get("jobs"), list):
        value = value["jobs"]
    jobs = value if isinstance(value, list) else [value]
    if not jobs:
        raise InvalidInput(f"{name} holds no jobs; {_FORMS}")
    for number, job in enumerate(jobs, 1):
        if not isinstance(job, dict):
            raise InvalidInput(f"job {number} of {name} is not an object but {type(job).__name__}; {_FORMS}")
    if "job_id" in defaults and len(jobs) > 1:
        raise InvalidInput(f"--job-id is the id of one job, but {name} holds {len(jobs)}")
    return [{**defaults, **job} for job in jobs]


def _json(name: str, text: str, *, or_yaml: bool) -> Any:
    try:
        return json.loads(text)
    except ValueError as whole:
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            if or_yaml:
                return _yaml(name, text)
            raise InvalidInput(f"{name} is neither JSON nor JSON lines: {whole}; {_FORMS}") from None


def _yaml(name: str, text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"{name} is not YAML: {' '.join(str(error).split())}; {_FORMS}") from None
