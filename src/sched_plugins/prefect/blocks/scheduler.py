"""The block that says which scheduler, and how to reach it."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials
from pydantic import Field, HttpUrl, field_validator

from sched_plugins.client import EnvironmentClient, SchedulerClient
from sched_plugins.core import names
from sched_plugins.errors import InvalidInput, InvalidSettings
from sched_plugins.prefect.blocks.credentials import client_settings, shared

SCHEDULER_VARIABLE = "SCHED_SCHEDULER"
"""Names the scheduler where nothing else does, as for the command line."""
LOGO = "https://cdn.sanity.io/images/3ugk85nk/production/d74b16fe84ce626345adf235a47008fea2869a60-225x225.png"


class ServerlessScheduler(Block):
    """A serverless scheduler: jobs wait in Amazon SQS, and each EC2 worker takes them by itself.

    Making one calls nothing. Its clients, and so the watch of all that wait, are shared in a process.

    Example:
        Run a job from a flow::

            from sched_plugins.prefect import ServerlessScheduler, run_job

            scheduler = ServerlessScheduler.load("production")
            run_job("echo hello", scheduler=scheduler)
    """

    _block_type_name: ClassVar[str | None] = "Serverless Scheduler"
    _block_type_slug: ClassVar[str | None] = "serverless-scheduler"
    _logo_url: ClassVar[HttpUrl | None] = HttpUrl(LOGO)
    _documentation_url: ClassVar[HttpUrl | None] = None
    _description: ClassVar[str | None] = (
        "A serverless scheduler on AWS: jobs wait in SQS and run on EC2 workers, which scale from zero and back."
    )

    scheduler: str = Field(description="Stack name of the scheduler.", examples=["sim"])
    environment: str = Field(
        default="",
        description="Stack name of the environment whose queue and workers jobs get by default; empty: the "
        "scheduler's own queue.",
    )
    credentials: AwsCredentials | None = Field(
        default=None, description="AWS credentials; by default what boto3 finds where the flow runs."
    )
    region: str = Field(default="", description="AWS region, ahead of that of the credentials.")
    endpoint_url: str = Field(
        default="", description="Where AWS answers instead of AWS itself: a laptop stack, a VPC endpoint."
    )

    @field_validator("scheduler", "environment")
    @classmethod
    def _is_a_stack_name(cls, value: str) -> str:
        if value:
            try:
                names.check_stack_name(value)
            except InvalidSettings as error:
                raise ValueError(str(error)) from None
        return value

    def client(self) -> SchedulerClient:
        """The scheduler's client. Makes no AWS call."""
        settings = self._settings()
        made: SchedulerClient = shared(
            ("scheduler", self.scheduler, *_key(settings)), lambda: SchedulerClient(self.scheduler, **settings)
        )
        return made

    def environment_client(self, environment: str = "") -> EnvironmentClient:
        """The client of an environment, the block's own by default. The first time one DescribeStacks call.

        Raises:
            InvalidInput: no environment is named, or it belongs to another scheduler.
            EnvironmentNotFound: there is no such environment here.
        """
        name = environment or self.environment
        if not name:
            raise InvalidInput("no environment is named; give environment=…, or a block that has one")
        settings = self._settings()
        made: EnvironmentClient = shared(
            ("environment", name, *_key(settings)), lambda: EnvironmentClient(name, **settings)
        )
        if made.scheduler != self.scheduler:
            raise InvalidInput(
                f"environment {name!r} belongs to scheduler {made.scheduler!r}, not to {self.scheduler!r}; name one of "
                f"that scheduler's (`sched queues --scheduler {self.scheduler}` shows them), or the other scheduler"
            )
        return made

    def jobs(self, environment: str = "") -> SchedulerClient | EnvironmentClient:
        """Whose functions submit and cancel: an environment's, whose workers then start at once, or the scheduler's.

        Raises: as :meth:`environment_client`.
        """
        if environment or self.environment:
            return self.environment_client(environment)
        return self.client()

    def check(self) -> str:
        """Whether the scheduler can be reached; what it is, in words. One Scan of the table of its workers.

        Raises:
            SchedulerNotFound: there is none of that name here.
            NotPermitted: AWS refused the credentials.
        """
        client = self.client()
        workers = client.workers()
        return f"scheduler {self.scheduler} in {client.connection.place} has {len(workers)} workers"

    def _settings(self) -> dict[str, Any]:
        return client_settings(self.credentials, self.region, self.endpoint_url)


def _key(settings: dict[str, Any]) -> tuple[Any, ...]:
    from sched_plugins.client.connection import surroundings

    config = settings.get("config")
    who = id(settings["session"]) if "session" in settings else surroundings()
    return settings["region"], settings["endpoint_url"], who, repr(config.__dict__) if config else ""


def as_scheduler(given: Any = None, *, environment: str = "") -> ServerlessScheduler:
    """The block of whatever names a scheduler: a block, a stack name, an environment, or ``SCHED_SCHEDULER``.

    Args:
        given: what the user gave.
        environment: an environment, whose scheduler it is where ``given`` is nothing: one DescribeStacks call.

    Raises:
        InvalidInput: nothing names a scheduler, or it is something else.
    """
    if not isinstance(environment, str):
        raise InvalidInput(f"environment is {environment!r} ({type(environment).__name__}); give its stack name")
    if isinstance(given, ServerlessScheduler):
        return given
    name = given
    if not name and environment:
        settings = client_settings(None, "", "")
        client: EnvironmentClient = shared(
            ("environment", environment, *_key(settings)), lambda: EnvironmentClient(environment)
        )
        name = client.scheduler
    name = name or os.environ.get(SCHEDULER_VARIABLE, "")
    if not name:
        raise InvalidInput(
            f"no scheduler is named; give scheduler= a stack name or a ServerlessScheduler block, or set "
            f"{SCHEDULER_VARIABLE}"
        )
    if not isinstance(name, str):
        hint = ""
        if isinstance(name, (list, tuple)):
            hint = "; of a mapped call write scheduler=unmapped(…)"
        raise InvalidInput(
            f"scheduler is {type(name).__name__} {str(name)[:80]!r}, not a stack name or a ServerlessScheduler{hint}"
        )
    if "/" in name:
        raise InvalidInput(
            f"{name!r} is no stack name; load a block with ServerlessScheduler.load({name.rpartition('/')[2]!r})"
        )
    return ServerlessScheduler(scheduler=name)
