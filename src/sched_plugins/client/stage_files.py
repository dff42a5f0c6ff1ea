"""What a stage is started with: its executable and input files, put where its environment reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sched_plugins.client.environment import EnvironmentClient
from sched_plugins.client.identity import fitted
from sched_plugins.core.environment import ENVIRONMENT_METADATA
from sched_plugins.errors import InvalidInput, NotFound

_LONGEST_FOLDER: Final = 600
"""Characters of a results folder's key: leaves room for the names of files (S3 allows 1,024 bytes)."""


def job_folder(bucket: str, job_id: str) -> str:
    """The S3 folder of a job of its own in an environment's bucket."""
    return f"s3://{bucket}/{fitted(job_id, _LONGEST_FOLDER)}/"


def own_metadata(environment: EnvironmentClient) -> dict[str, str]:
    """Metadata that keeps a file from being taken for an upload that starts a job."""
    return {ENVIRONMENT_METADATA: environment.name}


def check_executable(executable: str) -> str:
    """The executable itself, if it is an existing local file, an S3 address or an absolute path of the image.

    Raises:
        NotFound: it is none of them.
    """
    if executable.startswith("s3://") or Path(executable).is_file():
        return executable
    if executable.startswith("/") or ":\\" in executable:
        return executable  # On the worker's image.
    raise NotFound(
        f"there is no file {executable!r} here; give an existing local file, an S3 address, or an absolute path on "
        "the worker's image"
    )


def stored_executable(environment: EnvironmentClient, executable: str) -> str:
    """Where the executable is; a local one is stored by its content, as a deployment of a pipeline does.

    Raises:
        NotFound: as :func:`check_executable`.
    """
    path = Path(check_executable(executable))
    if executable.startswith("s3://") or not path.is_file():
        return executable
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    uri = f"s3://{environment.bucket}/_stage/{digest}/{path.name}"
    environment.store(uri, path, metadata=own_metadata(environment))
    return uri


def local_inputs(folder: str | Path | None) -> list[Path]:
    """The files of a local input folder; none where there is no such folder asked for.

    Raises:
        NotFound: there is no such folder.
        InvalidInput: it holds no files.
    """
    if not folder:
        return []
    here = Path(folder)
    if not here.is_dir():
        raise NotFound(f"input_folder {str(folder)!r} is no folder here; give one that exists")
    files = sorted(path for path in here.rglob("*") if path.is_file())
    if not files:
        raise InvalidInput(f"input_folder {str(folder)!r} holds no files; put the inputs there")
    return files


def store_inputs(environment: EnvironmentClient, files: Sequence[Path], folder: str | Path, target: str) -> None:
    """Upload local input files below an S3 folder. One PutObject each, or more for large ones."""
    for path in files:
        environment.store(
            f"{target}{path.relative_to(str(folder)).as_posix()}", path, metadata=own_metadata(environment)
        )
