"""Devices as real processes: they come, leave, die, freeze and lie, and the others go on. Nothing may be printed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
import torch
from integration.rpc_device import TESTS, Counter, Device, expose_endpoints
from processes import is_frozen
from torch.distributed import rpc

from shardnet.errors import CallTimeout, ClusterError, DeviceLost, DoesNotFit, JoinFailed, UsageError
from shardnet.transport import RpcTransport, serve_door
from shardnet.transport.door.membership import Membership
from shardnet.transport.rpc import farewell, objects
from shardnet.transport.rpc import transport as rpc_module
from shardnet.transport.rpc.edges import Edge
from shardnet.transport.wire.frames import Post


class Cluster:
    """A door, this process as "source", and as many devices as a test starts. All ends with the test."""

    def __init__(self) -> None:
        self.door = serve_door()
        self.endpoint = self.door.endpoint
        self.source = RpcTransport.join(self.endpoint, "source")
        expose_endpoints(self.source)
        self.started: list[Device] = []
        self._ends = ExitStack()

    def start(self, *names: str) -> list[Device]:
        devices = [self._ends.enter_context(Device(self.endpoint, name)) for name in names]
        self.started += devices
        return [device.wait_joined() for device in devices]

    def echo(self, device: str, value: Any = 1) -> Any:
        return self.source.post(device, "echo", value, timeout_s=10).result(20)[0]

    def end(self) -> None:
        with self._ends:
            self.source.close()
            for device in self.started:
                if device.process.is_alive():
                    device.proceed()
                    assert device.end() == 0
                assert device.printed() == "", device.name
        self.door.close()


@pytest.fixture
def cluster(capfd: pytest.CaptureFixture[str]) -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster
    finally:
        cluster.end()
    assert capfd.readouterr().err == ""


def test_members_that_come_and_go_are_told(cluster: Cluster) -> None:
    """Also of one that this process itself strikes off, which is told once."""
    told: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    cluster.source.on_members(lambda joined, left: told.append((joined, left)))
    one, two, _ = cluster.start("@one", "two", "three")
    one.ask("leave")
    assert wait_until(lambda: ((), ("@one",)) in told)
    two.process.kill()
    assert wait_until(lambda: ((), ("two",)) in told)
    cluster.source.evict("three")
    cluster.source.group.door.sync()
    assert wait_until(lambda: ((), ("three",)) in told)
    joined = {name for names, _ in told for name in names}
    left = sorted(name for _, names in told for name in names)
    assert (joined, left) == ({"@one", "two", "three"}, ["@one", "three", "two"])


def test_connections_to_those_that_left_are_closed(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch left two sockets open for each member that ever was."""
    monkeypatch.setattr(farewell, "FIRST_S", 0.2)
    process = psutil.Process()
    for _ in range(3):
        for device, how in zip(cluster.start("one", "two", "three"), ("leave", "kill", "evict"), strict=True):
            cluster.source.call(device.name, "echo", 1, timeout_s=10).result(20)
            if how == "leave":
                device.ask("leave")
            elif how == "kill":
                device.process.kill()
            else:
                cluster.source.evict(device.name)
                device.ask("leave")
    assert wait_until(lambda: cluster.source.members() == ("source",))
    assert wait_until(lambda: not [each for each in process.net_connections() if each.status == psutil.CONN_CLOSE_WAIT])


def test_three_join_and_all_know_all(cluster: Cluster) -> None:
    devices = cluster.start("device-1", "device-2", "device-3")
    everyone = ["device-1", "device-2", "device-3", "source"]
    assert list(cluster.source.members()) == everyone
    for device in devices:
        assert device.ask("members") == everyone
        for other in everyone:
            assert device.ask("post", other, "echo", device.name) == (device.name,)


def test_survivors_go_on_when_one_is_killed_and_evicted(cluster: Cluster) -> None:
    first, second, third = cluster.start("device-1", "device-2", "device-3")
    counter = cluster.source.remote("device-2", "counter", 1)
    due = cluster.source.call("device-2", "never", timeout_s=60)
    second.kill()
    with pytest.raises(DeviceLost) as caught:
        due.result(5)
    assert caught.value.device == "device-2"
    assert first.ask("post", "device-3", "echo", 1) == (1,)
    with pytest.raises(DeviceLost):
        counter.call("add", 1, timeout_s=10).result(10)

    cluster.source.evict("device-2")
    assert cluster.source.members() == ("device-1", "device-3", "source")
    assert first.ask("members") == third.ask("members") == ["device-1", "device-3", "source"]
    with pytest.raises(RuntimeError, match="DeviceLost: device-2 is not in the cluster"):
        first.ask("post", "device-2", "echo", 1)
    assert first.ask("post", "device-3", "echo", 1) == (1,)
    assert cluster.echo("device-1") == 1
    counter.release()


def test_the_same_name_comes_back_again_and_again(cluster: Cluster) -> None:
    (survivor,) = cluster.start("device-1")
    ids = set()
    for _ in range(6):
        (device,) = cluster.start("device-2")
        ids.add(device.ask("id"))
        assert cluster.echo("device-2", torch.ones(3)).tolist() == [1, 1, 1]
        assert survivor.ask("post", "device-2", "echo", 1) == (1,)
        assert device.ask("post", "device-1", "echo", 1) == (1,)
        device.kill()
        cluster.source.evict("device-2")
        assert survivor.ask("members") == ["device-1", "source"]
    assert len(ids) == 6


def test_the_dead_do_not_block_a_join_and_give_up_their_name(cluster: Cluster) -> None:
    for device in cluster.start("device-1", "device-2"):
        device.kill()
    (third, again) = cluster.start("device-3", "device-1")
    assert third.ask("members") == again.ask("members") == ["device-1", "device-3", "source"]
    assert again.ask("post", "device-3", "echo", 1) == (1,)
    assert cluster.echo("device-1") == 1
    cluster.source.evict("device-2")
    assert third.ask("members") == again.ask("members") == ["device-1", "device-3", "source"]


def test_a_frozen_member_does_not_block_a_join_and_hears_of_it_later(cluster: Cluster) -> None:
    (frozen,) = cluster.start("device-1")
    frozen.stop()
    (newcomer,) = cluster.start("device-2")
    assert newcomer.ask("members") == ["device-1", "device-2", "source"]
    with pytest.raises(RuntimeError, match=r"NameTaken: .* is in the cluster and does not answer"):
        cluster.start("device-1")
    frozen.proceed()
    assert cluster.echo("device-1") == 1
    assert frozen.ask("post", "device-2", "echo", 1) == (1,)
    assert frozen.ask("members") == ["device-1", "device-2", "source"]


def test_a_frozen_member_times_out_and_works_again(cluster: Cluster) -> None:
    (frozen,) = cluster.start("device-1")
    assert cluster.echo("device-1") == 1
    frozen.stop()
    for answer in (
        cluster.source.post("device-1", "echo", 1, timeout_s=0.2),
        cluster.source.call("device-1", "echo", 1, timeout_s=0.2),
    ):
        with pytest.raises(CallTimeout, match=r"device-1 did not answer 'echo' within 0\.2 s") as caught:
            answer.result(10)
        assert caught.value.device == "device-1"
    frozen.proceed()
    assert cluster.echo("device-1", 2) == 2


def test_evicting_a_frozen_member_fails_what_waits_and_it_learns_of_it(cluster: Cluster) -> None:
    (frozen,) = cluster.start("device-1")
    frozen.stop()
    due = cluster.source.post("device-1", "echo", 1, timeout_s=60)
    cluster.source.evict("device-1")
    with pytest.raises(DeviceLost):
        due.result(1)
    frozen.proceed()
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"Evicted: .* (struck|evicted).* Join the cluster again"):
            frozen.ask("post", "source", "echo", 1)
        frozen.ask("wait_struck_off")
    frozen.ask("join_again")
    assert cluster.source.members() == ("device-1", "source")
    assert frozen.ask("post", "source", "echo", 1) == (1,)
    assert cluster.echo("device-1") == 1


def test_a_name_in_use_is_refused(cluster: Cluster) -> None:
    cluster.start("device-1")
    for name in ("device-1", "source"):
        with pytest.raises(RuntimeError, match=f"NameTaken: A device called {name} is in the cluster already"):
            cluster.start(name)
    assert cluster.echo("device-1") == 1
    assert cluster.source.members() == ("device-1", "source")


def test_leaving_is_noticed(cluster: Cluster) -> None:
    first, second = cluster.start("device-1", "device-2")
    due = cluster.source.call("device-1", "never", timeout_s=60)
    first.ask("leave")
    with pytest.raises(DeviceLost):
        due.result(5)
    assert cluster.source.members() == ("device-2", "source")
    assert second.ask("members") == ["device-2", "source"]
    assert second.ask("post", "source", "echo", 1) == (1,)


def test_a_process_may_leave_and_join_again(cluster: Cluster) -> None:
    """A device that finds a new coordinator does that. torch keeps RRefs for the first agent of a process only."""
    (device,) = cluster.start("device-1")
    for _ in range(3):
        old_id = cluster.source.id
        with pytest.raises(UsageError, match=r"holds one at a time\. Close that cluster first"):
            RpcTransport.join(cluster.endpoint, "other")
        cluster.source.close()
        with pytest.raises(ClusterError, match="source has left the cluster"):
            cluster.echo("device-1")
        assert device.ask("members") == ["device-1"]
        cluster.source = RpcTransport.join(cluster.endpoint, "source")
        assert cluster.source.id > old_id
        counter = cluster.source.remote("device-1", "counter", 5)
        assert counter.call("add", 1, timeout_s=10).result(10) == 6
        counter.release()
        assert wait_until(lambda: cluster.source.post("device-1", "num_counters").result(10) == 0)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
    return True


def test_an_object_lives_on_while_any_handle_does(cluster: Cluster) -> None:
    """In fresh processes, where RRefs alone decide: one device makes it, hands it on and dies."""
    cluster.start("owner", "user")
    script = """
import sys
from shardnet.transport import RpcTransport
with RpcTransport.join(sys.argv[1], "maker") as maker:
    counter = maker.remote("owner", "counter", 10)
    assert maker.call("user", "hold", counter, timeout_s=10).result(10) == 11
    other = maker.remote("owner", "counter", 0)
    assert maker.post("owner", "num_counters").result(10) == 2
    counter.release()
    other.release()
    while maker.post("owner", "num_counters").result(10) == 2: pass
    assert maker.call("user", "use_held", timeout_s=10).result(10) == 12
"""
    done = subprocess.run(
        [sys.executable, "-c", script, cluster.endpoint], capture_output=True, text=True, timeout=60, cwd=TESTS.parent
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert cluster.source.post("owner", "num_counters").result(10) == 1
    assert cluster.source.call("user", "use_held", timeout_s=10).result(10) == 13
    cluster.source.post("user", "let_go").result(10)
    assert wait_until(lambda: cluster.source.post("owner", "num_counters").result(10) == 0)


def test_releasing_an_object_of_a_dead_device_is_quiet(cluster: Cluster) -> None:
    """In a fresh process, as above: what it prints while torch tries to tell the dead owner is what is looked at."""
    (owner,) = cluster.start("owner")
    script = """
import sys
from shardnet.errors import DeviceLost
from shardnet.transport import RpcTransport
with RpcTransport.join(sys.argv[1], "maker") as maker:
    counters = [maker.remote("owner", "counter", 10) for _ in range(3)]
    print("made", flush=True)
    sys.stdin.readline()
    try:
        counters[0].call("add", 1, timeout_s=10).result(10)
    except DeviceLost:
        counters.pop().release()
        maker.evict("owner")
        counters.pop().release()
        del counters
        maker.post("source", "echo").result(10)
        print("released", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, cluster.endpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
    ) as maker:
        try:
            assert maker.stdout is not None
            assert maker.stdout.readline() == "made\n"
            owner.kill()
            assert maker.communicate("\n", timeout=30) == ("released\n", "")
        finally:
            maker.kill()
    assert maker.returncode == 0


def test_a_taken_port_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"^Cannot listen on 127.0.0.1:{port}: .*in use\. Choose another port"):
            serve_door("127.0.0.1", port)


@pytest.mark.parametrize(("host", "port"), [("192.0.2.1", 0), ("no.such.host.invalid", 0), ("127.0.0.1", 70000)])
def test_an_impossible_address_is_a_sentence(host: str, port: int) -> None:
    with pytest.raises(UsageError, match="Cannot listen on"):
        serve_door(host, port, beyond_loopback=True)


def test_agents_listen_on_loopback_only(cluster: Cluster) -> None:
    """And nothing else listens on the network."""
    import psutil

    (device,) = cluster.start("device-1")
    for pid in (None, device.pid):
        listening = [c for c in psutil.Process(pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert [c.laddr.ip for c in listening] == ["127.0.0.1"]


def test_joining_where_nobody_is_fails_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(
        JoinFailed, match=rf"No cluster answers at 127.0.0.1:{port} within 1 s\. Start one there: shardnet-run"
    ):
        RpcTransport.join(f"127.0.0.1:{port}", "device-1", timeout_s=1)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("endpoint", ["nonsense", "host:", ":1", "host:x", "host:0", "host:99999"])
def test_an_endpoint_that_is_none_is_a_sentence(endpoint: str) -> None:
    with pytest.raises(UsageError, match='An endpoint is "host:port"'):
        RpcTransport.join(endpoint, "device-1")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, "a/b"])
def test_an_impossible_name_is_a_sentence(name: str) -> None:
    with pytest.raises(UsageError, match="A device is called by"):
        RpcTransport.join("127.0.0.1:1", name)


@pytest.mark.parametrize("end", ["SIGKILL", "SIGSTOP"])
def test_members_outlive_the_door(end: str) -> None:
    """When the coordinator dies or freezes, the others go on talking, and can leave."""
    with ExitStack() as ends:
        script = "from shardnet.transport import serve_door; d = serve_door(); print(d.endpoint, flush=True); input()"
        host = ends.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=TESTS.parent,
            )
        )
        ends.callback(host.kill)
        assert host.stdout is not None
        endpoint = host.stdout.readline().strip()
        first, second = (ends.enter_context(Device(endpoint, name)) for name in ("device-1", "device-2"))
        first.wait_joined()
        second.wait_joined()
        assert first.ask("post", "device-2", "echo", 0) == (0,)
        assert second.ask("post", "device-1", "echo", 0) == (0,)
        host.send_signal(getattr(signal, end))
        assert wait_until(lambda: is_frozen(host.pid) if end == "SIGSTOP" else host.poll() is not None)
        assert first.ask("post", "device-2", "echo", 1) == (1,)
        assert second.ask("post", "device-1", "echo", 1) == (1,)
        with pytest.raises(RuntimeError, match=r"(ClusterError|DoorGone): The door at .* does not answer"):
            first.ask("post", "device-3", "echo", 1)
        assert first.end() == second.end() == 0
        assert first.printed() == second.printed() == ""


def test_a_port_that_never_answers_does_not_hold_a_join() -> None:
    """Once, it waited for ever for its first answer."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        endpoint = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(JoinFailed, match=rf"No cluster answers at {endpoint} within 0\.2 s"):
            RpcTransport.join(endpoint, "device-1", timeout_s=0.2)


def test_a_process_that_does_not_close_leaves_in_order(cluster: Cluster) -> None:
    script = (
        "import sys; from shardnet.transport import RpcTransport; "
        "t = RpcTransport.join(sys.argv[1], 'forgetful'); print(t.post('source', 'members').result(10))"
    )
    cluster.source.expose("members", cluster.source.members)
    done = subprocess.run(
        [sys.executable, "-c", script, cluster.endpoint], capture_output=True, text=True, timeout=60, cwd=TESTS.parent
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "('forgetful', 'source')\n", "")
    assert cluster.source.members() == ("source",)


def test_it_is_torchs_rpc_with_a_backend_of_our_own(cluster: Cluster) -> None:
    assert rpc.backend_registry.backend_registered("SHARDNET_ELASTIC")
    agent = rpc._get_current_rpc_agent()
    assert type(agent).__name__ == "TensorPipeAgent"
    assert agent.get_worker_info().id == cluster.source.id
    assert rpc_module.RpcTransport is RpcTransport


def test_an_error_of_a_handler_prints_nothing_there(cluster: Cluster) -> None:
    (device,) = cluster.start("device-1")
    for _ in range(3):
        with pytest.raises(DoesNotFit):
            cluster.source.post("device-1", "does_not_fit").result(10)
    assert device.printed() == ""


def interrupted(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_ctrl_c_while_leaving_leaves_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent stayed, a second `close` did nothing, and the process could never join a cluster again."""
    with serve_door() as door:
        here = RpcTransport.join(door.endpoint, "source")
        monkeypatch.setattr(here.group.door, "leave", interrupted)
        with pytest.raises(KeyboardInterrupt):
            here.close()
        assert not rpc._is_current_rpc_agent_set()


def test_ctrl_c_while_joining_leaves_no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread went on after Ctrl-C and started an agent that nobody knew of."""
    with serve_door() as door:
        for question in ("enter", "enlist"):
            with monkeypatch.context() as patch:
                patch.setattr(Membership, question, interrupted)
                with pytest.raises(KeyboardInterrupt):
                    RpcTransport.join(door.endpoint, "source")
            assert not rpc._is_current_rpc_agent_set()
            assert not [thread for thread in threading.enumerate() if thread.name == "shardnet-membership"]


def edge_to(source: RpcTransport, device: str) -> Edge:
    """The edge to a device, which opens when something is posted."""
    source.post(device, "echo", timeout_s=10).result(10)
    peer = source.peer(device)
    assert wait_until(lambda: peer.edge is not None and peer.edge.speaks and not peer.edge.is_over)
    assert peer.edge is not None
    return peer.edge


def test_the_end_of_an_edge_is_not_that_of_its_device(cluster: Cluster) -> None:
    """Once, what was due there failed as if the device were dead, and the device was struck off."""
    (device,) = cluster.start("device-1")
    edge = edge_to(cluster.source, "device-1")
    device.stop()
    due = cluster.source.post("device-1", "echo", 5, timeout_s=20)
    edge._line.close()
    assert wait_until(lambda: edge.is_over) and not due.done()
    device.proceed()
    assert due.result(20) == (5,)


def test_an_edge_that_is_over_is_replaced(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, an edge was asked for once in the life of two devices."""
    monkeypatch.setattr(rpc_module, "EDGE_AGAIN_S", 0.0)
    cluster.start("device-1")
    first = edge_to(cluster.source, "device-1")
    first._line.close()
    assert wait_until(lambda: first.is_over)
    assert edge_to(cluster.source, "device-1") is not first
    assert len(cluster.source._edges._edges) == 1


def test_who_was_silent_when_an_edge_was_asked_for_gets_one_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "EDGE_AGAIN_S", 0.2)
    monkeypatch.setattr(rpc_module, "EDGE_S", 0.1)
    (device,) = cluster.start("device-1")
    device.stop()
    for _ in range(3):
        with pytest.raises(CallTimeout):
            cluster.source.post("device-1", "echo", timeout_s=0.3).result(10)
    device.proceed()
    assert wait_until(lambda: cluster.echo("device-1") == 1 and cluster.source.peer("device-1").edge is not None)


def test_an_edge_is_for_the_device_that_asks(cluster: Cluster) -> None:
    """Once, the id was an argument: any of them could be asked for, as often as memory lasted."""
    (device,) = cluster.start("device-1")
    for args in ((99,), (device.ask("id"),)):
        with pytest.raises(ClusterError, match="failed in 'members/edge': TypeError"):
            cluster.source.post("device-1", "members/edge", *args).result(10)
    stranger = Post(10**6, "members/edge", ())
    with pytest.raises(ClusterError, match="device-1 has not heard yet of device number 1000000"):
        cluster.source.ask("device-1", "members/edge", stranger, 10).result(10)


def test_an_object_that_nobody_claims_goes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its asker has given up before it stood. Once, it stayed for as long as both devices lived."""
    monkeypatch.setattr(objects, "UNCLAIMED_S", 0.3)
    (device,) = cluster.start("device-1")
    before = Counter.num_alive
    device.ask("post", "source", "objects/make", (device.ask("id"), 10**6), "counter", (5,), True)
    assert Counter.num_alive == before + 1
    assert wait_until(lambda: Counter.num_alive == before)
    with pytest.raises(RuntimeError, match="the number of the device that asked for it"):
        device.ask("post", "source", "objects/make", (10**6, 1), "counter", (5,), True)


def test_whoever_posts_does_not_wait_for_the_door(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, to post to who is no member waited for the door, up to 5 s, on whichever thread: that of timers, say."""
    goes_on = threading.Event()
    sync = cluster.source.group.door.sync
    monkeypatch.setattr(cluster.source.group.door, "sync", lambda: (goes_on.wait(20), sync())[1])
    due = cluster.source.post("nobody", "echo", 1)
    assert not due.done()
    goes_on.set()
    with pytest.raises(DeviceLost, match="nobody is not in the cluster"):
        due.result(10)


def test_a_transport_that_cannot_be_made_leaves_no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_door() as door:
        with monkeypatch.context() as patch:
            patch.setattr(rpc_module, "Edges", interrupted)
            with pytest.raises(KeyboardInterrupt):
                RpcTransport.join(door.endpoint, "source")
        assert not rpc._is_current_rpc_agent_set()
        RpcTransport.join(door.endpoint, "source").close()


def test_a_second_ctrl_c_leaves_nothing_behind_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """It came while a thread was waited for. What stood behind that was never done, and `close` did nothing more."""
    with serve_door() as door, RpcTransport.join(door.endpoint, "source") as here:
        here.expose("never", Future)
        due = here.call("source", "never", timeout_s=60)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "join", interrupted)
            with pytest.raises(KeyboardInterrupt):
                here.close()
        with pytest.raises(ClusterError, match="source has left"):
            due.result(10)
        here.close()
        assert not rpc._is_current_rpc_agent_set()
