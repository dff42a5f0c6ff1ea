"""Following runs in an event loop: the same looks, through an asynchronous reader."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError
from client_stack import VirtualTime
from test_client_watch import Table, clock_of

from sched_plugins.client.async_records import AsyncRecords
from sched_plugins.client.run import Run
from sched_plugins.client.watch import Watch
from sched_plugins.core import limits
from sched_plugins.core.record import to_item
from sched_plugins.errors import SchedulerNotFound, Throttled


class AsyncTable:
    """The same table, awaited."""

    def __init__(self, table: Table) -> None:
        self.table = table

    async def get_many(self, job_ids: Any) -> Any:
        return self.table.get_many(job_ids)

    async def newest_end(self, shard: int) -> str:
        return self.table.newest_end(shard)

    async def ended_since(self, shard: int, since: str) -> Any:
        return self.table.ended_since(shard, since)


@pytest.mark.parametrize("many", [3, 40])
def test_an_awaited_look_finds_what_a_plain_one_does(many: int) -> None:
    table, time = Table(), VirtualTime()
    watches = [Watch(table, clock_of(time)), Watch(AsyncTable(table), clock_of(time))]
    for number in range(many):
        table.submit(f"j{number}", "r")
    for watch in watches:
        watch.add(Run(f"j{number}", "r") for number in range(many))
    seen = []
    for ended in ((), (0, 2), (1,)):
        for number in ended:
            table.end(f"j{number}", number)
        one, other = watches[0].look(), asyncio.run(watches[1].alook())
        assert {end.run for end in one} == {end.run for end in other}
        seen.append({int(end.run.job_id[1:]) for end in other})
    assert seen == [set(), {0, 2}, {1}]


def test_a_level_check_of_some_reads_those_first_that_were_read_longest_ago() -> None:
    table, time = Table(), VirtualTime()
    watch = Watch(table, clock_of(time), level_seconds=60, level_jobs=10)
    for number in range(31):
        table.submit(f"j{number}", "r")
    watch.add(Run(f"j{number}", "r") for number in range(31))
    watch.look()
    for number in range(31):
        table.end(f"j{number}", number, indexed=False)
    table.read.clear()
    found = set()
    for _ in range(3):
        assert watch.look() == [], "the index knows of nothing, and no check is due"
        time.sleep(61)
        found |= {end.run.job_id for end in watch.look()}
    assert table.read == [10, 10, 10]
    assert len(found) == 30


class Dynamo:
    """Plays an asynchronous DynamoDB client."""

    def __init__(self, *answers: Mapping[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    async def _call(self, **request: Any) -> Mapping[str, Any]:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    query = batch_get_item = _call


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "Query")


def test_what_is_left_unread_is_read_again_and_what_cannot_be_read_is_left_out() -> None:
    table = Table()
    table.submit("j", "r")
    item = {name: _typed(value) for name, value in to_item(table.records["j"]).items()}
    keys = {"sim-job-monitoring": {"Keys": [{"job_id": {"S": "j"}}]}}
    dynamo = Dynamo(
        {"Responses": {"sim-job-monitoring": [{"job_id": {"S": "new"}}]}, "UnprocessedKeys": keys},
        {"Responses": {"sim-job-monitoring": [item]}, "ConsumedCapacity": [{"CapacityUnits": 1.5}]},
    )
    units: list[float] = []
    records = AsyncRecords(dynamo, "sim", place="here", read=units.append)
    assert list(asyncio.run(records.get_many(["j", "new"]))) == ["j"]
    assert [len(asked["RequestItems"]["sim-job-monitoring"]["Keys"]) for asked in dynamo.asked] == [2, 1]
    assert sum(units) == 1.5


def test_pages_are_followed_and_errors_are_the_packages() -> None:
    page = {"Items": [{"job_id": {"S": "a"}, "state_at": {"S": "1"}}]}
    dynamo = Dynamo({**page, "LastEvaluatedKey": {"k": 1}}, page, {"Items": []}, refusal("ThrottlingException"))
    records = AsyncRecords(dynamo, "sim", place="here")
    assert len(asyncio.run(records.ended_since(0, ""))) == 2
    assert dynamo.asked[1]["ExclusiveStartKey"] == {"k": 1}
    assert asyncio.run(records.newest_end(limits.INDEX_SHARDS - 1)) == ""
    with pytest.raises(Throttled):
        asyncio.run(records.newest_end(0))
    with pytest.raises(SchedulerNotFound, match="'sim'"):
        asyncio.run(AsyncRecords(Dynamo(refusal("ResourceNotFoundException")), "sim", place="here").newest_end(0))


def _typed(value: Any) -> dict[str, Any]:
    from boto3.dynamodb.types import TypeSerializer

    return TypeSerializer().serialize(value)  # type: ignore[no-any-return]
