"""The values of the section ``[sched_executor]``, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sched_plugins.airflow.executors.options import OPTIONS, SECTION
from sched_plugins.core import limits, names
from sched_plugins.core.job import JobSpec
from sched_plugins.errors import InvalidSettings


class Conf(Protocol):
    """Where values come from; Airflow's configuration, of a team or of all."""

    def get(self, section: str, key: str, **options: Any) -> str | None:
        """The value of an option, or its ``fallback``."""


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """The checked configuration; times in seconds."""

    scheduler: str
    environment: str
    conn_id: str
    region_name: str
    kms_key_id: str
    python: str
    worker_environment: Mapping[str, str]
    job_timeout: int
    queued_timeout: float
    """Airflow's ``task_queued_timeout``: after so long in the queue it takes a task for stuck."""
    token_lifetime: float
    put_concurrency: int
    poll_interval: float
    leftover_age: float
    check_health: bool
    default_queue: str
    """Airflow's ``default_queue``: the queue of a task that names none."""


def read_settings(conf: Conf) -> ExecutorSettings:
    """The executor's settings.

    Raises:
        InvalidSettings: names the option, its value and the rule.
    """
    given = {option.name: conf.get(SECTION, option.name, fallback=option.default) or "" for option in OPTIONS}
    scheduler = given["scheduler"] or conf.get("sched", "default_scheduler", fallback="") or ""
    for name, value in (("environment", given["environment"]), ("scheduler", scheduler)):
        if not value:
            raise InvalidSettings(
                f"[{SECTION}] {name} is not set; set AIRFLOW__{SECTION.upper()}__{name.upper()} to the stack name "
                f"of the {name} whose workers run the tasks"
            )
        names.check_stack_name(value)
    queued_timeout = _number("task_queued_timeout", conf.get("scheduler", "task_queued_timeout", fallback="600"))
    return ExecutorSettings(
        scheduler=scheduler,
        environment=given["environment"],
        conn_id=given["conn_id"],
        region_name=given["region_name"],
        kms_key_id=given["kms_key_id"],
        python=given["python"],
        worker_environment=_variables(given["worker_environment"]),
        job_timeout=check_timeout(f"[{SECTION}] job_timeout", given["job_timeout"]),
        queued_timeout=queued_timeout,
        token_lifetime=_number("token_lifetime", given["token_lifetime"]) or queued_timeout,
        put_concurrency=max(1, int(_number("put_concurrency", given["put_concurrency"]))),
        poll_interval=_number("poll_interval", given["poll_interval"]),
        leftover_age=_number("leftover_age", given["leftover_age"]),
        check_health=given["check_health_on_startup"].strip().lower() in ("true", "t", "1", "yes", "on"),
        default_queue=conf.get("operators", "default_queue", fallback="default") or "",
    )


def check_timeout(what: str, value: object) -> int:
    """A job's timeout in seconds.

    Raises:
        InvalidSettings: it is no whole number from 1 to 169,200.
    """
    try:
        seconds = int(str(value))
    except ValueError:
        seconds = 0
    if not 1 <= seconds <= limits.MAX_JOB_TIMEOUT:
        raise InvalidSettings(f"{what} is {value!r}; give whole seconds from 1 to {limits.MAX_JOB_TIMEOUT}")
    return seconds


def check_variables(what: str, value: object) -> dict[str, str]:
    """Environment variables of a job, their values as text.

    Raises:
        InvalidSettings: it is no mapping, or a name cannot be a variable's.
    """
    if not isinstance(value, Mapping):
        raise InvalidSettings(f"{what} is {value!r}; give a mapping of variables to values")
    found = {str(name): str(text) for name, text in value.items()}
    try:
        JobSpec(job_id="x", retry=0, ssm_document="AWS-RunShellScript", commands=("true",), environment=found)
    except ValueError as error:
        raise InvalidSettings(f"{what}: {str(error).splitlines()[2].strip()}") from None
    return found


def _variables(text: str) -> dict[str, str]:
    what = f"[{SECTION}] worker_environment"
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidSettings(f"{what} is no JSON object: {error}") from None
    return check_variables(what, value)


def _number(name: str, text: str | None) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise InvalidSettings(f"[{SECTION}] {name} is {text!r}; give a number of at least 0")
    return number
