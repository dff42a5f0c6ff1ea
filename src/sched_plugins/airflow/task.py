"""What every operator and sensor has: the settings of a hook, and who the task is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.configuration import conf

from sched_plugins.airflow.hooks.scheduler import CONFIG_SECTION, SchedulerHook, hook_settings
from sched_plugins.airflow.identity import DEFAULT_PREFIX, TaskIdentity
from sched_plugins.airflow.settings import HOOK_FIELDS

if TYPE_CHECKING:
    from airflow.sdk import Context


class SchedulerTask(BaseOperator):
    """
    Base of all operators, and with ``BaseSensorOperator`` of the sensors.

    :param scheduler: The scheduler's stack name; by default the connection's extra ``scheduler``, then the option
        ``[sched] default_scheduler`` (templated).
    :param environment: An environment's stack name, instead of the scheduler's: its own functions and queue are used
        (templated).
    :param aws_conn_id: The Airflow connection, of type ``aws`` or ``sched`` (templated).
    :param region_name: AWS region, ahead of the connection's (templated).
    :param verify: Whether to verify TLS certificates, or the path of a bundle (templated).
    :param botocore_config: Settings of botocore, ahead of the connection's (templated).
    """

    template_fields: Sequence[str] = HOOK_FIELDS

    def __init__(
        self,
        *,
        scheduler: str | None = None,
        environment: str | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
