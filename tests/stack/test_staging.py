"""Staging with the real s5cmd and AWS CLI, against MiniStack's S3: whatever a key holds, it is only a key."""

from __future__ import annotations

import base64
import gzip
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from sched_plugins.core import wrapper
from sched_plugins.core.job import parse_spec

TOOLS = Path(sys.executable).parent
LONG = ("x" * 120 + " y/") * 8  # with the longest name below it, 1,005 bytes
LONGEST = ("ü" * 99 + "/") * 5 + "z" * (1024 - len("results/out/") - 5 * 199)
AWFUL = (
    "plain.txt",
    "a b.txt",
    'it\'s "quoted".txt',
    "$(touch injected);`touch injected`;x",
    "{{ssm:x}}.txt",
    "ünï/±😀.txt",
    "a+b%20c%2F.txt",
    "new\nline.txt",
    "-rf",
    "--help",
    "*",
    "?x[1]{2}!",
    "star*/one",
    "back\\slash",
    "#hash&amp;<x>",
    " lead",
    "trail ",
    "~tilde",
    "a=b,c",
    "...",
    "tab\tx",
    LONGEST,
)
FOLDERS = ("it's $(x); {{ssm:y}} ü+%20/", "-g*b[1]?/", "file://new\nline/", LONG)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("ministack")
    settings = {"GATEWAY_PORT": str(port), "HOME": str(folder), "TMPDIR": str(folder), "LOG_LEVEL": "ERROR"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [TOOLS / "ministack"], env=os.environ | settings, cwd=folder, stdout=log, stderr=log, process_group=0
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server)
        yield address
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{address}/_ministack/health", timeout=5).close()
        except (OSError, urllib.error.URLError):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.fixture(params=["s5cmd", "aws"])
def tool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def s3(endpoint: str) -> Any:
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(max_pool_connections=30),
    )
    yield client
    client.close()


@pytest.fixture
def bucket(s3: Any, tool: str, request: pytest.FixtureRequest) -> str:
    name = "staging-" + request.node.name.encode().hex()[-20:] + tool
    s3.create_bucket(Bucket=name)
    return name


def run(tmp_path: Path, endpoint: str, tool: str, **stage: Any) -> subprocess.CompletedProcess[bytes]:
    (tmp_path / "tools").mkdir(exist_ok=True)
    for name in {tool} - {path.name for path in (tmp_path / "tools").iterdir()}:
        (tmp_path / "tools" / name).symlink_to(TOOLS / name)
    (tmp_path / "work").mkdir(exist_ok=True)
    fields = {"job_id": "job", "retry": 0, "ssm_document": "AWS-RunShellScript", "commands": [], "stage": stage}
    at = wrapper.AttemptContext("job", "run", 1, "queue", int(time.time()) + 600)
    lines = wrapper.command_parameters(parse_spec(fields), at)["commands"]
    script = tmp_path / "_script.sh"
    script.write_text("\n".join(map(with_one_try, lines)) + "\n")
    script.chmod(0o700)
    environment = {
        "PATH": f"{tmp_path}/tools:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "SCHED_STATE_DIR": str(tmp_path / "state"),
        "SCHED_WORK_DIR": str(tmp_path / "work"),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
    }
    return subprocess.run(["sh", "-c", str(script)], env=environment, capture_output=True, check=False, timeout=120)


def with_one_try(line: str) -> str:
    """The line, where it is the packed script, with one try of a transfer instead of three."""
    if not line.startswith("p="):
        return line
    text = gzip.decompress(base64.b64decode(line[2:])).decode()
    changed = text.replace("for pause in 1 3 0", "for pause in 0")
    assert changed != text
    return "p=" + base64.b64encode(gzip.compress(changed.encode())).decode()


def keys_below(s3: Any, bucket: str, prefix: str) -> dict[str, bytes]:
    found = {}
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", ()):
            body = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"]
            found[item["Key"].removeprefix(prefix)] = body.read()
            body.close()
    return found


def put(s3: Any, bucket: str, objects: dict[str, bytes]) -> None:
    for key, body in objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)


def metadata(s3: Any, bucket: str, key: str) -> dict[str, str]:
    return dict(s3.head_object(Bucket=bucket, Key=key)["Metadata"])


def test_awful_names_come_in_and_go_out_as_they_are(
    s3: Any, bucket: str, endpoint: str, tool: str, tmp_path: Path
) -> None:
    script = b"mkdir ../out; find . -mindepth 1 -maxdepth 1 -exec mv -t ../out -- {} +; mv ../out ."
    put(s3, bucket, {f"in/{name}": name.encode() for name in AWFUL})
    put(s3, bucket, {"in/": b"", "in/folder/": b"", "code/run it's; $(x).sh": script})
    stage = {"executable": f"s3://{bucket}/code/run it's; $(x).sh", "inputs": [f"s3://{bucket}/in/"]}
    done = run(tmp_path, endpoint, tool, output=f"s3://{bucket}/results/", **stage)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    moved = {f"out/{name}": name.encode() for name in AWFUL} | {"out/run it's; $(x).sh": script}
    assert keys_below(s3, bucket, "results/") == moved
    assert not list(tmp_path.rglob("injected"))


@pytest.mark.parametrize("folder", FOLDERS, ids=["shell", "wildcards", "newline", "long"])
def test_a_folder_may_have_any_name(
    s3: Any, bucket: str, endpoint: str, tool: str, tmp_path: Path, folder: str
) -> None:
    put(s3, bucket, {f"{folder}a": b"A", f"{folder}sub/b": b"B", f"{folder}_sched/attempts/1/old": b""})
    put(s3, bucket, {f"{folder}run.sh": b"cat a sub/b >result; mkfifo pipe; find . -type f | sort"})
    put(s3, bucket, {"-gxxb[1]y/a": b"what -g*b[1]? matches", "-gxxb[1]y/sub/b": b"as well"})
    here = f"s3://{bucket}/{folder}"
    done = run(tmp_path, endpoint, tool, executable=f"{here}run.sh", inputs=[here], output=here, writer="an env")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == ["./a", "./result", "./run.sh", "./sub/b"]
    assert keys_below(s3, bucket, folder)["result"] == b"AB"
    assert metadata(s3, bucket, f"{folder}result") == {"sched-run-id": "run", "sched-environment": "an%20env"}
    assert metadata(s3, bucket, f"{folder}a") == {}


@pytest.mark.parametrize(
    "key",
    ["../../escape", "a/../../../escape", "/absolute", "./a", "a/..", "x" * 256],
    ids=["up", "up-later", "absolute", "dot", "up-at-end", "long"],
)
def test_a_key_that_leads_elsewhere_is_refused(
    s3: Any, bucket: str, endpoint: str, tool: str, tmp_path: Path, key: str
) -> None:
    put(s3, bucket, {"in/run.sh": b"echo ran", f"in/{key}": b"x", "in/a.b": b""})
    here = f"s3://{bucket}/in/"
    done = run(tmp_path, endpoint, tool, executable=f"{here}run.sh", inputs=[here], output=here)
    assert (done.returncode, done.stdout) == (wrapper.STAGE_IN_FAILED, b"")
    trailer = wrapper.read_trailer(done.stderr.decode())
    assert trailer is not None
    assert "has a key that cannot be a file's path" in trailer.reason
    assert not list(tmp_path.rglob("escape"))


def test_a_folder_with_content_is_refused(s3: Any, bucket: str, endpoint: str, tool: str, tmp_path: Path) -> None:
    put(s3, bucket, {"in/run.sh": b"echo ran", "in/folder/": b"content"})
    here = f"s3://{bucket}/in/"
    done = run(tmp_path, endpoint, tool, executable=f"{here}run.sh", inputs=[here], output=here)
    assert (done.returncode, done.stdout) == (wrapper.STAGE_IN_FAILED, b"")
    assert b"in/folder/" in done.stderr


def test_a_missing_bucket_is_said(s3: Any, endpoint: str, tool: str, tmp_path: Path) -> None:
    here = "s3://no-such-bucket-here/in/"
    done = run(tmp_path, endpoint, tool, executable=f"{here}run.sh", inputs=[here], output=here)
    assert done.returncode == wrapper.STAGE_IN_FAILED
    assert b"NoSuchBucket" in done.stderr


def test_a_job_may_write_nothing(s3: Any, bucket: str, endpoint: str, tool: str, tmp_path: Path) -> None:
    put(s3, bucket, {"run.sh": b"mkdir empty; touch run.sh.tmp; rm run.sh.tmp"})
    done = run(tmp_path, endpoint, tool, executable=f"s3://{bucket}/run.sh", output=f"s3://{bucket}/out/")
    assert (done.returncode, done.stderr) == (0, b"")
    assert keys_below(s3, bucket, "out/") == {}
