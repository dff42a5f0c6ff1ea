"""Control of a running stack's fleet: make it behave as badly as AWS may. For tests and for trying things."""

from __future__ import annotations

from typing import Any

from .lifecycle import request
from .state import StackInfo


def fleet(info: StackInfo) -> dict[str, Any]:
    """The fleet's settings and instances."""
    return request(info, "GET", "/_sched/fleet")


def settings(info: StackInfo, **changes: Any) -> dict[str, Any]:
    """Change settings of the fleet (``fleet.settings.Settings``); returns all of them.

    Raises ``LaptopStackError`` for a name that is no setting.
    """
    return request(info, "POST", "/_sched/fleet/settings", changes)


def interrupt(info: StackInfo, instance_id: str, warning_seconds: float = 0.0) -> dict[str, Any]:
    """Take an instance away as Spot does, ``warning_seconds`` after its warning."""
    value = {"instance_id": instance_id, "warning_seconds": warning_seconds}
    return request(info, "POST", "/_sched/fleet/interrupt", value)


def restart_agent(info: StackInfo, instance_id: str, *, kill: bool = True) -> int:
    """Restart an instance's agent, which reruns the documents in progress; returns how many.

    ``kill=False`` leaves running what they had started, as the real agent's service does.
    """
    value = {"instance_id": instance_id, "kill": kill}
    return int(request(info, "POST", "/_sched/fleet/restart-agent", value)["rerun"])


def set_agent(info: StackInfo, instance_id: str, *, online: bool) -> None:
    """Cut an instance's agent off, or let it answer again. Commands wait for it until their delivery timeout."""
    request(info, "POST", "/_sched/fleet/agent", {"instance_id": instance_id, "online": online})
