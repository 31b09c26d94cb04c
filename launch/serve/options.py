"""What `shardnet serve` may be asked."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted
from shardnet.options import Number, Whole

KEY = "SHARDNET_API_KEY"
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
_PORT, _WHO, _MODEL, _LIMITS = "Where it answers", "Who may ask", "What the model is to clients", "Limits"
SHORTEST_KEY = 16
HOST = re.compile(r"[A-Za-z0-9._-]+")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?")
"""What browsers send in `Host` and `Origin`; anything else would never be found there, and never said so."""


@dataclass(frozen=True)
class ServeOptions:
    """How it answers, and whom."""

    host: Annotated[
        str,
        typer.Option(
            "--host", help="The address to listen at; beyond loopback with TLS and a key alone.", rich_help_panel=_PORT
        ),
    ] = DEFAULT_HOST
    port: Annotated[
        int, Whole(0, 65535), typer.Option("--port", help="0: any that is free.", rich_help_panel=_PORT)
    ] = DEFAULT_PORT
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="A certificate in PEM, chain and all.", rich_help_panel=_PORT),
    ] = None
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key in PEM.", rich_help_panel=_PORT)
    ] = None
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help=f"Keys, one a line; clients must show one. {KEY} may hold one, too.",
            rich_help_panel=_WHO,
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name by which clients may call it, besides localhost and addresses. Can be given several times.",
            rich_help_panel=_WHO,
        ),
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="ORIGIN",
            help="Whose web pages may use it, as https://chat.example. Can be given several times.",
            rich_help_panel=_WHO,
        ),
    ] = None
    served_model_name: Annotated[
        list[str] | None,
        typer.Option(
            "--served-model-name",
            metavar="NAME",
            help="What clients call the model. Can be given several times.",
            show_default="its own name",
            rich_help_panel=_MODEL,
        ),
    ] = None
    max_model_len: Annotated[
        int | None,
        Whole(1),
        typer.Option(
            "--max-model-len",
            help="Tokens of prompt and answer together.",
            show_default="its context",
            rich_help_panel=_MODEL,
        ),
    ] = None
    chat_template: Annotated[
        Path | None,
        typer.Option(
            "--chat-template",
            metavar="FILE",
            help="A chat template (Jinja) in place of the model's own.",
            rich_help_panel=_MODEL,
        ),
    ] = None
    default_max_tokens: Annotated[
        int,
        Whole(1),
        typer.Option("--default-max-tokens", help="Of a chat that does not say how many.", rich_help_panel=_MODEL),
    ] = 1024
    max_body_mib: Annotated[
        float,
        Number("above 0", 0, above=True),
        typer.Option("--max-body-mib", help="Of one request.", rich_help_panel=_LIMITS),
    ] = 8.0
    max_connections: Annotated[
        int, Whole(1), typer.Option("--max-connections", help="At the same time.", rich_help_panel=_LIMITS)
    ] = 1024
    max_waiting: Annotated[
        int,
        Whole(0),
        typer.Option("--max-waiting", help="Requests that wait for memory; more get 429.", rich_help_panel=_LIMITS),
    ] = 256
    max_wait_s: Annotated[
        float,
        Number("0 or more", 0),
        typer.Option("--max-wait", metavar="SECONDS", help="So long one waits at most.", rich_help_panel=_LIMITS),
    ] = 60.0
    no_log: Annotated[bool, typer.Option("--no-log", help="No line for each request on standard error.")] = False
    end_with: Annotated[
        int | None, typer.Option("--end-with", hidden=True, help="End when this inherited pipe is closed.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print a line of JSON per event, nothing else.")] = False

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise BadRequest("--tls-cert and --tls-key go together; name both files, or none.")
        for name in self.allow_host or ():
            if not HOST.fullmatch(name):
                raise BadRequest(f"--allow-host is {quoted(name)}, but must be a name alone, as chat.example.")
        for origin in self.allow_origin or ():
            if not ORIGIN.fullmatch(origin):
                raise BadRequest(
                    f"--allow-origin is {quoted(origin)}, but must be as browsers send it, in small letters: "
                    "https://chat.example, with a port where it has one, and nothing behind."
                )

    @property
    def is_loopback(self) -> bool:
        """Whether this machine alone can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def keys(self, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
        """
        Raises:
            BadRequest: the file cannot be read, has none or a short one, or others reach this server without.
        """
        told = [environment[KEY]] if environment.get(KEY) else []
        keys = (*told, *(() if self.api_key_file is None else _keys_in(self.api_key_file)))
        for key in keys:
            if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable():
                raise BadRequest(f"a key must be {SHORTEST_KEY} or more letters, digits and signs; one is not.")
        if not self.is_loopback and not (keys and self.tls_cert):
            raise BadRequest(
                f"--host is {quoted(self.host)}, which others can reach: that takes TLS and a key. Give --tls-cert, "
                "--tls-key and --api-key-file, or leave --host out."
            )
        return keys


def _keys_in(file: Path) -> tuple[str, ...]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise BadRequest(f"--api-key-file {quoted(str(file))} cannot be read: {error}.") from error
    keys = tuple(line.strip() for line in lines if line.strip())
    if not keys:
        raise BadRequest(f"--api-key-file {quoted(str(file))} holds no key. Write one a line.")
    return keys
