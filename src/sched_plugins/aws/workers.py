"""Workers on Amazon EC2, alone or in an Auto Scaling group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sched_plugins.aws.answers import ERRORS, answer, code_of, detail_of, failure
from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings
from sched_plugins.errors import Refused, Throttled
from sched_plugins.ports import InstanceState, Worker

if TYPE_CHECKING:
    from mypy_boto3_autoscaling.type_defs import AutoScalingInstanceDetailsTypeDef

_FILTER_VALUES: Final = 200  # AWS, EC2: "up to 200 values for each filter"
_PAGE: Final = 1000  # AWS, DescribeInstances: at most 1,000 a page

# Lifecycle states of an instance that is leaving its group, or has left it.
_LEAVING: Final = ("Terminating", "Terminated", "Detaching", "Detached")
# Texts of Auto Scaling's ValidationError, which has no code of its own for them.
_NOT_MANAGED: Final = ("No managed instance found", "is not part of Auto Scaling group")
_AT_MINIMUM: Final = "equals minSize"
_NOT_IN_SERVICE: Final = "is not in InService"


class Ec2Workers:
    """:class:`~sched_plugins.ports.Workers` on EC2 and Auto Scaling."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._tag = settings.name
        self._clients = clients

    def tagged(self) -> Iterator[Worker]:
        """Instances that carry the scheduler's tag and are pending or running. One DescribeInstances a thousand."""
        return self._described(
            [
                {"Name": "tag-key", "Values": [self._tag]},
                {"Name": "instance-state-name", "Values": [InstanceState.PENDING, InstanceState.RUNNING]},
            ]
        )

    def described(self, worker_ids: Sequence[str]) -> Mapping[str, Worker]:
        """Those instances; one that EC2 does not know is GONE. One DescribeInstances for each 200.

        They are asked for by a filter, because one unknown id would fail a request for instances by id.
        """
        wanted = list(dict.fromkeys(worker_ids))
        workers = {worker_id: Worker(worker_id, "", InstanceState.GONE) for worker_id in wanted}
        for start in range(0, len(wanted), _FILTER_VALUES):
            some = wanted[start : start + _FILTER_VALUES]
            for worker in self._described([{"Name": "instance-id", "Values": some}]):
                workers[worker.worker_id] = worker
        return workers

    def protect(self, worker_id: str, protected: bool) -> None:
        """Scale-in protection, for a worker of an Auto Scaling group; otherwise nothing.

        One DescribeAutoScalingInstances, and one SetInstanceProtection if the worker is in a group and stays.

        Raises:
            Throttled: the group has not taken the worker into service yet.
        """
        member = self._membership(worker_id)
        if member is None or member["LifecycleState"].startswith(_LEAVING):
            return
        group = member["AutoScalingGroupName"]
        action = f"SetInstanceProtection of {worker_id} in {group!r}"
        try:
            self._clients.autoscaling.set_instance_protection(
                InstanceIds=[worker_id], AutoScalingGroupName=group, ProtectedFromScaleIn=protected
            )
        except ERRORS as error:
            if _says(error, *_NOT_MANAGED):
                return
            if _says(error, _NOT_IN_SERVICE):
                raise failure(Throttled, action, f"it is {member['LifecycleState']}") from error
            raise answer(error, action) from error

    def terminate(self, worker_id: str) -> None:
        """Terminate; of a group, with its desired capacity lowered by one. Terminating twice is no error.

        One DescribeAutoScalingInstances, and one TerminateInstanceInAutoScalingGroup or TerminateInstances. A worker
        that is leaving its group already is not terminated again, and the call for one that is not is never
        repeated by itself: either could lower the capacity once too often. A group at its minimum size keeps
        it, and replaces the worker.
        """
        member = self._membership(worker_id)
        if member is None:
            self._terminate_alone(worker_id)
        elif not member["LifecycleState"].startswith(_LEAVING):
            self._terminate_member(worker_id, lower=True)

    def _terminate_member(self, worker_id: str, *, lower: bool) -> None:
        try:
            self._clients.autoscaling_once.terminate_instance_in_auto_scaling_group(
                InstanceId=worker_id, ShouldDecrementDesiredCapacity=lower
            )
        except ERRORS as error:
            if _says(error, *_NOT_MANAGED):
                self._terminate_alone(worker_id)
            elif lower and _says(error, _AT_MINIMUM):
                self._terminate_member(worker_id, lower=False)
            else:
                raise answer(error, f"TerminateInstanceInAutoScalingGroup {worker_id}") from error

    def _terminate_alone(self, worker_id: str) -> None:
        try:
            self._clients.ec2.terminate_instances(InstanceIds=[worker_id])
        except ERRORS as error:
            if code_of(error) != "InvalidInstanceID.NotFound":
                raise answer(error, f"TerminateInstances {worker_id}") from error

    def capacity(self, group: str) -> tuple[int, int]:
        """Desired and maximum capacity of an Auto Scaling group. One DescribeAutoScalingGroups.

        Raises:
            Refused: there is no such group.
        """
        action = f"DescribeAutoScalingGroups {group!r}"
        try:
            found = self._clients.autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
        except ERRORS as error:
            raise answer(error, action) from error
        if not found["AutoScalingGroups"]:
            raise failure(Refused, action, "there is no Auto Scaling group of this name; check it")
        [described] = found["AutoScalingGroups"]
        return described["DesiredCapacity"], described["MaxSize"]

    def set_capacity(self, group: str, desired: int) -> None:
        """Ask for so many workers. One SetDesiredCapacity, which does not wait for a cooldown."""
        try:
            self._clients.autoscaling.set_desired_capacity(
                AutoScalingGroupName=group, DesiredCapacity=desired, HonorCooldown=False
            )
        except ERRORS as error:
            raise answer(error, f"SetDesiredCapacity of {group!r} to {desired}") from error

    def _membership(self, worker_id: str) -> AutoScalingInstanceDetailsTypeDef | None:
        """The worker in its Auto Scaling group; None if it is in none."""
        try:
            found = self._clients.autoscaling.describe_auto_scaling_instances(InstanceIds=[worker_id])
        except ERRORS as error:
            raise answer(error, f"DescribeAutoScalingInstances {worker_id}") from error
        return next(iter(found["AutoScalingInstances"]), None)

    def _described(self, filters: Any) -> Iterator[Worker]:
        pages = self._clients.ec2.get_paginator("describe_instances").paginate(
            Filters=filters, PaginationConfig={"PageSize": _PAGE}
        )
        try:
            for page in pages:
                for reservation in page["Reservations"]:
                    for instance in reservation["Instances"]:
                        yield self._worker(instance)
        except ERRORS as error:
            raise answer(error, "DescribeInstances") from error

    def _worker(self, instance: Any) -> Worker:
        tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
        return Worker(instance["InstanceId"], tags.get(self._tag, ""), InstanceState(instance["State"]["Name"]))


def _says(error: Exception, *texts: str) -> bool:
    return code_of(error) == "ValidationError" and any(text in detail_of(error) for text in texts)
