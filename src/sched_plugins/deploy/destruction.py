"""Delete a scheduler or an environment, never with more than its owner has agreed to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sched_plugins.core.names import job_queue, job_table
from sched_plugins.deploy.account import Account, translated
from sched_plugins.deploy.deployment import Deployed, deployed, list_stacks
from sched_plugins.deploy.stack import EventCallback, Stack, looks
from sched_plugins.deploy.unfinished import Unfinished
from sched_plugins.errors import Conflict, DeployError, NotFound

if TYPE_CHECKING:
    import boto3

_BUCKET, _TABLE = "AWS::S3::Bucket", "AWS::DynamoDB::Table"
_GROUP, _MACHINE = "AWS::AutoScaling::AutoScalingGroup", "AWS::StepFunctions::StateMachine"
#: Most instances in one SetInstanceProtection request. Source: Amazon EC2 Auto Scaling API Reference.
_PROTECTION_BATCH = 50
#: How the name of a worker's execution begins.
_INSTANCE_ID = re.compile(r"i-[0-9a-f]+")


@dataclass(frozen=True)
class Destruction:
    """What a destroyed stack was.

    ``kept`` is what its template keeps: type and name of each resource left. ``cancelled`` names the jobs that had not
    ended. ``resources`` is what a plan would delete: type and name of each.
    """

    name: str
    kind: str
    kept: tuple[tuple[str, str], ...] = ()
    cancelled: tuple[str, ...] = ()
    resources: tuple[tuple[str, str], ...] = ()


def destroy(
    name: str,
    *,
    delete_data: bool = False,
    cancel_jobs: bool = False,
    plan_only: bool = False,
    on_event: EventCallback | None = None,
    session: boto3.Session | None = None,
) -> Destruction:
    """Delete the scheduler or environment ``name`` and everything in its stack.

    ``delete_data``: also when workers are at work (they are ended with their jobs), when buckets hold objects
    (they are emptied, versions included) and when there are job records. What the template keeps goes too.
    ``cancel_jobs``: of an environment, also when jobs of its queue have not ended: they are cancelled, their workers
    are ended, and their records stay with the scheduler. ``delete_data`` includes it.
    ``plan_only``: check all that, change nothing, and tell what would be deleted.

    Raises:
        NotFound: there is no such stack, or it is not one of a scheduler or an environment.
        Conflict: it is a scheduler that has environments; or, without ``delete_data``, workers are at work, a
            bucket holds objects or there are job records; or, without ``cancel_jobs``, an environment has jobs that
            have not ended. Nothing has been changed then.
        NotPermitted: AWS refuses the caller.
        DeployError: something could not be deleted; names it and AWS's reason.
    """
    account = Account(session)
    stack = Stack(account, name)
    state = stack.settled()
    found = deployed(state) if state else None
    if state is None or found is None:
        what = "no stack" if state is None else "a stack, but no scheduler or environment,"
        raise NotFound(f"there is {what} of the name {name!r} in region {account.region}. {_names(account)}")
    if found.kind == "scheduler":
        _refuse_with_environments(account, name)
    resources = list(stack.resources(state))
    unfinished = Unfinished(account, found.scheduler, job_queue(name)) if found.kind == "environment" else None
    cancel_jobs = unfinished is not None and (cancel_jobs or delete_data)
    if not delete_data:
        _refuse_with_records(account, resources)
        _refuse_with_objects(account, found, resources)
    if unfinished and not cancel_jobs:
        _refuse_with_jobs(found, unfinished)
    if plan_only:
        if not (delete_data or cancel_jobs):
            _stop_workers(account, found, resources, agreed=False)
        return Destruction(name, found.kind, resources=tuple(resources))
    cancelled = unfinished.cancel() if unfinished and cancel_jobs else ()
    _stop_workers(account, found, resources, delete_data or cancel_jobs)
    for bucket in _buckets(resources) if delete_data else ():
        _empty(account.client("s3"), bucket)
    events = stack.delete(state, on_event)
    kept = [(event.type, event.physical_id) for event in events if event.status == "DELETE_SKIPPED"]
    left = tuple(_delete_kept(account, kept) if delete_data else kept)
    return Destruction(name, found.kind, left, cancelled)


def _names(account: Account) -> str:
    names = [one.name for one in list_stacks(account=account)]
    return f"There are {', '.join(names)}." if names else "There is no scheduler and no environment there."


def _refuse_with_environments(account: Account, name: str) -> None:
    users = [one.name for one in list_stacks(account=account) if one.kind == "environment" and one.scheduler == name]
    if users:
        raise Conflict(
            f"the scheduler {name!r} serves {len(users)} environment(s): {', '.join(users)}. "
            f"Destroy them first: `sched destroy {users[0]}`."
        )


def _stop_workers(account: Account, found: Deployed, resources: list[tuple[str, str]], agreed: bool) -> None:
    """End what runs, if that is agreed; a stack with running executions or protected instances is not deleted."""
    groups = [_Group(account, physical) for kind, physical in resources if kind == _GROUP]
    executions = [] if found.kind == "environment" else list(_executions(account, resources))
    instances = sorted({instance for group in groups for instance in group.instances()})
    if not (instances or executions):
        return
    if not agreed:
        count = len(instances) or len(executions)
        raise Conflict(
            f"the {found.kind} {found.name!r} has {count} worker(s) at work. Wait until they have ended "
            "(`sched workers` shows them), or end them and their jobs with `--delete-data`."
        )
    for group in groups:
        group.end()
    for execution in executions:
        _end_worker(account, execution)


def _end_worker(account: Account, execution: str) -> None:
    """Stop a worker's execution and terminate its instance, which nothing else would do any more."""
    from botocore.exceptions import ClientError

    instance = _INSTANCE_ID.match(execution.rsplit(":", 1)[-1])
    with translated(f"ending the worker of the execution {execution}"):
        account.client("stepfunctions").stop_execution(executionArn=execution, cause="its scheduler is destroyed")
        if instance is None:
            return
        try:
            account.client("ec2").terminate_instances(InstanceIds=[instance[0]])
        except ClientError as error:
            if not error.response["Error"]["Code"].startswith("InvalidInstanceID"):
                raise


class _Group:
    """An Auto Scaling group that is about to go."""

    def __init__(self, account: Account, name: str) -> None:
        self._account = account
        self._name = name

    def instances(self) -> list[str]:
        """Ids of the members that are not yet ending."""
        return [m["InstanceId"] for m in self._members() if not m["LifecycleState"].startswith("Terminat")]

    def _members(self) -> list[dict[str, Any]]:
        with translated(f"looking at the group {self._name!r}"):
            groups = self._client.describe_auto_scaling_groups(AutoScalingGroupNames=[self._name])["AutoScalingGroups"]
        return [member for group in groups for member in group["Instances"]]

    def end(self) -> None:
        """Let no new instance start, end those that there are, and wait for that: they may still write.

        Protection is taken away again and again, since a worker that has just started is given it.
        """
        with translated(f"emptying the group {self._name!r}"):
            self._client.update_auto_scaling_group(
                AutoScalingGroupName=self._name, MinSize=0, MaxSize=0, DesiredCapacity=0
            )
        for _ in looks():
            members = self._members()
            if not members:
                return
            # Auto Scaling refuses to touch the protection of an instance in any other state.
            ready = [member for member in members if member["LifecycleState"] == "InService"]
            self._unprotect([member["InstanceId"] for member in ready if member["ProtectedFromScaleIn"]])
        raise DeployError(f"the instances of the group {self._name!r} do not end. Terminate them, and try again.")

    def _unprotect(self, instances: list[str]) -> None:
        from botocore.exceptions import ClientError

        for start in range(0, len(instances), _PROTECTION_BATCH):
            with translated(f"emptying the group {self._name!r}"):
                try:
                    self._client.set_instance_protection(
                        AutoScalingGroupName=self._name,
                        InstanceIds=instances[start : start + _PROTECTION_BATCH],
                        ProtectedFromScaleIn=False,
                    )
                except ClientError as error:
                    if error.response["Error"]["Code"] != "ValidationError":  # one has ended meanwhile: look again
                        raise

    @property
    def _client(self) -> Any:
        return self._account.client("autoscaling")


def _executions(account: Account, resources: list[tuple[str, str]]) -> Iterator[str]:
    """ARNs of the executions that run."""
    pages = account.client("stepfunctions").get_paginator("list_executions")
    with translated("listing the executions of the workers"):
        for machine in (physical for kind, physical in resources if kind == _MACHINE):
            for page in pages.paginate(stateMachineArn=machine, statusFilter="RUNNING"):
                yield from (execution["executionArn"] for execution in page["executions"])


def _refuse_with_jobs(found: Deployed, unfinished: Unfinished) -> None:
    if there := unfinished.told():
        raise Conflict(
            f"the environment {found.name!r} has {there}, which nothing would run any more. Wait for them "
            f"(`sched list --environment {found.name}` shows them), or cancel them with `--cancel-jobs`."
        )


def _refuse_with_records(account: Account, resources: list[tuple[str, str]]) -> None:
    for table in (physical for kind, physical in resources if kind == _TABLE and physical.endswith(job_table(""))):
        with translated(f"looking into the table {table!r}"):
            some = account.client("dynamodb").scan(TableName=table, Limit=1)
        if some["Items"]:
            raise Conflict(
                f"the table {table!r} holds job records. Save what you need (`sched list --json`), "
                "and delete the rest with `--delete-data`."
            )


def _refuse_with_objects(account: Account, found: Deployed, resources: list[tuple[str, str]]) -> None:
    for bucket in _buckets(resources):
        with translated(f"looking into the bucket {bucket!r}"):
            some = account.client("s3").list_object_versions(Bucket=bucket, MaxKeys=1)
        if some.get("Versions") or some.get("DeleteMarkers"):
            raise Conflict(
                f"the bucket {bucket!r} of the {found.kind} {found.name!r} holds objects. Save what you need "
                f"(`aws s3 sync s3://{bucket} FOLDER`), and delete the rest with `--delete-data`."
            )


def _buckets(resources: list[tuple[str, str]]) -> list[str]:
    return [physical for kind, physical in resources if kind == _BUCKET]


def _empty(s3: Any, bucket: str) -> None:
    with translated(f"emptying the bucket {bucket!r}"):
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
            objects = [
                {"Key": entry["Key"], "VersionId": entry["VersionId"]}
                for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            ]
            if objects:
                s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})


def _delete_kept(account: Account, kept: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Delete what the template keeps, where that can be done; yields the rest."""
    for kind, name in kept:
        with translated(f"deleting {name!r}, which its template keeps"):
            if kind == _BUCKET:
                account.client("s3").delete_bucket(Bucket=name)
            elif kind == _TABLE:
                dynamodb = account.client("dynamodb")
                dynamodb.update_table(TableName=name, DeletionProtectionEnabled=False)
                dynamodb.delete_table(TableName=name)
            else:
                yield kind, name
