"""What triggers that reach a scheduler have in common."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import Any

from airflow.triggers.base import BaseEventTrigger

from sched_plugins.airflow.hooks.scheduler import SchedulerHook, hook_settings


class SchedulerTrigger(BaseEventTrigger):
    """
    A trigger with the settings of a :class:`~sched_plugins.airflow.hooks.scheduler.SchedulerHook`.

    Every setting of the hook is kept when the task is deferred. The keyword arguments of a subclass must be attributes
    of the same name, listed in ``own_fields``.
    """

    supports_triggerer_queue = True
    own_fields: tuple[str, ...] = ()

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

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Get the class path and all keyword arguments."""
        own = ("scheduler", "environment", "aws_conn_id", "region_name", "verify", "botocore_config", *self.own_fields)
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in own}

    def hook(self) -> SchedulerHook:
        """Make the hook. Using it blocks: do so in a thread."""
        return SchedulerHook(**hook_settings(vars(self)))

    @property
    def place(self) -> Hashable:
        """Equal for triggers that reach the same scheduler in the same way."""
        config = json.dumps(self.botocore_config, sort_keys=True, default=str)
        return (self.aws_conn_id, self.region_name, str(self.verify), config, self.scheduler)

    @asynccontextmanager
    async def aws(self, service: str) -> AsyncIterator[tuple[SchedulerHook, Any]]:
        """The hook, and an aiobotocore client made by it."""

        def make() -> tuple[SchedulerHook, Any]:
            hook = self.hook()
            return hook, hook.async_client(service)

        hook, made = await asyncio.to_thread(make)
        async with made as client:
            yield hook, client
