"""Shapes: commands, invocations, instances and documents as Systems Manager's replies show them."""

from __future__ import annotations

import hashlib
import json
import time
from datetime import datetime
from typing import Any

from .agent import output_key
from .commands import PLUGIN_LIMIT, TERMINAL, Command, Invocation, StepResult, cut, iso
from .documents import Document
from .instances import Instance
from .wire import AwsError


def command_shape(command: Command) -> dict[str, Any]:
    """A command, as SendCommand and ListCommands show it."""
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
        "DeliveryTimedOutCount": sum(item.details == "DeliveryTimedOut" for item in command.invocations.values()),
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


def invocation_shape(invocation: Invocation, plugin: str | None) -> dict[str, Any]:
    """An invocation, as GetCommandInvocation shows it; ``plugin`` names the step, if there are several."""
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


def listed_invocation_shape(invocation: Invocation, details: bool) -> dict[str, Any]:
    """An invocation, as ListCommandInvocations shows it; with its steps if ``details``."""
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
        "Output": cut(
            result.stdout + (f"\n----------ERROR-------\n{result.stderr}" if result.stderr else ""),
            PLUGIN_LIMIT,
        ),
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


def managed_shape(instance: Instance) -> dict[str, Any]:
    """An instance, as DescribeInstanceInformation shows it."""
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


def document_shape(document: Document) -> dict[str, Any]:
    """A document, as DescribeDocument and ListDocuments show it."""
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
            {"Name": name, "Type": declared.get("type", "String")} for name, declared in document.parameters.items()
        ],
        "PlatformTypes": document.platforms,
        "DocumentType": "Command",
        "SchemaVersion": str(document.content["schemaVersion"]),
        "DocumentFormat": "JSON",
        "Hash": hashlib.sha256(text.encode()).hexdigest(),
        "HashType": "Sha256",
    }
