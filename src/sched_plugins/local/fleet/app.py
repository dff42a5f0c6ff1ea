"""The ASGI application: the control page in front, and MiniStack behind with the fleet's services in it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import emulator
from .control import Control
from .fleet import Fleet
from .wire import AwsError, Call, Reply, failure, parse_query

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

#: Paths from here on are the stack's own, not AWS's.
CONTROL_PATH = "/_sched/"


class FleetApp:
    """MiniStack's application, with what the fleet performs taken over from it.

    The fleet stands in MiniStack's table of services and not only in front of its port, because Step
    Functions and others call services from inside.
    """

    def __init__(self, inner: Application, fleet: Fleet, control: Control) -> None:
        self._inner = inner
        self._fleet = fleet
        self._control = control
        for service in fleet.services:
            emulator.wrap_service(service, self._wrap)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection event, as ASGI prescribes."""
        if scope["type"] == "lifespan":
            await self._inner(scope, self._with_lifespan(receive), send)
        elif scope["type"] == "http" and scope["path"].startswith(CONTROL_PATH) and _is_loopback(scope):
            status, value = await self._control.answer(scope["method"], scope["path"], await _read(receive))
            await _send_json(send, status, value)
        else:
            service = _signed_service(scope) if scope["type"] == "http" else ""
            if service:
                self._control.count(service)
            if service == "sqs":
                await self._while_connected(scope, receive, send)
            else:
                await self._inner(scope, receive, send)

    async def _while_connected(self, scope: Message, receive: Receive, send: Send) -> None:
        """Break a request off when its client has gone: a long poll would take messages for nobody."""
        body = await _read(receive)

        async def replayed() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        answering = asyncio.ensure_future(self._inner(scope, replayed, send))
        leaving = asyncio.ensure_future(receive())
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, leaving):
                if not task.done():
                    task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)
        if not answering.cancelled():
            answering.result()

    def _with_lifespan(self, receive: Receive) -> Receive:
        async def receiving() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._fleet.start()
            elif message["type"] == "lifespan.shutdown":
                self._fleet.close()
            return message

        return receiving

    def _wrap(self, service: str, inner: emulator.Service) -> emulator.Service:
        async def answering(
            method: str, path: str, headers: dict[str, str], body: bytes | str, query: dict[str, list[str]]
        ) -> emulator.Answer:
            text = body if isinstance(body, str) else body.decode(errors="replace")
            action = _action(service, headers, text, query)
            if not self._fleet.performs(service, action):
                return await inner(method, path, headers, body, query)
            reply = self._reply(service, action, text, query)
            return reply.status, {"Content-Type": reply.content_type}, reply.body

        return answering

    def _reply(self, service: str, action: str, text: str, query: dict[str, list[str]]) -> Reply:
        account, region = emulator.current_scope()
        try:
            if service == "ssm":
                params = json.loads(text or "{}")
            else:
                params = {**parse_query(text), **{name: values[0] for name, values in query.items()}}
            return self._fleet.answer(Call(service, action, params, account, region))
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
            emulator.log.exception("%s %s", service, action)
            return failure(service, AwsError("InternalFailure", f"the fleet failed: {error!r}", 500))


def _action(service: str, headers: dict[str, str], text: str, query: dict[str, list[str]]) -> str:
    """Name of the action that a request asks for."""
    if service == "ssm":
        return headers.get("x-amz-target", "").rpartition(".")[2]
    if "Action" in query:
        return query["Action"][0]
    return next((part[7:] for part in text.split("&") if part.startswith("Action=")), "")


def _signed_service(scope: Message) -> str:
    """The service that a request's signature names; ``unsigned`` if there is none."""
    # AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, …
    signature: bytes = dict(scope["headers"]).get(b"authorization", b"")
    parts = signature.partition(b"Credential=")[2].partition(b",")[0].split(b"/")
    return parts[3].decode("latin-1") if len(parts) == 5 else "unsigned"


def _is_loopback(scope: Message) -> bool:
    """Whether a request names this machine as its host, and not a bucket or a page elsewhere."""
    host = dict(scope["headers"]).get(b"host", b"").rpartition(b":")[0]
    return host in (b"127.0.0.1", b"localhost")


async def _read(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


async def _send_json(send: Send, status: int, value: dict[str, Any]) -> None:
    body = json.dumps(value).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
