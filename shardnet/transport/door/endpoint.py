"""Where a door is: "unix:PATH" on one machine, which only its user can open, or "HOST:PORT"."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from shardnet.errors import UsageError
from shardnet.foreign.quoting import quoted
from shardnet.process.lasting import UNIX


def path_in(endpoint: str) -> Path | None:
    """The path of a Unix socket; None where the endpoint is not of that kind."""
    if isinstance(endpoint, str) and endpoint.startswith(f"{UNIX}/"):
        return Path(endpoint.removeprefix(UNIX))
    return None


def split_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of "host:port".

    Raises:
        UsageError: it is not of that form.
    """
    host, _, port = endpoint.rpartition(":") if isinstance(endpoint, str) else ("", "", "")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) < 2**16
    if re.fullmatch(r"[^\s\[\]]+", host) is None or not is_port or (":" in host and not _is_ipv6(host)):
        raise UsageError(f'An endpoint is "host:port", such as 127.0.0.1:29500, but this one is {quoted(endpoint)}.')
    return host, int(port)


def join_endpoint(host: str, port: int) -> str:
    """The endpoint of a host and a port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_ipv6(host: str) -> bool:
    """Of all that can stand before the port, only such an address has colons of its own."""
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
