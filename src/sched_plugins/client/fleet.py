"""Workers and queues of a scheduler, as its users see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sched_plugins.client.connection import Connection
from sched_plugins.client.records import Records, plain_item
from sched_plugins.core import names, slot
from sched_plugins.core.state import SlotState
from sched_plugins.errors import NotFound, NotPermitted


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker, with what its slot and EC2 tell of it."""

    worker_id: str
    queue: str
    """Name of the queue it takes jobs from."""
    state: str
    """``FREE``, ``HELD`` or ``RETIRING``; ``STARTING`` before it has a slot."""
    job_id: str = ""
    attempt: int = 0
    held_since: datetime | None = None
    draining: str = ""
    """Why it takes no more jobs; empty if it does."""
    instance_type: str = ""
    instance_state: str = ""
    """EC2's state; empty if EC2 does not know the instance, or may not be asked."""
    spot: bool = False
    launched_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A job queue with its siblings. Numbers of messages are SQS's, which are approximate."""

    name: str
    owner: str
    """The scheduler or the environment that it belongs to."""
    waiting: int
    finished: int
    failed: int
    workers_busy: int
    workers_free: int


class Fleet:
    """Reads slots, instances and queues.

    AWS calls: ``workers`` one Scan of the slot table (a page for 1 MiB) and one DescribeInstances; ``queues`` one
    DescribeStacks page for 100 stacks of the account, that Scan, and six SQS calls a queue.
    """

    def __init__(self, connection: Connection, records: Records) -> None:
        self._connection = connection
        self._records = records
        self.scheduler = records.scheduler

    def workers(self, queue: str = "") -> list[Worker]:
        """All workers, or those of one queue, by queue and id. Without permission to ask EC2, what the slots tell."""
        instances = self._instances()
        found = [_worker(one, instances.get(one.worker_id)) for one in self._slots()]
        known = {worker.worker_id for worker in found}
        for worker_id, instance in instances.items():
            if worker_id not in known and instance["State"]["Name"] in ("pending", "running"):
                found.append(_starting(worker_id, instance, self.scheduler))
        name = names.queue_name(queue)
        return sorted(
            (worker for worker in found if not name or worker.queue == name),
            key=lambda worker: (worker.queue, worker.worker_id),
        )

    def queues(self) -> list[Queue]:
        """The scheduler's own queue first, then those of its environments, then others that workers name."""
        slots = self._slots()
        owners = {names.job_queue(self.scheduler): self.scheduler}
        owners |= {names.job_queue(name): name for name in self._environments()}
        others = sorted({names.queue_name(one.queue) for one in slots} - owners.keys())
        owners |= dict.fromkeys(others, "")
        return [self._queue(name, owner, slots) for name, owner in owners.items()]

    def _slots(self) -> list[slot.Slot]:
        with self._connection.doing("list workers", self._records.missing):
            pages = (
                self._connection.client("dynamodb")
                .get_paginator("scan")
                .paginate(TableName=names.slot_table(self.scheduler), ConsistentRead=True)
            )
            return [slot.from_item(plain_item(item)) for page in pages for item in page["Items"]]

    def _instances(self) -> dict[str, Mapping[str, Any]]:
        wanted = [{"Name": "tag-key", "Values": [self.scheduler]}]
        try:
            with self._connection.doing("list instances"):
                pages = self._connection.client("ec2").get_paginator("describe_instances").paginate(Filters=wanted)
                return {
                    instance["InstanceId"]: instance
                    for page in pages
                    for reservation in page["Reservations"]
                    for instance in reservation["Instances"]
                }
        except NotPermitted:
            return {}

    def _environments(self) -> list[str]:
        try:
            with self._connection.doing("list stacks"):
                pages = self._connection.client("cloudformation").get_paginator("describe_stacks").paginate()
                outputs = [stack_outputs(stack) for page in pages for stack in page["Stacks"]]
        except NotPermitted:
            return []
        own = (told for told in outputs if told.get("SchedulerName") == self.scheduler)
        return sorted(told["EnvironmentName"] for told in own if "EnvironmentName" in told)

    def _queue(self, name: str, owner: str, slots: list[slot.Slot]) -> Queue:
        taking = [one.state for one in slots if names.queue_name(one.queue) == name]
        return Queue(
            name,
            owner,
            waiting=self._messages(name),
            finished=self._messages(names.finished_queue(name)),
            failed=self._messages(names.failed_queue(name)),
            workers_busy=taking.count(SlotState.HELD),
            workers_free=taking.count(SlotState.FREE),
        )

    def _messages(self, name: str) -> int:
        sqs = self._connection.client("sqs")
        attribute = "ApproximateNumberOfMessages"
        try:
            with self._connection.doing(f"look at queue {name!r}"):
                url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
                told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[attribute])["Attributes"]
        except NotFound:
            return 0  # A queue of the user's own need not have siblings.
        return int(told[attribute])


def stack_outputs(stack: Mapping[str, Any]) -> dict[str, str]:
    """Outputs of a stack as CloudFormation describes it."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def _worker(one: slot.Slot, instance: Mapping[str, Any] | None) -> Worker:
    return Worker(
        one.worker_id,
        names.queue_name(one.queue),
        str(one.state),
        one.job_id,
        one.attempt,
        one.claimed_at,
        one.draining,
        **_machine(instance),
    )


def _starting(worker_id: str, instance: Mapping[str, Any], scheduler: str) -> Worker:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", ())}
    return Worker(worker_id, names.queue_name(tags.get(scheduler, "")), "STARTING", **_machine(instance))


def _machine(instance: Mapping[str, Any] | None) -> dict[str, Any]:
    if instance is None:
        return {}
    return {
        "instance_type": instance.get("InstanceType", ""),
        "instance_state": instance["State"]["Name"],
        "spot": instance.get("InstanceLifecycle") == "spot",
        "launched_at": instance.get("LaunchTime"),
    }
