"""Auto Scaling: the actions that change or describe what groups have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import emulator
from .groups import Groups
from .instances import GROUP_TAG, Instances
from .wire import AwsError, Call, flag, listed, number


class AutoScaling:
    """Handlers of Auto Scaling actions, by name in ``actions``. Everything else stays MiniStack's."""

    def __init__(self, instances: Instances, groups: Groups) -> None:
        self._instances = instances
        self._groups = groups
        self.actions: dict[str, Callable[[Call], dict[str, Any]]] = {
            "CreateAutoScalingGroup": self.create_group,
            "DescribeAutoScalingGroups": self.describe_groups,
            "DescribeAutoScalingInstances": self.describe_instances,
            "SetDesiredCapacity": self.set_desired_capacity,
            "UpdateAutoScalingGroup": self.update_group,
            "DeleteAutoScalingGroup": self.delete_group,
            "SetInstanceProtection": self.set_instance_protection,
            "TerminateInstanceInAutoScalingGroup": self.terminate_instance,
        }

    def create_group(self, call: Call) -> dict[str, Any]:
        """CreateAutoScalingGroup, from a launch template or a mixed instances policy."""
        params = dict(call.params)
        name = str(params.get("AutoScalingGroupName", ""))
        least, most = number(params, "MinSize"), number(params, "MaxSize")
        desired = number(params, "DesiredCapacity", least)
        if not name:
            raise AwsError("ValidationError", "AutoScalingGroupName is required")
        _check_sizes(least, desired, most)
        with emulator.scope(call.account, call.region):
            if emulator.group(name):
                raise AwsError("AlreadyExists", f"AutoScalingGroup by this name already exists - {name}")
            emulator.create_group({**params, "Cooldown": params.get("DefaultCooldown", 300)})
        self._groups.changed()
        return {}

    def describe_groups(self, call: Call) -> dict[str, Any]:
        """DescribeAutoScalingGroups, by name and by tag."""
        names = listed(call.params, "AutoScalingGroupNames")
        found = [
            group
            for account, region, group in emulator.groups()
            if (account, region) == (call.account, call.region)
            and (not names or group["AutoScalingGroupName"] in names)
            and all(_matches(group, item) for item in listed(call.params, "Filters"))
        ]
        self._groups.reconcile()
        start, size = number(call.params, "NextToken", 0), number(call.params, "MaxRecords", 50)
        more = str(start + size) if start + size < len(found) else None
        return {
            "AutoScalingGroups": [_shown(group) for group in found[start : start + size]],
            "NextToken": more,
        }

    def describe_instances(self, call: Call) -> dict[str, Any]:
        """DescribeAutoScalingInstances; an id that is in no group is left out, as on AWS."""
        wanted = listed(call.params, "InstanceIds")
        self._groups.reconcile()
        return {
            "AutoScalingInstances": [
                {"AutoScalingGroupName": group["AutoScalingGroupName"], **_member(entry)}
                for account, region, group in emulator.groups()
                if (account, region) == (call.account, call.region)
                for entry in group["Instances"]
                if not wanted or entry["InstanceId"] in wanted
            ]
        }

    def set_desired_capacity(self, call: Call) -> dict[str, Any]:
        """SetDesiredCapacity, within the group's bounds."""
        group = self._group(call)
        desired = number(call.params, "DesiredCapacity")
        if desired > group["MaxSize"]:
            raise AwsError(
                "ValidationError",
                f"New SetDesiredCapacity value {desired} is above max value "
                f"{group['MaxSize']} for the AutoScalingGroup.",
            )
        if desired < group["MinSize"]:
            raise AwsError(
                "ValidationError",
                f"New SetDesiredCapacity value {desired} is below min value "
                f"{group['MinSize']} for the AutoScalingGroup.",
            )
        group["DesiredCapacity"] = desired
        self._groups.changed()
        return {}

    def update_group(self, call: Call) -> dict[str, Any]:
        """UpdateAutoScalingGroup: sizes, templates and protection of new instances."""
        group, params = self._group(call), call.params
        least = number(params, "MinSize", group["MinSize"])
        most = number(params, "MaxSize", group["MaxSize"])
        nearest = min(max(int(group["DesiredCapacity"]), least), most)
        desired = number(params, "DesiredCapacity", nearest)
        _check_sizes(least, desired, most)
        group.update(MinSize=least, MaxSize=most, DesiredCapacity=desired)
        if "NewInstancesProtectedFromScaleIn" in params:
            group["NewInstancesProtectedFromScaleIn"] = flag(params, "NewInstancesProtectedFromScaleIn")
        for name in ("LaunchTemplate", "MixedInstancesPolicy"):
            if params.get(name):
                group[name] = params[name]
        self._groups.changed()
        return {}

    def delete_group(self, call: Call) -> dict[str, Any]:
        """DeleteAutoScalingGroup; a group with instances only with ForceDelete."""
        group = self._group(call)
        name = group["AutoScalingGroupName"]
        if self._groups.members(call.account, call.region, name) and not flag(call.params, "ForceDelete"):
            raise AwsError(
                "ResourceInUse",
                "You cannot delete an AutoScalingGroup while there are instances or pending "
                "Spot instance request(s) still in the group.",
            )
        with emulator.scope(call.account, call.region):
            emulator.forget_group(name)
        self._groups.changed()
        return {}

    def set_instance_protection(self, call: Call) -> dict[str, Any]:
        """SetInstanceProtection."""
        group = self._group(call)
        self._groups.reconcile()
        entries = {entry["InstanceId"]: entry for entry in group["Instances"]}
        names = listed(call.params, "InstanceIds")
        for name in names:
            if name not in entries:
                raise AwsError(
                    "ValidationError",
                    f"The instance {name} is not part of Auto Scaling group {group['AutoScalingGroupName']}.",
                )
            if entries[name]["LifecycleState"] != "InService":
                raise AwsError(
                    "ValidationError",
                    f"The instance {name} is not in InService or EnteringStandby or Standby.",
                )
        for name in names:
            entries[name]["ProtectedFromScaleIn"] = flag(call.params, "ProtectedFromScaleIn")
        self._groups.changed()
        return {}

    def terminate_instance(self, call: Call) -> dict[str, Any]:
        """TerminateInstanceInAutoScalingGroup."""
        instance_id = str(call.params.get("InstanceId", ""))
        item = self._instances.get(instance_id)
        name = item.tags.get(GROUP_TAG) if item else None
        with emulator.scope(call.account, call.region):
            group = emulator.group(name) if name else None
        if item is None or group is None or item.state == "terminated":
            raise AwsError(
                "ValidationError",
                f"Instance Id not found - No managed instance found for instance ID: {instance_id}",
            )
        if flag(call.params, "ShouldDecrementDesiredCapacity") and item.live:
            if group["DesiredCapacity"] <= group["MinSize"]:
                raise AwsError(
                    "ValidationError",
                    f"Currently, desiredSize equals minSize ({group['MinSize']}). Terminating instance without "
                    "replacement will violate group's min size constraint. Either set "
                    "shouldDecrementDesiredCapacity flag to false or lower group's min size.",
                )
            group["DesiredCapacity"] -= 1
        self._instances.terminate(item, "Scale in", "Client.UserInitiatedShutdown")
        self._groups.changed()
        return {"Activity": _activity(group, instance_id)}

    def _group(self, call: Call) -> dict[str, Any]:
        name = str(call.params.get("AutoScalingGroupName", ""))
        with emulator.scope(call.account, call.region):
            found = emulator.group(name)
        if found is None:
            raise AwsError("ValidationError", f"AutoScalingGroup name not found - AutoScalingGroup {name} not found")
        return found


def _check_sizes(least: int, desired: int, most: int) -> None:
    if least > most:
        raise AwsError("ValidationError", f"Max bound, {most}, must be greater than or equal to min bound, {least}")
    if not least <= desired <= most:
        raise AwsError(
            "ValidationError",
            f"Desired capacity:{desired} must be between the specified min size:{least} and max size:{most}",
        )


def _matches(group: dict[str, Any], item: dict[str, Any]) -> bool:
    name, values = str(item.get("Name", "")), listed(item, "Values")
    tags = {tag["Key"]: tag.get("Value", "") for tag in group.get("Tags") or []}
    if name.startswith("tag:"):
        return tags.get(name[4:]) in values
    if name == "tag-key":
        return any(key in values for key in tags)
    if name == "tag-value":
        return any(value in values for value in tags.values())
    raise AwsError("ValidationError", f"Filter type {name} is not correct.")


def _template(spec: dict[str, Any]) -> dict[str, Any] | None:
    return {key: spec[key] for key in ("LaunchTemplateId", "LaunchTemplateName", "Version") if spec.get(key)} or None


def _member(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "InstanceId": entry["InstanceId"],
        "InstanceType": entry.get("InstanceType"),
        "AvailabilityZone": entry["AvailabilityZone"],
        "LifecycleState": entry["LifecycleState"],
        "HealthStatus": entry["HealthStatus"],
        "ProtectedFromScaleIn": bool(entry["ProtectedFromScaleIn"]),
        "LaunchTemplate": _template(entry.get("LaunchTemplate") or {}),
    }


def _shown(group: dict[str, Any]) -> dict[str, Any]:
    return {
        "AutoScalingGroupName": group["AutoScalingGroupName"],
        "AutoScalingGroupARN": group["AutoScalingGroupARN"],
        "LaunchTemplate": _template(group.get("LaunchTemplate") or {}),
        "MixedInstancesPolicy": group.get("MixedInstancesPolicy") or None,
        "MinSize": group["MinSize"],
        "MaxSize": group["MaxSize"],
        "DesiredCapacity": group["DesiredCapacity"],
        "DefaultCooldown": group["DefaultCooldown"],
        "AvailabilityZones": list(group["AvailabilityZones"]),
        "HealthCheckType": group["HealthCheckType"],
        "HealthCheckGracePeriod": group["HealthCheckGracePeriod"],
        "Instances": [_member(entry) for entry in group["Instances"]],
        "CreatedTime": group["CreatedTime"],
        "VPCZoneIdentifier": group["VPCZoneIdentifier"],
        "TerminationPolicies": list(group["TerminationPolicies"]),
        "NewInstancesProtectedFromScaleIn": bool(group["NewInstancesProtectedFromScaleIn"]),
        "Tags": [{**tag, "PropagateAtLaunch": bool(tag.get("PropagateAtLaunch"))} for tag in group.get("Tags") or []],
    }


def _activity(group: dict[str, Any], instance_id: str) -> dict[str, Any]:
    return {
        "ActivityId": f"terminate-{instance_id}",
        "AutoScalingGroupName": group["AutoScalingGroupName"],
        "Description": f"Terminating EC2 instance: {instance_id}",
        "Cause": "At the request of a user.",
        "StartTime": emulator.now(),
        "StatusCode": "InProgress",
        "Progress": 0,
    }
