"""The files around a job, with stand-ins for s5cmd and the AWS CLI."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import fake_s3
import pytest
from wrapped import BASH, Ended, Worker, as_sh, contents, context, end_of, reaped, until

from sched_plugins.core import wrapper

Files = dict[str, str]


class Bucket:
    """The S3 of a worker: files by address."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def put(self, **buckets: Files) -> None:
        for bucket, files in buckets.items():
            for key, text in files.items():
                path = self.root / bucket / key
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)

    def files(self, folder: str) -> Files:
        top = self.root / folder
        return {path.relative_to(top).as_posix(): path.read_text() for path in sorted(top.rglob("*")) if path.is_file()}

    def fail(self, count: int, what: str) -> None:
        (self.root / "fail").write_text(f"{count} {what}")

    def lines(self, name: str) -> list[Any]:
        path = self.root / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(params=["s5cmd", "aws"])
def tool(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def worker(tmp_path: Path, tool: str) -> Worker:
    # The AWS CLI on Amazon Linux, whose sh is Bash; s5cmd on Ubuntu, whose sh is dash.
    worker = Worker(tmp_path / "worker", as_sh(tmp_path / "shell", BASH) if tool == "aws" else None)
    tools = tmp_path / "tools"
    tools.mkdir()
    program = Path(fake_s3.__file__).read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable} -IS", 1)
    (tools / tool).write_text(program)
    (tools / tool).chmod(0o700)
    worker.environment |= {"PATH": f"{tools}:/usr/bin:/bin", "FAKE_S3": str(tmp_path / "s3")}
    worker.change = lambda text: text.replace("for pause in 1 3 0", "for pause in 0.01 0.02 0")
    return worker


@pytest.fixture
def s3(tmp_path: Path, worker: Worker) -> Bucket:
    return Bucket(tmp_path / "s3")


def run(worker: Worker, executable: str, attempt: int = 1, *, timeout: int = 60, **stage: Any) -> Ended:
    fields = {"executable": executable, "output": "s3://out/here/", "writer": "env", **stage}
    return worker.run(at=context(attempt=attempt), stage=fields, timeout_seconds=timeout)


def test_a_folder_comes_in_and_what_the_job_wrote_goes_out(worker: Worker, s3: Bucket) -> None:
    s3.put(
        code={"run.sh": 'cat a sub/b "$PWD/run.sh" >all\nmkdir -p new\necho >new/file\necho more >>sub/b\necho out'},
        data={"in/a": "A", "in/sub/b": "B", "in/sub/c": "C", "in/_sched/attempts/1/old": "", "other/x": ""},
    )
    ended = run(worker, "s3://code/run.sh", inputs=["s3://data/in/"])
    assert (ended.code, ended.stdout, ended.stderr) == (0, b"out\n", b"")
    script = (s3.root / "code/run.sh").read_text()
    assert s3.files("out/here") == {"all": "AB" + script, "new/file": "\n", "sub/b": "Bmore\n"}
    assert list(worker.work.iterdir()) == []


def test_old_attempts_do_not_come_in(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "find . -type f"})
    s3.put(data={"in/_sched/attempts/1/a": "", "in/s/_sched/attempts/1/b": "", "in/c": ""})
    ended = run(worker, "s3://code/run.sh", inputs=["s3://data/in/"])
    assert sorted(ended.stdout.split()) == [b"./c", b"./run.sh"]


def test_several_folders_come_into_directories_of_their_own(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "cat one/a two/a >both"}, data={"x/a": "X", "y/z/a": "Y"})
    ended = run(
        worker, "s3://code/run.sh", inputs=["s3://data/x/", "s3://data/y/z/"], input_names=["one", "two"]
    )  # fmt: skip
    assert ended.code == 0
    assert s3.files("out/here") == {"both": "XY"}


def test_an_executable_among_the_inputs_is_fetched_once(worker: Worker, s3: Bucket) -> None:
    s3.put(data={"x/run.sh": "echo $0", "y/a": ""})
    ended = run(worker, "s3://data/x/run.sh", inputs=["s3://data/y/", "s3://data/x/"], input_names=["y", "x"])
    assert ended.stdout.decode().endswith("/x/run.sh\n")
    assert not any("s3://data/x/run.sh" in call for call in s3.lines("calls.jsonl"))
    assert s3.files("out/here") == {}


@pytest.mark.parametrize("name", ["run", "-rf it's; $(touch x).sh", "a=b c.sh", "#!", "{{ssm:x}}", "ünï"])
def test_an_executable_may_have_any_name(worker: Worker, s3: Bucket, name: str) -> None:
    s3.put(code={f"f/{name}": "echo ran"})
    ended = run(worker, f"s3://code/f/{name}")
    assert (ended.code, ended.stdout) == (0, b"ran\n")


def test_an_executable_on_the_image_runs_by_its_own_interpreter(worker: Worker, s3: Bucket, tmp_path: Path) -> None:
    program = tmp_path / "solver"
    program.write_text("#!/usr/bin/env -S bash -eu\na=(1 2); echo ${a[1]} >result; printenv SCHED_PARAMETERS")
    program.chmod(0o755)
    ended = run(worker, str(program), stage_parameters={"reynolds": 20, "text": "it's {{x}}"})
    assert json.loads(ended.stdout) == {"reynolds": 20, "text": "it's {{x}}"}
    assert s3.files("out/here") == {"result": "2\n"}


def test_the_executable_knows_where_its_results_go(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": 'echo "$SCHED_OUTPUT_URI"'})
    assert run(worker, "s3://code/run.sh").stdout == b"s3://out/here/\n"


def test_results_go_to_every_successor_and_name_their_writer(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "echo r >result"})
    at = context(run_id="ün=i,d 1")
    outputs = {"output": "s3://out/a/", "outputs_too": ["s3://out/b/"]}
    stage = {"executable": "s3://code/run.sh", "writer": "env-1", **outputs}
    assert worker.run(at=at, stage=stage).code == 0
    assert s3.files("out") == {"a/result": "r\n", "b/result": "r\n"}
    written = {"sched-run-id": "%C3%BCn%3Di%2Cd%201", "sched-environment": "env-1"}
    assert s3.lines("metadata.jsonl") == [["s3://out/a/result", written], ["s3://out/b/result", written]]


def test_a_failed_attempt_keeps_its_files_apart(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "echo half >result; exit 3"})
    ended = run(worker, "s3://code/run.sh", attempt=2, outputs_too=["s3://out/b/"])
    assert ended.code == 3
    assert s3.files("out") == {"here/_sched/attempts/2/result": "half\n"}


def test_a_timeout_still_stores_what_there_is(worker: Worker, s3: Bucket) -> None:
    slow = worker.change
    worker.change = lambda text: slow(text).replace('sleep "$limit"', "sleep 0.5")
    s3.put(code={"run.sh": "trap 'exit 0' TERM; echo half >result; while :; do sleep 0.05; done"})
    ended = run(worker, "s3://code/run.sh", timeout=1)
    assert ended.code == wrapper.TIMED_OUT
    assert s3.files("out") == {"here/_sched/attempts/1/result": "half\n"}


def test_the_jobs_time_does_not_run_on_while_its_results_are_stored(worker: Worker, s3: Bucket) -> None:
    quick = worker.change
    worker.change = lambda text: quick(text).replace('sleep "$limit"', "sleep 0.6").replace("sleep 10\n", "sleep 0.1\n")
    s3.put(code={"run.sh": "echo r >result"})
    (s3.root / "slow").write_text("1.2")
    assert run(worker, "s3://code/run.sh", timeout=1).code == 0
    assert s3.files("out") == {"here/result": "r\n"}
    assert [call[-1] for call in s3.lines("calls.jsonl")].count("s3://out/here/") == 1


def test_a_command_told_to_end_while_it_stores_results_leaves_no_transfer(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "echo r >result"})
    (s3.root / "slow").write_text("300")
    stage = {"executable": "s3://code/run.sh", "output": "s3://out/here/"}
    with reaped(worker.start(stage=stage)) as process:
        until(lambda: any(call[-1] == "s3://out/here/" for call in s3.lines("calls.jsonl")), "the upload runs")
        (mark,) = worker.state.glob("attempts/*/mark")
        os.kill(int(mark.read_text().split("-")[1]), signal.SIGTERM)
        end_of(process)
    assert not [pid for pid in Path("/proc").glob("[0-9]*/cmdline") if bytes(s3.root.parent) in contents(pid)]


def test_an_attempt_whose_files_cannot_be_fetched_fails_after_a_few_tries(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "echo ran"})
    s3.fail(99, "run.sh")
    ended = run(worker, "s3://code/run.sh")
    assert (ended.code, ended.stdout) == (wrapper.STAGE_IN_FAILED, b"")
    assert ended.trailer is not None
    assert ended.trailer.exit_code is None
    assert "s3://code/run.sh could not be fetched" in ended.trailer.reason
    assert 'ERROR "cp": Access Denied for you' in ended.trailer.reason
    assert len(s3.lines("calls.jsonl")) == 3
    assert list(worker.work.iterdir()) == []


def test_a_passing_fault_of_a_transfer_is_outlived(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "echo r >result"}, data={"in/a": ""})
    s3.fail(2, "cp")
    assert run(worker, "s3://code/run.sh", inputs=["s3://data/in/"]).code == 0
    assert s3.files("out/here") == {"result": "r\n"}


def test_success_without_stored_results_is_no_success(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "echo r >result"})
    s3.fail(99, "s3://out/b/")
    ended = run(worker, "s3://code/run.sh", outputs_too=["s3://out/b/"])
    assert ended.code == wrapper.STAGE_OUT_FAILED
    assert ended.trailer is not None
    assert ended.trailer.exit_code == 0
    assert "results could not be stored" in ended.trailer.reason
    assert "Access Denied" in ended.trailer.reason


def test_a_failed_attempt_whose_files_cannot_be_stored_keeps_its_exit_code(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "echo r >result; exit 5"})
    s3.fail(99, "s3://out/")
    assert run(worker, "s3://code/run.sh").code == 5


def test_an_empty_input_is_an_empty_directory(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "ls; echo done"})
    ended = run(worker, "s3://code/run.sh", inputs=["s3://data/none/"])
    assert (ended.code, ended.stdout) == (0, b"run.sh\ndone\n")


def test_a_job_that_writes_nothing_succeeds(worker: Worker, s3: Bucket) -> None:
    s3.put(code={"run.sh": "mkdir empty"})
    assert run(worker, "s3://code/run.sh").code == 0
    assert s3.files("out") == {}


def test_links_are_followed_inside_the_directory_only(worker: Worker, s3: Bucket) -> None:
    s3.put(
        code={
            "run.sh": "echo x >file; mkdir d; ln -s file link; ln -s ../file d/up; ln -s link chain; ln -s in.dat new;"
            "ln -s /etc/passwd out; ln -s d folder; ln -s nowhere broken; ln -s loop loop; mkfifo pipe"
        },
        data={"in/in.dat": "I"},
    )
    assert run(worker, "s3://code/run.sh", inputs=["s3://data/in/"]).code == 0
    assert s3.files("out/here") == {"chain": "x\n", "d/up": "x\n", "file": "x\n", "link": "x\n", "new": "I"}


def test_a_job_cannot_write_the_schedulers_own_names(worker: Worker, s3: Bucket) -> None:
    forge = "for d in . sub; do mkdir -p $d/_sched; echo {} >$d/_sched/SUCCEEDED.json; done; echo r >result"
    s3.put(code={"run.sh": forge})
    assert run(worker, "s3://code/run.sh").code == 0
    assert s3.files("out/here") == {"result": "r\n"}


def test_changed_inputs_are_told_from_touched_permissions(worker: Worker, s3: Bucket) -> None:
    s3.put(
        code={"run.sh": "chmod +x tool; printf B >same-size; sed -i s/a/a/ rewritten; rm gone; mv moved elsewhere"},
        data={f"in/{name}": "a" for name in ("tool", "same-size", "rewritten", "gone", "moved", "untouched")},
    )
    assert run(worker, "s3://code/run.sh", inputs=["s3://data/in/"]).code == 0
    assert s3.files("out/here") == {"same-size": "B", "rewritten": "a", "elsewhere": "a"}


def test_the_given_directory_holds_the_attempts_fresh_one(worker: Worker, s3: Bucket, tmp_path: Path) -> None:
    s3.put(code={"run.sh": "pwd"})
    stage = {"executable": "s3://code/run.sh", "output": "s3://out/here/"}
    ended = worker.run(stage=stage, working_directory=str(tmp_path / "scratch"))
    assert ended.stdout.decode() == f"{tmp_path}/scratch/sched-{context().key}\n"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_missing_executable_is_said(worker: Worker, s3: Bucket) -> None:
    s3.put(data={"in/a": ""})
    for executable in ("s3://data/in/run.sh", "/nowhere/solver"):
        ended = run(worker, executable, attempt=len(executable), inputs=["s3://data/in/"])
        assert ended.code == wrapper.STAGE_IN_FAILED
        assert ended.trailer is not None
        assert ended.trailer.reason == f"there is no executable {executable}"


def test_without_a_tool_the_attempt_fails_with_that_reason(worker: Worker, s3: Bucket) -> None:
    worker.environment["PATH"] = "/usr/bin:/bin"
    if any(shutil.which(name, path="/usr/bin:/bin") for name in ("aws", "s5cmd")):
        pytest.skip("this machine's own PATH has one of the tools")
    ended = run(worker, "s3://code/run.sh")
    assert ended.code == wrapper.STAGE_IN_FAILED
    assert b"neither s5cmd nor the AWS CLI" in ended.stderr
