"""What a coordinator says to members that ask for weights; strangers among them ask for what is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import wait_until

from shardnet.errors import BadRequest, ModelNotFound
from shardnet.loader import fingerprint, open_model
from shardnet.loader.copies import Copy
from shardnet.plan import Link
from shardnet.shipping.dispatch import Dispatch
from shardnet.transport import InProcessNetwork
from shardnet.transport.shipping_messages import MOST_ROOTS, HoldersWanted, Tensors


@pytest.fixture
def network() -> Iterator[InProcessNetwork]:
    with InProcessNetwork() as network:
        yield network


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Copy:
    found = fingerprint(open_model(str(tiny), "float32").copy, tmp_path)
    assert found is not None
    return found


def test_nothing_is_told_of_what_was_not_opened(network: InProcessNetwork, copy: Copy) -> None:
    dispatch = Dispatch(network.join("coordinator"))
    [root, *_] = copy.hashes
    for asked in (Tensors("a", copy.name, (root,)), Tensors("a", "../" + copy.name, (root,))):
        for ask in (dispatch.tensor_parts, dispatch.tensors_held, dispatch.fetch_over):
            with pytest.raises(ModelNotFound, match="for others"):
                ask(asked)
    dispatch.offer(copy)
    [parts] = dispatch.tensor_parts(Tensors("a", copy.name, (root,)))
    assert parts.hashes == copy.hashes[root]
    with pytest.raises(ModelNotFound):
        dispatch.tensor_holders(HoldersWanted("a", copy.name, (root, "0" * 64), ()))
    with pytest.raises(BadRequest, match=f"{MOST_ROOTS + 1} tensors are asked for at once"):
        dispatch.tensor_parts(Tensors("a", copy.name, (root,) * (MOST_ROOTS + 1)))


def test_members_are_named_the_nearest_first_as_long_as_they_are_there(network: InProcessNetwork, copy: Copy) -> None:
    dispatch = Dispatch(network.join("coordinator"))
    dispatch.offer(copy)
    [root, *_] = copy.hashes
    members = {name: network.join(name) for name in ("a", "b", "c")}
    for name in ("a", "b", "stranger"):
        dispatch.tensors_held(Tensors(name, copy.name, (root,)))
    dispatch.learn([Link("a", "c", 0.1, 1e6), Link("b", "c", 0.01, 1e7)])
    wanted = HoldersWanted("c", copy.name, (root,), ())
    assert dispatch.tensor_holders(wanted)[0].holders == ("b", "a", "coordinator")
    members["b"].close()
    wait_until(lambda: dispatch.tensor_holders(wanted)[0].holders == ("a", "coordinator"))
