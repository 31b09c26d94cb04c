"""The process that has the door is killed, again and again, and another one opens it in the same folder."""

from __future__ import annotations

import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.rpc_device import FORKED, TESTS, Device, expose_endpoints
from processes import is_frozen, wait_until
from warm_python import WARM_PYTHON

from shardnet.errors import ClusterError, ShardnetError
from shardnet.transport import RpcTransport, serve_door
from shardnet.transport.door import desk, knocking
from shardnet.transport.door.messages import Enlist, Enter, pack

pytestmark = pytest.mark.usefixtures("warm_python")

NUM_KILLS = 10
LOOK_AGAIN_S = 60.0


def coordinate(folder: str, return_s: float, pipe: Connection) -> None:
    """Have the door, and be a member; until the pipe is closed."""
    desk.RETURN_S = return_s
    with serve_door(folder=Path(folder)) as door, RpcTransport.join(door.endpoint, "coordinator") as here:
        expose_endpoints(here)
        pipe.send(here.id)
        with contextlib.suppress(EOFError):
            pipe.recv()


class Coordinator:
    """A process with a door."""

    def __init__(self, folder: Path, return_s: float = 60.0) -> None:
        self.pipe, end = FORKED.Pipe()
        self.process = FORKED.Process(target=coordinate, args=(str(folder), return_s, end), daemon=True)
        self.process.start()
        end.close()

    def id(self) -> int:
        """When it has joined."""
        assert self.pipe.poll(60), "the coordinator did not join"
        member_id: int = self.pipe.recv()
        return member_id

    def kill(self) -> None:
        self.process.kill()


class Scene:
    """A folder, this process as "source" once there is a door, and devices. All ends with the test."""

    def __init__(self, folder: Path, ends: ExitStack) -> None:
        self.folder = folder
        self.endpoint = f"unix:{folder}/door"
        self.coordinator: Coordinator
        self._ends = ends
        self._started: list[Device] = []
        self.open()
        self.source = ends.enter_context(
            RpcTransport.join(self.endpoint, "source", timeout_s=60, look_again_s=LOOK_AGAIN_S)
        )
        expose_endpoints(self.source)

    def open(self, **options: Any) -> None:
        self.coordinator = Coordinator(self.folder, **options)
        self._ends.callback(self.coordinator.kill)

    def start(self, *names: str) -> list[Device]:
        devices = [self._ends.enter_context(Device(self.endpoint, name, look_again_s=LOOK_AGAIN_S)) for name in names]
        self._started += devices
        return [device.wait_joined() for device in devices]

    def all_see(self, coordinator_id: int, *names: str) -> bool:
        """Whether the source and all devices of those names know the same members, and who coordinates."""
        expected = sorted(("coordinator", "source", *names))
        if self.source.number_of("coordinator") != coordinator_id or list(self.source.members()) != expected:
            return False
        living = [each for each in self._started if each.name in names and each.process.is_alive()]
        seen = [(each.ask("members"), each.ask("number_of", "coordinator")) for each in living]
        return seen == [(expected, coordinator_id)] * len(living)

    def end_quietly(self) -> None:
        """All who live leave in order, and nobody has printed anything."""
        for device in self._started:
            if device.process.is_alive():
                device.proceed()
                assert device.end() == 0
            assert device.printed() == "", device.name


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as ends:
        yield Scene(tmp_path / "state", ends)


class Caller:
    """Posts to devices, and uses an object of one through an RRef of another, all the while."""

    def __init__(self, scene: Scene, *names: str) -> None:
        self.num_calls = 0
        self.failures: list[BaseException] = []
        self._scene = scene
        self._names = names
        self._counter = scene.source.remote(names[0], "counter", 0)
        assert scene.source.call(names[1], "hold", self._counter, timeout_s=20).result(30) == 1
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        source, expected = self._scene.source, 1
        while not self._is_over.is_set():
            try:
                for name in self._names:
                    assert source.post(name, "echo", 1, timeout_s=20).result(30) == (1,)
                expected += 1
                assert source.call(self._names[1], "use_held", timeout_s=20).result(30) == expected
                self.num_calls += 1
            except BaseException as error:
                self.failures.append(error)
                return

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._counter.release()  # not before: where this process had another agent, nobody else keeps the object


def test_members_go_on_under_their_ids_however_often_the_door_is_killed(
    scene: Scene, capfd: pytest.CaptureFixture[str]
) -> None:
    """One freezes over a restart, and one dies in one; calls and RRefs between the others go on all the while."""
    coordinators = [scene.coordinator.id()]
    first, second, third, mortal = scene.start("device-1", "device-2", "device-3", "mortal")
    ids = [device.ask("id") for device in (first, second, third)]
    names = ["device-1", "device-2", "device-3", "mortal"]
    assert first.ask("post", "device-2", "echo", 1) == second.ask("post", "device-1", "echo", 1) == (1,)
    of_door: list[str] = []
    scene.source.on_door(of_door.append)
    caller = Caller(scene, "device-1", "device-2")
    try:
        for number in range(NUM_KILLS):
            if number == 3:
                third.stop()
            scene.coordinator.kill()
            if number == 6:
                mortal.kill()
                names.remove("mortal")
            scene.open()
            coordinators.append(scene.coordinator.id())
            if number == 3:
                third.proceed()
            wait_until(lambda: scene.all_see(coordinators[-1], *names))
            for device in (first, second, third):
                assert device.ask("post", "coordinator", "echo", number) == (number,)
            assert scene.source.draw("plan", 10) == 1 + number * 10
    finally:
        caller.end()
    assert caller.failures == []
    assert caller.num_calls > 50
    assert of_door == ["gone", "back"] * NUM_KILLS
    assert [device.ask("id") for device in (first, second, third)] == ids
    assert coordinators == sorted(set(coordinators)) and not set(coordinators) & set(ids)
    scene.end_quietly()
    assert capfd.readouterr().err == ""


def test_who_comes_too_late_was_struck_off_and_joins_anew(scene: Scene) -> None:
    scene.coordinator.id()
    late, stays = scene.start("late", "stays")
    late.stop()
    scene.coordinator.kill()
    scene.open(return_s=0.5)
    coordinator = scene.coordinator.id()
    wait_until(lambda: scene.all_see(coordinator, "stays"))
    late.proceed()
    late.ask("wait_struck_off")
    with pytest.raises(RuntimeError, match="late was struck off by the others"):
        late.ask("post", "stays", "echo", 1)
    first_id = stays.ask("number_of", "late")
    late.ask("join_again")
    assert first_id is None and scene.all_see(coordinator, "late", "stays")
    assert late.ask("post", "stays", "echo", 1) == stays.ask("post", "late", "echo", 1) == (1,)


def test_who_dies_before_it_has_come_back_is_not_waited_for(scene: Scene) -> None:
    """It is frozen when the door is opened again, and killed then: there is no connection that could end."""
    scene.coordinator.id()
    frozen, _ = scene.start("frozen", "stays")
    frozen.stop()
    scene.coordinator.kill()
    scene.open()
    coordinator = scene.coordinator.id()
    wait_until(lambda: scene.source.number_of("coordinator") == coordinator)
    assert "frozen" in scene.source.members()
    frozen.kill()
    begun_s = time.monotonic()
    wait_until(lambda: scene.all_see(coordinator, "stays"))
    assert time.monotonic() - begun_s < 10


def test_what_was_told_before_a_kill_is_not_told_again(scene: Scene) -> None:
    """Killed at random moments, while numbers are drawn and devices come and go."""
    scene.coordinator.id()
    (comes_and_goes,) = scene.start("comes-and-goes")
    dice = random.Random(11)
    drawn: list[int] = []
    ids: list[int] = []
    is_over = threading.Event()

    def draw() -> None:
        while not is_over.is_set():
            try:
                drawn.append(scene.source.draw("plan", 1))
            except ClusterError:
                time.sleep(0.005)

    def come_and_go() -> None:
        while not is_over.is_set():
            try:
                comes_and_goes.ask("join_again")
                ids.append(comes_and_goes.ask("id"))
            except RuntimeError:  # the door was killed meanwhile
                time.sleep(0.005)

    threads = [threading.Thread(target=draw), threading.Thread(target=come_and_go)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(NUM_KILLS):
            so_far = len(drawn)
            wait_until(lambda n=so_far: len(drawn) > n)
            time.sleep(dice.random() * 0.2)
            scene.coordinator.kill()
            scene.open()
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert len(drawn) == len(set(drawn)) > NUM_KILLS
    assert len(ids) == len(set(ids)) > 3


MAIN = "import sys; from shardnet.device.process import main; sys.exit(main())"
DEVICE = (*WARM_PYTHON, "-c", MAIN, "--name", "device-1")


@contextlib.contextmanager
def device_process(scene: Scene, keep_s: int, *, has_joined: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A device as users have them."""
    command = [*DEVICE, "--endpoint", scene.endpoint, "--keep-s", str(keep_s)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=TESTS.parent) as process:
        try:
            if has_joined:
                wait_until(lambda: "device-1" in scene.source.members())
                time.sleep(1.0)  # the others are told first, and it is not seen from outside when it knows itself
            yield process
        finally:
            process.kill()


def test_a_door_that_is_killed_while_a_device_joins_is_waited_for(scene: Scene) -> None:
    """Once, the device was told of already, and ended, as it was not told itself."""
    scene.coordinator.id()
    with (
        contextlib.closing(knocking.knock(scene.endpoint, 10)) as silent,
        device_process(scene, keep_s=60, has_joined=False) as process,
    ):
        silent.sendall(pack(Enter(1)) + pack(Enlist(2, "silent", "", b"")))  # a join waits 2 s for it to hear
        wait_until(lambda: b"device-1" in (scene.folder / "roster.json").read_bytes())
        scene.coordinator.kill()
        scene.open()
        wait_until(lambda: has_no_stages(scene.source, "device-1"))
        assert process.poll() is None


def has_no_stages(source: RpcTransport, device: str) -> bool:
    """Whether it answers that; not so where it is about to join anew."""
    try:
        return bool(source.post(device, "stages", timeout_s=20).result(30) == [])
    except ClusterError:
        return False


def test_a_device_process_waits_for_its_door_and_ends_at_a_signal_meanwhile(scene: Scene) -> None:
    scene.coordinator.id()
    with device_process(scene, keep_s=60) as process:
        member_id = scene.source.number_of("device-1")
        scene.coordinator.kill()
        scene.open()
        coordinator = scene.coordinator.id()
        wait_until(lambda: scene.all_see(coordinator, "device-1"))
        assert scene.source.number_of("device-1") == member_id

        device = scene.source.post("device-1", "describe", timeout_s=20).result(30)
        suspended = psutil.Process(device.pid)
        suspended.suspend()
        wait_until(lambda: is_frozen(device.pid))
        scene.source.evict("device-1")
        scene.coordinator.kill()
        suspended.resume()
        scene.open()
        coordinator = scene.coordinator.id()
        wait_until(lambda: "device-1" in scene.source.members())
        assert (scene.source.number_of("device-1") or 0) > (member_id or 0), "it has joined anew"

        scene.coordinator.kill()
        scene.coordinator.process.join()
        begun_s = time.monotonic()
        process.terminate()
        assert process.wait(20) == 128 + 15
        assert time.monotonic() - begun_s < 5
        assert process.stderr is not None and process.stderr.read() == ""


def test_a_device_process_whose_door_stays_away_ends(scene: Scene) -> None:
    scene.coordinator.id()
    with device_process(scene, keep_s=1) as process:
        scene.coordinator.kill()
        assert process.wait(30) == 1
        assert process.stderr is not None
        assert process.stderr.read() == (
            f"shardnet: The cluster at {scene.endpoint} did not come back within 1 s. Start it, and then this device.\n"
        )


def test_a_device_process_that_was_not_told_to_wait_goes_on_without_a_door(scene: Scene) -> None:
    """As devices of `shardnet-run` did before: they end with their parent, and with nothing else."""
    scene.coordinator.id()
    with device_process(scene, keep_s=0) as process:
        scene.coordinator.kill()
        scene.coordinator.process.join()
        time.sleep(0.5)
        assert scene.source.post("device-1", "stages", timeout_s=20).result(30) == []
        assert process.poll() is None


def test_a_second_door_in_a_folder_is_refused(scene: Scene) -> None:
    scene.coordinator.id()
    with pytest.raises(ShardnetError, match=f"A cluster runs in {scene.folder} already"):
        serve_door(folder=scene.folder)
