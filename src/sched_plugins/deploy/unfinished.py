"""Jobs that would wait for ever in a queue that is about to go, and their end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sched_plugins.core import limits, names
from sched_plugins.deploy.account import Account, translated
from sched_plugins.deploy.stack import looks
from sched_plugins.errors import DeployError

_SHOWN = 3
#: Jobs in one request: the cancel function takes them one after the other.
_BATCH = 25


class Unfinished:
    """The jobs of a queue that have not ended, and the messages in it, which may be jobs without a record."""

    def __init__(self, account: Account, scheduler: str, queue: str) -> None:
        self._account = account
        self._scheduler = scheduler
        self._queue = queue

    def told(self) -> str:
        """How many there are, in words; empty if there are none."""
        jobs, messages = self._jobs(), self._messages()
        some = ", ".join(map(repr, jobs[:_SHOWN])) + (", …" if len(jobs) > _SHOWN else "")
        parts = [f"{len(jobs)} job(s) that have not ended ({some})"] if jobs else []
        if messages > len(jobs):
            parts.append(f"{messages} message(s) in {self._queue!r}")
        return " and ".join(parts)

    def cancel(self) -> tuple[str, ...]:
        """Cancel the jobs and wait until their commands are over; their ids.

        Raises:
            DeployError: one does not end, or cannot be cancelled.
        """
        asked: dict[str, None] = {}
        for _ in looks():
            jobs = self._jobs()
            if not jobs:
                return tuple(asked)
            # Whatever has been submitted meanwhile, too.
            fresh = [job_id for job_id in jobs if job_id not in asked]
            for first in range(0, len(fresh), _BATCH):
                self._request(fresh[first : first + _BATCH])
            asked |= dict.fromkeys(fresh)
        raise DeployError(
            f"the jobs of {self._queue!r} do not end, {jobs[0]!r} among them. Look at them with "
            f"`sched list --state live --queue {self._queue}`, and try again."
        )

    def _jobs(self) -> list[str]:
        """Ids, from the index of jobs by state."""
        return sorted({job_id for kind in ("queued", "live") for job_id in self._of(kind)})

    def _of(self, kind: str) -> Iterator[str]:
        pages = self._account.client("dynamodb").get_paginator("query")
        for shard in range(limits.INDEX_SHARDS):
            with translated(f"looking for jobs of the queue {self._queue!r}"):
                for page in pages.paginate(
                    TableName=names.job_table(self._scheduler),
                    IndexName="by-state",
                    KeyConditionExpression="#s = :shard",
                    FilterExpression="#q = :queue",
                    ExpressionAttributeNames={"#s": "state_shard", "#q": "queue"},
                    ExpressionAttributeValues={":shard": {"S": f"{kind}#{shard}"}, ":queue": {"S": self._queue}},
                ):
                    yield from (item["job_id"]["S"] for item in page["Items"])

    def _messages(self) -> int:
        sqs = self._account.client("sqs")
        counts = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        with translated(f"looking at the queue {self._queue!r}"):
            try:
                url = sqs.get_queue_url(QueueName=self._queue)["QueueUrl"]
            except sqs.exceptions.QueueDoesNotExist:
                return 0  # an earlier deletion got so far
            told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(counts))["Attributes"]
        return sum(int(told[name]) for name in counts)

    def _request(self, job_ids: Sequence[str]) -> None:
        function = names.function(self._scheduler, "cancel")
        with translated(f"cancelling jobs of the queue {self._queue!r}"):
            reply = self._account.client("lambda").invoke(
                FunctionName=function, Payload=json.dumps({"job_ids": list(job_ids)}).encode()
            )
            answer: dict[str, Any] = json.loads(reply["Payload"].read())
        errors = [result["error"]["message"] for result in answer.get("results", ()) if "error" in result]
        if "results" not in answer or errors:
            said = errors[0] if errors else str(answer)[:200]
            raise DeployError(f"cannot cancel the jobs of {self._queue!r}: {said}. Nothing is deleted; try again.")
