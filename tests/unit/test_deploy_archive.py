"""The functions' archive: the same bytes each time, all that the handlers import, and nothing else."""

from __future__ import annotations

import io
import os
import platform
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import pytest

from sched_plugins.deploy import archive as archives
from sched_plugins.deploy import cache, template
from sched_plugins.deploy.archive import Archive, Target, functions_archive
from sched_plugins.deploy.template import Kind
from sched_plugins.errors import DeployError, InvalidSettings

SOURCE = Path(archives.__file__).parents[1]
#: Imports everything in the archive that is ours, with nothing installed but what Lambda's runtime has.
LOOK = """
import importlib, pkgutil, sys
sys.path[:0] = sys.argv[1:]
import sched_plugins
assert sched_plugins.__file__.startswith(sys.argv[1]), sched_plugins.__file__
names = [module.name for module in pkgutil.walk_packages(sched_plugins.__path__, "sched_plugins.")]
for name in names:
    importlib.import_module(name)
import aws_lambda_powertools, pydantic
for module in (pydantic, aws_lambda_powertools):
    assert module.__file__.startswith(sys.argv[1]), module.__file__
print(*names, sep="\\n")
"""

#: Imports every handler, and logs as handlers do, with nothing installed at all.
HANDLE = """
import importlib, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    module, _, function = name.rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))
from types import SimpleNamespace
from sched_plugins.functions.process import logger
@logger.inject_lambda_context
def handler(event, context):
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("said", extra={"event": event, "odd": object()})
names = ("function_name", "memory_limit_in_mb", "invoked_function_arn", "aws_request_id", "tenant_id")
handler({}, SimpleNamespace(**dict.fromkeys(names, "x")))
elsewhere = [m.__file__ for m in sys.modules.values() if "site-packages" in (getattr(m, "__file__", "") or "")]
assert not elsewhere, elsewhere
"""


@pytest.fixture(scope="module")
def zipped() -> bytes:
    return functions_archive()._zipped()  # not from the cache


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place / "sched-plugins"


def lambda_runtime(place: Path) -> Path:
    """A folder with only what Lambda's Python runtimes have: boto3 and what that needs."""
    for name in ("boto3", "botocore", "s3transfer", "urllib3", "dateutil", "six"):
        spec = util.find_spec(name)
        assert spec is not None
        assert spec.origin
        origin = Path(spec.origin)
        source = origin.parent if origin.name == "__init__.py" else origin
        (place / source.name).symlink_to(source)
    return place


def test_same_contents_give_same_bytes_in_another_process(zipped: bytes) -> None:
    program = "import sys; from sched_plugins.deploy import functions_archive as f; "
    program += "sys.stdout.buffer.write(f()._zipped())"
    path = os.pathsep.join([str(SOURCE.parent), *sys.path])
    other = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": path, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        check=True,
    )
    assert other.stdout == zipped


def test_digest_depends_on_names_contents_and_target() -> None:
    archive = functions_archive()
    name = next(iter(archive.files))
    assert archive.digest == functions_archive().digest
    variants = [
        replace(archive, files={**archive.files, name: archive.files[name] + b"#"}),
        replace(archive, files={**archive.files, "more.py": b""}),
        replace(archive, target=Target("3.14", "arm64")),
    ]
    assert len({archive.digest, *(variant.digest for variant in variants)}) == 4


def test_holds_rules_handlers_and_their_dependencies_only(zipped: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        names = archive.namelist()
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}
    assert names == sorted(names)
    ours = {name.split("/")[1].removesuffix(".py") for name in names if name.startswith("sched_plugins/")}
    assert {"core", "ports", "scheduler", "aws", "errors", "__init__"} <= ours
    assert not ours & {"airflow", "cli", "client", "deploy", "infra", "local", "pipeline", "prefect", "testing"}
    packages = {name.split("/")[0] for name in names if ".dist-info" not in name and name.endswith((".py", ".so"))}
    assert packages == {
        "sched_plugins",
        "annotated_types",
        "aws_lambda_powertools",
        "jmespath",
        "pydantic",
        "pydantic_core",
        "typing_extensions.py",
        "typing_inspection",
    }
    # What an installer writes would make the same package look different from one machine to the next.
    assert not [name for name in names if name.endswith(("RECORD", "INSTALLER", "direct_url.json", ".pth"))]


def test_imports_with_nothing_but_the_lambda_runtime(zipped: bytes, tmp_path: Path) -> None:
    code = tmp_path / "task"
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        archive.extractall(code)
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", LOOK, str(code), str(lambda_runtime(runtime))],
        env={"AWS_DEFAULT_REGION": "eu-west-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "sched_plugins.core.names" in answer.stdout.splitlines()


def test_python_takes_the_byte_code_and_not_the_source(zipped: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "sched_plugins/core/names.py").write_text("raise RuntimeError('compiled again')")
    program = "import sys; sys.path.insert(0, sys.argv[1]); from sched_plugins.core import names; "
    program += "print(names.__file__, names.job_queue.__code__.co_filename)"
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == [str(tmp_path / "sched_plugins/core/names.py")] * 2


@pytest.mark.parametrize(
    ("system", "machine", "version", "expected"),
    [
        ("linux", "x86_64", (3, 12), Target("3.12", "x86_64")),
        ("linux", "aarch64", (3, 14), Target("3.14", "arm64")),
        ("linux", "riscv64", (3, 12), Target("3.13", "x86_64")),
        ("linux", "x86_64", (3, 19), Target("3.13", "x86_64")),
        ("darwin", "arm64", (3, 12), Target("3.13", "x86_64")),
    ],
)
def test_target_is_the_running_interpreter_where_lambda_has_it(
    system: str, machine: str, version: tuple[int, int], expected: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Version(tuple[int, int]):
        major, minor = version

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(sys, "version_info", Version(version))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert Target.here() == expected


@pytest.mark.parametrize(("python", "architecture"), [("3.9", "x86_64"), ("3.13", "riscv64"), ("python3.13", "arm64")])
def test_refuses_what_lambda_does_not_have(python: str, architecture: str) -> None:
    with pytest.raises(InvalidSettings, match=rf"no Python {python} on {architecture}: choose one of 3\.11, "):
        Target(python, architecture)


@pytest.mark.parametrize(
    ("tag", "target", "fits"),
    [
        ("py3-none-any", Target("3.11"), True),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", Target("3.11"), True),
        ("cp311-cp311-manylinux_2_28_x86_64", Target("3.11"), False),
        ("cp313-cp313-manylinux_2_28_x86_64", Target("3.13"), True),
        ("cp313-cp313-manylinux_2_35_x86_64", Target("3.13"), False),
        ("cp313-cp313-manylinux_2_17_aarch64", Target("3.13"), False),
        ("cp313-cp313-manylinux_2_17_aarch64", Target("3.13", "arm64"), True),
        ("cp313-cp313-musllinux_1_2_x86_64", Target("3.13"), False),
        ("cp313-cp313-linux_x86_64", Target("3.13"), False),
    ],
)
def test_installed_files_are_taken_only_where_lambda_can_load_them(
    tag: str, target: Target, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str:
            assert name == "WHEEL"
            return f"Wheel-Version: 1.0\nTag: {tag}\n"

    monkeypatch.setattr(metadata, "distribution", lambda name: Installed())
    assert archives._fits("pydantic-core", target) is fits


def installer(calls: list[list[str]], code: int = 0) -> Any:
    """Stands for ``subprocess.run``: an installer that unpacks one package, or fails."""

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        place = Path(command[command.index("--target") + 1])
        (place / "pydantic_core").mkdir(parents=True)
        (place / "pydantic_core/core.so").write_bytes(b"arm")
        (place / "pydantic_core/__pycache__").mkdir()
        (place / "pydantic_core/__pycache__/x.pyc").write_bytes(b"")
        return subprocess.CompletedProcess(command, code, "", "ERROR: No matching distribution")

    return run


def test_another_target_is_downloaded_once_in_the_installed_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", installer(calls))
    other = Target("3.14" if Target.here().python != "3.14" else "3.13", "arm64")
    archive = functions_archive(other)
    assert archive.files["pydantic_core/core.so"] == b"arm"
    assert "pydantic_core/__pycache__/x.pyc" not in archive.files
    assert functions_archive(other).digest == archive.digest
    (command,) = calls
    assert f"pydantic-core=={metadata.version('pydantic-core')}" in command
    assert {"--no-deps", "--only-binary=:all:", "--platform=manylinux2014_aarch64"} <= set(command)
    assert command[command.index("--python-version") + 1] == other.python


def test_failed_download_says_what_to_do_and_leaves_nothing(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", installer([], code=1))
    other = Target("3.14" if Target.here().python != "3.14" else "3.13", "arm64")
    with pytest.raises(DeployError, match=r"on arm64: ERROR: No matching distribution\. Check the network, or"):
        functions_archive(other)
    assert list(cache_folder.iterdir()) == []


def test_missing_dependency_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "aws-lambda-powertools":
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(DeployError, match=r"need the package aws-lambda-powertools.*'sched-plugins\[functions\]'"):
        functions_archive()


def test_an_archive_is_made_once_and_old_ones_go(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(archives, "_byte_code", lambda _: made.append(1) or {})
    variants = [Archive({"a.py": bytes([number])}, Target.here()) for number in range(cache.KEPT_FILES + 2)]
    first = [variant.zipped() for variant in variants]
    assert [variants[-1].zipped(), variants[-2].zipped()] == [first[-1], first[-2]]
    assert len(made) == len(variants)
    assert len(list(cache_folder.iterdir())) == cache.KEPT_FILES


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    archive = Archive({"a.py": b"1"}, Target.here())
    assert archive.zipped() == archive._zipped()


@pytest.mark.parametrize("kind", ["scheduler", "environment"])
def test_every_handler_of_a_template_runs_from_the_archive_alone(kind: Kind, zipped: bytes, tmp_path: Path) -> None:
    resources = template.load(kind)["Resources"].values()
    handlers = {r["Properties"]["Handler"] for r in resources if r["Type"] == "AWS::Serverless::Function"}
    assert handlers
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        archive.extractall(tmp_path)
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", HANDLE, str(tmp_path), *sorted(handlers)],
        env={"POWERTOOLS_SERVICE_NAME": "sched"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert '"message":"said"' in answer.stdout


def test_what_powertools_has_for_others_is_left_out(zipped: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        parts = {
            tuple(name.split("/")[1:3]) for name in archive.namelist() if name.startswith("aws_lambda_powertools/")
        }
    assert not [one for one in parts if one[0] == "event_handler"]
    assert {one[1] for one in parts if one[0] == "utilities"} <= {"__init__.py", "jmespath_utils", "__pycache__"}
