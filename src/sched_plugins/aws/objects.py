"""Objects in Amazon S3, by their ``s3://bucket/key`` addresses.

S3 says that an object is not there only to callers that may list its bucket (``s3:ListBucket``); to others it
says "access denied".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final
from urllib.parse import quote

from sched_plugins.aws.answers import ERRORS, answer, code_of
from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings
from sched_plugins.core import limits
from sched_plugins.errors import InvalidInput, Refused
from sched_plugins.ports import StoredObject

REJECTED: Final = "rejected"
"""Folder of the output bucket for the bodies of rejected messages."""

_SCHEME: Final = "s3://"
_PAGE: Final = 1000  # AWS, ListObjectsV2: at most 1,000 a page
_NO_OBJECT: Final = frozenset({"NoSuchKey", "404"})  # a reply to HEAD has no body, so no better code


class S3Objects:
    """:class:`~sched_plugins.ports.Objects` on S3."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._settings = settings
        self._clients = clients

    def contains(self, uri: str, needle: str) -> bool | None:
        """Whether the object contains the text; None if there is no object. One GetObject.

        It is read in chunks of 8 MiB; each is searched together with the end of the one before, so that no place
        is missed and memory stays bounded. Reading ends at the first place found.

        Raises:
            Refused: the object is larger than 5 GiB.
        """
        reply = self._get(uri)
        if reply is None:
            return None
        if reply["ContentLength"] > limits.MAX_SCANNED_OUTPUT:
            reply["Body"].close()
            size, most = reply["ContentLength"], limits.MAX_SCANNED_OUTPUT // limits.GIB
            raise Refused(f"{uri!r} is {size:,} bytes long; at most {most} GiB are searched for a text")
        wanted = needle.encode()
        window = b""
        try:
            while chunk := reply["Body"].read(limits.OUTPUT_CHUNK):
                window += chunk
                if wanted in window:
                    return True
                window = window[max(0, len(window) - len(wanted) + 1) :]
        except ERRORS as error:
            raise answer(error, f"GetObject of {uri!r}") from error
        finally:
            reply["Body"].close()
        return not wanted

    def tail(self, uri: str, size: int) -> str | None:
        """The last ``size`` bytes of the object; None if there is no object. One GetObject.

        Bytes that are not UTF-8, such as the rest of a character cut at the beginning, are replaced.
        """
        try:
            reply = self._get(uri, Range=f"bytes=-{size}")
            return None if reply is None else str(reply["Body"].read().decode(errors="replace"))
        except ERRORS as error:
            if code_of(error) == "InvalidRange":
                return ""  # The object is empty: no range can be had of it.
            raise answer(error, f"GetObject of {uri!r}") from error

    def listing(self, folder: str, maximum: int) -> Sequence[StoredObject]:
        """Objects below a folder address, at most ``maximum``, sorted by key; keys are relative to the folder.

        One ListObjectsV2 a thousand. An object at the address itself, as consoles make to show a folder, is no
        file of it.
        """
        return list(islice(self._below(folder), maximum))

    def _below(self, folder: str) -> Iterator[StoredObject]:
        bucket, prefix = _split(folder if folder.endswith("/") else f"{folder}/")
        pages = self._clients.s3.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": _PAGE}
        )
        try:
            for page in pages:
                for found in page.get("Contents", []):
                    if key := found["Key"].removeprefix(prefix):
                        yield StoredObject(key, found["Size"], found["ETag"].strip('"'))
        except ERRORS as error:
            raise answer(error, f"ListObjectsV2 of {folder!r}") from error

    def put(self, uri: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Store an object. One PutObject.

        Metadata travels in HTTP headers: a value that is not printable ASCII is stored percent-encoded.
        """
        bucket, key = _split(uri)
        headers = {name: _header(value) for name, value in metadata.items()}
        try:
            self._clients.s3.put_object(Bucket=bucket, Key=key, Body=body, Metadata=headers)
        except ERRORS as error:
            raise answer(error, f"PutObject of {uri!r}") from error

    def metadata(self, uri: str) -> Mapping[str, str] | None:
        """The metadata of an object, and its ``etag`` without quotes; None if there is no object. One HeadObject."""
        bucket, key = _split(uri)
        try:
            reply = self._clients.s3.head_object(Bucket=bucket, Key=key)
        except ERRORS as error:
            if code_of(error) in _NO_OBJECT:
                return None
            raise answer(error, f"HeadObject of {uri!r}") from error
        return {**reply["Metadata"], "etag": reply["ETag"].strip('"')}

    def store_rejected(self, message_id: str, body: str) -> str:
        """Keep the whole body of a rejected message; returns its address. One PutObject."""
        uri = f"{_SCHEME}{self._settings.needed('output_bucket')}/{REJECTED}/{message_id}"
        self.put(uri, body.encode(errors="replace"), {})
        return uri

    def _get(self, uri: str, **arguments: Any) -> Any:
        bucket, key = _split(uri)
        try:
            return self._clients.s3.get_object(Bucket=bucket, Key=key, **arguments)
        except ERRORS as error:
            if code_of(error) in _NO_OBJECT:
                return None
            if code_of(error) == "InvalidRange":
                raise
            raise answer(error, f"GetObject of {uri!r}") from error


def _header(value: str) -> str:
    return value if value.isascii() and value.isprintable() else quote(value, errors="replace")


def _split(uri: str) -> tuple[str, str]:
    """Bucket and key of an address.

    Raises:
        InvalidInput: it is not one.
    """
    bucket, _, key = uri.removeprefix(_SCHEME).partition("/")
    if not uri.startswith(_SCHEME) or not bucket:
        raise InvalidInput(f"{uri!r} is not an S3 address; it has the form s3://bucket/key")
    return bucket, key
