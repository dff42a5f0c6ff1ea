"""The one place where commands get their clients from."""

from __future__ import annotations

from sched_plugins.client import EnvironmentClient, SchedulerClient


def scheduler(name: str) -> SchedulerClient:
    """The client of a scheduler, in the account and region that the environment's variables tell."""
    return SchedulerClient(name)


def environment(name: str) -> EnvironmentClient:
    """The client of an environment."""
    return EnvironmentClient(name)
