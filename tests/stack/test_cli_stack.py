"""The ``sched`` command as a new user types it: every step a process of its own, until nothing is left."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet_client import eventually
from typed import Typed

PATIENCE = "90"
SLEEP = f"9{os.getpid()}.25"
"""A length of sleep that no other process has, not even of another run of these tests."""


class User:
    """Somebody at a shell, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SCHED_"))
        } | {"SCHED_LOCAL_STATE": str(folder / "state"), "NO_COLOR": "1"}

    def start(self, line: str) -> Typed:
        return Typed(shlex.split(line), self.folder, self.environment)

    def types(self, line: str, code: int = 0) -> tuple[str, str]:
        """Run ``sched <line>``; its stdout and stderr."""
        process = self.start(line)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, f"sched {line}: {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return out, err

    def reads(self, line: str, code: int = 0) -> Any:
        """The JSON document of ``sched <line> --json``."""
        return json.loads(
            self.types(line.replace(" -- ", " --json -- ", 1) if " -- " in line else f"{line} --json", code)[0]
        )

    def evaluates(self, text: str) -> None:
        """What ``eval`` does to this user's environment."""
        program = "import json, os; print(json.dumps(dict(os.environ)))"
        line = f"{text}\nexec {shlex.quote(sys.executable)} -c {shlex.quote(program)}"
        told = subprocess.run(["sh", "-c", line], env=self.environment, capture_output=True, text=True, check=True)
        self.environment = json.loads(told.stdout)

    def aws(self, line: str) -> str:
        program = "import sys; from awscli.clidriver import main; sys.exit(main())"
        words = [sys.executable, "-c", program, *shlex.split(line)]
        done = subprocess.run(words, env=self.environment, cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout


def sleeping() -> list[str]:
    """Processes that sleep for a job of these tests."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if words[:2] == [b"sleep", SLEEP.encode()]:
                found.append(entry.name)
    return found


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """A user with a running stack and a scheduler ``sim``."""
    user = User(tmp_path_factory.mktemp("user"))
    user.types("local status", code=1)
    user.types("local env", code=1)
    try:
        out, err = user.types("local up")
        assert "running at http://127.0.0.1:" in out
        assert 'eval "$(sched local env)"' in err
        user.evaluates(user.types("local env")[0])
        user.types("status -s sim anything", code=4)
        out, err = user.types("deploy scheduler sim --empty-queue-wait-seconds 1")
        assert "SubmitFunctionName" in out
        assert "scheduler sim: created" in err
        yield user
    finally:
        user.types("local down")
        user.types("local status", code=1)


def worker(user: User) -> None:
    tags = "'ResourceType=instance,Tags=[{Key=sim,Value=sim-job-queue}]'"
    user.aws(f"ec2 run-instances --image-id ami-1 --count 1 --tag-specifications {tags}")


def test_jobs_from_submission_to_cancellation(user: User) -> None:
    job_id = user.types("submit -s sim --group first --retry 1 --success-string Hello -- echo Hello World")[0].strip()
    assert user.reads(f"status -s sim {job_id}")["status"] == "QUEUED"
    worker(user)
    assert f"{job_id} SUCCEEDED" in user.types(f"wait -s sim {job_id} --timeout {PATIENCE}")[0]
    assert user.types(f"logs -s sim {job_id}")[0] == "Hello World\n"
    waiting = user.start(f"submit -s sim --group first --wait --wait-timeout {PATIENCE} -- 'echo out; exit 3'")
    eventually(lambda: len(user.reads("list -s sim --group first")) == 2, 90)
    worker(user)  # after the job: a worker that finds none soon goes
    out, err = waiting.communicate(timeout=300)
    assert waiting.returncode == 1, err
    assert out == "out\n"
    assert err.splitlines()[-1].endswith("exit code 3")
    listed = user.reads("list -s sim --state ended --group first")
    assert {job["status"] for job in listed} == {"SUCCEEDED", "FAILED"}
    assert user.reads("submit -s sim -- true")["outcome"] == "accepted"


def test_a_cancelled_job_leaves_no_processes(user: User) -> None:
    user.types(f"submit -s sim --job-id slow -- 'sleep {SLEEP} & sleep {SLEEP}'")
    worker(user)
    eventually(lambda: len(sleeping()) == 2, 90)
    assert "slow" in user.types("workers -s sim")[0]
    waiting = user.start("wait -s sim slow")
    assert "slow is" in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    _, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert "the job goes on" in err
    assert len(sleeping()) == 2
    assert "will end as soon as its command has been stopped" in user.types("cancel -s sim slow")[0]
    begin = time.monotonic()
    eventually(lambda: not sleeping())
    print(f"processes of a cancelled job: gone {time.monotonic() - begin:.2f} s after the command returned")
    assert "slow CANCELLED" in user.types(f"wait -s sim slow --timeout {PATIENCE}", code=5)[0]
    assert "had ended already" in user.types("cancel -s sim slow")[0]


def test_an_environment_from_its_plan_to_its_end(user: User) -> None:
    out, err = user.types("deploy environment box -s sim --max-workers 1 --success-string done --plan")
    assert "AWS::AutoScaling::AutoScalingGroup" in out
    assert "planned" in err
    user.types("list -e box", code=4)
    user.types("deploy environment box -s sim --max-workers 1 --success-string done")
    folder = user.folder / "case"
    folder.mkdir()
    (folder / "in.txt").write_text("input")
    (folder / "run.sh").write_text("#!/bin/sh\ncp in.txt out.txt\necho done\n")
    out, _ = user.types(f"upload case --executable run.sh -e box --wait --wait-timeout {PATIENCE}")
    assert "run.sh SUCCEEDED" in out
    job_id = user.reads("list -e box")[0]["job_id"]
    fetched = user.reads(f"results -e box {job_id} --to got")
    assert sorted(fetched["files"]) == ["in.txt", "out.txt", "run.sh"]
    assert (user.folder / "got" / "out.txt").read_text() == "input"
    assert {queue["name"] for queue in user.reads("queues -s sim")} == {"sim-job-queue", "box-job-queue"}
    assert "box" in user.types("destroy sim --yes", code=1)[1]
    user.types("destroy box --yes", code=1)
    user.types("destroy box --yes --delete-data")
    user.types("list -e box", code=4)


def test_a_worker_is_interrupted_and_another_one_attached(user: User) -> None:
    tried = shlex.quote(str(user.folder / "tried"))
    once = shlex.quote(f"test -e {tried} || {{ touch {tried}; sleep 600; }}; echo survived")
    user.types(f"submit -s sim --job-id lost -- {once}")
    worker(user)
    eventually(lambda: (user.folder / "tried").exists(), 90)
    worker_id = user.reads("status -s sim lost")["worker_id"]
    assert worker_id in user.types("local status")[0]
    user.types(f"local interrupt {worker_id}")
    eventually(lambda: user.reads("status -s sim lost")["attempt"] == 2, 90)
    fresh = user.aws(
        "ec2 run-instances --image-id ami-1 --count 1 --query Instances[0].InstanceId --output text"
    ).strip()
    assert f"{fresh} takes jobs from sim-job-queue" in user.types(f"attach -s sim {fresh}")[0]
    assert user.reads(f"wait -s sim lost --timeout {PATIENCE}")["losses"] == 1
    user.types("local interrupt i-none", code=4)


def test_no_stack_is_running(user: User) -> None:
    """All commands that ask AWS say the same: tests/unit/test_cli_without_stack.py."""
    other = User(user.folder)
    other.environment = {**user.environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    for line in ("status -s sim x", "deploy scheduler sim"):
        out, err = other.types(line, code=1)
        assert out == ""
        assert "the laptop stack is not running there; start it with `sched local up`" in err.lower()
        assert 'eval "$(sched local env)"' in err
        assert err.count("\n") == 1


def test_a_bundle_is_written_and_launched_as_the_page_says(user: User) -> None:
    out, _ = user.types("package")
    assert {Path(line).parent for line in out.split()} == {Path(".packaged")}
    user.aws("s3 mb s3://shared")
    user.aws("s3 cp .packaged/sched-functions.zip s3://shared/")
    user.aws(
        "cloudformation deploy --stack-name theirs --template-file .packaged/serverless-scheduler-app.yaml "
        "--s3-bucket shared --parameter-overrides CodeBucket=shared "
        "--capabilities CAPABILITY_NAMED_IAM CAPABILITY_AUTO_EXPAND"
    )
    user.types("submit -s theirs --job-id first -- true")
    assert user.reads("status -s theirs first")["status"] == "QUEUED"
    user.types("destroy theirs --delete-data --yes")
    user.aws("s3 rb s3://shared --force")
