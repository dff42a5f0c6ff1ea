"""Systems Manager: commands, documents and managed instances."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from . import emulator
from .agent import Agent, output_key
from .commands import PLUGIN_LIMIT, TERMINAL, Command, Commands, Invocation, StepResult, cut, iso
from .documents import Document, Documents
from .instances import Instance, Instances
from .settings import Settings
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
            call.account, call.region, document, given, bound, comment, timeout,
            str(params.get("OutputS3BucketName") or ""), str(params.get("OutputS3KeyPrefix") or ""),
            [item.id for item in instances],
        )
        self._commands.add(command)
        self._agent.send(command)
        return {"Command": _command(command)}

    def get_command_invocation(self, call: Call) -> dict[str, Any]:
        """GetCommandInvocation."""
        command_id, instance_id = call.params.get("CommandId"), call.params.get("InstanceId")
        command = self._commands.get(call.account, call.region, str(command_id))
        invocation = command.invocations.get(str(instance_id)) if command else None
        hidden = self._settings.invocation_delay_seconds
        if invocation is None or time.monotonic() < invocation.command.requested_clock + hidden:
            raise AwsError("InvocationDoesNotExist", f"Invocation for {command_id} on {instance_id} does not exist")
        return _invocation(invocation, call.params.get("PluginName"))

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
        return {"CommandInvocations": [_listed_invocation(item, details) for item in page], **token}

    def list_commands(self, call: Call) -> dict[str, Any]:
        """ListCommands, newest first, by command, instance and status."""
        statuses = _statuses(call)
        found = [item for item in self._select(call) if not statuses or item.status in statuses]
        page, token = _page(found, call, 50)
        return {"Commands": [_command(item) for item in page], **token}

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
                shown = _managed(instance)
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
        return {"DocumentDescription": _description(document)}

    def update_document(self, call: Call) -> dict[str, Any]:
        """UpdateDocument; the new content is the default at once."""
        document = self._documents.update(
            call.account, call.region, str(call.params.get("Name")), str(call.params.get("Content"))
        )
        return {"DocumentDescription": _description(document)}

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
            "Name": document.name, "DocumentVersion": str(document.version), "Status": "Active",
            "Content": json.dumps(document.content), "DocumentType": "Command", "DocumentFormat": "JSON",
        }

    def describe_document(self, call: Call) -> dict[str, Any]:
        """DescribeDocument."""
        document = self._documents.find(call.account, call.region, str(call.params.get("Name")))
        return {"Document": _description(document)}

    def list_documents(self, call: Call) -> dict[str, Any]:
        """ListDocuments."""
        page, token = _page(self._documents.all(call.account, call.region), call, 50)
        return {"DocumentIdentifiers": [_description(item) for item in page], **token}

    def _targets(self, call: Call) -> list[Instance]:
        params = call.params
        names = list(params.get("InstanceIds") or [])
        everyone = self._instances.all(call.account, call.region)
        for target in params.get("Targets") or []:
            key, values = str(target.get("Key")), target.get("Values") or []
            if key.lower() == "instanceids":
                names += values
            elif key.startswith("tag:"):
                names += [item.id for item in everyone
                          if item.tags.get(key[4:]) in values and item.state == "running"]
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
        if command_id:
            found = self._commands.get(call.account, call.region, str(command_id))
            chosen = [found] if found else []
        else:
            chosen = self._commands.all(call.account, call.region)
        return [item for item in chosen if instance_id in (None, *item.instance_ids)]


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
    return items[start:start + size], more


def _statuses(call: Call) -> set[str]:
    return {
        str(item.get("value")) for item in call.params.get("Filters") or [] if item.get("key") == "Status"
    }


def _command(command: Command) -> dict[str, Any]:
    states = [item.status for item in command.invocations.values()]
    return {
        "CommandId": command.id,
        "DocumentName": command.document.name,
        "DocumentVersion": "$DEFAULT",
        "Comment": command.comment,
        "ExpiresAfter": command.expires,
        "Parameters": command.parameters,
        "InstanceIds": command.instance_ids,
        "Targets": [],
        "RequestedDateTime": command.requested.timestamp(),
        "Status": command.status,
        "StatusDetails": command.status,
        "OutputS3Region": command.region,
        "OutputS3BucketName": command.bucket,
        "OutputS3KeyPrefix": command.prefix,
        "MaxConcurrency": "50",
        "MaxErrors": "0",
        "TargetCount": len(states),
        "CompletedCount": sum(state in TERMINAL for state in states),
        "ErrorCount": sum(state in ("Failed", "TimedOut") for state in states),
        "DeliveryTimedOutCount": sum(
            item.details == "DeliveryTimedOut" for item in command.invocations.values()
        ),
        "TimeoutSeconds": command.timeout_seconds,
    }


def _url(invocation: Invocation, result: StepResult | None, name: str) -> str:
    command = invocation.command
    if not command.bucket or result is None:
        return ""
    key = output_key(command, invocation.instance_id, result, name)
    return f"https://s3.{command.region}.amazonaws.com/{command.bucket}/{key}"


def _result(invocation: Invocation, plugin: str | None) -> StepResult | None:
    """The step that GetCommandInvocation speaks of: the named one, else the last that began."""
    if plugin:
        short = plugin.replace(":", "")
        for item in invocation.results:
            if short in (item.name, item.output_path.partition("/")[0]):
                return item
        raise AwsError("InvalidPluginName", f"The command has no plugin {plugin}")
    begun = [item for item in invocation.results if item.started]
    return begun[-1] if begun else None


def _moment(moment: datetime | None) -> str:
    return iso(moment) if moment else ""


def _invocation(invocation: Invocation, plugin: str | None) -> dict[str, Any]:
    command, result = invocation.command, _result(invocation, plugin)
    started = result.started if result else None
    ended = result.ended if result else None
    elapsed = (ended - started).total_seconds() if started and ended else 0.0
    over = invocation.terminal
    return {
        "CommandId": command.id,
        "InstanceId": invocation.instance_id,
        "Comment": command.comment,
        "DocumentName": command.document.name,
        "DocumentVersion": "$DEFAULT",
        "PluginName": result.output_path.partition("/")[0].replace("aws", "aws:", 1) if result else "",
        "ResponseCode": result.exit_code if result and over else -1,
        "ExecutionStartDateTime": _moment(started),
        "ExecutionElapsedTime": f"PT{elapsed:.3f}S" if ended else "",
        "ExecutionEndDateTime": _moment(ended),
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "StandardOutputContent": result.stdout if result and over else "",
        "StandardOutputUrl": _url(invocation, result, "stdout"),
        "StandardErrorContent": result.stderr if result and over else "",
        "StandardErrorUrl": _url(invocation, result, "stderr"),
        "CloudWatchOutputConfig": {"CloudWatchLogGroupName": "", "CloudWatchOutputEnabled": False},
    }


def _listed_invocation(invocation: Invocation, details: bool) -> dict[str, Any]:
    command = invocation.command
    shown = {
        "CommandId": command.id,
        "InstanceId": invocation.instance_id,
        "InstanceName": "",
        "Comment": command.comment,
        "DocumentName": command.document.name,
        "DocumentVersion": "$DEFAULT",
        "RequestedDateTime": command.requested.timestamp(),
        "Status": invocation.status,
        "StatusDetails": invocation.details,
        "StandardOutputUrl": _url(invocation, _result(invocation, None), "stdout"),
        "StandardErrorUrl": _url(invocation, _result(invocation, None), "stderr"),
        "CommandPlugins": [],
    }
    if details:
        shown["CommandPlugins"] = [_plugin(invocation, item) for item in invocation.results]
    return shown


def _plugin(invocation: Invocation, result: StepResult) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "Name": result.output_path.partition("/")[0].replace("aws", "aws:", 1),
        "Status": result.status,
        "StatusDetails": result.status,
        "ResponseCode": result.exit_code,
        "Output": cut(result.stdout + (f"\n----------ERROR-------\n{result.stderr}" if result.stderr else ""),
                      PLUGIN_LIMIT),
        "StandardOutputUrl": _url(invocation, result, "stdout"),
        "StandardErrorUrl": _url(invocation, result, "stderr"),
        "OutputS3Region": invocation.command.region,
        "OutputS3BucketName": invocation.command.bucket,
        "OutputS3KeyPrefix": invocation.command.prefix,
    }
    if result.started:
        shown["ResponseStartDateTime"] = result.started.timestamp()
    if result.ended:
        shown["ResponseFinishDateTime"] = result.ended.timestamp()
    return shown


def _managed(instance: Instance) -> dict[str, Any]:
    return {
        "InstanceId": instance.id,
        "PingStatus": "Online" if instance.agent_online.is_set() else "ConnectionLost",
        "LastPingDateTime": time.time(),
        "AgentVersion": "3.3.0.0",
        "IsLatestVersion": True,
        "PlatformType": "Linux",
        "PlatformName": "Laptop",
        "PlatformVersion": "1",
        "ResourceType": "EC2Instance",
        "IPAddress": instance.record["PrivateIpAddress"],
        "ComputerName": instance.record["PrivateDnsName"],
    }


def _information_matches(instance: Instance, shown: dict[str, Any], key: str, values: list[str]) -> bool:
    if key.startswith("tag:"):
        return instance.tags.get(key[4:]) in values
    field = {"InstanceIds": "InstanceId", "PingStatus": "PingStatus", "PlatformTypes": "PlatformType",
             "AgentVersion": "AgentVersion", "ResourceType": "ResourceType"}.get(key)
    if field is None:
        raise AwsError("InvalidInstanceInformationFilterValue", f"The filter {key} is not known")
    return shown[field] in values


def _description(document: Document) -> dict[str, Any]:
    text = json.dumps(document.content, sort_keys=True)
    return {
        "Name": document.name,
        "Owner": document.owner,
        "CreatedDate": document.created,
        "Status": "Active",
        "DocumentVersion": str(document.version),
        "DefaultVersion": str(document.version),
        "LatestVersion": str(document.version),
        "Description": str(document.content.get("description", "")),
        "Parameters": [
            {"Name": name, "Type": declared.get("type", "String")}
            for name, declared in document.parameters.items()
        ],
        "PlatformTypes": document.platforms,
        "DocumentType": "Command",
        "SchemaVersion": str(document.content["schemaVersion"]),
        "DocumentFormat": "JSON",
        "Hash": hashlib.sha256(text.encode()).hexdigest(),
        "HashType": "Sha256",
    }
