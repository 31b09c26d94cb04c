"""How a reply goes to its client: piece by piece as server-sent events, or whole; and what ends it when it is gone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from shardnet.serve.answer import Likely
from shardnet.serve.errors import ApiError, as_api_error
from shardnet.serve.reply import Reply
from shardnet.serve.service import Service
from shardnet.serve.shapes import Shape, event

Result = TypeVar("Result")
_log = logging.getLogger("shardnet.serve")
GONE = 499
"""What the log says of a client that went away; nobody gets it."""


class Gone(Exception):
    """The client went away."""


class ServerEnds(ApiError):
    """The server is told to end."""

    def __init__(self) -> None:
        super().__init__(503, "The server has ended. Ask again when it runs.", code="server_ended")


class EventStream(Response):
    """Sends events as they come, and ends with its client. Sends no more than the client takes.

    Args:
        end: called when it has ended, in whatever way.
    """

    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], object] = lambda: None) -> None:
        self._events = events
        self._end = end
        self._has_begun = False
        self.status_code = 200
        self.background = None
        self.init_headers({"content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(Gone):
                await until_gone(scope, receive, self._send(send))
        except ServerEnds as error:
            if not self._has_begun:
                raise
            last = event(error.as_object())
            await send({"type": "http.response.body", "body": last, "more_body": False})
        finally:
            self._end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self._has_begun = True
        async for each in self._events:
            await send({"type": "http.response.body", "body": each, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def events_of(reply: Reply, shape: Shape) -> AsyncIterator[bytes]:
    """A reply as events. What ends it early is the last of them, and then there is no [DONE]."""
    try:
        yield shape.first(len(reply.answers))
        while pieces := await reply.next():
            yield b"".join(map(shape.piece, pieces))
        yield shape.last(reply.usage)
    except Exception as error:
        told = as_api_error(error)
        if told.status == 500:
            _log.error("a stream failed", exc_info=error)
        yield shape.failed(told)


async def whole_of(service: Service, reply: Reply, shape: Shape) -> dict[str, Any]:
    """A reply as one object."""
    texts = [""] * len(reply.answers)
    tokens: list[list[Likely]] = [[] for _ in reply.answers]
    try:
        while pieces := await reply.next():
            for piece in pieces:
                texts[piece.choice] += piece.text
                tokens[piece.choice] += piece.likely
        reasons = [each.finish_reason or "stop" for each in reply.answers]
        return shape.whole(texts, reasons, reply.usage, tokens)
    finally:
        service.end(reply)


async def while_here(request: Request, work: Awaitable[Result]) -> Result:
    """What work gives. Its body was read.

    Raises:
        Gone: its client went away, and the work was cancelled.
        ServerEnds: likewise.
    """
    return await until_gone(request.scope, request.receive, work)


async def until_gone(scope: Scope, receive: Receive, work: Awaitable[Result]) -> Result:
    """The same, by how its messages are received. Args: `scope`, as the `Door` makes it."""
    ending: asyncio.Event = scope["shardnet"]["ending"]
    working = asyncio.ensure_future(work)
    watching = [asyncio.ensure_future(_disconnected(receive)), asyncio.ensure_future(ending.wait())]
    try:
        await asyncio.wait((working, *watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ServerEnds if ending.is_set() else Gone
    finally:
        for each in (working, *watching):
            each.cancel()
        await asyncio.gather(working, *watching, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
