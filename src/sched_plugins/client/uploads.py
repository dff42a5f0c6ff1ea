"""Uploading a job folder, the executable last: its arrival is what starts the job."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from sched_plugins.client.connection import Connection
from sched_plugins.client.run import Run
from sched_plugins.client.transfer import Item, ProgressCallback, Transfer
from sched_plugins.errors import InvalidInput

_LONGEST_KEY: Final = 1024  # AWS S3: bytes of a key, in UTF-8


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A job folder that was uploaded."""

    job_id: str
    """The executable's address, which is the job's id."""
    folder: str
    """The S3 folder."""
    files: int
    bytes: int
    after: str = ""
    """Run id of the job before this upload; empty if there was none."""

    @property
    def run(self) -> Run:
        """What to wait for: the run that this upload starts, which comes when its event has been handled."""
        return Run(self.job_id, after=self.after, may_come=True)


def plan(folder: Path, executable: str, prefix: str, suffix: str, *, several: bool = False) -> list[Item]:
    """The files to upload, the executable last. Nothing is sent.

    Args:
        folder: the job folder.
        executable: the file that starts the job, relative to the folder.
        prefix: the S3 folder; empty, or ending in ``/``.
        suffix: end of the keys that start jobs.
        several: other files may end in the suffix too; each starts a job of its own.

    Raises:
        InvalidInput: the folder, the executable or a key cannot be.
    """
    if not folder.is_dir():
        raise InvalidInput(f"{str(folder)!r} is not a folder")
    name = PurePath(executable)
    if name.is_absolute() or ".." in name.parts:
        raise InvalidInput(f"executable {executable!r} must be a path inside {str(folder)!r}")
    items = [_item(folder, path, prefix) for path in sorted(_files(folder))]
    if not items:
        raise InvalidInput(f"{str(folder)!r} holds no files; a job folder needs at least its executable")
    start = folder / name
    first = [item for item in items if item.path != start]
    last = [item for item in items if item.path == start]
    if not last:
        raise InvalidInput(f"{str(folder)!r} holds no file {executable!r}{_instead(items, folder, suffix)}")
    if not last[0].key.endswith(suffix):
        instead = _instead(items, folder, suffix)
        raise InvalidInput(f"{executable!r} does not end in {suffix!r}, so its upload would start nothing{instead}")
    others = [item for item in first if item.key.endswith(suffix)]
    if others and not several:
        names = ", ".join(repr(str(item.path.relative_to(folder))) for item in others[:3])
        raise InvalidInput(
            f"{names} also end in {suffix!r}, so each would start a job of its own; rename them, or say that you "
            "mean it (several=True, --several)"
        )
    return [item for item in first if item not in others] + others + last


def send(
    connection: Connection, bucket: str, items: list[Item], suffix: str, progress: ProgressCallback | None
) -> None:
    """Upload what :func:`plan` gave: files that start nothing first, then those that do, the last one last."""
    transfer = Transfer(connection, bucket, items, progress)
    transfer.upload([item for item in items if not item.key.endswith(suffix)])
    for item in items:
        if item.key.endswith(suffix):
            transfer.upload([item])


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if not path.is_file():
                raise InvalidInput(f"{str(path)!r} is no regular file (a broken link, a socket, …); remove it")
            yield path


def _item(folder: Path, path: Path, prefix: str) -> Item:
    key = prefix + path.relative_to(folder).as_posix()
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidInput(f"{str(path)!r} has a name that is not valid Unicode; rename it") from None
    if length > _LONGEST_KEY:
        raise InvalidInput(f"key {key[:60]!r}… is {length:,} bytes long; S3 allows {_LONGEST_KEY:,}")
    return Item(key, path, path.stat().st_size)


def _instead(items: list[Item], folder: Path, suffix: str) -> str:
    fitting = [str(item.path.relative_to(folder)) for item in items if item.key.endswith(suffix)]
    return f"; {', '.join(map(repr, fitting[:3]))} would" if fitting else f"; no file of it ends in {suffix!r}"


def folder_prefix(folder: Path, prefix: str | None) -> str:
    """The S3 folder of a job folder: as given, or its own name.

    Raises:
        InvalidInput: the prefix would leave the bucket's top in a surprising way.
    """
    chosen = folder.resolve().name if prefix is None else prefix
    if chosen.startswith("/") or "//" in chosen or {".", ".."} & set(chosen.split("/")):
        raise InvalidInput(f"prefix {chosen!r} must be a path inside the bucket, without a leading '/', '//' or '..'")
    return f"{chosen.rstrip('/')}/" if chosen.strip("/") else ""
