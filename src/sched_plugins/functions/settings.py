"""What a deployment tells its functions, in environment variables.

A scheduler's functions: ``REQUEUE_AFTER_SECONDS``, ``EMPTY_QUEUE_WAIT_SECONDS``. An environment's functions: one
variable for each field of :class:`~sched_plugins.core.environment.Environment`, and ``SCHED_QUEUE``, whose presence
tells that the function serves that queue alone. The names of tables and the like are read by
:class:`sched_plugins.aws.settings.Settings`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sched_plugins.core import limits
from sched_plugins.core.environment import Environment
from sched_plugins.core.job import LINUX_DOCUMENT
from sched_plugins.errors import InvalidSettings


def requeue_after(variables: Mapping[str, str]) -> int:
    """Seconds after which the message of a job that is still QUEUED is sent again (default: 6 hours)."""
    return _number(variables, "REQUEUE_AFTER_SECONDS", limits.REQUEUE_AFTER)


def empty_queue_wait(variables: Mapping[str, str]) -> int:
    """Seconds for which a free worker waits for a message before it retires (default 5, at most 20)."""
    return min(_number(variables, "EMPTY_QUEUE_WAIT_SECONDS", 5), limits.MAX_SQS_WAIT)


def own_queue(variables: Mapping[str, str]) -> str:
    """The only queue that the function serves; empty for a scheduler's functions, which serve any."""
    return variables.get("SCHED_QUEUE", "")


def environment(variables: Mapping[str, str]) -> Environment:
    """The environment that the function was deployed for.

    Raises:
        InvalidSettings: a variable is missing or cannot be read.
    """
    try:
        name, bucket = variables["ENVIRONMENT_NAME"], variables["ENVIRONMENT_BUCKET"]
    except KeyError as error:
        raise InvalidSettings(f"the environment variable {error.args[0]} is not set; deploy the stack again") from None
    return Environment(
        name=name,
        bucket=bucket,
        trigger_suffix=variables.get("TRIGGER_SUFFIX") or ".sh",
        document=variables.get("COMMAND_TYPE") or LINUX_DOCUMENT,
        retry=_number(variables, "RETRY", 3),
        success_string=variables.get("SUCCESS_STRING", ""),
        working_directory=variables.get("WORKING_DIRECTORY", ""),
        timeout_seconds=_number(variables, "TIMEOUT_SECONDS", limits.DEFAULT_JOB_TIMEOUT),
        output_buckets=_list(variables, "OUTPUT_BUCKETS"),
        output_prefix=variables.get("OUTPUT_PREFIX", ""),
        stage=variables.get("STAGE_NAME", ""),
        stage_executable=variables.get("STAGE_EXECUTABLE", ""),
        stage_parameters=_object(variables, "STAGE_PARAMETERS"),
        fan_in=_list(variables, "FAN_IN"),
    )


def _number(variables: Mapping[str, str], name: str, default: int) -> int:
    text = variables.get(name) or str(default)
    try:
        return int(text)
    except ValueError:
        raise InvalidSettings(f"the environment variable {name} is {text!r}; set it to a whole number") from None


def _list(variables: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in variables.get(name, "").split(",") if part.strip())


def _object(variables: Mapping[str, str], name: str) -> dict[str, Any]:
    text = variables.get(name) or "{}"
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidSettings(f"the environment variable {name} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidSettings(f"the environment variable {name} is {text[:80]!r}; set it to a JSON object")
    return found
