"""One contract, two transports: whatever holds here holds between processes and within one."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from integration.rpc_device import Counter, Device, expose_endpoints

from shardnet.errors import CallTimeout, ClusterError, DeviceLost, DoesNotFit, UsageError
from shardnet.plan import LeftOut, Plan, StagePlan
from shardnet.transport import InProcessNetwork, RpcTransport, Transport, serve_door
from shardnet.transport.messages import Hop, Part, RingId
from shardnet.transport.session_messages import SampledToken


@pytest.fixture(scope="module")
def rpc_source() -> Iterator[Transport]:
    with (
        serve_door() as door,
        RpcTransport.join(door.endpoint, "source") as source,
        Device(door.endpoint, "device") as device,
    ):
        expose_endpoints(source)
        device.wait_joined()
        yield source
        assert device.end() == 0
        assert device.printed() == ""


@pytest.fixture(scope="module")
def in_process_source() -> Iterator[Transport]:
    with InProcessNetwork() as network:
        source = network.join("source")
        for transport in (source, network.join("device")):
            expose_endpoints(transport)
        yield source


@pytest.fixture(params=["rpc_source", "in_process_source"])
def source(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> Iterator[Transport]:
    """A device called "source"; another called "device" is in the cluster, too. Both expose the same."""
    yield request.getfixturevalue(request.param)
    assert capfd.readouterr().err == ""


@pytest.fixture(params=["device", "source"])
def target(request: pytest.FixtureRequest) -> str:
    """Another device, and oneself."""
    name: str = request.param
    return name


def test_members_are_sorted_by_name(source: Transport) -> None:
    assert source.members() == ("device", "source")


def test_plain_values_travel(source: Transport, target: str) -> None:
    values = (None, True, 7, 2.5, "text", b"bytes", (1, (2,)), [3, [4]], {"a": {"b": 5}})
    assert source.post(target, "echo", *values).result(10) == values
    assert source.call(target, "echo", *values, timeout_s=10).result(10) == values


def test_messages_travel(source: Transport, target: str) -> None:
    hop = Hop(RingId(b"epoch", 3), 1, (Part(8, 20, 2), Part(9, 0, 1)), torch.randn(3, 16), source.name, 123, 4)
    (arrived,) = source.post(target, "echo", hop).result(10)
    assert type(arrived) is Hop
    assert type(arrived.parts[0]) is Part
    torch.testing.assert_close(arrived.payload, hop.payload, rtol=0, atol=0)
    assert arrived._replace(payload=hop.payload) == hop


def test_records_travel(source: Transport) -> None:
    """Frozen dataclasses, in each other and with bare numbers among their fields."""
    plan = Plan(
        (StagePlan("a", 0, 4), StagePlan("b", 5, 7)), version=3, lap_s=0.5, left_out=(LeftOut("c", "it is slow"),)
    )
    assert source.call("device", "echo", plan, plan.stages, timeout_s=10).result(10) == (plan, plan.stages)
    with pytest.raises(ClusterError, match=r"Plan\.stages is a list"):
        source.post("device", "echo", replace(plan, stages=list(plan.stages))).result(10)  # type: ignore[arg-type]


def test_numbers_are_drawn_once(source: Transport) -> None:
    """By whichever thread, and however many at a time."""
    with ThreadPoolExecutor(4) as threads:
        firsts = list(threads.map(lambda count: source.draw("plan", count), [1, 5, 2, 1] * 5))
    drawn = [first + offset for first, count in zip(firsts, [1, 5, 2, 1] * 5, strict=True) for offset in range(count)]
    assert sorted(drawn) == list(range(1, 46))
    assert source.draw("session") == 1


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5),
        torch.empty(0, 4),
        torch.arange(5),
        torch.randn(3, 4).to(torch.bfloat16),
        torch.randn(3, 4).T,
        torch.ones(1, 3).expand(4, 3),
        torch.tensor([True, False]),
    ],
    ids=["scalar", "empty", "int64", "bfloat16", "transposed", "expanded", "bool"],
)
def test_tensors_arrive_as_they_are(source: Transport, tensor: torch.Tensor) -> None:
    (arrived,) = source.post("device", "echo", tensor).result(10)
    assert arrived.dtype == tensor.dtype
    assert torch.equal(arrived, tensor)


def test_a_large_tensor_travels(source: Transport) -> None:
    large = torch.randn(8, 1024, 1024)
    (arrived,) = source.call("device", "echo", large, timeout_s=30).result(30)
    assert torch.equal(arrived, large)


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_a_view_travels_without_the_rest_of_its_storage(source: Transport, rows: int) -> None:
    whole = torch.zeros(4, 100)
    assert source.post("device", "storage_bytes", whole[:rows]).result(10) == rows * 100 * 4
    assert source.post("device", "storage_bytes", whole[:, :50]).result(10) == 4 * 50 * 4


def test_a_view_is_answered_without_the_rest_of_its_storage(source: Transport) -> None:
    row = source.post("device", "first_row", 2, 100).result(10)
    assert row.untyped_storage().nbytes() == 100 * 4


def test_tensors_arrive_detached(source: Transport) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    assert source.post("device", "requires_grad", parameter * 2).result(10) is False
    assert source.post("device", "requires_grad", parameter).result(10) is False


def test_a_tensor_arrives_as_a_copy(source: Transport) -> None:
    tensor = torch.ones(3)
    source.post("device", "keep", tensor).result(10)
    tensor.zero_()
    assert torch.equal(source.post("device", "kept").result(10), torch.ones(3))


def test_a_call_to_oneself_copies_nothing_and_is_done_at_once(source: Transport) -> None:
    tensor = torch.ones(3)
    for answer in (source.post("source", "echo", tensor), source.call("source", "echo", tensor, timeout_s=1)):
        assert answer.done()
        assert answer.result()[0] is tensor


def test_a_handler_may_answer_later(source: Transport, target: str) -> None:
    assert source.call(target, "later", 5, timeout_s=10).result(10) == 5


def test_an_error_keeps_its_class_message_and_device(source: Transport, target: str) -> None:
    for ask in (lambda: source.post(target, "does_not_fit"), lambda: source.call(target, "does_not_fit", timeout_s=10)):
        with pytest.raises(DoesNotFit, match=r"^needs 7 GiB, has 5$"):
            ask().result(10)
    with pytest.raises(DeviceLost, match="another one died") as caught:
        source.call(target, "later_fail", timeout_s=10).result(10)
    assert caught.value.device == "other"


@pytest.mark.parametrize(
    ("endpoint", "args", "message"),
    [
        ("divide", (1, 0), "failed in 'divide': ZeroDivisionError: division by zero"),
        ("divide", (1,), "failed in 'divide': TypeError"),
        ("exit", (), "failed in 'exit': SystemExit: 3"),
        ("nonsense", (), "exposes nothing called 'nonsense'"),
    ],
)
def test_an_error_that_is_not_ours_names_device_and_cause(
    source: Transport, target: str, endpoint: str, args: tuple[Any, ...], message: str
) -> None:
    for answer in (source.post(target, endpoint, *args), source.call(target, endpoint, *args, timeout_s=10)):
        with pytest.raises(ClusterError) as caught:
            answer.result(10)
        assert type(caught.value) is ClusterError
        assert str(caught.value).startswith(f"{target} {message}")


def test_posting_to_what_answers_later_is_refused(source: Transport, target: str) -> None:
    with pytest.raises(ClusterError, match="must be called and not posted to"):
        source.post(target, "later", 1).result(10)


def test_no_answer_in_time(source: Transport, target: str) -> None:
    with pytest.raises(CallTimeout, match=r"did not answer 'never' within 0\.05 s") as caught:
        source.call(target, "never", timeout_s=0.05).result(10)
    assert caught.value.device == target
    assert source.post(target, "echo", 1).result(10) == (1,)


@pytest.mark.parametrize(
    "foreign",
    [
        *(Path("/"), Counter, print, lambda: None, DoesNotFit("x"), torch.float16),
        *({1, 2}, {(1, 2): 3}, 2**200, torch.eye(2).to_sparse(), torch.zeros(2, dtype=torch.complex64)),
    ],
    ids=[
        *("path", "class", "function", "lambda", "error", "dtype"),
        *("set", "keyed by tuples", "too large", "sparse", "complex"),
    ],
)
def test_what_may_not_travel_is_the_callers_mistake(source: Transport, foreign: Any) -> None:
    with pytest.raises(UsageError, match=r"What 'echo' should send to device cannot travel: .* trave"):
        source.post("device", "echo", foreign).result(10)
    assert source.post("device", "echo", 1).result(10) == (1,)


def test_a_message_of_another_shape_is_refused_with_its_field(source: Transport) -> None:
    with pytest.raises(ClusterError, match=r"device .* SampledToken\.finish_reason is a int"):
        source.post("device", "echo", SampledToken(1, 2, 3, 4)).result(10)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a Part has a field that is no whole number"):
        source.post("device", "echo", Part(1, 2.5, 3)).result(10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("endpoint", "message"), [("foreign", "not among what may travel"), ("no_value", "<lambda>.*not among what may")]
)
def test_an_answer_that_cannot_travel_is_an_error(source: Transport, endpoint: str, message: str) -> None:
    for answer in (source.post("device", endpoint), source.call("device", endpoint, timeout_s=10)):
        with pytest.raises(ClusterError, match=f"device could not serve '{endpoint}'.*{message}"):
            answer.result(10)


@pytest.mark.parametrize("large", [b"x" * 2**20, torch.zeros(2**16)], ids=["bytes", "tensor"])
def test_what_is_posted_is_answered_shortly(source: Transport, large: Any) -> None:
    """Once, such an answer came or not by whether there was an edge to the device yet."""
    with pytest.raises(ClusterError, match="device could not serve 'echo': such an answer is too large for `post`"):
        source.post("device", "echo", large).result(10)
    assert len(source.call("device", "echo", large, timeout_s=10).result(10)[0]) == len(large)
    assert source.post("device", "storage_bytes", torch.zeros(2**16)).result(10) == 2**18, "a request may be large"


def test_a_device_that_is_not_there(source: Transport) -> None:
    for ask in (lambda: source.post("nobody", "echo"), lambda: source.call("nobody", "echo", timeout_s=1)):
        with pytest.raises(DeviceLost, match="nobody is not in the cluster") as caught:
            ask().result(10)
        assert caught.value.device == "nobody"
    with pytest.raises(DeviceLost):
        source.remote("nobody", "counter", 1)
    source.evict("nobody")
    with pytest.raises(UsageError, match="cannot evict itself"):
        source.evict("source")


def test_an_object_lives_where_it_was_made(source: Transport, target: str) -> None:
    counter = source.remote(target, "counter", 10)
    assert counter.device == target
    assert counter.call("add", 1, timeout_s=10).result(10) == 11
    assert counter.call("add_later", 1, timeout_s=10).result(10) == 12
    with pytest.raises(DoesNotFit, match="nothing fits"):
        counter.call("fail", timeout_s=10).result(10)
    with pytest.raises(ClusterError, match="private"):
        counter.call("__init__", 1, timeout_s=10).result(10)
    with pytest.raises(ClusterError, match="AttributeError"):
        counter.call("nonsense", timeout_s=10).result(10)
    counter.release()
    counter.release()
    with pytest.raises(ClusterError, match="released already"):
        counter.call("add", 1, timeout_s=10).result(10)


def test_an_object_that_cannot_be_made(source: Transport, target: str) -> None:
    with pytest.raises(DoesNotFit, match="a counter from -1"):
        source.remote(target, "counter", -1)
    with pytest.raises(ClusterError, match="exposes nothing called 'nonsense'"):
        source.remote(target, "nonsense")


def test_a_handle_travels(source: Transport, target: str) -> None:
    counter = source.remote(target, "counter", 10)
    assert source.call("device", "use", counter, timeout_s=10).result(10) == 11
    assert source.call("source", "use", counter, timeout_s=10).result(10) == 12
    counter.release()


def test_a_released_object_goes(source: Transport, target: str) -> None:
    def num_counters() -> int:
        num: int = source.post(target, "num_counters").result(10)
        return num

    before = num_counters()
    counter = source.remote(target, "counter", 1)
    assert num_counters() == before + 1
    counter.release()
    assert any(num_counters() == before for _ in range(2000))


def test_many_threads_at_once(source: Transport) -> None:
    wrong: list[int] = []

    def ask(first: int) -> None:
        answers = {n: source.post("device", "echo", torch.full((64,), n)) for n in range(first, first + 100)}
        wrong.extend(n for n, answer in answers.items() if answer.result(20)[0].tolist() != [n] * 64)

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 1000, 2000, 3000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_callbacks_of_answers_may_ask_again(source: Transport) -> None:
    """A ring of messages is driven by callbacks, on the very threads that complete answers."""
    last: Future[int] = Future()

    def again(answer: Future[Any]) -> None:
        (n,) = answer.result()
        if n == 50:
            last.set_result(n)
        else:
            source.post("device", "echo", n + 1).add_done_callback(again)

    source.post("device", "echo", 0).add_done_callback(again)
    assert last.result(20) == 50


def test_a_machine_that_cannot_reach_itself_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the loopback down, torch printed C++ stacks, and the command called it a mistake of shardnet."""

    class WithoutWay(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", WithoutWay)
    with pytest.raises(
        UsageError, match=r"cannot reach itself at 127.0.0.1: Network is unreachable. Bring its network"
    ):
        serve_door("127.0.0.1")
