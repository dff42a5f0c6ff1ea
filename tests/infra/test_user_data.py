"""A worker prepares itself before Systems Manager, and so its first job, may have it."""

from __future__ import annotations

import base64
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from shipped import of_type

EBS, NVME = "Amazon Elastic Block Store", "Amazon EC2 NVMe Instance Storage"
AWKWARD = "echo \"$HOME ${x:-y} $(true) `true` 'a' é\" > made\n"
SETUP = "/opt/sched/setup"


def user_data(setup: str, *, windows: bool = False) -> str:
    """The user data that an instance gets."""
    [launch] = of_type("environment", "AWS::EC2::LaunchTemplate").values()
    condition, for_windows, for_linux = launch["LaunchTemplateData"]["UserData"]["Fn::If"]
    assert condition == "IsWindows"
    text, values = (for_windows if windows else for_linux)["Fn::Base64"]["Fn::Sub"]
    assert values == {"Setup": {"Fn::Base64": {"Ref": "SetupScript"}}}
    rendered = str(text).replace("${Setup}", base64.b64encode(setup.encode()).decode())
    assert "${" not in rendered, "CloudFormation would take it for its own"
    return rendered


def written(setup: str) -> dict[str, str]:
    """The files that cloud-init writes."""
    config = yaml.safe_load(user_data(setup))
    assert user_data(setup).startswith("#cloud-config\n")
    assert config["runcmd"] == [["/opt/sched/prepare"]]
    files = {}
    for one in config["write_files"]:
        content = one["content"]
        files[one["path"]] = base64.b64decode(content).decode() if one.get("encoding") == "b64" else content
        assert one["permissions"] == "0700"
    return files


@dataclass
class Machine:
    """A machine in a folder, on which the preparation runs with stand-ins for what needs a real one."""

    root: Path
    disks: str = ""
    """What lsblk lists: a line for each disk, name and model."""
    contents: str = "nvme1n1"
    """What lsblk shows of a single disk."""

    def prepare(self, setup: str) -> subprocess.CompletedProcess[str]:
        for folder in ("bin", "etc", "run", "opt/sched"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for name in ("mkfs.xfs", "mount", "systemctl", "mdadm"):
            self._program(name, f'echo "{name} $*" >> {self.root}/calls')
        self._program("lsblk", f'case $1 in -dnpo) printf "%s" "{self.disks}" ;; *) echo "{self.contents}" ;; esac')
        for path, content in written(setup).items():
            for folder in ("/opt/sched", "/run/sched", "/scratch", "/etc/fstab"):
                content = content.replace(folder, f"{self.root}{folder}") if path != SETUP else content
            (self.root / path.lstrip("/")).write_text(content)
            (self.root / path.lstrip("/")).chmod(0o700)
        return subprocess.run(
            [str(self.root / "opt/sched/prepare")],
            cwd=self.root, capture_output=True, text=True, check=False,
            env={"PATH": f"{self.root}/bin:{os.environ['PATH']}", "HOME": "/root"},
        )  # fmt: skip

    def _program(self, name: str, body: str) -> None:
        path = self.root / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    @property
    def prepared(self) -> bool:
        return (self.root / "run/sched-prepared").exists()

    @property
    def calls(self) -> list[str]:
        calls = self.root / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


def test_the_agent_is_held_before_it_can_start(tmp_path: Path) -> None:
    [[tool, often, _, *command]] = yaml.safe_load(user_data(""))["bootcmd"]
    assert (tool, often) == ("cloud-init-per", "instance"), "after a reboot the agent starts by itself"
    script = command[-1].replace("/run/systemd", f"{tmp_path}/run/systemd").replace("systemctl", "true")
    subprocess.run([*command[:-1], script], check=True)
    held = tmp_path / "run/systemd/system/amazon-ssm-agent.service.d/sched.conf"
    assert held.read_text() == "[Unit]\nConditionPathExists=/run/sched-prepared\n"


def test_a_worker_without_a_setup_script_starts_its_agent(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.prepare("").returncode == 0
    assert machine.prepared
    assert (tmp_path / "scratch").stat().st_mode & 0o7777 == 0o1777
    assert "systemctl start --no-block amazon-ssm-agent" in machine.calls


@pytest.mark.parametrize("first_line", ["", "#!/bin/sh\n", "#!/usr/bin/env bash\n"])
def test_the_setup_script_runs_as_it_was_written(tmp_path: Path, first_line: str) -> None:
    machine = Machine(tmp_path)
    assert machine.prepare(first_line + AWKWARD).returncode == 0
    assert (tmp_path / "made").read_text() == "/root y   'a' é\n"
    assert machine.prepared


@pytest.mark.parametrize("setup", ["exit 3", "false\ntrue\n", "#!/bin/sh\nexit 1\n"])
def test_a_worker_whose_setup_fails_gets_no_job(tmp_path: Path, setup: str) -> None:
    machine = Machine(tmp_path)
    ended = machine.prepare(setup)
    assert ended.returncode != 0
    assert "could not be prepared" in ended.stderr
    assert not machine.prepared
    assert not [call for call in machine.calls if "start" in call]


def test_local_nvme_becomes_the_scratch_folder(tmp_path: Path) -> None:
    machine = Machine(tmp_path, disks=f"/dev/nvme0n1 {EBS}\n/dev/nvme1n1 {NVME}\n")
    assert machine.prepare("").returncode == 0
    assert "mkfs.xfs -q -f -L sched-scratch /dev/nvme1n1" in machine.calls
    assert f"mount -L sched-scratch {tmp_path}/scratch" in machine.calls
    assert "nofail" in (tmp_path / "etc/fstab").read_text()


def test_several_disks_become_one(tmp_path: Path) -> None:
    disks = "".join(f"/dev/nvme{n}n1 {NVME}\n" for n in (1, 2))
    machine = Machine(tmp_path, disks=disks)
    assert machine.prepare("").returncode == 0
    assert "mdadm --create /dev/md0 --run --level=0 --raid-devices=2 /dev/nvme1n1 /dev/nvme2n1" in machine.calls
    assert "mkfs.xfs -q -f -L sched-scratch /dev/md0" in machine.calls


def test_a_disk_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    machine = Machine(tmp_path, disks=f"/dev/nvme1n1 {NVME}\n", contents="nvme1n1 ext4 /opt/data")
    assert machine.prepare("").returncode == 0
    assert not [call for call in machine.calls if call.startswith(("mkfs", "mount"))]


def test_windows_starts_its_agent_last() -> None:
    lines = user_data(AWKWARD, windows=True).splitlines()
    stop, start = lines.index("Stop-Service AmazonSSMAgent -Force"), lines.index("Start-Service AmazonSSMAgent")
    setup = lines.index("& $setup")
    assert stop < setup < start
    assert "$ErrorActionPreference = 'Stop'" in lines[:stop]
