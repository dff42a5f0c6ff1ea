"""What one Lambda process keeps from one invocation to the next: the logger, and the world, made when first used."""

from __future__ import annotations

from functools import cache

from aws_lambda_powertools import Logger

from sched_plugins.ports import World

logger = Logger()
"""Structured logging; ``POWERTOOLS_SERVICE_NAME`` and ``POWERTOOLS_LOG_LEVEL`` configure it."""


@cache
def world() -> World:
    """The ports of the scheduler that the environment's variables name.

    Raises:
        InvalidSettings: the function was deployed without its scheduler's name.
    """
    from sched_plugins.aws.world import world_from_environment

    return world_from_environment()
