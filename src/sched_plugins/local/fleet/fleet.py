"""The fleet itself: its parts, put together, and how it answers a request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import emulator
from .agent import Agent
from .autoscaling import AutoScaling
from .commands import Commands
from .documents import Documents
from .ec2 import Ec2
from .events import Events
from .groups import Groups
from .instances import Instances
from .settings import Settings
from .ssm import Ssm
from .wire import AwsError, Call, Reply, failure, success

Handler = Callable[[Call], dict[str, Any]]


class Fleet:
    """All parts of the fleet. Used from the event loop of the server alone."""

    def __init__(self, folder: Path, endpoint: str, mark: str, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.events = Events(self.settings)
        self.instances = Instances(folder, self.settings, self.events)
        self.commands = Commands()
        self.documents = Documents()
        self.agent = Agent(self.instances, self.commands, self.settings, self.events, endpoint, mark)
        self.groups = Groups(self.instances)
        self._random = random.Random(self.settings.seed)  # noqa: S311 - nothing secret
        self._handlers: dict[str, dict[str, Handler]] = {
            "ec2": Ec2(self.instances).actions,
            "autoscaling": AutoScaling(self.instances, self.groups).actions,
            "ssm": Ssm(self.instances, self.commands, self.documents, self.agent, self.settings).actions,
        }
        self._groups_task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look after the groups, and teach CloudFormation ``AWS::SSM::Document``."""
        self._groups_task = asyncio.get_running_loop().create_task(self.groups.run())
        emulator.add_resource_type("AWS::SSM::Document", _DocumentResource(self.documents).handlers)

    def close(self) -> None:
        """Stop following groups and instances."""
        if self._groups_task:
            self._groups_task.cancel()
        self.instances.close()

    @property
    def services(self) -> list[str]:
        """The services of which it performs some actions."""
        return list(self._handlers)

    def performs(self, service: str, action: str) -> bool:
        """Whether the fleet answers this action itself."""
        return action in self._handlers.get(service, {})

    def answer(self, call: Call) -> Reply:
        """Answer a call, with the faults that the settings ask for."""
        fault = self.settings.faults.get(call.action)
        hit = fault is not None and self._random.random() < fault.fraction
        try:
            if fault and hit and not fault.lost_reply:
                raise AwsError(fault.code, "Rate exceeded")
            result = self._handlers[call.service][call.action](call)
            if hit:
                raise AwsError("InternalFailure", "The reply was lost", 500)
        except AwsError as error:
            return failure(call.service, error)
        return success(call, result)


class _DocumentResource:
    """``AWS::SSM::Document`` for CloudFormation."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self.handlers = {"create": self.create, "delete": self.delete}

    def create(self, logical_id: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        """Create the document; its name is the resource's physical id."""
        account, region = emulator.current_scope()
        name = str(properties.get("Name") or f"{stack}-{logical_id}")
        content = properties.get("Content")
        text = content if isinstance(content, str) else json.dumps(content)
        try:
            self._documents.create(account, region, name, text)
        except AwsError as error:
            raise RuntimeError(str(error)) from error
        return name, {}

    def delete(self, physical_id: str, _properties: dict[str, Any]) -> None:
        """Delete the document; one that is gone is no error."""
        account, region = emulator.current_scope()
        with contextlib.suppress(AwsError):
            self._documents.delete(account, region, physical_id)
