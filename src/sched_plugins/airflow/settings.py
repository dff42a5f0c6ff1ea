"""Settings of tasks: those of the hook, and what is configured for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from airflow.sdk.configuration import conf

from sched_plugins.airflow.exceptions import InvalidRequestException

HOOK_FIELDS: Sequence[str] = ("scheduler", "environment", "aws_conn_id", "region_name", "verify", "botocore_config")
AS_OBJECT = "templates give text, unless their DAG sets render_template_as_native_obj=True"


def default_deferrable() -> bool:
    """Whether tasks are deferrable unless they say otherwise."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def job_ids_of(value: object) -> list[str]:
    """Take a value for job ids: one, or several.

    :raises InvalidRequestException: It names none, or is something else: what another task returned, say.
    """
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        raise InvalidRequestException(f"job_ids is the text {value[:80]!r}, not a list; {AS_OBJECT}")
    ids = [value] if isinstance(value, str) else value
    if not isinstance(ids, Sequence | Set) or not ids or not all(isinstance(one, str) and one for one in ids):
        raise InvalidRequestException(f"job_ids {repr(value)[:80]} names no job; give at least one job id")
    return list(ids)


def fields_of(value: object, name: str) -> Mapping[str, Any]:
    """Take a value for fields of a job.

    :raises InvalidRequestException: It is something else: the text that a template rendered to, say.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequestException(f"{name} is {str(value)[:80]!r}, not a dictionary of a job's fields; {AS_OBJECT}")
    return value
