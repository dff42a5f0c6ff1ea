"""What triggers that reach a scheduler have in common."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any, Final

from airflow.sdk.configuration import conf
from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from sched_plugins.airflow.exceptions import SchedulerException, as_airflow
from sched_plugins.airflow.hooks.scheduler import CONFIG_SECTION, SchedulerHook, hook_settings
from sched_plugins.errors import SchedulerError

ERROR = "error"
ENDED = "ended"
NOTICE_SECONDS: Final = 3.0
"""How much later than the worker Airflow's scheduler hears that a task has deferred: a few of its loops."""


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
        self._alone = False

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Get the class path and all keyword arguments."""
        own = ("scheduler", "environment", "aws_conn_id", "region_name", "verify", "botocore_config", *self.own_fields)
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in own}

    def hook(self) -> SchedulerHook:
        """Make the hook. Using it blocks: do so in a thread."""
        return SchedulerHook(**hook_settings(vars(self)))

    @property
    def account(self) -> Hashable:
        """Equal for triggers that reach AWS in the same way."""
        config = json.dumps(self.botocore_config, sort_keys=True, default=str)
        return (self.aws_conn_id or None, self.region_name, str(self.verify), config)

    @property
    def place(self) -> Hashable:
        """Equal for triggers that reach the same scheduler in the same way."""
        return (self.account, self.scheduler)

    @asynccontextmanager
    async def aws(self, service: str) -> AsyncIterator[tuple[SchedulerHook, Any]]:
        """
        The hook, and an aiobotocore client made by it.

        :raises sched_plugins.errors.SchedulerError: The connection's credentials cannot be had, now or ever.
        """

        def make() -> tuple[SchedulerHook, Any]:
            hook = self.hook()
            return hook, hook.async_client(service)

        hook, made = await asyncio.to_thread(make)
        async with AsyncExitStack() as opened:
            with hook.signing_in():  # Containers' and processes' credentials are fetched only now.
                client = await opened.enter_async_context(made)
            yield hook, client

    async def settle(self, began: float) -> None:
        """
        Wait until Airflow's scheduler has surely heard that the task has deferred.

        A worker tells of it up to ``[workers] min_heartbeat_interval`` late. Airflow 3.3 takes a task that has been
        resumed before for one that was killed, and fails it (apache/airflow#67287, #72716).

        :param began: The event loop's time when the trigger began.
        """
        if self._alone:
            return  # No worker has deferred it.
        interval = conf.getfloat("workers", "min_heartbeat_interval", fallback=5.0)
        seconds = conf.getfloat(CONFIG_SECTION, "settle_seconds", fallback=-1.0)
        until = began + (interval + NOTICE_SECONDS if seconds < 0 else seconds)
        await asyncio.sleep(max(0.0, until - asyncio.get_running_loop().time()))

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire once with a stream of its own, where nobody shares it (``dag.test()``)."""
        told: TriggerEvent | None = None
        self._alone = True
        async with (
            aclosing(self.open_shared_stream(self.serialize()[1])) as stream,  # type: ignore[type-var]
            aclosing(self.filter_shared_stream(stream)) as events,  # type: ignore[type-var]
        ):
            async for event in events:
                told = event
                break
        if told is not None:
            yield told  # Only now, when nothing is left open: whoever takes one event may never come back.


def failure(error: SchedulerError | SchedulerException) -> TriggerEvent:
    """What a trigger tells its task that cannot wait any more."""
    return TriggerEvent({"status": ERROR, "kind": type(as_airflow(error)).__name__, "message": str(error)})
