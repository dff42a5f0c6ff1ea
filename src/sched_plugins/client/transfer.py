"""Several files at once between a folder and S3, with progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig

from sched_plugins.client.connection import Connection
from sched_plugins.errors import InvalidInput, Unknown

FILES_AT_ONCE: Final = 8
PARTS_AT_ONCE: Final = 4
"""Of one large file (boto3 sends files over 8 MiB in parts)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file and its object."""

    key: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a transfer is."""

    files_done: int
    files: int
    bytes_done: int
    bytes: int
    key: str
    """The object that moved last."""


ProgressCallback = Callable[[Progress], None]


class Stopped(Exception):
    """Raised inside transfers that are under way when another one fails or the caller gives up."""


class Transfer:
    """Moves files between a folder and a bucket. One call at least for each file, more for large ones.

    Args:
        connection: how to reach AWS.
        bucket: the bucket.
        items: all files that will be moved, for the totals of the progress.
        progress: told after each part and file, by one thread at a time.
    """

    def __init__(
        self, connection: Connection, bucket: str, items: Sequence[Item], progress: ProgressCallback | None
    ) -> None:
        self._connection = connection
        self._bucket = bucket
        self._progress = progress
        self._files, self._bytes = len(items), sum(item.size for item in items)
        self._files_done = self._bytes_done = 0
        self._lock = threading.Lock()
        self._stopped = False
        self._config = TransferConfig(max_concurrency=PARTS_AT_ONCE)

    def upload(self, items: Sequence[Item], metadata: Mapping[str, str] | None = None) -> None:
        """Upload these files; the first error ends it."""
        extra = {"Metadata": dict(metadata)} if metadata else None

        def put(s3: Any, item: Item, told: Callable[[int], None]) -> None:
            s3.upload_file(str(item.path), self._bucket, item.key, ExtraArgs=extra, Callback=told, Config=self._config)

        self._each(items, put)

    def download(self, items: Sequence[Item]) -> None:
        """Download these objects; each file appears whole or not at all. The first error ends it."""

        def fetch(s3: Any, item: Item, told: Callable[[int], None]) -> None:
            item.path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(self._bucket, item.key, str(item.path), Callback=told, Config=self._config)

        self._each(items, fetch)

    def _each(self, items: Sequence[Item], move: Callable[[Any, Item, Callable[[int], None]], None]) -> None:
        s3 = self._connection.client("s3")

        def one(item: Item) -> None:
            with self._connection.doing(f"move s3://{self._bucket}/{item.key}"):
                try:
                    move(s3, item, lambda size: self._tell(item, size, 0))
                except Boto3Error as error:
                    # What boto3 wraps says only that "an error occurred"; its cause says which.
                    if isinstance(error.__context__, Exception) and not isinstance(error.__context__, Boto3Error):
                        raise error.__context__ from None
                    raise Unknown(f"cannot move s3://{self._bucket}/{item.key}: {error}") from error
            self._tell(item, 0, 1)

        self._stopped = False
        pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="sched-transfer")
        try:
            futures = [pool.submit(one, item) for item in items]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done():
                    future.result()
        except OSError as error:
            raise InvalidInput(f"cannot use {error.filename or 'a file'}: {error.strerror or error}") from error
        finally:
            self._stopped = True
            pool.shutdown(wait=True, cancel_futures=True)

    def _tell(self, item: Item, size: int, files: int) -> None:
        with self._lock:
            if self._stopped:
                raise Stopped
            self._bytes_done += size
            self._files_done += files
            if self._progress is not None:
                self._progress(Progress(self._files_done, self._files, self._bytes_done, self._bytes, item.key))
