"""Events to EventBridge, in the shape in which EC2 and Systems Manager send them, as reliable as set."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from . import emulator
from .settings import Settings


class Events:
    """Sends the fleet's events.

    Shapes: "Monitor EC2 with EventBridge" and "EventBridge event examples for Systems Manager" in the AWS
    user guides. Events are best effort there, so each may be dropped, sent twice or delayed (``Settings``).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._random = random.Random(settings.seed)  # noqa: S311 - nothing secret

    def reseed(self) -> None:
        """Start the random numbers again from the seed in the settings."""
        self._random = random.Random(self._settings.seed)  # noqa: S311

    def chance(self, fraction: float) -> bool:
        """True in ``fraction`` of the calls."""
        return fraction > 0 and self._random.random() < fraction

    def instance_state(self, account: str, region: str, instance_id: str, state: str) -> None:
        """An instance changed its state."""
        self._send(
            account,
            region,
            "aws.ec2",
            "EC2 Instance State-change Notification",
            [f"arn:aws:ec2:{region}:{account}:instance/{instance_id}"],
            {"instance-id": instance_id, "state": state},
        )

    def spot_interruption(self, account: str, region: str, zone: str, instance_id: str) -> None:
        """Spot takes an instance back. AWS puts the zone where other ARNs have region and account."""
        self._send(
            account,
            region,
            "aws.ec2",
            "EC2 Spot Instance Interruption Warning",
            [f"arn:aws:ec2:{zone}:instance/{instance_id}"],
            {"instance-id": instance_id, "instance-action": "terminate"},
        )

    def invocation_status(
        self, account: str, region: str, instance_id: str, command: dict[str, Any], status: str
    ) -> None:
        """A command's status on one instance changed."""
        detail = {
            "command-id": command["command-id"],
            "document-name": command["document-name"],
            "instance-id": instance_id,
            "requested-date-time": command["requested-date-time"],
            "status": status,
        }
        self._send(
            account,
            region,
            "aws.ssm",
            "EC2 Command Invocation Status-change Notification",
            [f"arn:aws:ec2:{region}:{account}:instance/{instance_id}"],
            detail,
        )

    def command_status(
        self, account: str, region: str, instance_ids: list[str], command: dict[str, Any], status: str
    ) -> None:
        """A command's overall status changed."""
        self._send(
            account,
            region,
            "aws.ssm",
            "EC2 Command Status-change Notification",
            [f"arn:aws:ec2:{region}:{account}:instance/{item}" for item in instance_ids],
            {**command, "status": status},
        )

    def _send(
        self, account: str, region: str, source: str, kind: str, resources: list[str], detail: dict[str, Any]
    ) -> None:
        settings = self._settings
        if self.chance(settings.event_drop_fraction):
            return
        loop = asyncio.get_running_loop()
        event = (account, region, source, kind, resources, detail)
        for _ in range(2 if self.chance(settings.event_duplicate_fraction) else 1):
            if settings.event_delay_seconds > 0:
                loop.call_later(settings.event_delay_seconds, emulator.put_event, *event)
            else:
                loop.call_soon(emulator.put_event, *event)
