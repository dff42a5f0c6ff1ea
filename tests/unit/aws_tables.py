"""The two tables as the adapters expect them, for tests of whatever plays DynamoDB."""

from __future__ import annotations

from typing import Any

from sched_plugins.aws.settings import Settings
from sched_plugins.aws.tables import PENDING_INDEX, QUEUE_INDEX, STATE_INDEX, STATE_PROJECTION


def create_tables(dynamodb: Any, settings: Settings) -> None:
    """Create both."""
    _create(
        dynamodb, settings.job_table, "job_id",
        _index(PENDING_INDEX, "pending_shard", "pending_at", {"ProjectionType": "KEYS_ONLY"}),
        _index(STATE_INDEX, "state_shard", "state_at", {
            "ProjectionType": "INCLUDE", "NonKeyAttributes": list(STATE_PROJECTION),
        }),
    )  # fmt: skip
    _create(
        dynamodb, settings.slot_table, "slot_id",
        _index(QUEUE_INDEX, "queue", "state", {"ProjectionType": "KEYS_ONLY"}),
    )  # fmt: skip


def _create(dynamodb: Any, table: str, key: str, *indexes: dict[str, Any]) -> None:
    keys = {key, *(part["AttributeName"] for index in indexes for part in index["KeySchema"])}
    dynamodb.create_table(
        TableName=table,
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in sorted(keys)],
        BillingMode="PAY_PER_REQUEST",
        GlobalSecondaryIndexes=list(indexes),
    )


def _index(name: str, hash_key: str, range_key: str, projection: dict[str, Any]) -> dict[str, Any]:
    schema = [
        {"AttributeName": hash_key, "KeyType": "HASH"},
        {"AttributeName": range_key, "KeyType": "RANGE"},
    ]
    return {"IndexName": name, "KeySchema": schema, "Projection": projection}
