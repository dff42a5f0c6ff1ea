"""Workers and queues of a scheduler, as its users see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sched_plugins.client.connection import Connection
from sched_plugins.client.records import Records, plain_item
from sched_plugins.core import names, slot
from sched_plugins.core.state import SlotState
from sched_plugins.errors import NotFound, NotPermitted, Refused, SchedulerError


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
    DescribeStacks page for 100 stacks of the account, that Scan, and six SQS calls a queue; ``unserved`` that
    Scan, and where no worker is known one DescribeInstances and one DescribeStacks.
    """

    def __init__(self, connection: Connection, records: Records) -> None:
        self._connection = connection
        self._records = records
        self.scheduler = records.scheduler

    def workers(self, queue: str = "") -> list[Worker]:
        """All workers, or those of one queue, by queue and id. Without permission to ask EC2, what the slots tell."""
        return self._workers_of(self._slots(), self._instances(), queue)

    def _workers_of(
        self, slots: Sequence[slot.Slot], instances: Mapping[str, Mapping[str, Any]], queue: str
    ) -> list[Worker]:
        found = [_worker(one, instances.get(one.worker_id)) for one in slots]
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
        slots = self._slots("list queues")
        owners = {names.job_queue(self.scheduler): self.scheduler}
        owners |= {names.job_queue(name): name for name in self._environments()}
        others = sorted({names.queue_name(one.queue) for one in slots} - owners.keys())
        # The slots of an environment that has just been destroyed outlive its queue.
        owners |= {name: "" for name in others if self._messages(name) is not None}
        return [self._queue(name, owner, slots) for name, owner in owners.items()]

    def queue(self, name: str, owner: str) -> Queue:
        """One job queue."""
        return self._queue(name, owner, self._slots("list queues"))

    def unserved(self, name: str) -> str:
        """Why nothing takes jobs from the queue, and what to do; empty if something does, or whoever asks may not."""
        try:
            # In the order of what it costs: EC2's client alone takes half a second and 20 MiB to make.
            slots = self._slots()
            if any(map(_takes_jobs, self._workers_of(slots, {}, name))):
                return ""
            if any(map(_takes_jobs, self._workers_of(slots, self._instances(), name))) or self._environment_of(name):
                return ""
        except SchedulerError:
            return ""  # Advice is all that this is for.
        scheduler = f"--scheduler {self.scheduler}"
        own = "" if name == names.job_queue(self.scheduler) else f" --queue {name}"
        return (
            f"queue {name!r} has no workers, and no environment that starts some, so its jobs wait: give it an "
            f"instance (`sched attach INSTANCE{own} {scheduler}`), or deploy an environment (`sched deploy environment "
            f"NAME {scheduler}`) and submit to that "
            '(environment="NAME", `--environment NAME`)'
        )

    def _environment_of(self, queue: str) -> bool:
        name = queue.removesuffix(names.JOB_QUEUE)
        if name in (queue, self.scheduler):
            return False
        try:
            with self._connection.doing("find the environment"):
                stacks = self._connection.client("cloudformation").describe_stacks(StackName=name)["Stacks"]
        except Refused:
            return False  # CloudFormation's word for a stack that does not exist.
        return any(stack_outputs(stack).get("EnvironmentName") == name for stack in stacks)

    def _slots(self, what: str = "list workers") -> list[slot.Slot]:
        with self._connection.doing(what, self._records.missing):
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
            waiting=self._messages(name) or 0,
            finished=self._messages(names.finished_queue(name)) or 0,
            failed=self._messages(names.failed_queue(name)) or 0,
            workers_busy=taking.count(SlotState.HELD),
            workers_free=taking.count(SlotState.FREE),
        )

    def _messages(self, name: str) -> int | None:
        """How many wait in a queue; None if it does not exist, as siblings of a queue of the user's own may not."""
        sqs = self._connection.client("sqs")
        attribute = "ApproximateNumberOfMessages"
        try:
            with self._connection.doing(f"look at queue {name!r}"):
                url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
                told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=[attribute])["Attributes"]
        except NotFound:
            return None
        return int(told[attribute])


def stack_outputs(stack: Mapping[str, Any]) -> dict[str, str]:
    """Outputs of a stack as CloudFormation describes it."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", ())}


def _takes_jobs(worker: Worker) -> bool:
    return worker.state != "RETIRING" and not worker.draining


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
