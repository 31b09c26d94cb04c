"""What crosses the wire: every value comes back as it was, and no other bytes are read as anything."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.errors import ClusterError
from shardnet.transport import failure
from shardnet.transport.failure import Failure
from shardnet.transport.messages import MESSAGE_TYPES, Hop, Part, RingId
from shardnet.transport.rpc import replies
from shardnet.transport.session_messages import SampledToken, SamplingOptions
from shardnet.transport.timers import Timers
from shardnet.transport.wire import frames as wire
from shardnet.transport.wire.reader import Reader
from shardnet.transport.wire.schema import Layout
from shardnet.transport.wire.tensors import DTYPES
from shardnet.transport.wire.values import Undecodable, Unsendable
from shardnet.transport.wire.writer import Writer

INT_64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
NAMED = st.lists(st.tuples(INT_64, FLOATS), max_size=4).map(tuple)
TOKENS = st.builds(SampledToken, *[INT_64] * 3, st.text(), st.none() | FLOATS, st.none() | INT_64, INT_64, NAMED)
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-(2**120), 2**120), st.floats(allow_nan=False), st.text(), st.binary()),
    *(st.builds(Part, *[INT_64] * 6, st.binary()), TOKENS),
    st.builds(
        SamplingOptions,
        *(FLOATS, INT_64, FLOATS, FLOATS, FLOATS, INT_64, st.text(), FLOATS, FLOATS, NAMED, INT_64, st.booleans()),
        *(st.lists(INT_64, max_size=4).map(tuple), INT_64),
    ),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.one_of(st.text(), INT_64), inner)
    ),
    max_leaves=10,
)
HOP = Hop(RingId(b"e" * 16, 3), 1, (Part(8, 20, 2), Part(9, 0, 1)), torch.randn(3, 16), "source", 123, 4)


def written(value: Any) -> bytes:
    writer = Writer()
    writer.write(value)
    return writer.joined()


def no_handles(records: Any) -> Any:
    assert not records
    return ()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    arrived = Reader(written(value)).read()
    assert arrived == value
    assert repr(arrived) == repr(value)  # 1 is True, and a Part is a tuple


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.data())
def test_other_bytes_are_refused_and_nothing_else_happens(data: st.DataObject) -> None:
    sound, _ = wire.pack(wire.Post(1, "echo", (HOP, {"a": [1, 2.5, None]})), no_handles)
    frame = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(frame)))
        frame[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    try:
        content = wire.unpack(bytes(frame), [], no_handles)
    except ValueError:
        return
    assert type(content) in wire.KINDS


@pytest.mark.parametrize("tag", list(b"sb(ldnrtmhX"))
@pytest.mark.parametrize("length", [2**32 - 1, 2**28, 1000])
def test_a_length_that_says_more_than_is_there_takes_no_memory(tag: int, length: int) -> None:
    with pytest.raises(Undecodable):
        Reader(bytes([tag]) + length.to_bytes(4, "little") + bytes(8)).read()


@pytest.mark.parametrize("shape", [(2**63, 0), (2**62, 2**62), (3, 2**40), (2**64 - 1,)])
def test_an_impossible_shape_is_refused(shape: tuple[int, ...]) -> None:
    head = b"t" + bytes([DTYPES.index(torch.float32), len(shape)])
    with pytest.raises(Undecodable):
        Reader(head + b"".join(length.to_bytes(8, "little") for length in shape) + bytes(64)).read()


def test_many_tiny_tensors_are_refused() -> None:
    """1.6 MB of tensors of one byte took 450 MB: each has 4 bytes in the message and over 1,000 in memory."""
    num_tensors = 100_000
    tiny = b"t" + bytes([DTYPES.index(torch.uint8), 0, 1])
    with pytest.raises(Undecodable, match="more than is there"):
        Reader(b"l" + num_tensors.to_bytes(4, "little") + tiny * num_tensors).read()
    with pytest.raises(Unsendable, match="parts"):
        written([torch.ones(())] * num_tensors)


def test_a_frame_that_is_larger_than_any_of_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, _ = wire.pack(wire.Post(1, "echo", (bytes(1000),)), no_handles)
    monkeypatch.setattr(wire, "MAX_BYTES", 1000)
    with pytest.raises(Undecodable, match="at most 1000 bytes"):
        wire.unpack(frame, [], no_handles)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(Undecodable, match="nested deeper"):
        Reader((b"l" + (1).to_bytes(4, "little")) * 100_000 + b"N").read()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3)], ids=str)
def test_a_tensor_comes_back_as_it_was(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.rand(shape) * 4).to(dtype)
    arrived = Reader(written(tensor)).read()
    assert (arrived.dtype, arrived.shape) == (dtype, tensor.shape)
    assert torch.equal(arrived, tensor)


@pytest.mark.parametrize(
    "odd",
    [
        torch.ones(9, requires_grad=True),
        torch.ones(9)[1:],
        torch.ones(3, 3).T,
        torch.ones(1).expand(9),
        torch.ones(9, dtype=torch.complex64),
        torch.eye(3).to_sparse(),
        torch.full((9,), 2, dtype=torch.uint8).view(torch.bool),
        torch.ones(0),
        torch.ones(9, device="meta"),
    ],
    ids=["gradients", "view", "transposed", "expanded", "complex", "sparse", "no bool", "empty", "meta"],
)
def test_a_tensor_beside_a_frame_is_held_to_what_we_send(odd: torch.Tensor) -> None:
    frame, table = wire.pack(wire.Post(1, "echo", (torch.ones(100_000),)), no_handles)
    assert wire.unpack(frame, table, no_handles).args[0] is table[0]
    for tables in ([odd], [], [*table, *table], [table[0], odd]):
        with pytest.raises(ValueError):
            wire.unpack(frame, tables, no_handles)


def test_a_field_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Hop\.parts is a list"):
        Reader(written(HOP._replace(parts=[Part(1, 2, 3)]))).read()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Post\.args is a int"):
        wire.unpack(wire.pack(wire.Post(1, "echo", 5), no_handles)[0], [], no_handles)  # type: ignore[arg-type]


def test_what_a_message_is_made_of_is_checked_when_it_is_declared() -> None:
    class Bad(NamedTuple):
        thread: threading.Thread

    with pytest.raises(TypeError, match="cannot travel"):
        Layout(Bad)
    assert len(set(MESSAGE_TYPES)) == len(MESSAGE_TYPES)


@pytest.mark.parametrize("kind", ["annotations", "__name__", "Exception", "", "Unknown"])
def test_a_failure_of_no_kind_of_ours_is_a_cluster_error(kind: str) -> None:
    """`errors.annotations` is no class: the answer was never settled, and its caller waited for ever."""
    error = failure.decode(Failure(kind, "text", "device"))
    assert type(error) is ClusterError


def test_an_answer_that_nobody_fetches_is_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger who asks by `rpc.remote` makes torch keep the answer."""
    monkeypatch.setattr(replies, "KEPT_S", 0.01)
    timers = Timers()
    reply, is_empty = replies.Reply((b"frame", [])), threading.Event()
    monkeypatch.setattr(replies.Reply, "take", lambda _: is_empty.set())
    replies.Unfetched(timers).add(reply)
    assert is_empty.wait(20)
    timers.close()
