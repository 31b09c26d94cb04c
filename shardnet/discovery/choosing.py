"""Which of the clusters that announce themselves somebody means who has typed a short code. Pure.

Each try of a code burns it where it is wrong, so nothing is tried: the code's slot, which is no secret, must say it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shardnet.discovery.datagrams import Announced
from shardnet.errors import JoinFailed
from shardnet.trust.addresses import Address

_WHAT_TO_DO = "Type the address that the other screen shows, too: --address HOST:PORT."


def with_slot(heard: Iterable[Announced], slot: int) -> dict[str, tuple[Address, ...]]:
    """The clusters that have a code in that slot, by their ids, each with all addresses that were heard of it."""
    found: dict[str, tuple[Address, ...]] = {}
    for each in heard:
        if slot in each.slots:
            found[each.cluster] = tuple(dict.fromkeys((*found.get(each.cluster, ()), *each.gates)))
    return found


def gates_of(heard: Iterable[Announced], cluster: str) -> tuple[Address, ...]:
    """Where a cluster may be dialled, by its id, as somebody says."""
    return tuple(dict.fromkeys(gate for each in heard if each.cluster == cluster for gate in each.gates))


def gates_of_the_only(heard: Sequence[Announced], slot: int) -> tuple[Address, ...]:
    """Where the one cluster can be dialled that has a code in that slot.

    Raises:
        JoinFailed: there is none, or more than one.
    """
    found = with_slot(heard, slot)
    if len(found) > 1:
        raise JoinFailed(f"{len(found)} clusters in this network have a code that begins with {slot}. {_WHAT_TO_DO}")
    if not found and heard:
        raise JoinFailed(
            f"No cluster that was found in this network has a code that begins with {slot} now. Look whether the other "
            "screen shows another code. If not, type its address, too: --address HOST:PORT."
        )
    if not found:
        raise JoinFailed(f"No cluster was found in this network; some keep their devices apart. {_WHAT_TO_DO}")
    return next(iter(found.values()))
