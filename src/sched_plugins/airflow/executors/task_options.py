"""What one task asks of the executor, and the job that it becomes."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sched_plugins.airflow.executors.settings import ExecutorSettings, check_timeout, check_variables
from sched_plugins.client.secret_store import secret_prefix
from sched_plugins.core import limits, names
from sched_plugins.core.job import LINUX_DOCUMENT
from sched_plugins.errors import InvalidSettings

KEYS: Final = ("queue", "timeout", "tags", "environment")
"""What ``executor_config`` may hold."""
_MODULE: Final = "sched_plugins.airflow.executors.run_workload"


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Where and how one task runs."""

    environment: str
    """The environment whose workers run it."""
    timeout: int
    """Seconds."""
    tags: Mapping[str, str]
    variables: Mapping[str, str]


def task_options(
    executor_config: Mapping[str, Any] | None, task_queue: str | None, settings: ExecutorSettings
) -> TaskOptions:
    """What a task asks for: its ``executor_config`` ahead of its ``queue`` ahead of the settings.

    Raises:
        InvalidSettings: names the key, its value and the rule.
    """
    config = dict(executor_config or {})
    if unknown := sorted(map(str, config.keys() - set(KEYS))):
        raise InvalidSettings(f"executor_config has {unknown[0]!r}; this executor knows {', '.join(KEYS)}")
    asked = task_queue if task_queue and task_queue != settings.default_queue else settings.environment
    queue = config.get("queue") or asked
    if not isinstance(queue, str):
        raise InvalidSettings(f"executor_config queue is {queue!r}; give the name of an environment or of its queue")
    tags = config.get("tags") or {}
    if not isinstance(tags, Mapping) or len(tags) > limits.MAX_TAGS - len(_OWN_TAGS):
        raise InvalidSettings(f"executor_config tags is {tags!r}; give a mapping of at most 40 labels")
    return TaskOptions(
        environment=names.check_stack_name(names.queue_name(queue).removesuffix(names.JOB_QUEUE)),
        timeout=check_timeout("executor_config timeout", config.get("timeout", settings.job_timeout)),
        tags={str(name): str(value) for name, value in tags.items()},
        variables=check_variables("executor_config environment", config.get("environment") or {}),
    )


_OWN_TAGS: Final = ("airflow_dag_id", "airflow_task_id", "airflow_run_id", "airflow_map_index", "airflow_try_number")


def job_id(external_executor_id: str) -> str:
    """The job of a task instance that was queued under that id, which Airflow commits together with QUEUED."""
    return f"airflow-{external_executor_id}"


def parameter_name(environment: str, job: str) -> str:
    """Where in Parameter Store the workload of a job is, for the workers of that environment."""
    return f"{secret_prefix(environment)}/{job}"


def job_of(name: str) -> str:
    """The job whose workload a parameter holds."""
    return name.rsplit("/", 1)[-1]


def left_over(parameters: Collection[str], live: Collection[str]) -> list[str]:
    """The parameters whose jobs are not live."""
    return [name for name in parameters if job_of(name) not in live]


def job_fields(
    job: str,
    options: TaskOptions,
    settings: ExecutorSettings,
    *,
    api_url: str,
    region: str,
    labels: Mapping[str, object],
) -> dict[str, Any]:
    """The job of a task. It tells where the workload is and nothing of what is in it.

    Args:
        job: its id.
        options: what the task asked for.
        settings: of the executor.
        api_url: Airflow's execution API, as the workers reach it.
        region: where the workload is stored.
        labels: ``dag_id``, ``task_id``, ``run_id``, ``map_index`` and ``try_number`` of the task instance.
    """
    argv = [settings.python, "-m", _MODULE, "--region", region, parameter_name(options.environment, job)]
    return {
        "job_id": job,
        # Whether a task is tried again is for Airflow to say.
        "retry": 0,
        "ssm_document": LINUX_DOCUMENT,
        "commands": (f"exec {shlex.join(argv)}",),
        "timeout_seconds": options.timeout,
        "environment": {
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api_url,
            **settings.worker_environment,
            **options.variables,
        },
        "group_id": names.clip(f"{labels['dag_id']}/{labels['run_id']}", limits.MAX_GROUP_ID_BYTES),
        "tags": {**options.tags, **{f"airflow_{name}": str(value) for name, value in labels.items()}},
    }
