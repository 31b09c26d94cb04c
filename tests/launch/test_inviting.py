"""What a person reads who lets another machine in."""

from __future__ import annotations

import time
from typing import Any

import pytest

from shardnet.errors import UsageError
from shardnet.launch.cluster.options import LISTEN, UpOptions
from shardnet.launch.hosts.inviting import lines_of

INVITATION: dict[str, Any] = {
    "number": 1,
    "code": "7-harbour-green",
    "code_until_s": 0.0,
    "qr": "SHARDNET:ABC",
    "qr_until_s": 0.0,
    "addresses": ["192.168.1.5:29500", "10.0.0.7:29500"],
}


def test_what_to_type_with_the_address_that_comes_first() -> None:
    (line,) = lines_of({**INVITATION, "code_until_s": time.time() + 600}, with_qr=False)
    assert line.startswith(
        "On another machine, within 10 min:  shardnet join 7-harbour-green --address 192.168.1.5:29500   "
    )


def test_without_a_code_there_is_the_text_of_the_qr_code() -> None:
    assert lines_of({**INVITATION, "code": None}, with_qr=False) == ["On another machine:  shardnet join SHARDNET:ABC"]


def test_a_machine_in_no_network_says_so() -> None:
    (line,) = lines_of({**INVITATION, "addresses": ["127.0.0.1:29500"]}, with_qr=False)
    assert line.startswith("From this machine only, within")


def test_where_a_cluster_listens() -> None:
    """Only where nobody has named a port does another one do, too."""
    assert UpOptions().listening == ((LISTEN,), True)
    assert UpOptions(listen="0.0.0.0:0").listening == (("0.0.0.0:0",), False)
    assert UpOptions(listen="none").listening is None
    with pytest.raises(UsageError, match="--listen must not be empty"):
        UpOptions(listen="")
