"""Roles of connections: what STS answers, late or not at all, and whom that concerns."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook, BaseSessionFactory
from botocore.exceptions import ClientError, EndpointConnectionError

from sched_plugins.airflow.hooks.scheduler import SchedulerHook
from sched_plugins.airflow.triggers.job import JobTrigger
from sched_plugins.airflow.triggers.queue_drained import QueueDrainedTrigger
from sched_plugins.errors import NotPermitted, SchedulerError, Throttled, Unknown

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def connection(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {
        "region_name": "eu-west-1", "role_arn": "arn:aws:iam::123456789012:role/x", "endpoint_url": NOWHERE,
        "config_kwargs": {"retries": {"total_max_attempts": 1}},
    }  # fmt: skip
    made = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_ROLE", json.dumps(made))


def credentials(minutes: float) -> dict[str, str]:
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
    return {"access_key": "a", "secret_key": "b", "token": "c", "expiry_time": until.isoformat()}


def test_a_roles_credentials_are_renewed_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def refresh(self: Any) -> dict[str, str]:
        threads.append(threading.current_thread())
        return credentials(5)  # so short that they are renewed at once

    monkeypatch.setattr(BaseSessionFactory, "_refresh_credentials", refresh)

    async def call() -> None:
        trigger = JobTrigger(job_id="j", run_id="r", scheduler="sim", aws_conn_id="role")
        async with trigger.aws("dynamodb") as (_, client):
            with pytest.raises(EndpointConnectionError):
                await client.list_tables()

    asyncio.run(call())
    assert len(threads) >= 2, "once when the client was made, and once when it was used"
    assert threading.main_thread() not in threads


def refusal(code: str) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "why"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
    return ClientError(response, "AssumeRole")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refusal("Throttling"), Throttled),
        (EndpointConnectionError(endpoint_url="https://sts"), Unknown),
        (refusal("AccessDenied"), NotPermitted),
        (refusal("ValidationError"), NotPermitted),
    ],
)
def test_what_keeps_from_signing_in_is_told_apart(
    error: Exception, kind: type[SchedulerError], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: Any, *_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AwsBaseHook, "get_session", failing)
    with pytest.raises(kind, match="'role'"):
        SchedulerHook(scheduler="sim", aws_conn_id="role").get_session()


def test_a_look_at_a_queue_bears_an_sts_that_is_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [refusal("Throttling")] * 2
    get_session = AwsBaseHook.get_session

    def slow(self: Any, *given: Any, **named: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return get_session(self, *given, **named)

    monkeypatch.setattr(AwsBaseHook, "get_session", slow)
    monkeypatch.setattr(BaseSessionFactory, "_refresh_credentials", lambda self: credentials(60))
    monkeypatch.setattr(SchedulerHook, "is_drained", lambda self, queue: bool(self.scheduler_client))
    monkeypatch.setattr("sched_plugins.airflow.triggers.troubles.LONGEST_BACKOFF", 0.02)

    async def fired() -> Any:
        trigger = QueueDrainedTrigger(scheduler="sim", aws_conn_id="role", poke_interval=0.01)
        return [event.payload async for event in trigger.run()]

    assert asyncio.run(asyncio.wait_for(fired(), 20)) == [{"status": "ended"}]
    assert refusals == []
