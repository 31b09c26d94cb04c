"""A greeting says which link session it is for, and nobody else can."""

from __future__ import annotations

import pytest

from shardnet.tunnel.frames import BadFrame
from shardnet.tunnel.greeting import (
    GateOfOtherVersion,
    Greeting,
    Identity,
    draw_gate,
    draw_identity,
    pack_greeting,
    unpack_greeting,
)
from shardnet.versions import OURS, OWN, VERSION_BYTES, Version, packed


def test_a_greeting_comes_out_as_it_went_in() -> None:
    greeting = Greeting(draw_identity(), 7, True, draw_gate())
    assert unpack_greeting(pack_greeting(greeting), "phone") == greeting


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "has 0 bytes"),
        (packed(OWN) + bytes(70), f"has {VERSION_BYTES + 70} bytes"),
        (packed(OWN)[:-1], f"has {VERSION_BYTES - 1} bytes"),
        (packed(OWN) + b"\0\0\0\1\2" + bytes(64), "neither of a new"),
    ],
)
def test_what_is_none_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadFrame, match=why):
        unpack_greeting(data, "phone")


@pytest.mark.parametrize("rest", [b"", b"what another version has there"])
def test_another_version_is_told_by_name(rest: bytes) -> None:
    theirs = Version(OURS.wire + 1, "0.9.3")
    with pytest.raises(
        GateOfOtherVersion, match=r"^The host phone runs shardnet 0\.9\.3 \(wire format 2\); this is"
    ) as told:
        unpack_greeting(packed(theirs) + rest, "phone")
    assert told.value.theirs == theirs


def test_who_knows_the_session_but_not_the_secret_is_somebody_else() -> None:
    identity = draw_identity()
    assert identity.is_same(Identity(*identity))
    assert not identity.is_same(identity._replace(secret=draw_identity().secret))
