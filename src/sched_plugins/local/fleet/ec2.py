"""EC2: the actions that start, stop and describe instances."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

from . import emulator
from .instances import GROUP_TAG, STATE_CODES, Instance, Instances
from .wire import AwsError, Call, flag, listed, number, tag_list

_USER_STOP = "User initiated"


class Ec2:
    """Handlers of EC2 actions, by name in ``actions``."""

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self.actions: dict[str, Callable[[Call], dict[str, Any]]] = {
            "RunInstances": self.run_instances,
            "DescribeInstances": self.describe_instances,
            "DescribeInstanceStatus": self.describe_instance_status,
            "TerminateInstances": self.terminate_instances,
            "StopInstances": self.stop_instances,
            "StartInstances": self.start_instances,
        }

    def run_instances(self, call: Call) -> dict[str, Any]:
        """RunInstances, with launch templates, tags, Spot and client tokens."""
        params = call.params
        most, least = number(params, "MaxCount"), number(params, "MinCount")
        if not 1 <= least <= most:
            raise AwsError("InvalidParameterValue", f"MinCount {least} and MaxCount {most} do not fit together")
        token = str(params.get("ClientToken", ""))
        again = [
            item for item in self._instances.all(call.account, call.region) if token and item.client_token == token
        ]
        if again:
            return self._reservation(call, again)
        _refuse_dry_run(params)
        template = _template(call, params.get("LaunchTemplate"))
        image = params.get("ImageId") or template.get("ImageId")
        if not image:
            raise AwsError("MissingParameter", "The request must contain the parameter ImageId")
        tags = template_tags(template)
        for spec in listed(params, "TagSpecification"):
            if spec.get("ResourceType") == "instance":
                tags.update(tag_list(spec, "Tag"))
        _check_tags(tags)
        if template:
            tags["aws:ec2launchtemplate:id"] = template["_id"]
            tags["aws:ec2launchtemplate:version"] = template["_version"]
        market = params.get("InstanceMarketOptions") or template.get("InstanceMarketOptions") or {}
        created = self._instances.launch(
            call.account,
            call.region,
            most,
            tags,
            spot=market.get("MarketType") == "spot",
            client_token=token,
            image_id=image,
            instance_type=params.get("InstanceType") or template.get("InstanceType") or "m1.small",
            subnet_id=params.get("SubnetId") or template.get("SubnetId") or "",
            key_name=params.get("KeyName") or template.get("KeyName") or "",
            user_data=params.get("UserData") or template.get("UserData") or "",
            sg_ids=listed(params, "SecurityGroupId") or template.get("SecurityGroupIds"),
            profile=params.get("IamInstanceProfile") or template.get("IamInstanceProfile"),
        )
        return self._reservation(call, created)

    def describe_instances(self, call: Call) -> dict[str, Any]:
        """DescribeInstances, one reservation an instance, with filters and pages."""
        found = self._select(call)
        page, token = _page(found, call)
        return {"reservationSet": [self._reservation(call, [item]) for item in page], "nextToken": token}

    def describe_instance_status(self, call: Call) -> dict[str, Any]:
        """DescribeInstanceStatus: running instances, or all with IncludeAllInstances."""
        found = [
            item for item in self._select(call) if flag(call.params, "IncludeAllInstances") or item.state == "running"
        ]
        page, token = _page(found, call)
        return {"instanceStatusSet": [_status(item) for item in page], "nextToken": token}

    def terminate_instances(self, call: Call) -> dict[str, Any]:
        """TerminateInstances; one that is terminated already is no error."""
        _refuse_dry_run(call.params)
        found = self._instances.require(call.account, call.region, _named(call))
        return _changes(
            [(item, self._instances.terminate(item, _USER_STOP, "Client.UserInitiatedShutdown")) for item in found]
        )

    def stop_instances(self, call: Call) -> dict[str, Any]:
        """StopInstances."""
        _refuse_dry_run(call.params)
        found = self._instances.require(call.account, call.region, _named(call))
        return _changes([(item, self._instances.stop(item)) for item in found])

    def start_instances(self, call: Call) -> dict[str, Any]:
        """StartInstances."""
        _refuse_dry_run(call.params)
        found = self._instances.require(call.account, call.region, _named(call))
        return _changes([(item, self._instances.start(item)) for item in found])

    def _select(self, call: Call) -> list[Instance]:
        names = listed(call.params, "InstanceId")
        if names:
            chosen = self._instances.require(call.account, call.region, names)
        else:
            chosen = self._instances.all(call.account, call.region)
        filters = [(str(item.get("Name", "")), listed(item, "Value")) for item in listed(call.params, "Filter")]
        return [item for item in chosen if all(_matches(item, name, values) for name, values in filters)]

    def _reservation(self, call: Call, items: list[Instance]) -> dict[str, Any]:
        return {
            "reservationId": f"r-{items[0].id[2:]}",
            "ownerId": call.account,
            "groupSet": [],
            "instancesSet": [_shown(item) for item in items],
        }


def template_tags(template: dict[str, Any]) -> dict[str, str]:
    """The instance tags of a launch template's data."""
    tags: dict[str, str] = {}
    for spec in template.get("TagSpecifications") or []:
        if spec.get("ResourceType") == "instance":
            tags.update({str(tag["Key"]): str(tag.get("Value", "")) for tag in spec.get("Tags") or []})
    return tags


def _template(call: Call, spec: dict[str, Any] | None) -> dict[str, Any]:
    if not spec:
        return {}
    with emulator.scope(call.account, call.region):
        found = emulator.launch_template(spec)
    if found is None:
        name = spec.get("LaunchTemplateId") or spec.get("LaunchTemplateName")
        raise AwsError("InvalidLaunchTemplateId.NotFound", f"The specified launch template, {name}, does not exist.")
    return found


def _check_tags(tags: dict[str, str]) -> None:
    for key in tags:
        if key.lower().startswith("aws:"):
            raise AwsError(
                "InvalidParameterValue",
                f"Value ( {key} ) for parameter key is invalid. Tag keys starting with "
                "'aws:' are reserved for internal use",
            )


def _refuse_dry_run(params: dict[str, Any]) -> None:
    if flag(params, "DryRun"):
        raise AwsError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)


def _named(call: Call) -> list[str]:
    names = listed(call.params, "InstanceId")
    if not names:
        raise AwsError("MissingParameter", "The request must contain the parameter InstanceId")
    return names


def _page(items: list[Instance], call: Call) -> tuple[list[Instance], str | None]:
    start = number(call.params, "NextToken", 0) if call.params.get("NextToken") else 0
    size = number(call.params, "MaxResults", len(items) or 1)
    return items[start : start + size], str(start + size) if start + size < len(items) else None


def _matches(item: Instance, name: str, values: list[str]) -> bool:
    if name.startswith("tag:"):
        tag = item.tags.get(name.removeprefix("tag:"))
        actual = [] if tag is None else [tag]
    elif name in ("tag-key", "tag-value"):
        actual = list(item.tags if name == "tag-key" else item.tags.values())
    else:
        known = {
            "instance-id": item.id,
            "instance-state-name": item.state,
            "instance-state-code": str(STATE_CODES[item.state]),
            "instance-type": item.record["InstanceType"],
            "instance-lifecycle": "spot" if item.spot else "",
            "image-id": item.record["ImageId"],
            "availability-zone": item.zone,
            "subnet-id": item.record["SubnetId"],
            "vpc-id": item.record["VpcId"],
            "private-ip-address": item.record["PrivateIpAddress"],
            "client-token": item.client_token,
        }
        if name not in known:
            raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid")
        actual = [known[name]]
    return any(fnmatch.fnmatchcase(value, pattern) for value in actual for pattern in values)


def _state(name: str) -> dict[str, Any]:
    return {"code": STATE_CODES[name], "name": name}


def _changes(changed: list[tuple[Instance, str]]) -> dict[str, Any]:
    return {
        "instancesSet": [
            {"instanceId": item.id, "currentState": _state(item.state), "previousState": _state(before)}
            for item, before in changed
        ]
    }


def _status(item: Instance) -> dict[str, Any]:
    check = {"status": "ok", "details": [{"name": "reachability", "status": "passed"}]}
    if item.state != "running":
        check = {"status": "not-applicable", "details": []}
    return {
        "instanceId": item.id,
        "availabilityZone": item.zone,
        "instanceState": _state(item.state),
        "systemStatus": check,
        "instanceStatus": check,
    }


def _shown(item: Instance) -> dict[str, Any]:
    record = item.record
    gone = item.state == "terminated"
    profile = record.get("IamInstanceProfile") or {}
    return {
        "instanceId": item.id,
        "imageId": record["ImageId"],
        "instanceState": _state(item.state),
        "privateDnsName": "" if gone else record["PrivateDnsName"],
        "dnsName": "" if gone else record["PublicDnsName"],
        "reason": item.reason,
        "keyName": record.get("KeyName") or None,
        "amiLaunchIndex": record["AmiLaunchIndex"],
        "productCodes": [],
        "instanceType": record["InstanceType"],
        "launchTime": record["LaunchTime"],
        "placement": {"availabilityZone": item.zone, "groupName": "", "tenancy": "default"},
        "monitoring": {"state": "disabled"},
        "subnetId": None if gone else record["SubnetId"],
        "vpcId": None if gone else record["VpcId"],
        "privateIpAddress": None if gone else record["PrivateIpAddress"],
        "ipAddress": None if gone else record["PublicIpAddress"],
        "sourceDestCheck": True,
        "groupSet": [
            {"groupId": group["GroupId"], "groupName": group["GroupName"]} for group in record["SecurityGroups"]
        ],
        "stateReason": {"code": item.reason_code, "message": item.reason} if item.reason_code else None,
        "architecture": record["Architecture"],
        "rootDeviceType": record["RootDeviceType"],
        "rootDeviceName": record["RootDeviceName"],
        "blockDeviceMapping": [],
        "virtualizationType": "hvm",
        "instanceLifecycle": "spot" if item.spot else None,
        "clientToken": item.client_token,
        "tagSet": [{"key": key, "value": value} for key, value in item.tags.items()],
        "hypervisor": "xen",
        "iamInstanceProfile": {"arn": profile["Arn"], "id": profile.get("Id", "")} if profile.get("Arn") else None,
        "ebsOptimized": False,
    }


def group_of(item: Instance) -> str | None:
    """Name of the Auto Scaling group that launched an instance."""
    return item.tags.get(GROUP_TAG)
