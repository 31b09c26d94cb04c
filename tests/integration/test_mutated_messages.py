"""2,000 messages that nobody of us would send, thrown at a living agent, over real RPC.

They are made of recorded ones: bytes changed, cut, spliced, lengths and kinds replaced, tensors exchanged, pickles in
them.
Operators and TorchScript do not come here: C++ serves them before Python is asked, see test_stranger.py.
"""

from __future__ import annotations

import gc
import pickle
import struct
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from integration.rpc_device import Device
from integration.stranger import BUILD_ON_A_CLASS, PART, request
from processes import wait_until
from torch._C._distributed_rpc import _invoke_remote_python_udf, _invoke_rpc_python_udf

from shardnet.transport import RpcTransport, serve_door
from shardnet.transport.messages import Hop, Part, RingId, Tokens
from shardnet.transport.rpc import answers, objects
from shardnet.transport.session_messages import SampledToken

Message = tuple[bytes, list[torch.Tensor], bool]
"""A frame, the tensors beside it, and whether the answer may come later."""

BATCH = 50
LARGE = 100_000
"""Floats in a tensor that goes beside a frame: 2,000 of them kept would be 800 MB."""
STORM_MAY_ADD = 8 * 2**20
"""Bytes of memory that 2,000 messages may add to a device that has seen as many."""
PICKLES = [
    request(b"cos\nsystem\n", pickle.dumps(("exit 1",), 0)[:-1]),
    request(PART, b"(I1\nI2\nI3\nt"),
    request(b"cshardnet.transport.objects\nmake_remote\n", b"(t"),
    BUILD_ON_A_CLASS,
    pickle.dumps({"a": [1, 2]}),
]
ODD_TENSORS = [
    torch.ones(LARGE, requires_grad=True),
    torch.ones(LARGE)[1:],
    torch.ones(LARGE, dtype=torch.complex64),
    torch.full((LARGE,), 7, dtype=torch.uint8).view(torch.bool),
    torch.ones(1).expand(LARGE),
    torch.ones(0, 7),
]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Device, Device]]:
    """Who throws, and who is thrown at. torch counts RRefs for the first agent of a process: a second one of ours would
    hold what it has asked for for 20 seconds.
    """
    with serve_door() as door, Device(door.endpoint, "source") as source, Device(door.endpoint, "device") as device:
        for each in (source, device):
            each.wait_joined()
        yield source, device
        for each in (device, source):
            assert each.end() == 0
            assert each.printed() == ""


def recorded(source: RpcTransport) -> list[Message]:
    """What the requests of a device look like on the wire."""
    messages: list[Message] = []

    def record(worker: Any, frame: bytes, tensors: list[torch.Tensor], limit_s: float, is_async: bool) -> Any:
        messages.append((frame, [tensor.clone() for tensor in tensors], is_async))
        return _invoke_rpc_python_udf(worker, frame, tensors, limit_s, is_async)  # type: ignore[arg-type]

    ring = RingId(bytes(range(16)), 3)
    hop = Hop(ring, 1, (Part(8, 20, 2), Part(9, 0, 1)), torch.randn(3, 16), "source", 123, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "_invoke_rpc_python_udf", record)
        counter = source.remote("device", "counter", 10)
        for args in (
            (hop,),
            (hop._replace(payload=torch.randn(LARGE)),),
            (Tokens(ring, (SampledToken(8, 0, 5, ""), SampledToken(9, 1, 6, "eos"))),),
            (None, True, 7, 2**100, 2.5, "text", b"bytes", (1, (2,)), [3, [4]], {"a": {"b": 5}}),
            (tuple(range(50)), torch.tensor([True, False]), torch.zeros(0, 3)),
        ):
            source.post("device", "echo", *args).exception(10)  # the large one may not come back this way
            source.call("device", "later", args, timeout_s=10).result(10)
        source.call("device", "use", counter, timeout_s=10).result(10)
        counter.call("add", 1, timeout_s=10).result(10)
        source.call("device", "does_not_fit", timeout_s=10).exception(10)
        counter.release()
    messages.append((answers.packed_for(0, objects.Claim((1, 2)))[0][0], [], False))
    return messages


@st.composite
def mutated(draw: st.DrawFn, messages: list[Message]) -> tuple[Message, bool]:
    """A message that was changed in some ways, and whether it asks for an RRef."""
    frame, tensors, is_async = draw(st.sampled_from(messages))
    content, tensors = bytearray(frame), list(tensors)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        change = draw(st.sampled_from(["bytes", "cut", "splice", "length", "kind", "tensors", "pickle", "insert"]))
        if change == "bytes":
            content[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
        elif change == "cut":
            del content[at:]
        elif change == "splice":
            other = draw(st.sampled_from(messages))[0]
            content[at:] = other[draw(st.integers(0, len(other) - 1)) :]
        elif change == "length":
            content[at : at + 4] = struct.pack("<I", draw(st.sampled_from([2**32 - 1, 2**31, 2**28, 2**21, 1, 0])))
        elif change == "kind":
            content[4:6] = bytes([draw(st.integers(0, 6)), draw(st.integers(0, 2))])
        elif change == "tensors":
            tensors = draw(st.lists(st.sampled_from(ODD_TENSORS), max_size=2)) + tensors[: draw(st.integers(0, 1))]
        elif change == "insert":
            content[at:at] = draw(st.sampled_from([b"(", b"l", b"d", b"m", b"t", b"X", b"h", b"r", b"n"])) * draw(
                st.integers(1, 200)
            )
        else:
            content[draw(st.sampled_from([0, 6, at])) :] = draw(st.sampled_from(PICKLES))
    return (bytes(content), tensors, is_async ^ (draw(st.integers(0, 9)) == 0)), draw(st.integers(0, 9)) == 0


def throw(source: RpcTransport, batch: list[tuple[Message, bool]]) -> None:
    """Send all at once, and wait for all answers, which may be anything."""
    worker = source.group.worker(source.peer("device").id)
    sent = []
    for (frame, tensors, is_async), is_remote in batch:
        if is_remote:
            invoke = _invoke_remote_python_udf
            sent.append(invoke(worker, frame, tensors, 10.0, is_async)._get_future())  # type: ignore[arg-type]
        else:
            sent.append(_invoke_rpc_python_udf(worker, frame, tensors, 10.0, is_async))  # type: ignore[arg-type]
    for answer in sent:
        try:
            answer.wait()
        except RuntimeError as error:
            assert "timed out" not in str(error)


def throw_recorded(source: RpcTransport) -> None:
    """As they are, and also as requests for RRefs."""
    throw(source, [(message, is_remote) for message in recorded(source) for is_remote in (False, True)] * 5)


def storm(source: RpcTransport) -> int:
    """Throw 2,000 of them, and return how many it were."""
    messages = recorded(source)
    num_thrown = 0

    @settings(
        max_examples=2000 // BATCH,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],  # to shrink what failed would take minutes, and seldom fail again
    )
    @given(st.lists(mutated(messages), min_size=BATCH, max_size=BATCH))
    def throw_some(batch: list[tuple[Message, bool]]) -> None:
        nonlocal num_thrown
        num_thrown += len(batch)
        throw(source, batch)

    throw_some()
    gc.collect()  # RRefs of ours to answers that stand there
    return num_thrown


def test_mutated_messages_leave_nothing_behind(pair: tuple[Device, Device]) -> None:
    source, device = pair
    source.ask("do", throw_recorded)
    device.ask("watch")
    memory = num_thrown = 0
    for _ in range(5):
        num_thrown += source.ask("do", storm)
        assert device.ask("python_that_ran") == []
        assert device.ask("is_part_touched") is False
        assert source.ask("post", "device", "echo", 1) == (1,)
        wait_until(lambda: device.ask("num_tensors") == 0)
        before, memory = memory, device.ask("memory")
        added = memory - before
        if added < STORM_MAY_ADD:
            break
    assert num_thrown >= 4000
    # The first storms may fill tables and caches; what a message leaves behind, every storm adds.
    assert added < STORM_MAY_ADD
