"""Whatever a user writes reaches the job byte for byte, and is never text that a shell or Systems Manager reads."""

from __future__ import annotations

import base64
import gzip
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sched_plugins.core.job import JobSpec, parse_spec
from sched_plugins.core.wrapper import AttemptContext, command_parameters, read_trailer

NASTY = ["{{ssm:x}}", "'", "‘’‚‛“”", '"', "$(id)", "`id`", "\\", "%PATH%", "!", "EOF", "\n", "\r\n", "\t"]
NASTY += ["\x01\x7f\x81\x88", "\u2028", "=", "-n", "~", "*"]
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60),
    st.lists(st.sampled_from(NASTY), max_size=8).map("".join),
)
LINE = TEXT.map(lambda text: re.sub(r"[\x00-\x1f\x7f]", "?", text))
NAME = LINE.filter(lambda text: text.rpartition("/")[2] not in ("", ".", ".."))
ENVIRONMENT = st.dictionaries(st.from_regex(r"V[A-Z0-9_]{0,8}", fullmatch=True), TEXT, max_size=5)
START_BY = 4_000_000_000


def spec_of(document: str = "AWS-RunShellScript", **fields: Any) -> JobSpec:
    return parse_spec({"job_id": "job", "retry": 0, "commands": [], "ssm_document": document, **fields})


def attempt(job_id: str = "job", run_id: str = "run", queue: str = "queue") -> AttemptContext:
    return AttemptContext(job_id, run_id, 1, queue, START_BY)


def run(spec: JobSpec, at: AttemptContext, shell: str) -> bytes:
    """The stdout of the wrapped job, run by this shell in the place of /bin/sh."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "sh").symlink_to(shell)
        lines = command_parameters(spec, at)["commands"]
        packed = next(line for line in lines if line.startswith("p="))
        script = gzip.decompress(base64.b64decode(packed[2:])).decode()
        repacked = "p=" + base64.b64encode(gzip.compress(script.replace("/bin/sh ", f"{place}/sh ").encode())).decode()
        text = "\n".join(lines).replace("/bin/sh", f"{place}/sh").replace(packed, repacked)
        (place / "work").mkdir()
        places = {"SCHED_STATE_DIR": str(place / "state"), "SCHED_WORK_DIR": str(place / "work")}
        done = subprocess.run(
            [place / "sh", "-c", text],
            env={"PATH": "/usr/bin:/bin"} | places,
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.stderr == b""
        return done.stdout


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(lines=st.lists(TEXT, max_size=4))
@example(lines=NASTY)
@example(lines=["p=x", "E", "main", "exit 7", "'", "}"])
def test_a_script_reaches_the_worker_byte_for_byte(shell: str, lines: list[str]) -> None:
    commands = ["#!/bin/cat", *lines]
    assert run(spec_of(commands=commands), attempt(), shell) == ("\n".join(commands) + "\n").encode()


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(environment=ENVIRONMENT, job_id=LINE.filter(bool), run_id=LINE, queue=LINE)
@example(environment={f"V{i}": text for i, text in enumerate(NASTY)}, job_id="$(x)'{{y}}", run_id="'", queue="\\")
def test_variables_reach_the_job_byte_for_byte(
    shell: str, environment: dict[str, str], job_id: str, run_id: str, queue: str
) -> None:
    names = ["SCHED_JOB_ID", "SCHED_RUN_ID", "SCHED_QUEUE", *environment]
    printer = "#!/usr/bin/env -S printenv -0 " + " ".join(names)
    spec = spec_of(job_id=job_id, environment=environment, commands=[printer])
    values = [job_id, run_id, queue, *environment.values()]
    assert run(spec, attempt(job_id, run_id, queue), shell) == "".join(value + "\0" for value in values).encode()


@pytest.mark.parametrize("document", ["AWS-RunShellScript", "AWS-RunPowerShellScript"])
@given(
    texts=st.tuples(LINE.filter(bool), LINE, LINE, TEXT, TEXT),
    keys=st.lists(NAME, min_size=3, max_size=3),
    staged=st.booleans(),
    parameters=st.dictionaries(TEXT, TEXT, max_size=2),
)
def test_nothing_a_user_wrote_is_text_in_the_command(
    document: str, texts: tuple[str, ...], keys: list[str], staged: bool, parameters: dict[str, str]
) -> None:
    job_id, run_id, queue, value, command = texts
    job: dict[str, Any] = {"job_id": job_id, "environment": {"A": value}, "working_directory": "/" + queue[:300]}
    plain: dict[str, Any] = {"job_id": "plain"}
    if staged:
        folders = [f"s3://bucket/{key}/" for key in keys]
        job["stage"] = {
            "executable": f"s3://bucket/{keys[0]}",
            "inputs": folders[:2],
            "input_names": ["a", "b"],
            "output": folders[2],
            "writer": queue,
            "stage_parameters": parameters,
        }
        plain["stage"] = {"executable": "/x", "output": "s3://bucket/"}
    else:
        job["commands"], plain["commands"] = [command + "x"], ["x"]
    mine = command_parameters(spec_of(document, **job), attempt(job_id, run_id, queue))
    other = command_parameters(spec_of(document, **plain), attempt("plain"))
    assert "{{" not in json.dumps(mine)
    assert [without_values(line) for line in mine["commands"]] == [without_values(line) for line in other["commands"]]
    assert mine["executionTimeout"] == other["executionTimeout"]


def without_values(line: str) -> str:
    """The line without the packed script and the digest, which are base64 and hexadecimal."""
    return re.sub(r"(p=|\$p = ')[A-Za-z0-9+/=]+|k=[0-9a-f]{64}", r"\1", line)


@given(values=st.tuples(TEXT, TEXT, LINE), key=NAME)
def test_values_reach_a_windows_worker_as_they_are(values: tuple[str, str, str], key: str) -> None:
    here = f"s3://bucket/{key}"
    stage = {"executable": here, "output": f"{here}/", "stage_parameters": {"x": values[2]}}
    spec = spec_of("AWS-RunPowerShellScript", environment={"A": values[0], "B": values[1]}, stage=stage)
    (packed,) = re.findall(r"\$p = '(.*)'", "\n".join(command_parameters(spec, attempt())["commands"]))
    _, *taken = gzip.decompress(base64.b64decode(packed)).decode().split("\0")
    start = taken.index("variables") + 2
    assert taken[start : start + 4] == ["A", values[0], "B", values[1]]
    assert json.loads(taken[taken.index("SCHED_PARAMETERS") + 1]) == {"x": values[2]}
    assert here in taken


@given(text=st.text(), word=st.binary(max_size=300))
def test_reading_a_trailer_never_fails(text: str, word: bytes) -> None:
    for tail in (text, f"sched-trailer: {text}", "sched-trailer: " + base64.b64encode(word).decode()):
        read_trailer(tail)


@given(
    code=st.integers(-(2**31), 2**31),
    reason=st.text(max_size=200),
    metrics=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10),
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e9, 1e9).map(lambda x: round(x, 6)),
        max_size=10,
    ),
    noise=st.text(max_size=50),
)
def test_a_trailer_is_read_as_it_was_written(code: int, reason: str, metrics: dict[str, Any], noise: str) -> None:
    head = base64.b64encode(json.dumps({"exit_code": code, "reason": reason}).encode()).decode()
    word = base64.b64encode(json.dumps(metrics).encode()).decode()
    trailer = read_trailer(f"{noise}\nsched-trailer: {head} {word}\n")
    assert trailer is not None
    assert (trailer.exit_code, trailer.reason, trailer.metrics) == (code, reason, metrics)
