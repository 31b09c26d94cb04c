"""What is an endpoint, and what is refused before anybody is called."""

from __future__ import annotations

from typing import Any

import pytest

from shardnet.errors import UsageError
from shardnet.transport.door.endpoint import split_endpoint


@pytest.mark.parametrize(
    ("endpoint", "parts"),
    [
        ("127.0.0.1:29500", ("127.0.0.1", 29500)),
        ("phone.local:1", ("phone.local", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("::1:5", ("::1", 5)),
        ("[fe80::1%wlan0]:5", ("fe80::1%wlan0", 5)),
    ],
)
def test_host_and_port(endpoint: str, parts: tuple[str, int]) -> None:
    assert split_endpoint(endpoint) == parts


@pytest.mark.parametrize(
    "endpoint",
    ["localhost:5:5", "a:b:5", "", ":5", "localhost", "localhost:", "localhost:0", "localhost:65536", "localhost:²",
     "localhost:" + "1" * 5000, "[]:5", "[host:5", " :5", "h\n:5", None, 5],
)  # fmt: skip
def test_what_is_none(endpoint: Any) -> None:
    """`localhost:5:5` was looked up as a host for 10 s; a superscript two raised ValueError."""
    with pytest.raises(UsageError, match=r'^An endpoint is "host:port", such as 127.0.0.1:29500') as refused:
        split_endpoint(endpoint)
    assert len(str(refused.value)) < 300
