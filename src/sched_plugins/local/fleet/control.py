"""The control page: what a laptop can ask of its fleet and nobody can ask of AWS.

``GET /_sched/health``, ``GET /_sched/fleet``, and ``POST /_sched/fleet/interrupt``, ``…/restart-agent``,
``…/agent`` and ``…/settings`` with a JSON body.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from .fleet import Fleet
from .instances import Instance


class Control:
    """Answers the control page's requests."""

    def __init__(self, fleet: Fleet, about: dict[str, Any]) -> None:
        self._fleet = fleet
        self._about = about
        self._calls: Counter[str] = Counter()

    def count(self, service: str) -> None:
        """Count one call that came in for a service."""
        self._calls[service] += 1

    async def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """HTTP status and value for one request."""
        name = path.removeprefix("/_sched/").removeprefix("fleet").strip("/")
        try:
            asked = json.loads(body or b"{}")
            if method == "GET" and path == "/_sched/health":
                return 200, {"status": "ok", **self._about}
            if method == "GET" and path == "/_sched/fleet":
                return 200, self._describe()
            if method == "POST" and path.startswith("/_sched/fleet/"):
                return await self._post(name, asked)
        except (ValueError, TypeError) as error:
            return 400, {"error": str(error)}
        return 404, {"error": f"{method} {path} is not something that the stack does"}

    async def _post(self, name: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if name == "settings":
            self._fleet.settings.update(asked)
            self._fleet.events.reseed()
            return 200, self._fleet.settings.as_dict()
        instance = self._fleet.instances.get(str(asked.get("instance_id", "")))
        if instance is None:
            return 404, {"error": f"no instance {asked.get('instance_id')!r} in this stack"}
        if instance.state not in ("pending", "running"):
            return 409, {"error": f"instance {instance.id} is {instance.state}"}
        if name == "interrupt":
            self._fleet.instances.interrupt(instance, float(asked.get("warning_seconds", 0.0)))
            return 200, _shown(instance)
        if name == "restart-agent":
            started = await self._fleet.agent.restart(instance, kill=bool(asked.get("kill", True)))
            return 200, {**_shown(instance), "rerun": started}
        if name == "agent":
            if asked.get("online", True):
                instance.agent_online.set()
            else:
                instance.agent_online.clear()
            return 200, _shown(instance)
        return 404, {"error": f"the fleet has no {name!r}"}

    def _describe(self) -> dict[str, Any]:
        items = [
            item
            for account, region in sorted(self._fleet.instances.scopes())
            for item in self._fleet.instances.all(account, region)
        ]
        return {
            "calls": dict(self._calls),
            "settings": self._fleet.settings.as_dict(),
            "instances": [_shown(item) for item in items],
        }


def _shown(item: Instance) -> dict[str, Any]:
    return {
        "instance_id": item.id,
        "state": item.state,
        "account": item.account,
        "region": item.region,
        "folder": str(item.folder),
        "tags": item.tags,
    }
