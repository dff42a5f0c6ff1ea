"""The hook: how tasks, sensors and triggers reach a scheduler."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.utils.connection_wrapper import AwsConnectionWrapper
from airflow.sdk import Connection
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException

from sched_plugins.airflow.exceptions import InvalidRequestException, translated

if TYPE_CHECKING:
    from sched_plugins.client import EnvironmentClient, SchedulerClient

CONFIG_SECTION = "sched"
SCHEDULER_EXTRA = "scheduler"
_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


class SchedulerHook(AwsBaseHook):
    """
    Reach a scheduler with the credentials of an Airflow connection.

    The connection is of type ``aws``, or of type ``sched``, which has the same fields and one for the scheduler. Its
    region, ``endpoint_url``, ``verify``, ``config_kwargs`` and roles are honoured for every AWS service.

    :param scheduler: The scheduler's stack name. By default the connection's extra ``scheduler``, then the option
        ``[sched] default_scheduler``.
    :param environment: An environment's stack name: jobs are submitted and cancelled with its own functions, to its
        own queue, and it says which scheduler it belongs to.
    :param aws_conn_id: The Airflow connection; None or empty for boto3's own ways to find credentials.
    :param region_name: AWS region, ahead of the connection's.
    :param verify: Whether to verify TLS certificates, or the path of a bundle.
    :param config: Settings of botocore, ahead of the connection's: a ``Config`` or a dictionary.
    """

    conn_type = "sched"
    hook_name = "Serverless scheduler"
    default_conn_name = "aws_default"

    def __init__(self, scheduler: str | None = None, environment: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._scheduler = scheduler
        self.environment = environment

    @cached_property
    def conn_config(self) -> AwsConnectionWrapper:
        """The connection as the amazon provider wraps it; one of type ``sched`` is taken for one of type ``aws``."""
        found = None
        if self.aws_conn_id:
            try:
                found = self.get_connection(self.aws_conn_id)
            except AirflowNotFoundException:
                self.log.warning("There is no connection %r; boto3 looks for credentials itself", self.aws_conn_id)
        if found is not None and found.conn_type == self.conn_type:
            found = Connection(
                conn_id=found.conn_id, conn_type="aws", login=found.login, password=found.password, extra=found.extra
            )
        return AwsConnectionWrapper(
            conn=found, region_name=self._region_name, botocore_config=self._config, verify=self._verify
        )

    @property
    def scheduler(self) -> str:
        """
        The scheduler's stack name.

        :raises InvalidRequestException: None is given, nor in the connection, nor configured.
        """
        if name := self._scheduler or self._configured_scheduler:
            return name
        if self.environment:
            return self.environment_client.scheduler
        raise InvalidRequestException(
            "no scheduler is named: give `scheduler`, add an extra "
            f"{SCHEDULER_EXTRA!r} to connection {self.aws_conn_id!r}, or set [{CONFIG_SECTION}] default_scheduler"
        )

    @property
    def _configured_scheduler(self) -> str:
        if self.environment:
            return ""  # An environment knows its scheduler; a default might be another one.
        extra = self.conn_config.extra_config.get(SCHEDULER_EXTRA)
        return str(extra or conf.get(CONFIG_SECTION, "default_scheduler", fallback="") or "")

    @cached_property
    def scheduler_client(self) -> SchedulerClient:
        """The client of the scheduler."""
        from sched_plugins.client import SchedulerClient

        with translated():
            return SchedulerClient(self.scheduler, **self.client_settings())

    @cached_property
    def environment_client(self) -> EnvironmentClient:
        """
        The client of the environment; making it asks CloudFormation for it.

        :raises InvalidRequestException: No environment was given.
        :raises NotFoundException: There is none of that name.
        """
        return self.client_of_environment(self.environment or "")

    def client_of_environment(self, name: str) -> EnvironmentClient:
        """Get the client of any environment that the connection reaches."""
        from sched_plugins.client import EnvironmentClient

        if not name:
            raise InvalidRequestException("no environment is named: give `environment`")
        with translated():
            return EnvironmentClient(name, **self.client_settings())

    @property
    def client(self) -> SchedulerClient | EnvironmentClient:
        """The environment's client where an environment was given, otherwise the scheduler's."""
        return self.environment_client if self.environment else self.scheduler_client

    def get_conn(self) -> Any:
        """Get the client, as :attr:`client`."""
        return self.client

    def get_session(self, region_name: str | None = None, deferrable: bool = False) -> Any:
        """
        Make a session with the connection's credentials: boto3's, or aiobotocore's. May ask STS for a role.

        :raises sched_plugins.errors.SchedulerError: The connection's profile, or its role, cannot be used; or STS
            cannot be asked just now.
        """
        with self.signing_in():
            session = super().get_session(region_name=region_name, deferrable=deferrable)
        if deferrable:
            _refresh_in_a_thread(session)
        return session

    @contextmanager
    def signing_in(self) -> Iterator[None]:
        """
        Turn what botocore says of the connection's credentials into the package's errors.

        :raises sched_plugins.errors.SchedulerError: In place of botocore's.
        """
        from botocore.exceptions import BotoCoreError, ClientError, ProfileNotFound

        from sched_plugins.client.failures import explain
        from sched_plugins.errors import InvalidSettings, NotPermitted, Throttled, Unknown

        try:
            yield
        except ProfileNotFound as error:
            raise InvalidSettings(
                f"connection {self.aws_conn_id!r}: {error}; give its extra 'profile_name' one that "
                "`aws configure list-profiles` shows where the task runs"
            ) from error
        except (ClientError, BotoCoreError) as error:
            what = f"sign in with connection {self.aws_conn_id!r}" if self.aws_conn_id else "sign in"
            place = f"region {self.conn_config.region_name}"
            told = explain(error, what, place, loopback=False, missing=None)
            if isinstance(told, Throttled | Unknown) or not self.conn_config.role_arn:
                raise told from error
            raise NotPermitted(
                f"connection {self.aws_conn_id!r} cannot take role {self.conn_config.role_arn!r}: {error}. Check its "
                "extra 'role_arn', and that the role's trust policy names the connection's credentials."
            ) from error

    def client_settings(self) -> dict[str, Any]:
        """
        Arguments with which every client of this package uses the connection.

        :raises sched_plugins.errors.InvalidSettings: No region is set.
        """
        from sched_plugins.errors import InvalidSettings

        session = HookSession(self)
        if not (self.region_name or session.region_name or os.environ.get("AWS_REGION")):
            raise InvalidSettings(
                f"no AWS region is set: give `region_name`, add an extra 'region_name' to connection "
                f"{self.aws_conn_id!r}, or set AWS_DEFAULT_REGION where the task runs"
            )
        return {
            "session": session,
            "region": self.region_name,
            "endpoint_url": self.conn_config.endpoint_url,
            "config": self.config,
        }

    def async_client(self, service: str) -> Any:
        """
        Make an aiobotocore client, to be entered with ``async with``.

        Blocks while it reads the connection and botocore's files: call it in a thread.
        """
        session: Any = self.get_session(region_name=self.region_name, deferrable=True)
        with self.signing_in():
            session.get_scoped_config()  # read here, and not in the loop; there may be no such profile
            loader = session.get_component("data_loader")
            for kind in ("service-2", "endpoint-rule-set-1"):
                loader.load_service_model(service, kind)  # kept, so that entering the client reads no file in the loop
            return session.create_client(
                service,
                region_name=self.region_name,
                endpoint_url=self.conn_config.get_service_endpoint_url(service),
                config=self.config,
                verify=self.verify,
            )

    def is_drained(self, queue: str = "") -> bool:
        """
        Tell whether a job queue has nothing more to do. One GetQueueUrl, one GetQueueAttributes, up to 16 Queries.

        Raises the client's errors, since triggers ask as well.

        :param queue: Its name; by default the environment's, or else the scheduler's own.
        """
        from sched_plugins.client import Status
        from sched_plugins.core import names
        from sched_plugins.core.state import LIVE
        from sched_plugins.errors import QueueNotFound

        client = self.client
        name = names.queue_name(queue) or names.job_queue(self.environment or client.scheduler)
        missing = (
            QueueNotFound(f"there is no queue {name!r} in {client.connection.place}; `sched queues` lists them")
            if queue
            else client.missing
        )
        with client.connection.doing(f"look at queue {name!r}", missing):
            sqs = client.connection.client("sqs")
            url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
            counted = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(_COUNTS))["Attributes"]
        if any(int(counted[count]) for count in _COUNTS):
            return False
        # Twice, since those that wait are read before those that run: a job that goes back to the queue for
        # another try of its own is in neither, if it does so in between.
        return not any(client.list(statuses={Status.QUEUED, *LIVE}, queue=name, limit=1) for _ in range(2))

    def test_connection(self) -> tuple[bool, str]:
        """Test the credentials, and that the scheduler answers if one is named."""
        worked, told = super().test_connection()
        if not worked or (not self._scheduler and not self._configured_scheduler):
            return worked, told
        try:
            with translated():
                self.scheduler_client.list(limit=1)
        except Exception as error:  # noqa: BLE001 - whatever is wrong, the form shows it
            return False, f"{told}; but {error}"
        return True, f"{told}; scheduler {self.scheduler!r} answers"

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Get the connection form's labels and placeholders."""
        from sched_plugins.airflow.get_provider_info import UI_FIELD_BEHAVIOUR

        return {name.replace("-", "_"): value for name, value in UI_FIELD_BEHAVIOUR.items()}


class HookSession:
    """What the package's clients take for a boto3 session: it adds the connection's TLS and endpoint settings."""

    def __init__(self, hook: SchedulerHook) -> None:
        self._hook = hook
        self._session: Any = hook.get_session(region_name=hook.region_name)

    @property
    def region_name(self) -> str | None:
        """AWS region of the connection."""
        found: str | None = self._session.region_name
        return found

    def client(self, service_name: str, **settings: Any) -> Any:
        """Make a boto3 client."""
        own = self._hook.conn_config.get_service_endpoint_url(service_name)
        made = self._session.client(
            service_name,
            **{**settings, "endpoint_url": own or settings.get("endpoint_url"), "verify": self._hook.verify},
        )
        _let_handlers_renew(self._session)
        return made


def _let_handlers_renew(session: Any) -> None:
    """Let a signal's handler, as a task's on_kill is one, use credentials while its thread renews them.

    botocore's lock is not reentrant: the handler would wait for the thread that it interrupted, until it is killed.
    """
    credentials = getattr(getattr(session, "_session", None), "_credentials", None)  # as they are: loads none
    if credentials is not None and isinstance(getattr(credentials, "_refresh_lock", None), type(threading.Lock())):
        credentials._refresh_lock = threading.RLock()


def _refresh_in_a_thread(session: Any) -> None:
    """Let a role's credentials be renewed beside the event loop.

    The amazon provider asks STS for them by a plain function, which aiobotocore calls in the loop: every trigger would
    stand still until STS has answered. aiobotocore awaits what the function returns, if that can be awaited.
    """
    credentials: Any = getattr(session, "_credentials", None)
    refresh = getattr(credentials, "_refresh_using", None)
    if refresh is not None and not inspect.iscoroutinefunction(refresh):
        credentials._refresh_using = partial(asyncio.to_thread, refresh)


def hook_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The hook's arguments among an operator's or a trigger's: operators call botocore's ``botocore_config``."""
    names = ("scheduler", "environment", "aws_conn_id", "region_name", "verify")
    return {**{name: settings.get(name) for name in names}, "config": settings.get("botocore_config")}
