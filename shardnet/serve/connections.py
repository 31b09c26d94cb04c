"""A client's connection, with limits: how long its headers may take, how slowly it may read, how many there are."""

from __future__ import annotations

import asyncio
import json
import resource
from contextlib import suppress
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from shardnet.serve.errors import ApiError
from shardnet.serve.settings import Limits

SPARE_FILES = 512
"""What the process needs besides connections."""


class LimitedConnection(H11Protocol):
    """Where there are too many, one goes that is not being answered."""

    def __init__(self, limits: Limits, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._limits = limits
        self._impatience: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= self._limits.connections and not self._make_room():
            transport.abort()
            self.transport = transport
            return
        super().connection_made(transport)
        self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._impatience, self._stalled):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_idle and self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        elif self.is_idle and self._impatience is None and not self.transport.is_closing():
            self._wait_for_headers()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def send_400_response(self, msg: str) -> None:
        """In the shape that all errors have."""
        body = json.dumps(ApiError(400, "This is no request of HTTP.", code="bad_http").as_object()).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        with suppress(h11.LocalProtocolError):  # it comes in the midst of an answer
            for event in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait_for_headers(self) -> None:
        self._impatience = self.loop.call_later(self._limits.headers_s, self._lose_patience)

    def _lose_patience(self) -> None:
        self._impatience = None
        if self.is_idle:
            self.transport.abort()

    def _make_room(self) -> bool:
        """Whether a connection that is not being answered could be ended."""
        for other in self.connections:
            if isinstance(other, LimitedConnection) and other.is_idle:
                other.transport.abort()
                self.connections.discard(other)
                return True
        return False


def raise_file_limit(connections: int) -> None:
    """Let this process have so many connections, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
