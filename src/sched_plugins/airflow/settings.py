"""What operators and sensors have in common: the hook's settings, and who the task is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.configuration import conf

from sched_plugins.airflow.exceptions import InvalidRequestException
from sched_plugins.airflow.hooks.scheduler import CONFIG_SECTION, SchedulerHook, hook_settings
from sched_plugins.airflow.identity import DEFAULT_PREFIX, TaskIdentity

if TYPE_CHECKING:
    from airflow.sdk import Context

HOOK_FIELDS: Sequence[str] = ("scheduler", "environment", "aws_conn_id", "region_name", "verify", "botocore_config")
AS_OBJECT = "templates give text, unless their DAG sets render_template_as_native_obj=True"
HOOK_DOC = """
    :param scheduler: The scheduler's stack name; by default the connection's extra ``scheduler``, then the option
        ``[sched] default_scheduler``.
    :param environment: An environment's stack name, instead of the scheduler's: its own functions and queue are used.
    :param aws_conn_id: The Airflow connection, of type ``aws`` or ``sched``.
    :param region_name: AWS region, ahead of the connection's.
    :param verify: Whether to verify TLS certificates, or the path of a bundle.
    :param botocore_config: Settings of botocore, ahead of the connection's.
"""


def default_deferrable() -> bool:
    """Whether tasks are deferrable unless they say otherwise."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


def fields_of(value: object, name: str) -> Mapping[str, Any]:
    """Take a value for fields of a job.

    :raises InvalidRequestException: It is something else: the text that a template rendered to, say.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequestException(f"{name} is {str(value)[:80]!r}, not a dictionary of a job's fields; {AS_OBJECT}")
    return value


class SchedulerTaskMixin:
    """A task with the settings of a hook."""

    if TYPE_CHECKING:
        retries: int | None

    def take_hook_settings(
        self,
        scheduler: str | None,
        environment: str | None,
        aws_conn_id: str | None,
        region_name: str | None,
        verify: bool | str | None,
        botocore_config: dict[str, Any] | None,
    ) -> None:
        """Keep the settings as attributes, where templates are rendered."""
        self.scheduler = scheduler
        self.environment = environment
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    @cached_property
    def hook(self) -> SchedulerHook:
        """The hook."""
        return SchedulerHook(**hook_settings(vars(self)))

    def trigger_settings(self) -> dict[str, Any]:
        """Get the hook's settings as a trigger takes them, with the scheduler's name found out."""
        return {**{name: getattr(self, name) for name in HOOK_FIELDS}, "scheduler": self.hook.client.scheduler}

    def identity(self, context: Context) -> TaskIdentity:
        """Get who this task is: the same over retries, another after a clear."""
        ti = context["ti"]
        return TaskIdentity(
            dag_id=ti.dag_id,
            run_id=ti.run_id,
            task_id=ti.task_id,
            map_index=ti.map_index if ti.map_index is not None else -1,
            generation=max(0, (getattr(ti, "max_tries", 0) or 0) - (self.retries or 0)),
            prefix=conf.get(CONFIG_SECTION, "job_id_prefix", fallback=DEFAULT_PREFIX) or DEFAULT_PREFIX,
        )
