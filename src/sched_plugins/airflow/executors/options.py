"""The options of the section ``[sched_executor]``. Airflow reads them at every start: nothing else is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

SECTION: Final = "sched_executor"


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the section, as ``airflow config list`` shows it."""

    name: str
    description: str
    default: str = ""
    kind: str = "string"
    example: str | None = None


OPTIONS: Final = (
    Option("environment", "Environment whose workers run the tasks, unless a task names another as its queue."),
    Option("scheduler", "Stack name of the scheduler. Empty: option default_scheduler of section [sched]."),
    Option("conn_id", "The AWS connection.", "aws_default"),
    Option("region_name", "The AWS region. Empty: the connection's.", example="eu-west-1"),
    Option("kms_key_id", "Key that encrypts workloads in Parameter Store. Empty: the account's own, aws/ssm."),
    Option("python", "Python on the workers' image that has Airflow and this package.", "python3"),
    Option(
        "worker_environment",
        "Environment variables of every task, as a JSON object. They are no place for secrets.",
        "{}",
        example='{"AIRFLOW_HOME": "/opt/airflow"}',
    ),
    Option("job_timeout", "Seconds for which a task may run; at most 169200 (47 h).", "169200", "integer"),
    Option(
        "token_lifetime",
        "Seconds for which a waiting task's token is valid; it is renewed at half of them. 0: task_queued_timeout.",
        "0",
        "float",
    ),
    Option("put_concurrency", "Workloads that are written to Parameter Store at once.", "8", "integer"),
    Option("poll_interval", "Seconds between two looks at the jobs, at least.", "1.0", "float"),
    Option("leftover_age", "Seconds after which a workload without a live job is deleted.", "3600", "float"),
    Option("check_health_on_startup", "Whether a scheduler that cannot be reached keeps Airflow's from starting.",
           "True", "boolean"),
)  # fmt: skip


def config_section() -> dict[str, Any]:
    """The section as ``get_provider_info`` tells it."""
    described = {
        option.name: {
            "description": option.description,
            "version_added": None,
            "type": option.kind,
            "example": option.example,
            "default": option.default,
        }
        for option in OPTIONS
    }
    return {SECTION: {"description": "The executor that runs tasks as jobs of a scheduler.", "options": described}}
