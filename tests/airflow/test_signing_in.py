"""Roles of connections: what STS answers, late or not at all, and whom that concerns."""

from __future__ import annotations

import asyncio
import datetime
import json
import threading
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook, BaseSessionFactory
from botocore.exceptions import ClientError, EndpointConnectionError
from test_triggers import AsyncTable

from sched_plugins.airflow.hooks.scheduler import SchedulerHook
from sched_plugins.airflow.triggers.base import SchedulerTrigger
from sched_plugins.airflow.triggers.finished_job import FinishedJobTrigger
from sched_plugins.airflow.triggers.job import JobTrigger, SharedWatchTrigger
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


PROCESS = """
echo x >> {folder}/asked
test $(wc -l < {folder}/asked) -gt {refusals} || exit 1
echo '{{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}}'
"""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Credentials that a process gives after so many refusals; each client asks for them, as it does a container."""
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {tmp_path}/credentials.sh\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sched_plugins.airflow.triggers.troubles.LONGEST_BACKOFF", 0.02)
    monkeypatch.setattr("sched_plugins.airflow.triggers.watcher.GATHER", 0.01)
    monkeypatch.setenv("AIRFLOW__SCHED__SETTLE_SECONDS", "0")

    def refuse(times: int) -> None:
        (tmp_path / "credentials.sh").write_text(PROCESS.format(folder=tmp_path, refusals=times))

    return refuse


def fired(trigger: SchedulerTrigger) -> Any:
    async def first() -> Any:
        return [event.payload async for event in trigger.run()]

    [payload] = asyncio.run(asyncio.wait_for(first(), 20))
    return payload


WAY: dict[str, Any] = {"scheduler": "sim", "aws_conn_id": None, "region_name": "eu-west-1"}


def test_credentials_that_are_there_a_little_late_fail_no_task(
    process: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = AsyncTable()
    made.table.submit("j", "r")
    made.table.end("j", 1.0)

    @asynccontextmanager
    async def opened(self: Any) -> Any:
        async with self.aws("dynamodb"):
            yield made

    monkeypatch.setattr(SharedWatchTrigger, "_open_reader", opened)
    process(2)
    assert fired(JobTrigger(job_id="j", run_id="r", **WAY))["job_status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    "trigger",
    [JobTrigger(job_id="j", **WAY), FinishedJobTrigger(claim=True, **WAY), QueueDrainedTrigger(**WAY)],
    ids=lambda trigger: type(trigger).__name__,
)
def test_credentials_that_do_not_come_are_told(
    trigger: SchedulerTrigger, process: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sched_plugins.airflow.triggers.troubles.REFUSAL_PATIENCE", 0.1)
    process(1_000_000)
    told = fired(trigger)
    assert (told["status"], told["kind"]) == ("error", "NotPermittedException")
    assert "retrieving credentials from custom-process" in told["message"]


def test_a_handler_may_use_credentials_that_its_thread_is_renewing(monkeypatch: pytest.MonkeyPatch) -> None:
    handled: list[Any] = []
    session = None

    def refresh(self: Any) -> dict[str, str]:
        if session is not None and not handled:
            handled.append(None)
            handled[0] = session.get_credentials().get_frozen_credentials()  # what a signal's handler does
        return credentials(5)  # so short that whoever uses them has to renew them

    monkeypatch.setattr(BaseSessionFactory, "_refresh_credentials", refresh)
    given = SchedulerHook(scheduler="sim", aws_conn_id="role").client_settings()["session"]
    given.client("sqs")
    session = given._session
    thread = threading.Thread(target=lambda: session.get_credentials().get_frozen_credentials(), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits for itself"
    assert handled[0].access_key == "a"
