"""A greeting says which link session it is for, and nobody else can."""

from __future__ import annotations

import pytest

from shardnet.tunnel.frames import BadFrame
from shardnet.tunnel.greeting import Greeting, Identity, draw_gate, draw_identity, pack_greeting, unpack_greeting


def test_a_greeting_comes_out_as_it_went_in() -> None:
    greeting = Greeting(draw_identity(), 7, True, draw_gate())
    assert unpack_greeting(pack_greeting(greeting)) == greeting


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "has 0 bytes"),
        (b"\0\1" + bytes(70), "has 72 bytes"),
        (b"\0\2anything", "version 2, and this one 1"),
        (b"\0\1\0\0\0\1\2" + bytes(64), "neither of a new"),
    ],
)
def test_what_is_none_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadFrame, match=why):
        unpack_greeting(data)


def test_who_knows_the_session_but_not_the_secret_is_somebody_else() -> None:
    identity = draw_identity()
    assert identity.is_same(Identity(*identity))
    assert not identity.is_same(identity._replace(secret=draw_identity().secret))
