"""The client of a scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sched_plugins.client.connection import Connection, Session
from sched_plugins.client.fleet import Queue, Worker
from sched_plugins.client.jobs import JobClient
from sched_plugins.client.submission import PATIENCE, invoke, told_error
from sched_plugins.core import names
from sched_plugins.errors import Conflict, InvalidInput, NotFound, SchedulerNotFound

if TYPE_CHECKING:
    import boto3
    from botocore.config import Config


class SchedulerClient(JobClient):
    """A scheduler's jobs, workers and queues. Making a client calls nothing; it may be shared between threads.

    Args:
        name: the scheduler's stack name.
        session: a ``boto3.Session``; by default one is made from the environment.
        region: the AWS region; by default the session's.
        endpoint_url: where every service answers; by default what boto3 finds (``AWS_ENDPOINT_URL``).
        profile: a profile of the AWS configuration, where no session is given.
        config: botocore settings ahead of the client's own.
        patience: seconds for which a submission or cancellation is sent again that was throttled, busy or left
            unanswered. 0: it is sent once.

    Raises:
        InvalidSettings: the name cannot be a stack's, or there is no region or profile.
    """

    def __init__(
        self,
        name: str,
        *,
        session: boto3.Session | Session | None = None,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        config: Config | None = None,
        patience: float = PATIENCE,
    ) -> None:
        names.check_stack_name(name)
        connection = Connection(
            session=session, region=region, endpoint_url=endpoint_url, profile=profile, config=config
        )
        self.name = name
        self._missing = SchedulerNotFound(
            f"there is no scheduler {name!r} in {connection.place}. Deploy it with `sched deploy scheduler {name}`, "
            "or check its name and the region."
        )
        super().__init__(connection, name, name, self._missing)
        self._requests.patience = patience

    def workers(self, queue: str = "") -> list[Worker]:
        """The scheduler's workers, or those of one queue. One Scan of the slot table, one DescribeInstances.

        Raises:
            QueueNotFound: no worker is there for this queue, and there is no such queue.
        """
        found = self._fleet.workers(queue)
        if not found:
            self._queues.require(queue)
        return found

    def queues(self) -> list[Queue]:
        """The scheduler's queues and those of its environments. Calls: see :class:`~.fleet.Fleet`."""
        return self._fleet.queues()

    def attach(self, worker_id: str, queue: str = "") -> str:
        """Make an instance a worker of a queue, whatever launched it. Repeating it changes nothing.

        Sets the scheduler's tag, which the scheduler's permissions to use and to end the instance depend on, so the
        caller needs ``ec2:CreateTags``. One DescribeTags, one CreateTags and one Lambda call.

        Args:
            worker_id: the EC2 instance; it needs the scheduler's instance profile.
            queue: a job queue's name, ARN or URL; the scheduler's own by default.

        Returns:
            The id of the worker's slot.

        Raises:
            NotFound: the instance is not running, or there is no such queue.
            Conflict: it is a worker of another queue, or is being retired.
        """
        if not worker_id.startswith(("i-", "mi-")):
            raise InvalidInput(f"{worker_id!r} is not the id of an instance (i-…)")
        target = queue or names.job_queue(self.name)
        before = self._tag(worker_id, target)
        try:
            request = {"worker_id": worker_id, "queue": target}
            function = names.function(self.name, "start")
            answer = invoke(self.connection, function, request, f"attach {worker_id}", self._missing)
            if "error" in answer:
                raise told_error(answer["error"])
        except (NotFound, InvalidInput, Conflict):
            # Refused: with the tag left as it is now, the sweep would go on trying.
            self._tag(worker_id, before)
            raise
        return str(answer["slot_id"])

    def _tag(self, worker_id: str, queue: str) -> str:
        """Set the scheduler's tag of an instance (to nothing: remove it); what it was before."""
        missing = NotFound(f"there is no instance {worker_id!r} in {self.connection.place}")
        ec2 = self.connection.client("ec2")
        with self.connection.doing(f"tag {worker_id}", missing):
            filters = [{"Name": "resource-id", "Values": [worker_id]}, {"Name": "key", "Values": [self.name]}]
            found = ec2.describe_tags(Filters=filters)["Tags"]
            before = found[0]["Value"] if found else ""
            tag = {"Key": self.name, "Value": queue or before}
            if queue and queue != before:
                ec2.create_tags(Resources=[worker_id], Tags=[tag])
            elif before and not queue:
                ec2.delete_tags(Resources=[worker_id], Tags=[tag])
        return str(before)
