"""The functions' code as one zip archive: this package's rules and handlers, and what Lambda has not.

The archive is named by the hash of its contents, so an unchanged package is uploaded once. Where the running
interpreter is what the functions will run on, the files are those installed here and no network is needed;
otherwise the same versions are downloaded for the target.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from sched_plugins.deploy import cache
from sched_plugins.errors import DeployError, InvalidSettings

#: Distributions that the handlers import and Lambda's Python runtimes lack (boto3 is in the runtime).
DISTRIBUTIONS = (
    "annotated-types",
    "aws-lambda-powertools",
    "jmespath",
    "pydantic",
    "pydantic-core",
    "typing-extensions",
    "typing-inspection",
)
#: Parts of this package that no handler needs.
_LEFT_OUT = frozenset(
    {"airflow", "cli", "client", "deploy", "infra", "local", "pipeline", "prefect", "testing", "__pycache__"}
)
_POWERTOOLS = "aws_lambda_powertools"
#: All that its logger, which is what the handlers use of it, needs of Powertools' utilities.
_UTILITIES = frozenset({"__init__.py", "jmespath_utils"})
#: Lambda's Python runtimes, and the newest glibc that compiled files may ask for there: 3.11 runs on
#: Amazon Linux 2, the others on Amazon Linux 2023. Source: AWS Lambda Developer Guide, "Lambda runtimes".
_GLIBC = {"3.11": 26, "3.12": 34, "3.13": 34, "3.14": 34}
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
_WHEEL_MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}
#: The earliest time that a zip archive can hold: every file has it, whenever it was packaged.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Target:
    """What the functions run on: a Python version (``3.13``) and an architecture (``x86_64`` or ``arm64``)."""

    python: str = "3.13"
    architecture: str = "x86_64"

    def __post_init__(self) -> None:
        if self.python not in _GLIBC or self.architecture not in _WHEEL_MACHINES:
            raise InvalidSettings(
                f"Lambda has no Python {self.python} on {self.architecture}: "
                f"choose one of {', '.join(_GLIBC)}, on x86_64 or arm64"
            )

    @classmethod
    def here(cls) -> Target:
        """The running interpreter's, if Lambda has such a runtime; otherwise Python 3.13 on x86_64."""
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        machine = _MACHINES.get(platform.machine().lower())
        if sys.platform == "linux" and machine and python in _GLIBC:
            return cls(python, machine)
        return cls()

    @property
    def runtime(self) -> str:
        """Lambda's name of the runtime."""
        return f"python{self.python}"


@dataclass(frozen=True)
class Archive:
    """The files of the functions' package; the same files always have the same digest."""

    files: dict[str, bytes]
    target: Target

    @cached_property
    def digest(self) -> str:
        """Hash of the names and contents, whatever the compression makes of them."""
        whole = hashlib.sha256(f"{self.target.runtime} {self.target.architecture}\n".encode())
        for name in sorted(self.files):
            whole.update(f"{name}\0{hashlib.sha256(self.files[name]).hexdigest()}\n".encode())
        return whole.hexdigest()

    def zipped(self) -> bytes:
        """The zip archive: sorted names, one time for all, readable by Lambda's user."""
        return cache.kept("functions", self.digest, ".zip", self._zipped)

    def _zipped(self) -> bytes:
        # Lambda's copy is read-only, so without byte code Python would compile every module at each cold start.
        files = {**self.files, **_byte_code(self.files)} if self.target == Target.here() else self.files
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.create_system = 3
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, files[name])
        return buffer.getvalue()


def functions_archive(target: Target | None = None) -> Archive:
    """Collect the functions' package for ``target`` (by default the running interpreter's, or Python 3.13).

    Raises:
        DeployError: a needed distribution is not installed, or cannot be downloaded for the target.
    """
    chosen = target or Target.here()
    files = dict(_own_files())
    versions = {name: _version(name) for name in DISTRIBUTIONS}
    if chosen == Target.here() and all(_fits(name, chosen) for name in DISTRIBUTIONS):
        for name in DISTRIBUTIONS:
            files.update(_installed_files(name))
    else:
        files.update(_tree(_downloaded(versions, chosen)))
    return Archive(files, chosen)


def _byte_code(files: dict[str, bytes]) -> dict[str, bytes]:
    """Each module compiled by the running interpreter; of one that does not compile there is none.

    Compiled in a process of its own with a fixed hash seed, since byte code differs a little with what else a
    process has in memory. Python takes it without looking at the source again.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, content in files.items():
            if name.endswith(".py"):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        arguments = ["-q", "-q", "--invalidation-mode", "unchecked-hash", "-s", folder, folder]
        subprocess.run(  # noqa: S603 - the arguments are ours
            [sys.executable, "-S", "-s", "-m", "compileall", *arguments],
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPYCACHEPREFIX": ""},
            check=False,
        )
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.pyc")}


def _own_files() -> Iterator[tuple[str, bytes]]:
    root = Path(__file__).resolve().parent.parent
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        if path.is_file() and path.suffix != ".pyc" and Path(parts[0]).stem not in _LEFT_OUT:
            yield "/".join((root.name, *parts)), path.read_bytes()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        raise DeployError(
            f"the functions need the package {name}, which is not installed. "
            "Run `pip install 'sched-plugins[functions]'`."
        ) from None


def _fits(name: str, target: Target) -> bool:
    """Whether the files installed here run on ``target``: pure Python, or compiled for its glibc or older."""
    tags = [
        line.split(":", 1)[1].strip()
        for line in (metadata.distribution(name).read_text("WHEEL") or "").splitlines()
        if line.startswith("Tag:")
    ]
    machine = _WHEEL_MACHINES[target.architecture]
    usable = {f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC[target.python] + 1)}
    usable |= {f"manylinux2014_{machine}", "any"}
    return any(part in usable for tag in tags for part in tag.rsplit("-", 1)[-1].split("."))


def _installed_files(name: str) -> Iterator[tuple[str, bytes]]:
    distribution = metadata.distribution(name)
    for path in distribution.files or ():
        if _wanted(PurePosixPath(path)):
            yield path.as_posix(), Path(str(distribution.locate_file(path))).read_bytes()


def _tree(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in root.rglob("*"):
        relative = PurePosixPath(path.relative_to(root).as_posix())
        if path.is_file() and _wanted(relative):
            yield str(relative), path.read_bytes()


def _wanted(path: PurePosixPath) -> bool:
    """Whether a distribution's file is code that is used, or a licence.

    What an installer adds differs from place to place.
    """
    if ".." in path.parts or "__pycache__" in path.parts or path.is_absolute() or path.parts[0] == "bin":
        return False
    if path.parts[0].endswith(".dist-info"):
        return "licenses" in path.parts or path.name.startswith(("LICENSE", "NOTICE", "METADATA"))
    if path.is_relative_to(f"{_POWERTOOLS}/event_handler"):
        return False
    if path.is_relative_to(f"{_POWERTOOLS}/utilities") and path.parts[2] not in _UTILITIES:
        return False
    return path.suffix not in {".pyc", ".pyi", ".pth"}


def _downloaded(versions: dict[str, str], target: Target) -> Path:
    """A folder with the distributions for the target; kept in the user's cache for the next time."""
    pins = [f"{name}=={version}" for name, version in sorted(versions.items())]
    mark = hashlib.sha256(" ".join(pins).encode()).hexdigest()[:16]
    folder = cache.folder() / f"{target.runtime}-{target.architecture}-{mark}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        place = Path(fresh) / "packages"
        answer = subprocess.run(  # noqa: S603 - the arguments are ours
            [*_installer(target), "--target", str(place), *pins], capture_output=True, text=True, check=False
        )
        if answer.returncode:
            lines = answer.stderr.strip().splitlines()[-3:]
            raise DeployError(
                f"cannot download the functions' packages for {target.runtime} on {target.architecture}: "
                f"{' / '.join(lines)}. Check the network, or deploy from Linux on {target.architecture} "
                f"with Python {target.python}, where nothing is downloaded."
            )
        try:
            place.rename(folder)
        except OSError:  # another deployment was faster
            if not folder.is_dir():
                raise
    return folder


def _installer(target: Target) -> list[str]:
    """The command that installs wheels for another platform: pip, or uv where an environment has no pip."""
    machine = _WHEEL_MACHINES[target.architecture]
    common = ["--no-deps", "--only-binary=:all:", "--quiet", "--python-version", target.python]
    if find_spec("pip"):
        platforms = [f"--platform=manylinux2014_{machine}"]
        if _GLIBC[target.python] >= 28:
            platforms.append(f"--platform=manylinux_2_28_{machine}")
        quiet = ["--disable-pip-version-check", "--no-compile", "--implementation=cp"]
        return [sys.executable, "-m", "pip", "install", *common, *platforms, *quiet]
    uv = shutil.which("uv")
    if uv is None:
        raise DeployError(
            f"packaging for {target.runtime} on {target.architecture} needs pip or uv, and neither is here. "
            "Install one, or deploy from Linux with that Python."
        )
    return [uv, "pip", "install", *common, "--python-platform", f"{machine}-manylinux2014"]
