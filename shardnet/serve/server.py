"""The server at its port: an event loop on a thread of its own, connections with limits, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn

from shardnet.errors import PortTaken, UsageError
from shardnet.foreign.quoting import quoted
from shardnet.serve.app import make_app
from shardnet.serve.connections import LimitedConnection, raise_file_limit
from shardnet.serve.door import Door
from shardnet.serve.guard import Guard
from shardnet.serve.service import Service

BACKLOG = 1024
KEEP_S = 30
"""An idle connection stays so long: clients drop theirs earlier, so that none is cut just as it is used again."""
END_S = 5.0
"""How long answers that are under way may take to hear of the end."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound there.

    Raises:
        UsageError: there is no such address.
        PortTaken: something listens there.
    """
    try:
        [(family, _, _, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"--host is {quoted(host)}, which is no address of this machine: {error.strerror}.") from error
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise PortTaken(f"{host}:{port} cannot be listened at: {error.strerror}. Name another --port.") from error
    return bound


def tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """
    Raises:
        UsageError: these are no certificate and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password="")  # else a key that has one is asked for at the terminal
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{certificate} and {key} are no certificate and its key in PEM, without a password: {error}."
        ) from error
    return context


class _Uvicorn(uvicorn.Server):
    """Leaves signals to who has started it, and lets what is under way know that it ends."""

    def __init__(self, config: uvicorn.Config, ending: asyncio.Event) -> None:
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._ending.set()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server:
    """Answers from `begin` until it is closed. A context manager: leaving it ends it."""

    def __init__(self, service: Service, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        settings = service.settings
        door = Door(
            make_app(service), Guard(settings, "http" if tls is None else "https"), settings.limits, service.metrics
        )
        self._bound = bound
        self._ended: BaseException | None = None
        self._has_begun = threading.Event()
        self._server = _Uvicorn(
            uvicorn.Config(
                door,
                http=partial(LimitedConnection, settings.limits),  # type: ignore[arg-type]
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_S,
                h11_max_incomplete_event_size=settings.limits.header_bytes,
                timeout_graceful_shutdown=int(END_S),
                ssl_context_factory=None if tls is None else lambda _config, _default: tls,
            ),
            door.ending,
        )
        raise_file_limit(settings.limits.connections)
        self._thread = threading.Thread(target=self._run, name="shardnet-serve", daemon=True)

    @property
    def port(self) -> int:
        number: int = self._bound.getsockname()[1]
        return number

    def begin(self) -> None:
        """Return when requests are answered."""
        self._thread.start()
        self._has_begun.wait()
        if self._ended is not None:
            raise self._ended

    def close(self) -> None:
        """Safe to call twice."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(2 * END_S)
        self._bound.close()

    def __enter__(self) -> Server:
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._ended = error
        finally:
            self._has_begun.set()

    async def _serve(self) -> None:
        serving: asyncio.Task[Any] = asyncio.ensure_future(self._server.serve([self._bound]))
        while not self._server.started and not serving.done():
            await asyncio.sleep(0.01)
        self._has_begun.set()
        await serving
