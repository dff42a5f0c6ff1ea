"""The wrapper of the PowerShell document. No PowerShell runs here: its text and the values sent with it are checked."""

from __future__ import annotations

import base64
import gzip
import re
from typing import Any

import pytest
from wrapped import context, spec_fields

from sched_plugins.core import wrapper
from sched_plugins.core.job import parse_spec

CMDLETS = {
    "Add-Type", "ConvertFrom-Json", "ConvertTo-Json", "ForEach-Object", "Get-ChildItem", "Get-Command", "Get-Item",
    "Get-Process", "New-Object", "Remove-Item", "Select-Object", "Start-Sleep", "Test-Path", "Where-Object",
}  # fmt: skip


def unpacked(**fields: Any) -> tuple[str, dict[str, list[str]]]:
    """The program and its named values."""
    spec = parse_spec(spec_fields(ssm_document="AWS-RunPowerShellScript", **fields))
    lines = wrapper.command_parameters(spec, context())["commands"]
    (packed,) = re.findall(r"\$p = '(.*)'", "\n".join(lines))
    program, *rest = gzip.decompress(base64.b64decode(packed)).decode().split("\0")
    values = {}
    while rest:
        name, count, *rest = rest
        values[name], rest = rest[: int(count)], rest[int(count) :]
    return program, values


STAGE = {
    "executable": "s3://code/f/run.ps1",
    "inputs": ["s3://data/a/", "s3://code/f/"],
    "input_names": ["one", "two"],
    "output": "s3://out/o/",
    "outputs_too": ["s3://out/p/"],
    "writer": "env, 1",
}


@pytest.fixture(scope="module")
def program() -> str:
    return unpacked(commands=["x"])[0]


def test_the_values_of_a_script() -> None:
    _, values = unpacked(commands=["a", "b"], environment={"A": "1"}, timeout_seconds=9, working_directory="C:\\w")
    assert (values["attempt"], values["limit"], values["directory"]) == ([context().key], ["9"], ["C:\\w"])
    assert values["commands"] == ["a\r\nb\r\n"]
    assert values["variables"][:4] == ["A", "1", "SCHED_JOB_ID", "job"]
    assert "executable" not in values


def test_the_values_of_a_stage() -> None:
    _, values = unpacked(stage=STAGE)
    assert (values["executablePath"], values["executableIsInput"]) == (["two/run.ps1"], ["1"])
    assert values["inputs"] == ["s3://data/a/", "one", "1", "s3://code/f/", "two", "1"]
    assert values["outputs"] == ["s3://out/o/", "s3://out/p/"]
    assert values["attemptOutput"] == ["s3://out/o/_sched/attempts/1/"]
    assert (values["writer"], values["writerRun"]) == (["env%2C%201"], ["run"])


def test_the_program_uses_just_the_values_that_are_sent(program: str) -> None:
    used = set(re.findall(r"\$v\.(\w+)", program))
    assert used == set(unpacked(stage=STAGE)[1])


def test_the_jobs_environment_does_not_replace_the_schedulers_variables() -> None:
    _, values = unpacked(commands=["x"], environment={"SCHED_JOB_ID": "no", "SCHED_METRICS": "no"})
    assert values["variables"][::2] == ["SCHED_JOB_ID", "SCHED_RUN_ID", "SCHED_ATTEMPT", "SCHED_QUEUE"]


def test_every_function_that_is_called_exists(program: str) -> None:
    defined = set(re.findall(r"^function ([A-Z]\w+-\w+)", program, re.MULTILINE))
    called = set(re.findall(r"(?<![\w'$.-])([A-Z][a-z]+-[A-Z]\w+)", re.sub(r"@'.*?'@", "", program, flags=re.DOTALL)))
    assert called - CMDLETS == defined
    assert not defined & CMDLETS


def test_the_program_is_one_a_parser_accepts(program: str) -> None:
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_powershell")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    bootstrap = "\n".join(
        wrapper.command_parameters(
            parse_spec(spec_fields(ssm_document="AWS-RunPowerShellScript", commands=["x"])), context()
        )["commands"]
    )
    for text in (program, bootstrap):
        assert not parser.parse(text.encode()).root_node.has_error
