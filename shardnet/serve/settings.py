"""What a server is told when it is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shardnet.serve.asked import Defaults


@dataclass(frozen=True)
class Limits:
    """What one client may take, so that something is left for the others."""

    body_bytes: int = 8 * 2**20
    header_bytes: int = 64 * 2**10
    body_s: float = 30.0
    """For all of a body to come."""
    headers_s: float = 10.0
    """For all headers of a request, from its connection or the answer before."""
    stalled_s: float = 60.0
    """For a client to take any of what waits for it."""
    connections: int = 1024
    waiting: int = 256
    """Requests that wait for memory."""
    wait_s: float = 60.0
    """How long one waits for memory."""
    sessions: int = 256
    """Answers at the same time."""


@dataclass(frozen=True)
class Settings:
    """Of one server."""

    keys: tuple[str, ...] = ()
    """One of these must be shown; none: nobody is asked for any."""
    hosts: tuple[str, ...] = ()
    """Names by which it may be called, besides addresses of this machine and `localhost`."""
    origins: tuple[str, ...] = ()
    """Whose web pages may use it, besides its own."""
    names: tuple[str, ...] = ()
    """What its model is called; the first is told. Empty: as it calls itself."""
    most_tokens: int | None = None
    """Of prompt and answer together; None: what the model's context holds."""
    template: str | None = None
    """A chat template in place of the model's own."""
    guessing: Mapping[str, Any] = field(default_factory=dict)
    """How tokens are guessed: options of each answer. Which are chosen does not depend on it."""
    defaults: Defaults = field(default_factory=Defaults)
    limits: Limits = field(default_factory=Limits)
