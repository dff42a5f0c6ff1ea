"""The ASGI application: the fleet in front, its control page beside, MiniStack behind."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from . import emulator
from .control import Control
from .fleet import Fleet
from .wire import AwsError, Call, Reply, failure, parse_query

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_JSON_TARGET = "AmazonSSM."
_FORM = "application/x-www-form-urlencoded"
#: Paths from here on are the stack's own, not AWS's.
CONTROL_PATH = "/_sched/"


class FleetApp:
    """Answers what the fleet performs and passes every other request on, untouched."""

    def __init__(self, inner: Application, fleet: Fleet, control: Control) -> None:
        self._inner = inner
        self._fleet = fleet
        self._control = control

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection event, as ASGI prescribes."""
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"].startswith(CONTROL_PATH) and _is_loopback(scope):
            body = await _read(receive)
            status, value = await self._control.answer(scope["method"], scope["path"], body)
            await _send(send, Reply(status, "application/json", json.dumps(value).encode(), ""))
            return
        if scope["type"] == "http" and scope["method"] in ("POST", "GET"):
            headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
            service = _service(headers)
            if service:
                body = await _read(receive)
                call = self._call(service, headers, scope.get("query_string", b""), body)
                if call:
                    await _send(send, self._reply(call))
                    return
                receive = _replay(body, receive)
        await self._inner(scope, receive, send)

    def _call(self, service: str, headers: dict[str, str], query: bytes, body: bytes) -> Call | None:
        if service == "ssm":
            action = headers["x-amz-target"].removeprefix(_JSON_TARGET)
            if not self._fleet.performs(service, action):
                return None
            params = json.loads(body or b"{}")
        else:
            text = "&".join(part for part in (query.decode(), body.decode()) if part)
            action = parse_qs(text).get("Action", [""])[0]
            if not self._fleet.performs(service, action):
                return None
            params = parse_query(text)
        account, region = emulator.caller(headers)
        return Call(service, action, params, account, region)

    def _reply(self, call: Call) -> Reply:
        try:
            return self._fleet.answer(call)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            emulator.log.exception("%s %s", call.service, call.action)
            return failure(call.service, AwsError("InternalFailure", f"the fleet failed: {error!r}", 500))

    async def _lifespan(self, scope: Message, receive: Receive, send: Send) -> None:
        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._fleet.start()
            elif message["type"] == "lifespan.shutdown":
                self._fleet.close()
            return message

        await self._inner(scope, receiving, send)


def _is_loopback(scope: Message) -> bool:
    """Whether a request names this machine as its host, and not a bucket or a page elsewhere."""
    host = dict(scope["headers"]).get(b"host", b"").rpartition(b":")[0]
    return host in (b"127.0.0.1", b"localhost")


def _service(headers: dict[str, str]) -> str | None:
    """Which of the fleet's services a request may be for."""
    if headers.get("x-amz-target", "").startswith(_JSON_TARGET):
        return "ssm"
    # Credential=<key>/<date>/<region>/<service>/aws4_request
    parts = headers.get("authorization", "").partition("Credential=")[2].partition(",")[0].split("/")
    if len(parts) == 5 and parts[3] in ("ec2", "autoscaling"):
        return parts[3]
    return None


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replaying() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replaying


async def _send(send: Send, reply: Reply) -> None:
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", str(len(reply.body)).encode()),
    ]
    if reply.request_id:
        headers.append((b"x-amzn-requestid", reply.request_id.encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
