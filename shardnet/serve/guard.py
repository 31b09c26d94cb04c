"""Who may ask at all: by the name under which the server is called, where a web page comes from, and by keys. Pure.

A web page elsewhere can send requests to a server on this machine: by its address, which browsers say in `Origin`, or
under a name of its own that it has made mean this machine (DNS rebinding), which is said in `Host`.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from hashlib import sha256
from urllib.parse import urlsplit

from shardnet.serve.errors import ApiError
from shardnet.serve.settings import Settings

OPEN_TO_ALL = ("/", "/health")
OF_THE_PAGE = "/static/"
"""Without a key: what the page is made of, and whether a ring stands."""
FROM_ELSEWHERE = ("cross-site", "same-site")


class Guard:
    """
    Args:
        scheme: "http" or "https", by which it is reached.
    """

    def __init__(self, settings: Settings, scheme: str) -> None:
        self._settings = settings
        self._scheme = scheme
        self._keys = [sha256(key.encode()).digest() for key in settings.keys]

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """
        Raises:
            ApiError: this request is not answered.
        """
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise ApiError(
                421, f"This server is not called {host!r}. Start it with --allow-host to add a name.", code="wrong_host"
            )
        self._check_origin(path, headers, host)
        if self._keys and not is_open(path):
            self._check_key(headers.get("authorization", ""))

    def shared_with(self, headers: Mapping[str, str]) -> str:
        """The origin of another page that may read the answer; empty where none asks."""
        origin = headers.get("origin", "")
        return origin if origin in self._settings.origins else ""

    def _is_ours(self, host: str) -> bool:
        name = _name_in(host)
        if name is None:
            return False
        if name == "localhost" or name in self._settings.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True  # no name at all, so nobody has made one mean this machine

    def _check_origin(self, path: str, headers: Mapping[str, str], host: str) -> None:
        origin = headers.get("origin")
        is_foreign = origin is not None and origin not in (f"{self._scheme}://{host}", *self._settings.origins)
        is_fetched_elsewhere = origin is None and headers.get("sec-fetch-site") in FROM_ELSEWHERE and path != "/"
        if is_foreign or is_fetched_elsewhere:
            who = f"Web pages of {origin}" if origin else "Other web pages"
            raise ApiError(403, f"{who} may not use this server. --allow-origin lets one.", code="wrong_origin")

    def _check_key(self, authorization: str) -> None:
        kind, _, key = authorization.partition(" ")
        shown = sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
        is_known = [hmac.compare_digest(shown, each) for each in self._keys]
        if kind.lower() != "bearer" or not any(is_known):
            what = "Incorrect API key provided." if authorization else "You didn't provide an API key."
            raise ApiError(401, f"{what} Send one as Authorization: Bearer KEY.", code="invalid_api_key")


def client_of(headers: Mapping[str, str], address: str) -> str:
    """By which the queue tells clients apart: the key that was shown, or the address."""
    shown = headers.get("authorization")
    return sha256(shown.encode("utf-8", "surrogateescape")).hexdigest()[:16] if shown else address


def is_open(path: str) -> bool:
    """Whether it is answered without a key."""
    return path in OPEN_TO_ALL or path.startswith(OF_THE_PAGE)


def _name_in(host: str) -> str | None:
    """The name or address in a `Host`, in small letters; None where it is none."""
    if any(each in host for each in "/@?#\\ "):
        return None
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
