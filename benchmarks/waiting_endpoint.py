"""Plays DynamoDB, Batch and SQS for waiting.py, and counts the calls."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

UNIT_BYTES = 4096


def job(number: int) -> str:
    """The id of a job."""
    return f"bench/{number:06d}"


class Endpoint:
    """Plays DynamoDB, Batch and SQS, as far as the triggers ask."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.units = 0.0
        self.looked_for: set[str] = set()
        self.ended: dict[str, Any] = {}

    def item(self, job_id: str) -> dict[str, Any]:
        """The job's item, as DynamoDB sends it."""
        from boto3.dynamodb.types import TypeSerializer

        from sched_plugins.core.job import JobSpec
        from sched_plugins.core.record import JobRecord, to_item
        from sched_plugins.core.state import Status

        spec = JobSpec(job_id=job_id, retry=0, ssm_document="AWS-RunShellScript", commands=("./solve.sh",))
        begun = datetime(2026, 1, 1, tzinfo=UTC)
        end = self.ended.get(job_id)
        record = JobRecord(
            spec=spec, run_id="r", run_ids=("r",), queue="q", submitted_at=begun, updated_at=end or begun,
            status=Status.SUCCEEDED if end else Status.RUNNING, finished_at=end, output="x" * 1000,
        )  # fmt: skip
        return {name: TypeSerializer().serialize(value) for name, value in to_item(record).items()}

    async def answer(self, request: Any) -> Any:
        """Answer a call."""
        from aiohttp import web

        path, target = request.path, request.headers.get("X-Amz-Target", "")
        if path.startswith("/_/end/"):
            self.ended[job(int(path.rpartition("/")[2]))] = datetime.now(UTC)
            return web.json_response({})
        if path == "/_/counts":
            told = {"calls": sum(self.calls.values()), "units": self.units, "looked_for": len(self.looked_for)}
            return web.json_response(told)
        asked = json.loads(await request.read() or b"{}")
        name = target.rpartition(".")[2] or path
        self.calls[name] += 1
        if name == "ReceiveMessage":
            return web.json_response(await self._receive(asked))
        play = {"BatchGetItem": self._batch_get, "Query": self._query, "/v1/describejobs": self._describe}
        return web.json_response(play[name](asked) if name in play else {"Successful": [{"Id": "1"}]})

    def _batch_get(self, asked: Any) -> Any:
        [(table, wanted)] = asked["RequestItems"].items()
        ids = [key["job_id"]["S"] for key in wanted["Keys"]]
        self.looked_for.update(ids)
        items = [self.item(job_id) for job_id in ids]
        self.units += sum(-(-len(json.dumps(item)) // UNIT_BYTES) for item in items)  # strongly consistent
        return {"Responses": {table: items}, "UnprocessedKeys": {}}

    def _query(self, asked: Any) -> Any:
        from sched_plugins.core import names

        shard = int(asked["ExpressionAttributeValues"][":s"]["S"].rpartition("#")[2])
        since = asked["ExpressionAttributeValues"][":a"]["S"]
        items = [self.item(job_id) for job_id in self.ended if names.shard(job_id) == shard]
        kept = ("job_id", "state_shard", "state_at", "run_id", "status", "queue", "group_id")
        rows = [{name: item[name] for name in kept if name in item} for item in items]
        rows = sorted((row for row in rows if row["state_at"]["S"] >= since), key=lambda row: row["state_at"]["S"])
        if not asked.get("ScanIndexForward", True):
            rows = rows[::-1][: asked.get("Limit")]
        self.units += max(1, -(-len(json.dumps(rows)) // UNIT_BYTES)) / 2  # an index is eventually consistent
        return {"Items": rows, "Count": len(rows)}

    def _describe(self, asked: Any) -> Any:
        self.looked_for.update(asked["jobs"])
        return {
            "jobs": [
                {"jobId": one, "jobName": "j", "status": "SUCCEEDED" if one in self.ended else "RUNNING"}
                for one in asked["jobs"]
            ]
        }

    async def _receive(self, asked: Any) -> Any:
        one = job(int(asked["QueueUrl"].rpartition("/")[2]))
        self.looked_for.add(one)
        if one not in self.ended:
            await asyncio.sleep(asked.get("WaitTimeSeconds", 0))
        if one not in self.ended:
            return {}
        return {"Messages": [{"MessageId": "1", "ReceiptHandle": "1", "Body": "{}"}]}


def serve(port: int) -> None:
    """Play AWS until terminated."""
    from aiohttp import web

    application = web.Application(client_max_size=2**24)
    application.router.add_route("*", "/{path:.*}", Endpoint().answer)
    web.run_app(application, host="127.0.0.1", port=port, print=lambda *_: None, access_log=None)
