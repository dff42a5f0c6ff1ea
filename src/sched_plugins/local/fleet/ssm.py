"""Systems Manager: commands, documents and managed instances."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from typing import Any

from . import emulator
from .agent import Agent
from .commands import Command, Commands
from .documents import Documents
from .instances import Instance, Instances
from .settings import Settings
from .shapes import (
    command_shape,
    document_shape,
    invocation_shape,
    listed_invocation_shape,
    managed_shape,
)
from .wire import AwsError, Call

#: "Comment: maximum length of 100", "TimeoutSeconds: 30 to 2592000", "InstanceIds: up to 50" (SendCommand).
COMMENT_LIMIT, SHORTEST_TIMEOUT, LONGEST_TIMEOUT, INSTANCES_LIMIT = 100, 30, 2_592_000, 50
_PARAMETER = re.compile(r"\{\{\s*ssm:([A-Za-z0-9_./-]+)(?::(\d+))?\s*\}\}")


class Ssm:
    """Handlers of Systems Manager actions, by name in ``actions``."""

    def __init__(
        self, instances: Instances, commands: Commands, documents: Documents, agent: Agent, settings: Settings
    ) -> None:
        self._instances = instances
        self._commands = commands
        self._documents = documents
        self._agent = agent
        self._settings = settings
        self.actions: dict[str, Callable[[Call], dict[str, Any]]] = {
            "SendCommand": self.send_command,
            "GetCommandInvocation": self.get_command_invocation,
            "ListCommandInvocations": self.list_command_invocations,
            "ListCommands": self.list_commands,
            "CancelCommand": self.cancel_command,
            "DescribeInstanceInformation": self.describe_instance_information,
            "CreateDocument": self.create_document,
            "UpdateDocument": self.update_document,
            "UpdateDocumentDefaultVersion": self.update_document_default_version,
            "DeleteDocument": self.delete_document,
            "GetDocument": self.get_document,
            "DescribeDocument": self.describe_document,
            "ListDocuments": self.list_documents,
        }

    def send_command(self, call: Call) -> dict[str, Any]:
        """SendCommand."""
        params = call.params
        document = self._documents.find(call.account, call.region, str(params.get("DocumentName", "")))
        comment, timeout = str(params.get("Comment") or ""), int(params.get("TimeoutSeconds") or 3600)
        if len(comment) > COMMENT_LIMIT:
            raise AwsError("ValidationException", f"Value at 'comment' must have length at most {COMMENT_LIMIT}")
        if not SHORTEST_TIMEOUT <= timeout <= LONGEST_TIMEOUT:
            raise AwsError(
                "ValidationException",
                f"Value '{timeout}' at 'timeoutSeconds' must be from {SHORTEST_TIMEOUT} to {LONGEST_TIMEOUT}",
            )
        instances = self._targets(call)
        given = params.get("Parameters") or {}
        with emulator.scope(call.account, call.region):
            bound = document.bind({name: _expand(value) for name, value in given.items()})
        command = Command(
            call.account,
            call.region,
            document,
            given,
            bound,
            comment,
            timeout,
            str(params.get("OutputS3BucketName") or ""),
            str(params.get("OutputS3KeyPrefix") or ""),
            [item.id for item in instances],
        )
        self._commands.add(command)
        self._agent.send(command)
        return {"Command": command_shape(command)}

    def get_command_invocation(self, call: Call) -> dict[str, Any]:
        """GetCommandInvocation."""
        command_id, instance_id = call.params.get("CommandId"), call.params.get("InstanceId")
        command = self._commands.get(call.account, call.region, str(command_id))
        invocation = command.invocations.get(str(instance_id)) if command else None
        hidden = self._settings.invocation_delay_seconds
        if invocation is None or time.monotonic() < invocation.command.requested_clock + hidden:
            raise AwsError("InvocationDoesNotExist", f"Invocation for {command_id} on {instance_id} does not exist")
        return invocation_shape(invocation, call.params.get("PluginName"))

    def list_command_invocations(self, call: Call) -> dict[str, Any]:
        """ListCommandInvocations, by command or instance or both, with status filters."""
        details = bool(call.params.get("Details"))
        instance_id = call.params.get("InstanceId")
        statuses = _statuses(call)
        found = [
            invocation
            for command in self._select(call)
            for invocation in command.invocations.values()
            if instance_id in (None, invocation.instance_id) and (not statuses or invocation.status in statuses)
        ]
        page, token = _page(found, call, 50)
        return {"CommandInvocations": [listed_invocation_shape(item, details) for item in page], **token}

    def list_commands(self, call: Call) -> dict[str, Any]:
        """ListCommands, newest first, by command, instance and status."""
        statuses = _statuses(call)
        found = [item for item in self._select(call) if not statuses or item.status in statuses]
        page, token = _page(found, call, 50)
        return {"Commands": [command_shape(item) for item in page], **token}

    def cancel_command(self, call: Call) -> dict[str, Any]:
        """CancelCommand: asks, and guarantees nothing."""
        command_id = str(call.params.get("CommandId"))
        command = self._commands.get(call.account, call.region, command_id)
        if command is None:
            raise AwsError("InvalidCommandId", f"Command {command_id} does not exist")
        for name in call.params.get("InstanceIds") or command.instance_ids:
            if name not in command.invocations:
                raise AwsError("InvalidInstanceId", f"Command {command_id} was not sent to {name}")
            self._agent.cancel(command.invocations[name])
        return {}

    def describe_instance_information(self, call: Call) -> dict[str, Any]:
        """DescribeInstanceInformation: every instance whose agent answers, or has answered."""
        wanted: dict[str, list[str]] = {}
        for item in call.params.get("Filters") or []:
            wanted[str(item.get("Key"))] = item.get("Values") or []
        for item in call.params.get("InstanceInformationFilterList") or []:
            wanted[str(item.get("key"))] = item.get("valueSet") or []
        found = []
        for instance in self._instances.all(call.account, call.region):
            if instance.state == "running":
                shown = managed_shape(instance)
                if all(_information_matches(instance, shown, key, values) for key, values in wanted.items()):
                    found.append(shown)
        page, token = _page(found, call, 50)
        return {"InstanceInformationList": page, **token}

    def create_document(self, call: Call) -> dict[str, Any]:
        """CreateDocument, for documents of type Command."""
        if call.params.get("DocumentType", "Command") != "Command":
            raise AwsError("ValidationException", "The laptop stack keeps documents of type Command only")
        document = self._documents.create(
            call.account, call.region, str(call.params.get("Name")), str(call.params.get("Content"))
        )
        return {"DocumentDescription": document_shape(document)}

    def update_document(self, call: Call) -> dict[str, Any]:
        """UpdateDocument; the new content is the default at once."""
        document = self._documents.update(
            call.account, call.region, str(call.params.get("Name")), str(call.params.get("Content"))
        )
        return {"DocumentDescription": document_shape(document)}

    def update_document_default_version(self, call: Call) -> dict[str, Any]:
        """UpdateDocumentDefaultVersion: accepted; only the newest content is kept."""
        document = self._documents.find(call.account, call.region, str(call.params.get("Name")))
        return {"Description": {"Name": document.name, "DefaultVersion": str(document.version)}}

    def delete_document(self, call: Call) -> dict[str, Any]:
        """DeleteDocument."""
        self._documents.delete(call.account, call.region, str(call.params.get("Name")))
        return {}

    def get_document(self, call: Call) -> dict[str, Any]:
        """GetDocument."""
        document = self._documents.find(call.account, call.region, str(call.params.get("Name")))
        return {
            "Name": document.name,
            "DocumentVersion": str(document.version),
            "Status": "Active",
            "Content": json.dumps(document.content),
            "DocumentType": "Command",
            "DocumentFormat": "JSON",
        }

    def describe_document(self, call: Call) -> dict[str, Any]:
        """DescribeDocument."""
        document = self._documents.find(call.account, call.region, str(call.params.get("Name")))
        return {"Document": document_shape(document)}

    def list_documents(self, call: Call) -> dict[str, Any]:
        """ListDocuments."""
        page, token = _page(self._documents.all(call.account, call.region), call, 50)
        return {"DocumentIdentifiers": [document_shape(item) for item in page], **token}

    def _targets(self, call: Call) -> list[Instance]:
        params = call.params
        names = list(params.get("InstanceIds") or [])
        everyone = self._instances.all(call.account, call.region)
        for target in params.get("Targets") or []:
            key, values = str(target.get("Key")), target.get("Values") or []
            if key.lower() == "instanceids":
                names += values
            elif key.startswith("tag:"):
                names += [item.id for item in everyone if item.tags.get(key[4:]) in values and item.state == "running"]
            else:
                raise AwsError("InvalidTarget", f"The laptop stack knows the targets InstanceIds and tag:…, not {key}")
        if len(names) > INSTANCES_LIMIT and not params.get("Targets"):
            raise AwsError("ValidationException", f"InstanceIds takes at most {INSTANCES_LIMIT} ids")
        if not names and not params.get("Targets"):
            raise AwsError("InvalidInstanceId", "InstanceIds or Targets must name an instance")
        known = {item.id: item for item in everyone if item.state == "running"}
        missing = [name for name in names if name not in known]
        if missing:
            raise AwsError(
                "InvalidInstanceId",
                f"Instances [[{', '.join(missing)}]] not in a valid state for account {call.account}",
            )
        return [known[name] for name in dict.fromkeys(names)]

    def _select(self, call: Call) -> list[Command]:
        command_id, instance_id = call.params.get("CommandId"), call.params.get("InstanceId")
        if not command_id:
            return self._commands.all(call.account, call.region, instance_id)
        found = self._commands.get(call.account, call.region, str(command_id))
        return [found] if found and instance_id in (None, *found.instance_ids) else []


def _expand(value: Any) -> Any:
    """Replace ``{{ssm:name}}`` by the value of that parameter, as Systems Manager does before it sends."""
    if isinstance(value, list):
        return [_expand(item) for item in value]
    if not isinstance(value, str):
        return value

    def value_of(match: re.Match[str]) -> str:
        found = emulator.parameter(match[1], match[2])
        if found is None:
            raise AwsError("InvalidParameters", f"Parameter store has no String parameter {match[1]}")
        return found

    return _PARAMETER.sub(value_of, value)


def _page(items: list[Any], call: Call, size: int) -> tuple[list[Any], dict[str, str]]:
    start = int(call.params.get("NextToken") or 0)
    size = int(call.params.get("MaxResults") or size)
    more = {"NextToken": str(start + size)} if start + size < len(items) else {}
    return items[start : start + size], more


def _statuses(call: Call) -> set[str]:
    return {str(item.get("value")) for item in call.params.get("Filters") or [] if item.get("key") == "Status"}


def _information_matches(instance: Instance, shown: dict[str, Any], key: str, values: list[str]) -> bool:
    if key.startswith("tag:"):
        return instance.tags.get(key[4:]) in values
    field = {
        "InstanceIds": "InstanceId",
        "PingStatus": "PingStatus",
        "PlatformTypes": "PlatformType",
        "AgentVersion": "AgentVersion",
        "ResourceType": "ResourceType",
    }.get(key)
    if field is None:
        raise AwsError("InvalidInstanceInformationFilterValue", f"The filter {key} is not known")
    return shown[field] in values
