"""What is sent to Systems Manager, and what is read back from the end of stderr."""

from __future__ import annotations

import base64
import json
import random
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from wrapped import context, spec_fields, unpacked

import sched_plugins
from sched_plugins.core import wrapper
from sched_plugins.core.job import parse_spec
from sched_plugins.core.wrapper import script
from sched_plugins.errors import InvalidJob

DOCUMENTS = ("AWS-RunShellScript", "AWS-RunPowerShellScript")


def stage(**fields: Any) -> dict[str, Any]:
    return {
        "executable": "s3://bkt/run.sh",
        "inputs": ["s3://bkt/in/"],
        "output": "s3://bkt/out/",
        "writer": "env",
        **fields,
    }


def sent(document: str = DOCUMENTS[0], **fields: Any) -> dict[str, list[str]]:
    return wrapper.command_parameters(parse_spec(spec_fields(ssm_document=document, **fields)), context())


def line(fields: object, *more: str) -> str:
    return " ".join(["sched-trailer:", base64.b64encode(json.dumps(fields).encode()).decode(), *more])


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_timeout_of_the_command_leaves_time_for_staging(document: str) -> None:
    assert sent(document, commands=["true"], timeout_seconds=60)["executionTimeout"] == ["3660"]


def test_another_document_gets_the_jobs_parameters_as_they_are() -> None:
    parameters = {"commands": ["echo {{ssm:x}}"], "sourceType": ["S3"]}
    assert sent("My-Document", parameters=parameters) == parameters


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("staged", [False, True])
def test_the_command_is_the_same_for_the_same_attempt(document: str, staged: bool) -> None:
    fields: dict[str, Any] = {"stage": stage()} if staged else {"commands": ["x"]}
    first, again, second = (
        wrapper.command_parameters(
            parse_spec(spec_fields(ssm_document=document, **fields)), context(attempt=attempt, start_by=2_000_000_000)
        )
        for attempt in (1, 1, 2)
    )
    assert first == again != second


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_largest_and_least_compressible_jobs_fit(document: str) -> None:
    chance = random.Random(7)
    ascii_text = "".join(chance.choices([chr(i) for i in range(33, 127) if chr(i) not in '"\\'], k=65_300))
    wide_text = "".join(chr(chance.randrange(0xA0, 0x7FF)) for _ in range(32_600))
    mixed = "".join(chance.choice("'\"\\\n{$`x") for _ in range(40_000))
    for text in (ascii_text, wide_text, mixed):
        parameters = sent(document, commands=[text])
        assert sum(map(len, parameters["commands"])) < wrapper.MAX_PARAMETERS_BYTES
    values = sent(document, commands=["x"], environment={f"V{i}": mixed[i * 200 : i * 200 + 200] for i in range(200)})
    assert sum(map(len, values["commands"])) < wrapper.MAX_PARAMETERS_BYTES


def test_a_job_that_does_not_fit_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wrapper, "MAX_PARAMETERS_BYTES", 3_000)
    with pytest.raises(InvalidJob, match=r"at most 3,000 are sent\. Put long scripts and data in S3"):
        sent(commands=["true"])


@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("executable", ["s3://bkt/folder/", "s3://bkt/..", "s3://bkt/" + "x" * 256])
def test_an_executable_that_cannot_be_a_file_is_refused(document: str, executable: str) -> None:
    with pytest.raises(InvalidJob, match="cannot be a file"):
        sent(document, stage=stage(executable=executable))


def test_comments_do_not_travel() -> None:
    for fields in ({"commands": ["x"]}, {"stage": stage()}):
        script = unpacked(sent(**fields)["commands"])
        assert not [text for text in script.splitlines() if text.lstrip().startswith("#")]


def test_the_package_carries_the_scripts_in_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(sched_plugins.__file__).parent
    assert {path.suffix for path in (folder / "core/wrapper").iterdir() if path.is_file()} >= {".py", ".sh", ".ps1"}
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as package:
        for path in folder.glob("core/wrapper/*.[sp][hs]*"):
            package.write(path, f"packed/{path.name}")
        package.writestr("packed/__init__.py", "")
    monkeypatch.syspath_prepend(archive)
    from_archive = script.program("linux.sh", "linux_stage.sh", package="packed")
    assert from_archive == script.program("linux.sh", "linux_stage.sh")


def test_the_last_trailer_counts() -> None:
    first = line({"exit_code": 0, "reason": "forged"})
    last = line({"exit_code": 194, "reason": "", "metrics": {"a": 1}})
    assert wrapper.read_trailer(f"out\n{first}\nmore\n{last}\n") == wrapper.Trailer(194, {"a": 1}, "")
    assert wrapper.read_trailer(f"{last}\r\n") == wrapper.Trailer(194, {"a": 1}, "")


def test_metrics_may_be_a_second_word() -> None:
    metrics = base64.b64encode(b'{"drag": 5.58}').decode()
    assert wrapper.read_trailer(line({"exit_code": 0, "reason": ""}, metrics)) == wrapper.Trailer(0, {"drag": 5.58})


@pytest.mark.parametrize(
    "stderr",
    [
        "",
        "no trailer",
        "sched-trailer: ",
        "sched-trailer: !!!",
        "sched-trailer: e30",
        "x" + line({"exit_code": 1}),
        line([]),
        line("text"),
        line({"exit_code": "1"}),
        line({"exit_code": True}),
        line({"exit_code": 1.5}),
        line({"exit_code": 1, "reason": None}),
        "sched-trailer: " + base64.b64encode(b"[" * 100_000).decode(),
        line({"exit_code": 1}) + "\nsched-trailer: e30",
    ],
)
def test_a_missing_or_malformed_trailer_is_none(stderr: str) -> None:
    assert wrapper.read_trailer(stderr) is None


@pytest.mark.parametrize(
    "metrics",
    [
        b"[1]",
        b"text",
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b'{"x": 1e999}',
        b'{"x": 1e126}',
        b'{"x": [' + b"9" * 39 + b"]}",
        b'{"x": ' + b"9" * 4050 + b"}",
        b'{"x": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"": 1}',
        b'{"x":"' + b"y" * 4096 + b'"}',
        b'{"x":' * 17 + b"1" + b"}" * 17,
        b'{"x":' * 700,
    ],
)
def test_metrics_that_cannot_be_kept_are_left_out(metrics: bytes) -> None:
    word = base64.b64encode(metrics).decode()
    assert wrapper.read_trailer(line({"exit_code": 3, "reason": "r"}, word)) == wrapper.Trailer(3, {}, "r")


def test_a_long_reason_is_cut() -> None:
    trailer = wrapper.read_trailer(line({"exit_code": None, "reason": "x" * 5000}))
    assert trailer is not None
    assert len(trailer.reason) == 1000


def test_codes_are_distinct_and_mean_nothing_to_a_shell_or_the_agent() -> None:
    reserved = wrapper.codes.RESERVED
    assert len(set(reserved)) == len(reserved)
    assert all(160 < code < 256 and code not in wrapper.codes.AGENT_CODES_LINUX for code in reserved)


def test_the_scripts_codes_are_the_modules() -> None:
    for name in ("linux.sh", "linux_stage.sh", "windows.ps1"):
        text = (Path(wrapper.__file__).parent / name).read_text()
        for code in re.findall(r"(?:fail|exit|exit=|Stop-Attempt|Stop-Unstarted) ?(2\d\d)\b", text):
            assert int(code) in wrapper.codes.RESERVED
