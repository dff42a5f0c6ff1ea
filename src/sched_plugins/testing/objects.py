"""S3 in memory, as far as the rules use it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sched_plugins.core import limits
from sched_plugins.errors import Refused
from sched_plugins.ports import Clock, StoredObject


@dataclass(frozen=True, slots=True)
class Body:
    """One stored object."""

    content: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    visible_at: datetime | None = None

    @property
    def etag(self) -> str:
        """Changes with the content."""
        return hashlib.sha256(self.content).hexdigest()[:32]


class MemoryObjects:
    """The ``Objects`` port, in memory.

    Attributes:
        stored: everything, by address.
        size_limit: bytes of the largest object that is searched.
    """

    def __init__(self, clock: Clock) -> None:
        self.stored: dict[str, Body] = {}
        self.size_limit = limits.MAX_SCANNED_OUTPUT
        self._clock = clock

    def _visible(self, uri: str) -> Body | None:
        body = self.stored.get(uri)
        if body is None or (body.visible_at is not None and body.visible_at > self._clock.now()):
            return None
        return body

    def contains(self, uri: str, needle: str) -> bool | None:
        """Whether the object contains the text; None if there is no object.

        Raises:
            Refused: the object is larger than the limit.
        """
        body = self._visible(uri)
        if body is None:
            return None
        if len(body.content) > self.size_limit:
            raise Refused(f"{uri} is {len(body.content):,} bytes long; at most {self.size_limit:,} are searched")
        return needle.encode() in body.content

    def tail(self, uri: str, size: int) -> str | None:
        """The last ``size`` bytes of the object; None if there is no object."""
        body = self._visible(uri)
        return None if body is None else body.content[-size:].decode(errors="replace")

    def listing(self, folder: str, maximum: int) -> Sequence[StoredObject]:
        """Objects below a folder address, at most ``maximum``; keys are relative to the folder."""
        found = sorted(uri for uri in self.stored if uri.startswith(folder) and self._visible(uri))
        bodies = [(uri.removeprefix(folder), self.stored[uri]) for uri in found[:maximum]]
        return [StoredObject(key, len(body.content), body.etag) for key, body in bodies]

    def put(self, uri: str, body: bytes, metadata: Mapping[str, str]) -> None:
        """Store an object."""
        self.stored[uri] = Body(body, dict(metadata))

    def metadata(self, uri: str) -> Mapping[str, str] | None:
        """The metadata of an object, and its ``etag``; None if there is no object."""
        body = self._visible(uri)
        return None if body is None else {**body.metadata, "etag": body.etag}

    def store_rejected(self, message_id: str, body: str) -> str:
        """Keep the whole body of a rejected message; returns its address."""
        uri = f"s3://sched-output/rejected/{message_id}"
        self.put(uri, body.encode(errors="replace"), {})
        return uri
