"""Folders to S3 and back: nothing sent before all is checked, the executable last, no file outside its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from client_stack import NAME, REGION, ClientStack, client_stack, service, session

from sched_plugins.client import Connection, EnvironmentClient, Outcome, Progress, Run, Status
from sched_plugins.client.results import safe_path
from sched_plugins.client.transfer import Item, Transfer
from sched_plugins.errors import (
    EnvironmentNotFound,
    InvalidInput,
    InvalidJob,
    JobNotFound,
    NotFound,
    NotPermitted,
    SchedulerError,
)

BUCKET = "env-1-drop-job-files"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ClientStack]:
    with client_stack(monkeypatch) as found:
        service("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        outputs = {"EnvironmentName": "env", "SchedulerName": NAME, "BucketName": BUCKET}
        found.stacks.add("env", outputs, {"TriggerSuffix": ".sh"})
        yield found


@pytest.fixture
def environment(stack: ClientStack) -> EnvironmentClient:
    client: EnvironmentClient = stack.adopt(EnvironmentClient("env", session=session()))
    return client


def stored() -> list[str]:
    """Keys in the bucket, oldest first as far as the order of uploads matters."""
    return [found["Key"] for found in service("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def job_folder(root: Path, *names: str) -> Path:
    folder = root / "case"
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    folder.mkdir(exist_ok=True)
    return folder


class Puts(list[str]):
    """Keys in the order in which their uploads ended."""

    def __init__(self, client: EnvironmentClient) -> None:
        super().__init__()
        client.connection.client("s3").meta.events.register("after-call.s3.PutObject", self._note)
        client.connection.client("s3").meta.events.register("before-parameter-build.s3.PutObject", self._begin)
        self.begun: list[str] = []

    def _begin(self, params: dict[str, Any], **_: Any) -> None:
        self.begun.append(params["Key"])

    def _note(self, **_: Any) -> None:
        self.append(self.begun[-1])


NAMES = ("run.sh", "input.dat", "sub/deep file.txt", "ünï+cødé & 'q' $(x);.txt", ".hidden")


def test_a_folder_is_uploaded_with_its_executable_last(environment: EnvironmentClient, tmp_path: Path) -> None:
    puts = Puts(environment)
    uploaded = environment.upload(job_folder(tmp_path, *NAMES), "run.sh")
    assert uploaded.job_id == f"s3://{BUCKET}/case/run.sh"
    assert uploaded.folder == f"s3://{BUCKET}/case/"
    assert uploaded.files == len(NAMES)
    assert puts.begun[-1] == "case/run.sh"
    assert sorted(stored()) == sorted(f"case/{name}" for name in NAMES)


def test_the_executable_waits_for_every_other_file(environment: EnvironmentClient, tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "run.sh", *(f"{number}.dat" for number in range(20)))
    counts: list[int] = []
    s3 = environment.connection.client("s3")
    s3.meta.events.register("before-parameter-build.s3.PutObject", lambda params, **_: (
        counts.append(len(stored())) if params["Key"].endswith(".sh") else None
    ))  # fmt: skip
    environment.upload(folder, "run.sh")
    assert counts == [20]


def test_the_prefix_can_be_chosen(environment: EnvironmentClient, tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "bin/run.sh")
    assert environment.upload(folder, "bin/run.sh", prefix="a/b/").job_id == f"s3://{BUCKET}/a/b/bin/run.sh"
    assert environment.upload(folder, "bin/run.sh", prefix="").job_id == f"s3://{BUCKET}/bin/run.sh"


def refusals(folder: Path) -> list[tuple[dict[str, Any], str]]:
    return [
        ({"executable": "none.sh"}, r"holds no file 'none.sh'; 'run.sh' would"),
        ({"executable": "input.dat"}, r"'input.dat' does not end in '.sh'.*'run.sh' would"),
        ({"executable": "../case/run.sh"}, "must be a path inside"),
        ({"executable": "/bin/sh"}, "must be a path inside"),
        ({"executable": "run.sh", "prefix": "/abs"}, "prefix '/abs' must be"),
        ({"executable": "run.sh", "prefix": "a/../b"}, "must be a path inside the bucket"),
        ({"executable": "run.sh", "prefix": "x" * 1020}, "S3 allows 1,024"),
        ({"executable": "run.sh", "folder": folder / "no"}, "is not a folder"),
        ({"executable": "run.sh", "folder": folder / "empty"}, "holds no files"),
        ({"executable": "run.sh", "folder": folder / "two"}, r"'helper.sh' also end in '.sh'"),
        ({"executable": "run.sh", "folder": folder / "broken"}, "is no regular file"),
    ]


@pytest.mark.parametrize("index", range(11))
def test_what_cannot_be_is_refused_before_anything_is_sent(
    environment: EnvironmentClient, tmp_path: Path, index: int
) -> None:
    folder = job_folder(tmp_path, "run.sh", "input.dat")
    (tmp_path / "empty").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("run.sh", "helper.sh"):
        (tmp_path / "two" / name).touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "link").symlink_to("nowhere")
    options, said = refusals(tmp_path)[index]
    with pytest.raises(InvalidInput, match=said):
        environment.upload(**{"folder": folder, **options})
    assert stored() == []


def test_several_executables_are_sent_after_the_other_files(environment: EnvironmentClient, tmp_path: Path) -> None:
    puts = Puts(environment)
    environment.upload(job_folder(tmp_path, "a.sh", "z.dat", "run.sh"), "run.sh", several=True)
    assert puts.begun == ["case/z.dat", "case/a.sh", "case/run.sh"]


def test_progress_ends_with_everything(environment: EnvironmentClient, tmp_path: Path) -> None:
    told: list[Progress] = []
    environment.upload(job_folder(tmp_path, "run.sh", "a.dat"), "run.sh", progress=told.append)
    size = len("run.sh") + len("a.dat")
    assert (told[-1].files_done, told[-1].files, told[-1].bytes_done, told[-1].bytes) == (2, 2, size, size)


def test_a_second_upload_waits_for_the_run_after_the_first(
    stack: ClientStack, environment: EnvironmentClient, tmp_path: Path
) -> None:
    folder = job_folder(tmp_path, "run.sh")
    first = environment.upload(folder, "run.sh")
    assert first.run == Run(first.job_id, after="", may_come=True)
    stack.client.submit({"job_id": first.job_id, "commands": ["x"]}, run_id="r1", queue=environment.queue)
    stack.end(first.job_id)
    assert environment.wait(first.run).run_id == "r1"
    second = environment.upload(folder, "run.sh")
    assert second.run.after == "r1"
    stack.clock.then = [
        lambda: stack.client.submit({"job_id": first.job_id, "commands": ["x"]}, run_id="r2", queue=environment.queue),
        lambda: stack.end(first.job_id, Status.FAILED),
    ]
    assert environment.wait(second.run).run_id == "r2"


def test_an_environment_that_is_not_there_is_told(stack: ClientStack) -> None:
    with pytest.raises(EnvironmentNotFound, match="no environment 'none' in region eu-west-1"):
        EnvironmentClient("none", session=session())
    stack.stacks.add("sim", {"SchedulerName": "sim"}, {})
    with pytest.raises(EnvironmentNotFound, match=r"stack 'sim' .* is no environment"):
        EnvironmentClient("sim", session=session())
    stack.stacks.add("new", {}, {}, "CREATE_IN_PROGRESS")
    with pytest.raises(NotFound, match="is being deployed"):
        EnvironmentClient("new", session=session())


def test_an_environment_asks_its_own_functions_and_lists_its_own_queue(
    stack: ClientStack, environment: EnvironmentClient
) -> None:
    asked: list[dict[str, Any]] = []

    def answer(event: dict[str, Any]) -> dict[str, Any]:
        asked.append(event)
        return {"results": [{"outcome": "accepted", "job_id": "s", "run_id": "r", "status": "QUEUED"}]}

    stack.functions.functions["env-submit"] = answer
    started = environment.start_stage(
        executable="/opt/run", inputs=["s3://b/in/"], outputs=["s3://b/out/"], job_id="s", run_id="r",
        parameters={"re": 20}, settings={"retry": 1},
    )  # fmt: skip
    assert (started.outcome, started.run) == (Outcome.ACCEPTED, Run("s", "r"))
    stage = {
        "executable": "/opt/run", "inputs": ["s3://b/in/"], "outputs": ["s3://b/out/"], "parameters": {"re": 20},
        "settings": {"retry": 1},
    }  # fmt: skip
    assert asked == [{"jobs": [{"job_id": "s", "run_id": "r", "stage_job": stage}]}]
    stack.client.submit({"job_id": "mine", "commands": ["x"]}, queue=environment.queue)
    stack.client.submit({"job_id": "not mine", "commands": ["x"]})
    assert [job.job_id for job in environment.list()] == ["mine"]


def test_a_refused_stage_is_raised(stack: ClientStack, environment: EnvironmentClient) -> None:
    refusal = {"error": {"type": "InvalidJob", "message": "outputs: missing"}}
    stack.functions.functions["env-submit"] = lambda event: {"results": [refusal]}
    with pytest.raises(InvalidJob, match="outputs: missing"):
        environment.start_stage(executable="/x", outputs=[], job_id="s")


def test_a_single_file_is_stored_with_its_metadata(environment: EnvironmentClient, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("text")
    environment.store(f"s3://{BUCKET}/a?b#c/é", file, metadata={"sched-environment": "env"})
    found = service("s3").get_object(Bucket=BUCKET, Key="a?b#c/é")
    assert (found["Body"].read(), found["Metadata"]) == (b"text", {"sched-environment": "env"})
    with pytest.raises(InvalidInput, match="is not the address of an object"):
        environment.store("s3://bucket", file)


def test_what_is_not_stored_is_told_unless_one_may_not_ask(
    environment: EnvironmentClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.sh.old").touch()
    environment.store(f"s3://{BUCKET}/case/run.sh.old", tmp_path / "run.sh.old")
    environment.require_stored([f"s3://{BUCKET}/case/", f"s3://{BUCKET}/case/run.sh.old", f"s3://{BUCKET}/"])
    for uri in (f"s3://{BUCKET}/case/run.sh", f"s3://{BUCKET}/none/", "s3://no-such-bucket/x"):
        with pytest.raises(NotFound, match=f"'{uri}'; upload it first"):
            environment.require_stored([uri])
    with pytest.raises(InvalidInput, match="'/case/' is not an S3 address"):
        environment.require_stored(["/case/"])

    def denied(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")

    monkeypatch.setattr(environment.connection.client("s3"), "list_objects_v2", denied)
    environment.require_stored([f"s3://{BUCKET}/none/"])


def test_an_uploader_need_not_be_a_reader(environment: EnvironmentClient, tmp_path: Path) -> None:
    def denied(job_id: str) -> None:
        raise NotPermitted(f"may not read {job_id}")

    environment._records.get = denied  # type: ignore[method-assign, assignment]
    assert environment.upload(job_folder(tmp_path, "run.sh"), "run.sh").after == ""


# Results


def finish(stack: ClientStack, *keys: str, results_uri: str = f"s3://{BUCKET}/case/") -> None:
    for key in keys:
        service("s3").put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    stack.client.submit({"job_id": "a", "commands": ["x"], "results_uri": results_uri})
    stack.end("a")


def test_results_are_fetched_below_the_destination(stack: ClientStack, tmp_path: Path) -> None:
    finish(stack, *(f"case/{name}" for name in NAMES), "case/_sched/SUCCEEDED.json", "case/sub/", "casement/other")
    told: list[Progress] = []
    fetched = stack.client.results("a", tmp_path / "new" / "place", progress=told.append)
    found = sorted(str(path.relative_to(fetched.folder)) for path in fetched.folder.rglob("*") if path.is_file())
    assert found == sorted(NAMES) == sorted(map(str, fetched.files))
    assert (fetched.folder / NAMES[3]).read_text() == f"case/{NAMES[3]}"
    assert (fetched.skipped, told[-1].files_done) == ((), len(NAMES))


def test_internal_files_are_fetched_when_asked_for(stack: ClientStack, tmp_path: Path) -> None:
    finish(stack, "case/a", "case/_sched/SUCCEEDED.json")
    assert [str(path) for path in stack.client.results("a", tmp_path).files] == ["a"]
    assert len(stack.client.results("a", tmp_path, internal=True).files) == 2


def test_no_key_leaves_the_destination(stack: ClientStack, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    bad = ["case/../evil", "case/a/../../evil", "case//etc/passwd", "case/./b", "case/link/evil", f"case/{'x' * 256}"]
    finish(stack, "case/good", *bad)
    fetched = stack.client.results("a", inside)
    assert sorted(fetched.skipped) == sorted(bad)
    assert [str(path) for path in fetched.files] == ["good"]
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_a_name_that_is_both_file_and_folder_keeps_the_file_that_comes_first(
    stack: ClientStack, tmp_path: Path
) -> None:
    finish(stack, "case/a", "case/a/b")
    fetched = stack.client.results("a", tmp_path)
    assert ([str(path) for path in fetched.files], fetched.skipped) == (["a"], ("case/a/b",))


def test_what_is_not_there_is_told(stack: ClientStack, tmp_path: Path) -> None:
    with pytest.raises(JobNotFound):
        stack.client.results("a", tmp_path)
    finish(stack)
    with pytest.raises(NotFound, match=f"no results at 's3://{BUCKET}/case/' yet"):
        stack.client.results("a", tmp_path)
    stack.client.submit({"job_id": "b", "commands": ["x"]})
    with pytest.raises(NotFound, match="'b' names no results folder"):
        stack.client.results("b", tmp_path)
    stack.client.submit({"job_id": "c", "commands": ["x"], "results_uri": "s3://none-such-bucket/x/"})
    with pytest.raises(NotFound, match="no bucket 'none-such-bucket'"):
        stack.client.results("c", tmp_path)


def test_a_destination_that_cannot_be_written_is_told(stack: ClientStack, tmp_path: Path) -> None:
    finish(stack, "case/a")
    (tmp_path / "file").touch()
    with pytest.raises(SchedulerError, match="cannot use"):
        stack.client.results("a", tmp_path / "file")


def test_the_first_failure_stops_the_transfer(stack: ClientStack, tmp_path: Path) -> None:
    keys = [f"case/{number:03}" for number in range(40)]
    finish(stack, *keys)
    s3 = stack.client.connection.client("s3")
    real = s3.download_file
    begun: list[str] = []

    def download(bucket: str, key: str, path: str, **options: Any) -> None:
        begun.append(key)
        if key == "case/000":
            raise OSError(28, "No space left on device", path)
        real(bucket, key, path, **options)

    s3.download_file = download
    try:
        with pytest.raises(SchedulerError, match="No space left"):
            stack.client.results("a", tmp_path)
    finally:
        s3.download_file = real
    assert len(begun) < len(keys)


def test_a_failure_stops_what_is_under_way() -> None:
    ended: list[str] = []

    class S3:
        def upload_file(self, path: str, bucket: str, key: str, Callback: Any, **_: Any) -> None:  # noqa: N803
            if key == "bad":
                raise OSError(5, "Input/output error", path)
            for _ in range(10_000):
                Callback(1)
                time.sleep(0.001)
            ended.append(key)

    connection = Connection(session=session())
    connection._clients["s3"] = S3()
    items = [Item(key, Path(key), 1) for key in ("long", "bad")]
    with pytest.raises(SchedulerError, match="Input/output error"):
        Transfer(connection, BUCKET, items, None).upload(items)
    assert ended == []


@pytest.mark.parametrize("name", ["", "..", "a/..", "/a", "a//b", "a/", "./a", "a\0b", "é" * 128])
def test_names_that_are_no_paths(name: str) -> None:
    assert safe_path(name) is None


def test_names_that_are_paths() -> None:
    for name in ("a", "a/b", "...", "a b", "é" * 127, "a\\b", "~"):
        assert str(safe_path(name)) == os.fspath(name)
