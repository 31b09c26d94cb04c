"""Which cluster somebody means who has typed a short code."""

from __future__ import annotations

import pytest

from shardnet.discovery.choosing import gates_of_the_only
from shardnet.discovery.datagrams import Announced
from shardnet.errors import JoinFailed
from shardnet.trust.addresses import Address

HERE, THERE = Address("192.168.1.5", 29500), Address("10.0.0.7", 29501)


def announced(cluster: str, *slots: int, gate: Address = HERE) -> Announced:
    return Announced(cluster, frozenset(slots), (gate,))


def test_the_one_with_a_code_in_that_slot_is_meant() -> None:
    heard = [announced("a", 7), announced("b", 8, 9), announced("a", 7, gate=THERE), announced("a", 7)]
    assert gates_of_the_only(heard, 7) == (HERE, THERE)


def test_of_two_none_is_tried() -> None:
    """A try that is wrong would burn the other one's code."""
    with pytest.raises(JoinFailed, match=r"^2 clusters .* begins with 7\. .*--address HOST:PORT\.$"):
        gates_of_the_only([announced("a", 7), announced("b", 7)], 7)


def test_who_is_not_found_is_told_what_to_type() -> None:
    with pytest.raises(JoinFailed, match=r"^No cluster was found .*--address HOST:PORT\.$"):
        gates_of_the_only([], 7)
    with pytest.raises(JoinFailed, match=r"begins with 7 now\. .*--address HOST:PORT\.$"):
        gates_of_the_only([announced("a", 8)], 7)
