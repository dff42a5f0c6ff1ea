"""Job state changes on Amazon EventBridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sched_plugins.aws.answers import ERRORS, answer, classify_entry, failure
from sched_plugins.aws.batches import batches
from sched_plugins.aws.clients import Clients
from sched_plugins.aws.settings import Settings
from sched_plugins.core import limits
from sched_plugins.core.message import dump
from sched_plugins.errors import Refused, Unknown

SOURCE: Final = "sched-plugins"
DETAIL_TYPE: Final = "Scheduler Job State Change"

# AWS, "Calculating PutEvents event entry size": the UTF-8 bytes of Source, DetailType and Detail.
_OVERHEAD: Final = len(SOURCE) + len(DETAIL_TYPE)
# Error codes of an entry for which EventBridge itself is to blame.
_INTERNAL: Final = frozenset({"InternalFailure", "InternalException", "InternalServerError"})


class EventBridgeEvents:
    """:class:`~sched_plugins.ports.Events` on one event bus."""

    def __init__(self, settings: Settings, clients: Clients) -> None:
        self._bus = settings.event_bus
        self._clients = clients

    def publish(self, details: Sequence[Mapping[str, Any]]) -> Sequence[Exception | None]:
        """The outcome of publishing each state change, in order. One PutEvents for each ten, or 256 KiB.

        Every failure is an outcome; nothing is raised.
        """
        texts = [dump(detail) for detail in details]
        sizes = [_OVERHEAD + len(text.encode(errors="replace")) for text in texts]
        outcomes: list[Exception | None] = [
            failure(Refused, f"an event to {self._bus!r}", f"its {size:,} bytes are over EventBridge's limit")
            if size > limits.MAX_EVENT_BYTES
            else None
            for size in sizes
        ]
        for batch in batches(sizes, limits.EVENTS_BATCH, limits.MAX_EVENT_BYTES):
            for index, outcome in zip(batch, self._put([texts[index] for index in batch]), strict=True):
                outcomes[index] = outcome
        return outcomes

    def _put(self, texts: Sequence[str]) -> Sequence[Exception | None]:
        action = f"PutEvents to {self._bus!r}"
        try:
            reply = self._clients.events.put_events(
                Entries=[
                    {"Source": SOURCE, "DetailType": DETAIL_TYPE, "Detail": text, "EventBusName": self._bus}
                    for text in texts
                ]
            )
        except ERRORS as error:
            return [answer(error, action)] * len(texts)
        entries: Sequence[Mapping[str, Any]] = reply.get("Entries", [])
        if len(entries) != len(texts):
            return [failure(Unknown, action, "EventBridge did not say what became of each event")] * len(texts)
        return [_outcome(entry, action) for entry in entries]


def _outcome(entry: Mapping[str, Any], action: str) -> Exception | None:
    code = entry.get("ErrorCode", "")
    if not code and entry.get("EventId"):
        return None
    kind = classify_entry(code, caller_fault=bool(code) and code not in _INTERNAL)
    return failure(kind, action, f"{code}: {entry.get('ErrorMessage', '')}")
