"""Auto Scaling groups: instances made to match what each group wants."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from . import emulator
from .ec2 import template_tags
from .instances import GROUP_TAG, Instance, Instances

log = logging.getLogger("sched.fleet")

#: How often every group is looked at, besides each time something about it changes.
RECONCILE_SECONDS = 1.0


class Groups:
    """Keeps each group's instances equal to its desired capacity.

    The groups themselves are MiniStack's records (CloudFormation makes them in process); the list of
    instances in such a record is filled here.
    """

    def __init__(self, instances: Instances) -> None:
        self._instances = instances
        self._wake: asyncio.Event = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        instances.observers.append(lambda _item: self._wake.set())

    async def run(self) -> None:
        """Reconcile until cancelled."""
        self._loop = asyncio.get_running_loop()
        emulator.watch_groups(self.changed)
        while True:
            self._wake.clear()
            try:
                self.reconcile()
            except Exception:
                log.exception("reconciling the Auto Scaling groups")
            try:
                async with asyncio.timeout(RECONCILE_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def changed(self) -> None:
        """Something about a group changed; callable from any thread."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def reconcile(self) -> None:
        """Make every group's instances match its desired capacity."""
        known = set()
        for account, region, group in emulator.groups():
            known.add((account, region, group["AutoScalingGroupName"]))
            self._match(account, region, group)
        for account, region in self._instances.scopes():
            for item in self._instances.all(account, region):
                name = item.tags.get(GROUP_TAG)
                if name and item.live and (account, region, name) not in known:
                    self._instances.terminate(item, "Group deleted", "Client.UserInitiatedShutdown")

    def members(self, account: str, region: str, name: str) -> list[Instance]:
        """The live instances of a group, oldest first."""
        return [
            item
            for item in self._instances.all(account, region)
            if item.live and item.state != "stopped" and item.tags.get(GROUP_TAG) == name
        ]

    def _match(self, account: str, region: str, group: dict[str, Any]) -> None:
        name, desired = group["AutoScalingGroupName"], int(group["DesiredCapacity"])
        live = self.members(account, region, name)
        entries = {entry["InstanceId"]: entry for entry in group["Instances"]}
        surplus = len(live) - desired
        for item in live:
            if surplus <= 0:
                break
            if not entries.get(item.id, {}).get("ProtectedFromScaleIn"):
                self._instances.terminate(item, "Scale in", "Client.UserInitiatedShutdown")
                surplus -= 1
        if len(live) < desired:
            self._launch(account, region, group, desired - len(live))
        live = self.members(account, region, name)
        group["Instances"] = [self._entry(group, item, entries.get(item.id)) for item in live]

    def _launch(self, account: str, region: str, group: dict[str, Any], count: int) -> None:
        policy = group.get("MixedInstancesPolicy") or {}
        mixed = policy.get("LaunchTemplate") or {}
        spec = mixed.get("LaunchTemplateSpecification") or group.get("LaunchTemplate") or {}
        with emulator.scope(account, region):
            template = emulator.launch_template(spec)
        if template is None:
            log.warning("group %s: no launch template %s", group["AutoScalingGroupName"], spec)
            return
        tags = template_tags(template)
        tags.update({tag["Key"]: tag["Value"] for tag in group.get("Tags") or [] if tag.get("PropagateAtLaunch")})
        tags["aws:ec2launchtemplate:id"] = template["_id"]
        tags["aws:ec2launchtemplate:version"] = template["_version"]
        tags[GROUP_TAG] = group["AutoScalingGroupName"]
        distribution = policy.get("InstancesDistribution") or {}
        types = [item.get("InstanceType") for item in mixed.get("Overrides") or []]
        self._instances.launch(
            account,
            region,
            count,
            tags,
            spot=_is_spot(distribution, template),
            image_id=template.get("ImageId") or "ami-00000000",
            instance_type=next((item for item in types if item), None) or template.get("InstanceType") or "m5.large",
            key_name=template.get("KeyName") or "",
            user_data=template.get("UserData") or "",
            sg_ids=template.get("SecurityGroupIds"),
            subnet_id=str(group.get("VPCZoneIdentifier") or "").split(",")[0],
            profile=template.get("IamInstanceProfile"),
        )

    def _entry(self, group: dict[str, Any], item: Instance, known: dict[str, Any] | None) -> dict[str, Any]:
        entry = known or {
            "InstanceId": item.id,
            "AvailabilityZone": item.zone,
            "HealthStatus": "Healthy",
            "ProtectedFromScaleIn": bool(group.get("NewInstancesProtectedFromScaleIn")),
            "LaunchTemplate": group.get("LaunchTemplate") or {},
            "LaunchConfigurationName": "",
            "InstanceType": item.record["InstanceType"],
        }
        entry["LifecycleState"] = "Pending" if item.state == "pending" else "InService"
        return entry


def _is_spot(distribution: dict[str, Any], template: dict[str, Any]) -> bool:
    """Whether new instances are Spot: by the group's distribution, else by its launch template."""
    if distribution:
        return int(distribution.get("OnDemandPercentageAboveBaseCapacity", 100)) < 100
    return bool((template.get("InstanceMarketOptions") or {}).get("MarketType") == "spot")
