"""What each request passes on its way in: its id, the guard, the limits of its body; and its answer on the way out."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from shardnet.serve.errors import ApiError, as_api_error
from shardnet.serve.guard import Guard, client_of
from shardnet.serve.metrics import Metrics
from shardnet.serve.settings import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
NAMES = re.compile(r"[A-Za-z0-9, -]{1,1000}")
SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_log = logging.getLogger("shardnet.serve")


class Door:
    """An ASGI application around another one. Every failure leaves it in the API's own shape."""

    def __init__(self, app: App, guard: Guard, limits: Limits, metrics: Metrics) -> None:
        self._app = app
        self._guard = guard
        self._limits = limits
        self._metrics = metrics
        self.ending = asyncio.Event()
        """Set in the loop when the server is told to end: what is under way is ended with a word."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        await self._answer(scope, receive, send)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        given = headers.get("x-request-id", "")
        request_id = given if ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        address = (scope.get("client") or ("",))[0]
        scope["shardnet"] = {"id": request_id, "client": client_of(headers, address), "ending": self.ending}
        begun_s, asked = time.perf_counter(), scope
        origin = self._guard.shared_with(headers)
        is_head = scope["method"] == "HEAD"
        out = _Out(send, request_id, origin, has_body=not is_head)
        if origin and scope["method"] == "OPTIONS":
            await _let_ask(out.send, headers.get("access-control-request-headers", ""))
            return
        try:
            self._guard.check(scope["path"], headers)
            body = _Body(receive, self._limits, headers)
            asked = {**scope, "method": "GET"} if is_head else scope
            await self._app(asked, body.receive, out.send)
        except Exception as error:  # whatever it is, the client hears of it, and the others are answered
            await self._fail(error, out, request_id)
        took_s = time.perf_counter() - begun_s
        route = getattr(asked.get("route"), "path", "other")
        self._metrics.note_request(route, out.status, took_s)
        path = scope["raw_path"].decode("ascii", "replace")  # as it was sent: decoded, it may hold lines of its own
        _log.info("%s %s %s -> %d in %.3f s", request_id, scope["method"], path, out.status, took_s)

    async def _fail(self, error: Exception, out: _Out, request_id: str) -> None:
        told = as_api_error(error)
        if told.status == 500:
            _log.error("%s failed", request_id, exc_info=error)
        if out.is_whole:
            return
        if out.status:
            raise error  # it was begun: the connection is cut, so that nobody takes it for whole
        with suppress(OSError):
            await send_error(out.send, told)


class _Out:
    """Adds what every answer has.

    Args:
        has_body: else it ends with its head, also where its body would never end.
    """

    def __init__(self, send: Send, request_id: str, origin: str, *, has_body: bool) -> None:
        self._send = send
        self._has_body = has_body
        self._more = [*SAFE, (b"x-request-id", request_id.encode()), (b"vary", b"Origin")]
        if origin:
            self._more.append((b"access-control-allow-origin", origin.encode()))
            self._more.append((b"access-control-expose-headers", b"x-request-id, retry-after"))
        self.status = 0
        self.is_whole = False

    async def send(self, message: Message) -> None:
        begins = message["type"] == "http.response.start"
        if begins:
            self.status = message["status"]
            there = {name for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(each for each in self._more if each[0] not in there)]
        if begins or self._has_body:
            await self._send(message)
        if begins and not self._has_body:
            await self._send({"type": "http.response.body", "body": b""})
        is_end = message["type"] == "http.response.body" and not message.get("more_body", False)
        self.is_whole = is_end or not self._has_body


class _Body:
    """The body of a request as it comes: no longer and no slower than it may."""

    def __init__(self, receive: Receive, limits: Limits, headers: MutableMapping[str, str]) -> None:
        self._receive = receive
        self._limits = limits
        self._num_bytes = 0
        self._deadline_s = time.monotonic() + limits.body_s
        self._is_whole = False
        said = headers.get("content-length", "")
        if said.isdecimal() and int(said) > limits.body_bytes:
            raise self._too_long()

    async def receive(self) -> Message:
        if self._is_whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._deadline_s - time.monotonic()))
        except asyncio.TimeoutError:
            raise ApiError(408, f"The body did not come within {self._limits.body_s:.0f} s.", code="timeout") from None
        if message["type"] == "http.request":
            self._num_bytes += len(message.get("body", b""))
            if self._num_bytes > self._limits.body_bytes:
                raise self._too_long()
        self._is_whole = not message.get("more_body", False)
        return message

    def _too_long(self) -> ApiError:
        most = self._limits.body_bytes / 2**20
        return ApiError(413, f"The body is longer than the {most:g} MiB that it may have.", code="body_too_long")


async def _let_ask(send: Send, named: str) -> None:
    """What a browser asks before it lets a page of another origin ask. Args: `named`, the headers that page sends."""
    allowed = named if NAMES.fullmatch(named) else "authorization, content-type, x-request-id"
    told = [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", allowed.encode()),
        (b"access-control-max-age", b"600"),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": told})
    await send({"type": "http.response.body", "body": b""})


async def send_error(send: Send, error: ApiError) -> None:
    """The whole answer that says it."""
    body = json.dumps(error.as_object()).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error.headers}
    told = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": told})
    await send({"type": "http.response.body", "body": body})
