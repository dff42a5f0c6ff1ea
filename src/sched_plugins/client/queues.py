"""Whether a queue exists, and whether anything takes jobs from it."""

from __future__ import annotations

from sched_plugins.client.connection import Connection
from sched_plugins.core import names
from sched_plugins.errors import NotPermitted, QueueNotFound


class Queues:
    """The job queues that one client has been told of. One GetQueueUrl for each, once.

    Args:
        connection: how to reach AWS.
        scheduler: stack name of the scheduler whose queues `sched queues` lists.
        own: names of queues that come with the stack, and are not asked for.
    """

    def __init__(self, connection: Connection, scheduler: str, own: set[str]) -> None:
        self._connection = connection
        self._scheduler = scheduler
        self._known = own

    def require(self, queue: str) -> None:
        """Refuse a queue that does not exist. Who may not ask is believed; so is an address in another region.

        Args:
            queue: its name, ARN or URL; nothing is asked if it is empty.

        Raises:
            QueueNotFound: there is no such queue.
        """
        if not queue or queue in self._known:
            return
        name, parts = names.queue_name(queue), queue.split(":")
        if queue.startswith("arn:") and parts[3:4] != [self._connection.region]:
            return
        account = parts[4] if queue.startswith("arn:") else queue.split("/")[-2] if "/" in queue else ""
        owner = {"QueueOwnerAWSAccountId": account} if account.isdigit() and len(account) == 12 else {}
        missing = QueueNotFound(
            f"there is no queue {name!r} in {self._connection.place}; `sched queues --scheduler {self._scheduler}` "
            "shows those that there are"
        )
        try:
            with self._connection.doing(f"find queue {name!r}", missing):
                self._connection.client("sqs").get_queue_url(QueueName=name, **owner)
        except NotPermitted:
            return
        self._known.add(queue)
