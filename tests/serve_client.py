"""A real server at a port of this machine, over a real ring in this process, and clients of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from in_process_ring import ring_in_process

from shardnet.cluster.model import Model
from shardnet.serve.provider import OfOne, Provider
from shardnet.serve.server import Server, listen
from shardnet.serve.service import Service
from shardnet.serve.settings import Settings

MODEL = "tiny"
WAIT_S = 60.0


class Served:
    """A server that runs, and what stands behind it."""

    def __init__(self, server: Server, service: Service, model: Model) -> None:
        self.server = server
        self.service = service
        self.model = model

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def openai(self, **options: Any) -> Any:
        """A client of OpenAI's that asks once."""
        from openai import OpenAI

        return OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, **options})

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, Any]:
        """Status, object of JSON (or text), and headers. Args: `body`, raw, or what is sent as JSON."""
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        asked = Request(self.url + path, raw, {"Content-Type": "application/json", **(headers or {})})
        try:
            with urlopen(asked, timeout=WAIT_S) as answer:
                status, said, told = answer.status, answer.read(), answer.headers
        except HTTPError as error:
            status, said, told = error.code, error.read(), error.headers
        is_json = "json" in told.get("Content-Type", "")
        return status, json.loads(said) if is_json else said.decode(), told

    def chat(self, **fields: Any) -> tuple[int, Any, Any]:
        """The same of a short chat."""
        return self.ask("/v1/chat/completions", chat(**fields))

    def connect(self) -> socket.socket:
        """A connection on which nothing was said."""
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=WAIT_S)

    def num_sessions(self) -> int:
        """That are open."""
        count: int = self.model.deployment.sessions.num_open  # type: ignore[attr-defined]
        return count


def chat(**fields: Any) -> dict[str, Any]:
    """The body of a short chat."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 8,
        "temperature": 0,
        **fields,
    }


def raw_request(body: Any, path: str = "/v1/chat/completions", host: str = "127.0.0.1") -> bytes:
    """As it goes over the wire."""
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


@contextmanager
def serving(provider: Provider, model: Model, settings: Settings) -> Iterator[Served]:
    service = Service(provider, settings)
    with Server(service, listen("127.0.0.1", 0)) as server:
        yield Served(server, service, model)


@contextmanager
def served(folder: Path, settings: Settings | None = None, *, speed: float = 1.0, **load: Any) -> Iterator[Served]:
    """Over three devices. Args: `load`, options of the load."""
    with ring_in_process(3, speed=speed) as ring, ring.connect() as cluster:
        model = cluster.load(folder, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4, **load)
        with serving(OfOne(model), model, settings or Settings(names=(MODEL,))) as running:
            yield running
