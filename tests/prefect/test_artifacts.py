"""What Prefect's UI shows of jobs: keys, tables, pictures, links and progress."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import boto3
import pytest
from job_results import result
from moto import mock_aws
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact

from sched_plugins.client import SchedulerClient
from sched_plugins.errors import InvalidInput, NotFound
from sched_plugins.prefect import artifacts, progress
from sched_plugins.prefect.artifact_keys import MAX_KEY, check_key, key_of, keys_of
from sched_plugins.prefect.artifacts import create_image_artifacts, create_job_links, create_job_table
from sched_plugins.prefect.progress import BatchProgress

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
BUCKET = "pictures-of-tests"
FOLDER = f"s3://{BUCKET}/run 1/out/"


def test_names_that_make_the_same_key_are_told_apart() -> None:
    assert keys_of("p", ["a_b.png", "a-b.png"])["a_b.png"] == "p-a-b-png"
    assert len(set(keys_of("p", ["a_b.png", "a-b.png"]).values())) == 2


@pytest.mark.parametrize("key", ["", "Jobs", "a_b", "-a", "a-", "ä", "a" * (MAX_KEY + 1)])
def test_a_key_that_prefect_does_not_take_is_refused_with_one_that_it_does(key: str) -> None:
    with pytest.raises(InvalidInput, match="lower-case") as told:
        check_key(key)
    assert check_key(key_of(key)) in str(told.value)


def test_the_table_shows_what_did_not_succeed_first_and_at_most_1000_jobs() -> None:
    jobs = [result(f"good-{number:04d}") for number in range(1_500)]
    jobs += [result("cancelled", status="CANCELLED"), result("bad", status="FAILED", metrics={"drag": 5.5, "a": []})]
    table = artifacts.table_of(jobs, "jobs")
    rows = json.loads(str(table.data))
    assert [row["job"] for row in rows[:3]] == ["bad", "cancelled", "good-0000"]
    assert len(rows) == 1_000
    # The UI takes the columns from the first row.
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert (rows[0]["drag"], rows[0]["a"], rows[2]["drag"]) == (5.5, "[]", None)
    assert (rows[2]["waited (s)"], rows[2]["ran (s)"]) == (2.0, 3.0)
    assert table.description == (
        "1,502 jobs: 1 FAILED, 1 CANCELLED, 1,500 SUCCEEDED. The first 1,000 are shown, those that did not succeed "
        "before the others"
    )


def test_a_table_is_json_whatever_the_jobs_measured() -> None:
    odd = {"nan": float("nan"), "inf": float("inf"), "job": "not the id", "deep": {"a": [1]}}
    [row] = json.loads(str(artifacts.table_of([result(metrics=odd)], "jobs").data), parse_constant=pytest.fail)
    assert (row["nan"], row["inf"], row["job"], row["deep"]) == ("nan", "inf", "job", '{"a": [1]}')
    assert json.loads(str(artifacts.table_of([], "jobs").data)) == []


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> Iterator[SchedulerClient]:
    """A client, and a results folder with pictures and other things."""
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        session = boto3.Session("test", "test", region_name="eu-west-1")
        s3 = session.client("s3")
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        for key, body in {
            "drag vs Re.png": PNG, "b/Velocity.JPG": PNG, "large.png": PNG * 10, "empty.png": b"",
            "results.json": b"{}", "_sched/attempts/1/failed.png": PNG, "zz.svg": b"<svg/>",
        }.items():  # fmt: skip
            s3.put_object(Bucket=BUCKET, Key=f"run 1/out/{key}", Body=body)
        s3.put_object(Bucket=BUCKET, Key="run 1/outside.png", Body=PNG)
        yield SchedulerClient("sim", session=session)


def test_pictures_are_shown_themselves_by_their_names(
    pictures: SchedulerClient, caplog: pytest.LogCaptureFixture
) -> None:
    made = artifacts.images_of(pictures, result(results_uri=FOLDER), "run", limit=20, max_bytes=1_000)
    assert [image.key for image in made] == ["run-b-velocity-jpg", "run-drag-vs-re-png", "run-zz-svg"]
    assert [str(image.data).partition(",")[0] for image in made] == [
        "data:image/jpeg;base64", "data:image/png;base64", "data:image/svg+xml;base64",
    ]  # fmt: skip
    assert base64.b64decode(str(made[1].data).partition(",")[2]) == PNG
    assert "empty.png, large.png" in caplog.text


def test_no_more_pictures_are_shown_than_asked_for(pictures: SchedulerClient, caplog: pytest.LogCaptureFixture) -> None:
    made = artifacts.images_of(pictures, FOLDER.rstrip("/"), "run", limit=1, max_bytes=1_000)
    assert [image.key for image in made] == ["run-b-velocity-jpg"]
    assert "has 3 pictures; the first 1 are shown" in caplog.text


def test_pictures_of_nowhere_are_refused(pictures: SchedulerClient) -> None:
    with pytest.raises(InvalidInput, match="'/tmp/out' is not an S3 folder"):
        artifacts.images_of(pictures, "/tmp/out", "run", 20, 1_000)
    with pytest.raises(InvalidInput, match="'job' names no results folder"):
        artifacts.images_of(pictures, result(), "run", 20, 1_000)
    with pytest.raises(InvalidInput, match="'Run'"):
        artifacts.images_of(pictures, FOLDER, "Run", 20, 1_000)
    with pytest.raises(NotFound, match="no bucket 'not-there'"):
        artifacts.images_of(pictures, "s3://not-there/x/", "run", 20, 1_000)


def test_links_lead_to_the_console_or_to_the_objects_of_a_laptop_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    job = result("a/b", results_uri="s3://bucket/x y/", stdout_uri="s3://bucket/logs/stdout")
    session = boto3.Session("test", "test", region_name="eu-west-1")
    told = str(artifacts.links_of(job, SchedulerClient("sim", session=session), "links").data)
    assert "(<https://eu-west-1.console.aws.amazon.com/s3/buckets/bucket?region=eu-west-1&prefix=x%20y/>)" in told
    assert "/s3/object/bucket?region=eu-west-1&prefix=logs/stdout" in told
    assert "pk=a%2Fb" in told
    local = SchedulerClient("sim", session=session, endpoint_url="http://127.0.0.1:4566")
    told = str(artifacts.links_of(job, local, "links").data)
    assert "[Results](<http://127.0.0.1:4566/bucket?list-type=2&prefix=x%20y%2F>): `s3://bucket/x y/`" in told
    assert "[Output (stdout)](<http://127.0.0.1:4566/bucket/logs/stdout>)" in told
    assert "console" not in told


class Artifacts:
    """Prefect's API as far as progress needs it; it may be down."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.threads: set[str] = set()
        self.down = False
        self.first = threading.Event()

    @contextmanager
    def client(self, sync_client: bool = False) -> Iterator[Artifacts]:
        assert sync_client
        self.threads.add(threading.current_thread().name)
        try:
            if self.down:
                raise ConnectionError("Prefect is not there")
            yield self
        finally:
            self.first.set()

    def create_artifact(self, artifact: Any) -> Any:
        self.sent.append(artifact)
        return SimpleNamespace(id=uuid4())

    def update_artifact(self, artifact_id: UUID, artifact: Any) -> None:
        self.sent.append(artifact)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    """Prefect's API."""
    found = Artifacts()
    monkeypatch.setattr(progress, "get_client", found.client)
    return found


def writers() -> list[threading.Thread]:
    """Threads that send updates."""
    return [thread for thread in threading.enumerate() if thread.name == "sched-progress"]


def test_the_progress_of_many_ends_is_sent_in_few_updates_and_the_last_is_whole(api: Artifacts) -> None:
    with BatchProgress(1_000, interval=3600) as batch:
        assert api.first.wait(30)
        for number in range(1_000):
            batch.ended(result(status="FAILED" if number < 3 else "SUCCEEDED"))
    assert [one.data for one in api.sent] == [0.0, 100.0]
    assert api.sent[0].type == "progress"
    assert api.sent[-1].description == "Jobs: 1,000 of 1,000 ended (3 FAILED, 997 SUCCEEDED)"
    assert api.threads == {"sched-progress"}
    for thread in writers():
        thread.join(30)
    assert writers() == []


def test_progress_comes_by_itself_when_its_time_has_come(api: Artifacts) -> None:
    with BatchProgress(2, interval=0.01) as batch:
        assert api.first.wait(30)
        api.first.clear()
        batch.ended(None)
        assert api.first.wait(30)
    assert [one.data for one in api.sent] == [0.0, 50.0]
    assert api.sent[-1].description == "Jobs: 1 of 2 ended (1 unknown)"


def test_one_thread_serves_all_batches_and_closing_one_leaves_the_others(api: Artifacts) -> None:
    one, other = BatchProgress(1, key="one", interval=3600), BatchProgress(1, key="other", interval=3600)
    one.close()
    assert len(writers()) == 1
    other.ended(result())
    asyncio.run(other.aclose())
    assert api.sent[-1].data == 100.0
    one.close()


def test_a_batch_goes_on_while_prefect_does_not_answer(api: Artifacts, caplog: pytest.LogCaptureFixture) -> None:
    api.down = True
    with BatchProgress(3, interval=0.0) as batch:
        for _ in range(2):
            api.first.clear()
            batch.ended(result())
            assert api.first.wait(30)
        api.down = False
        batch.ended(result())
    assert [one.data for one in api.sent] == [100.0]
    warnings = [one for one in caplog.records if one.levelname == "WARNING"]
    assert ["Prefect is not there" in one.getMessage() for one in warnings] == [True]


def test_progress_is_whole_only_when_all_have_ended(api: Artifacts) -> None:
    with BatchProgress(2_001) as batch:
        for _ in range(2_000):
            batch.ended(result())
        assert batch.percent == 99.9
        batch.ended(result())
        batch.ended(result())
        assert batch.percent == 100.0


@pytest.mark.parametrize("arguments", [{"total": 0}, {"total": 1, "key": "Not A Key"}])
def test_a_batch_that_cannot_be_is_refused(api: Artifacts, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        BatchProgress(**arguments)
    assert api.sent == []


def artifacts_of(flow_run_id: UUID) -> dict[str, Artifact]:
    """What the server has of a flow run, by key."""
    wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return {str(one.key): one for one in client.read_artifacts(artifact_filter=wanted)}


@pytest.mark.usefixtures("prefect_server")
def test_a_flow_shows_its_jobs_pictures_and_links(pictures: SchedulerClient) -> None:
    job = result(results_uri=FOLDER, status="FAILED")

    @task
    def show() -> None:
        with BatchProgress(1, key="batch-of-one") as batch:
            batch.ended(job)
        create_job_links(job, scheduler=pictures)

    @flow
    def showing() -> UUID:
        show()
        create_job_table([job], key="table")
        create_image_artifacts(pictures, job, key="p", max_bytes=1_000)
        from prefect.runtime import flow_run

        return UUID(flow_run.id)

    found = artifacts_of(showing())
    kinds = {key: one.type for key, one in found.items()}
    assert kinds == {
        "batch-of-one": "progress", "job-links": "markdown", "table": "table", "p-b-velocity-jpg": "image",
        "p-drag-vs-re-png": "image", "p-zz-svg": "image",
    }  # fmt: skip
    assert found["batch-of-one"].data == 100.0
    assert found["batch-of-one"].task_run_id == found["job-links"].task_run_id is not None
    assert json.loads(str(found["table"].data))[0]["status"] == "FAILED"
    assert base64.b64decode(str(found["p-drag-vs-re-png"].data).partition(",")[2]) == PNG


@pytest.mark.usefixtures("prefect_server")
def test_an_asynchronous_flow_awaits_the_same_functions(pictures: SchedulerClient) -> None:
    @flow
    async def showing() -> UUID:
        async with BatchProgress(1, key="batch") as batch:
            batch.ended(result())
        await create_job_table([result()])
        await create_image_artifacts(pictures, FOLDER, limit=1)
        await create_job_links(result(), scheduler=pictures)
        from prefect.runtime import flow_run

        return UUID(flow_run.id)

    assert set(artifacts_of(asyncio.run(showing()))) == {"batch", "jobs", "pictures-b-velocity-jpg", "job-links"}
