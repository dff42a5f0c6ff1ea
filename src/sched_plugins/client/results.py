"""Fetching what a job wrote to its results folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sched_plugins.client.connection import Connection
from sched_plugins.client.transfer import Item, ProgressCallback, Transfer
from sched_plugins.errors import NotFound

INTERNAL: Final = "_sched/"
"""Below a results folder: the manifest, and what failed attempts wrote."""
_LONGEST_NAME = 255  # bytes of one file name, on every common file system


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was downloaded."""

    folder: Path
    source: str
    """The S3 folder."""
    files: tuple[Path, ...]
    """Relative to ``folder``."""
    bytes: int
    skipped: tuple[str, ...]
    """Keys that cannot be files below ``folder`` (``..``, an absolute path, a name that is also a folder's)."""


def fetch(
    connection: Connection,
    source: str,
    destination: Path,
    *,
    internal: bool = False,
    progress: ProgressCallback | None = None,
) -> Fetched:
    """Download every object below an S3 folder. AWS calls: one ListObjectsV2 for 1,000 objects, one GetObject each.

    Args:
        connection: how to reach AWS.
        source: address of the folder.
        destination: local folder; made if it is missing. Files in it are replaced.
        internal: also what is below ``_sched/``.
        progress: told after each part and file.

    Raises:
        NotFound: there is nothing below the folder.
    """
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    prefix = prefix if prefix.endswith("/") or not prefix else f"{prefix}/"
    root = destination.expanduser().resolve()
    items: list[Item] = []
    skipped: list[str] = []
    taken: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for key, size in sorted(listing(connection, bucket, prefix)):
        name = key.removeprefix(prefix)
        if not name or name.endswith("/") or (not internal and name.startswith(INTERNAL)):
            continue
        relative = safe_path(name)
        inside = relative is not None and (root / relative).parent.resolve().is_relative_to(root)
        if relative is None or not inside or relative in folders or taken & set(relative.parents):
            skipped.append(key)
            continue
        taken.add(relative)
        folders.update(relative.parents)
        items.append(Item(key, root / relative, size))
    if not items and not skipped:
        raise NotFound(f"there are no results at {source!r} yet")
    Transfer(connection, bucket, items, progress).download(items)
    files = tuple(item.path.relative_to(root) for item in items)
    return Fetched(destination, source, files, sum(item.size for item in items), tuple(skipped))


def safe_path(name: str) -> PurePosixPath | None:
    """The relative path that a key names, or None if it can be no file below a folder."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\0" in part or len(part.encode()) > _LONGEST_NAME for part in parts):
        return None
    return PurePosixPath(*parts)


def listing(connection: Connection, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Keys and sizes of the objects below a prefix. One ListObjectsV2 for 1,000 objects.

    Raises:
        NotFound: there is no such bucket.
    """
    missing = NotFound(f"there is no bucket {bucket!r} in {connection.place}")
    with connection.doing(f"list s3://{bucket}/{prefix}", missing):
        pages = connection.client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for found in page.get("Contents", ()):
                yield str(found["Key"]), int(found["Size"])
