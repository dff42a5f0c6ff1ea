"""The stack's life: up, twice, after crashes, beside other programs, and down without a trace."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError
from fleet_client import FleetClient, eventually

from sched_plugins.errors import LaptopStackError
from sched_plugins.local import lifecycle, processes
from sched_plugins.local.state import StackInfo, StateFolder

#: A proxy that nothing answers at: what leaves loopback fails at once.
NOWHERE = {"HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", "AWS_MAX_ATTEMPTS": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A state folder whose name needs quoting, cleaned up however the test ends."""
    place = tmp_path / "a 'state' folder"
    yield place
    lifecycle.down(place)
    assert belonging(place) == []


def belonging(place: Path) -> list[int]:
    """Processes that some server of this state folder started."""
    return processes.marked(processes.STACK_MARK, StateFolder.locate(place).mark, prefix=True)


def busy(info: StackInfo) -> None:
    """Give a stack a process that tries to survive: a daemon on an instance."""
    aws = FleetClient(info)
    aws.send(aws.launch(), "setsid sleep 300 & sleep 300")
    eventually(lambda: len(belonging(Path(info.state_dir))) >= 3)


def has_ended(info: StackInfo) -> bool:
    return not processes.is_alive(info.pid, info.started) and not processes.is_alive(info.guard_pid, info.guard_started)


def test_up_answers_says_so_when_asked_again_and_down_leaves_nothing(folder: Path) -> None:
    assert lifecycle.status(folder) is None
    info = lifecycle.up(state_dir=folder)
    assert not info.already_running
    again = lifecycle.up(state_dir=folder)
    assert again.already_running
    assert again == info
    assert lifecycle.up(port=info.port, state_dir=folder) == info
    with pytest.raises(LaptopStackError, match=f"on port {info.port} and not {info.port + 1}"):
        lifecycle.up(port=info.port + 1, state_dir=folder)
    busy(info)
    assert lifecycle.down(folder) is True
    assert has_ended(info)
    assert belonging(folder) == []
    assert lifecycle.status(folder) is None
    assert lifecycle.down(folder) is False


def test_it_listens_on_loopback_alone(folder: Path) -> None:
    info = lifecycle.up(state_dir=folder)
    table = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
    listening = [line.split()[1] for line in table.splitlines() if " 0A " in line]
    assert [address for address in listening if address.endswith(f":{info.port:04X}")] == [f"0100007F:{info.port:04X}"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_whatever_ends_the_server_ends_its_children_and_up_works_again(folder: Path, number: signal.Signals) -> None:
    info = lifecycle.up(state_dir=folder)
    busy(info)
    os.kill(info.pid, number)
    eventually(lambda: has_ended(info) and belonging(folder) == [])
    assert lifecycle.status(folder) is None
    second = lifecycle.up(state_dir=folder)
    assert not second.already_running
    assert second.endpoint == info.endpoint
    assert FleetClient(second).ec2.describe_instances()["Reservations"] == []
    assert list((folder / "instances").iterdir()) == []


def test_up_ends_what_a_crash_left_even_without_the_guard(folder: Path) -> None:
    info = lifecycle.up(state_dir=folder)
    busy(info)
    os.kill(info.guard_pid, signal.SIGKILL)
    os.kill(info.pid, signal.SIGKILL)
    eventually(lambda: has_ended(info))
    left = belonging(folder)
    assert left
    lifecycle.up(state_dir=folder)
    assert set(belonging(folder)) & set(left) == set()


@pytest.mark.parametrize("record", ["", "{", "[]", '{"pid": "x"}', json.dumps({"pid": 1, "port": 2})])
def test_a_record_that_makes_no_sense_stops_nothing(folder: Path, record: str) -> None:
    folder.mkdir(parents=True)
    (folder / "stack.json").write_text(record)
    (folder / "last-port").write_text("many")
    assert lifecycle.status(folder) is None
    assert lifecycle.down(folder) is False


def test_a_record_of_a_process_that_is_another_one_now_stops_nothing_and_harms_nobody(folder: Path) -> None:
    state = StateFolder.locate(folder)
    state.create()
    with subprocess.Popen(["sleep", "300"]) as stranger:
        old = StackInfo(
            endpoint="http://127.0.0.1:9",
            port=9,
            pid=stranger.pid,
            started="0",
            guard_pid=stranger.pid,
            guard_started="0",
            state_dir=str(folder),
            log_file=str(state.log),
        )
        state.write(old)
        (folder / "instances" / "i-old").mkdir(parents=True)
        (folder / ".stack-half").write_text("{")
        assert not lifecycle.up(state_dir=folder).already_running
        assert not (folder / "instances" / "i-old").exists()
        assert not (folder / ".stack-half").exists()
        lifecycle.down(folder)
        state.write(old)
        assert lifecycle.down(folder) is False
        assert stranger.poll() is None
        stranger.kill()


def test_two_that_start_at_once_share_one_server(folder: Path) -> None:
    found: list[StackInfo] = []
    threads = [threading.Thread(target=lambda: found.append(lifecycle.up(state_dir=folder))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len({info.pid for info in found}) == 1


def test_who_gives_up_while_it_starts_leaves_no_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def given_up(info: StackInfo) -> bool:
        started.append(info.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "_healthy", given_up)
    with pytest.raises(KeyboardInterrupt):
        lifecycle.up(state_dir=folder)
    assert processes.start_time(started[0]) is None
    eventually(lambda: belonging(folder) == [])


def test_a_port_that_is_taken_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LaptopStackError, match=rf"port {port} is in use .* --port N"):
            lifecycle.up(port=port, state_dir=folder)
    assert lifecycle.up(port=port, state_dir=folder).port == port


def test_a_state_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaptopStackError, match=r"cannot write the state folder .*SCHED_LOCAL_STATE"):
        lifecycle.up(state_dir=tmp_path / "file" / "state")


def test_without_a_stack_the_next_step_is_named(folder: Path) -> None:
    for attempt in (lambda: lifecycle.require(folder), lambda: lifecycle.interrupt("i-0", folder)):
        with pytest.raises(LaptopStackError, match=r"no laptop stack is running for .* `sched local up`"):
            attempt()


def test_the_state_folder_is_chosen_by_argument_variable_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SCHED_LOCAL_STATE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert StateFolder.locate().path == tmp_path / ".sched-local"
    monkeypatch.setenv("SCHED_LOCAL_STATE", str(tmp_path / "named"))
    assert StateFolder.locate().path == tmp_path / "named"
    assert StateFolder.locate(tmp_path / "given").path == tmp_path / "given"


def test_the_environment_can_be_evaluated_by_a_shell(folder: Path) -> None:
    info = lifecycle.up(state_dir=folder)
    script = 'export AWS_PROFILE=other; eval "$1"; echo "$AWS_ENDPOINT_URL $AWS_REGION ${AWS_PROFILE-none}"'
    done = subprocess.run(
        ["sh", "-eu", "-c", script, "sh", lifecycle.shell_environment(info)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{info.endpoint} us-east-1 none\n"
    assert lifecycle.logs(folder) == [Path(info.log_file)]
    assert lifecycle.describe(info)["instances"] == []
    assert (folder / ".gitignore").read_text() == "*\n"


@pytest.mark.parametrize("shell", [shell for shell in ("sh", "bash", "zsh") if shutil.which(shell)])
def test_the_aws_command_of_that_shell_talks_to_the_stack(folder: Path, tmp_path: Path, shell: str) -> None:
    info = lifecycle.up(state_dir=folder)
    FleetClient(info).client("sqs").create_queue(QueueName="here")
    asked = ["sqs list-queues", "s3 ls"]
    if shell == "sh":  # each service in one shell is enough; each `aws` takes a second
        asked += ["dynamodb list-tables", "cloudformation list-stacks", "stepfunctions list-state-machines"]
    script = "; ".join(['eval "$1"', *(f"aws {command}" for command in asked), "unset AWS_ENDPOINT_URL"])
    done = subprocess.run(
        [shell, "-eu", "-c", script, shell, lifecycle.shell_environment(info)],
        env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)} | NOWHERE,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{info.endpoint}/{info.account}/here" in done.stdout
    others = dict.fromkeys(("dynamodb", "cloudformation", "states"), 1) if shell == "sh" else {}
    assert lifecycle.describe(info)["calls"] == {"sqs": 2, "s3": 1, **others}


def test_in_that_shell_the_stack_is_known_in_every_folder(folder: Path, tmp_path: Path) -> None:
    info = lifecycle.up(state_dir=folder)
    script = 'eval "$1"; cd /; "$2" -c "from sched_plugins.local import lifecycle; print(lifecycle.require().endpoint)"'
    environ = {name: value for name, value in os.environ.items() if name != "SCHED_LOCAL_STATE"}
    done = subprocess.run(
        ["sh", "-eu", "-c", script, "sh", lifecycle.shell_environment(info), sys.executable],
        env=environ, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"{info.endpoint}\n"


def test_an_ordinary_end_leaves_no_alarm_in_the_log(folder: Path) -> None:
    info = lifecycle.up(state_dir=folder)
    with socket.create_connection(("127.0.0.1", info.port)) as slow:
        slow.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nx")
        FleetClient(info).s3.list_buckets()  # so that the server has read the other request
        lifecycle.down(folder)
    assert "Traceback" not in Path(info.log_file).read_text()


FUNCTION = """
import os, sys, subprocess
def handler(event, context):
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    return {"python": sys.executable, "environ": dict(os.environ), "child": child.pid}
"""


def test_functions_run_with_the_stacks_interpreter_and_end_with_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid")
    info = lifecycle.up(state_dir=folder)
    monkeypatch.undo()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", FUNCTION)
    client = FleetClient(info).client("lambda")
    client.create_function(
        FunctionName="shows", Runtime="python3.12", Handler="app.handler", Code={"ZipFile": packed.getvalue()},
        Role=f"arn:aws:iam::{info.account}:role/any", Environment={"Variables": {"OWN": "1"}},
    )  # fmt: skip
    client.get_waiter("function_active_v2").wait(FunctionName="shows", WaiterConfig={"Delay": 1})
    seen = json.load(client.invoke(FunctionName="shows")["Payload"])
    environ: dict[str, Any] = seen["environ"]
    assert seen["python"] == sys.executable
    assert environ["AWS_ENDPOINT_URL"] == info.endpoint
    assert (environ["AWS_REGION"], environ["OWN"]) == ("us-east-1", "1")
    assert environ["HOME"].startswith(info.state_dir)
    assert not {"AWS_PROFILE", "HTTPS_PROXY", "PYTHONPATH", "VIRTUAL_ENV"} & set(environ)
    child = (seen["child"], processes.start_time(seen["child"]))
    assert processes.is_alive(*child)
    lifecycle.down(folder)
    assert not processes.is_alive(*child)


def test_what_is_not_the_stacks_own_reaches_ministack_untouched(folder: Path) -> None:
    info = lifecycle.up(state_dir=folder)
    aws = FleetClient(info)
    aws.s3.create_bucket(Bucket="plain")
    body = os.urandom(300_000)
    aws.s3.put_object(Bucket="plain", Key="_sched/fleet", Body=body)
    assert aws.s3.get_object(Bucket="plain", Key="_sched/fleet")["Body"].read() == body
    assert aws.ec2.describe_vpcs()["Vpcs"]
    assert aws.ssm.describe_parameters()["Parameters"] == []
    assert aws.autoscaling.describe_policies()["ScalingPolicies"] == []
    assert lifecycle.describe(info)["calls"] == {"s3": 3, "ec2": 1, "ssm": 1, "autoscaling": 1}


def test_the_control_page_refuses_other_hosts_and_says_what_is_wrong(folder: Path) -> None:
    info = lifecycle.up(state_dir=folder)
    with pytest.raises(LaptopStackError, match="not something that the stack does"):
        lifecycle.request(info, "GET", "/_sched/nothing")
    with pytest.raises(LaptopStackError, match="no instance None"):
        lifecycle.request(info, "POST", "/_sched/fleet/nothing", {})
    with socket.create_connection(("127.0.0.1", info.port)) as connection:
        connection.sendall(b"GET /_sched/health HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n")
        reply = b""
        while more := connection.recv(4096):
            reply += more
    assert b"state_dir" not in reply


def test_importing_the_life_cycle_imports_no_heavy_package() -> None:
    code = (
        "import sys, sched_plugins.local.lifecycle, sched_plugins.local.control;"
        "print([name for name in ('ministack', 'hypercorn', 'boto3', 'botocore', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_long_poll_that_is_broken_off_takes_no_message(folder: Path) -> None:
    aws = FleetClient(lifecycle.up(state_dir=folder))
    queue = aws.sqs.create_queue(QueueName="polled")["QueueUrl"]
    impatient = aws.client("sqs", Config(read_timeout=1, retries={"total_max_attempts": 1}))
    with pytest.raises(ReadTimeoutError):
        impatient.receive_message(QueueUrl=queue, WaitTimeSeconds=20)
    time.sleep(0.5)  # the server hears of it
    aws.sqs.send_message(QueueUrl=queue, MessageBody="for somebody else")
    time.sleep(0.5)  # a poll that goes on looks every 0.1 s
    assert [one["Body"] for one in aws.sqs.receive_message(QueueUrl=queue)["Messages"]] == ["for somebody else"]
