"""All the adapters together, as the functions use them."""

from __future__ import annotations

import os

from sched_plugins.aws.clients import Clients
from sched_plugins.aws.clock import SystemClock
from sched_plugins.aws.commands import RunCommands
from sched_plugins.aws.events import EventBridgeEvents
from sched_plugins.aws.executions import StepFunctionsExecutions
from sched_plugins.aws.objects import S3Objects
from sched_plugins.aws.queues import SqsQueues
from sched_plugins.aws.settings import Settings
from sched_plugins.aws.tables import DynamoTables
from sched_plugins.aws.workers import Ec2Workers
from sched_plugins.ports import World


def world(settings: Settings, clients: Clients) -> World:
    """The world of one scheduler. Nothing is called, and no client made, before it is used."""
    return World(
        scheduler=settings.name,
        dead_letters=settings.dead_letters,
        tables=DynamoTables(settings, clients),
        queues=SqsQueues(settings, clients),
        commands=RunCommands(settings, clients),
        objects=S3Objects(settings, clients),
        workers=Ec2Workers(settings, clients),
        executions=StepFunctionsExecutions(settings, clients),
        events=EventBridgeEvents(settings, clients),
        clock=SystemClock(),
    )


def world_from_environment() -> World:
    """The world that the environment's variables describe (see :meth:`Settings.from_environment`).

    Raises:
        InvalidSettings: the scheduler's name is missing.
    """
    return world(Settings.from_environment(os.environ), Clients())
