"""What the doctor finds, on this machine and on ones that lack something."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from shardnet.launch import cli, commands
from shardnet.launch.doctor import command as doctor_command
from shardnet.launch.doctor import doctor, network, packages, thread_bench, working
from shardnet.launch.doctor.finding import Finding
from shardnet.launch.doctor.network import Joined, Reached, find_clock, find_neighbours
from shardnet.profiling import threads
from shardnet.profiling.measurement import ThreadTrial
from shardnet.progress import progress_bars, silent
from shardnet.quantised.kernels.native import native
from shardnet.quantised.native.compiling import WhyNot
from shardnet.trust.addresses import Address


def test_the_whole_examination(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(thread_bench, "SECONDS_EACH", 0.01)
    monkeypatch.setattr(sys, "argv", ["shardnet", "doctor", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ready"] is True
    assert found["rpc"]["found"]["call_s"] < 5
    assert found["threads"]["found"]["best"] >= 1
    assert found["memory"]["found"]["usable_bytes"] <= found["memory"]["found"]["total_bytes"]


def test_what_is_not_ready_ends_with_1_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Finding("rpc", False, "does not work: no TensorPipe", None, ("Install another[/x] :cat: build.",))
    monkeypatch.setattr(doctor, "examine", lambda show: iter([Finding("python", True, "3.11"), broken]))
    monkeypatch.setattr(sys, "argv", ["shardnet", "doctor"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    out = capsys.readouterr().out
    assert "NO rpc" in out
    assert "    Install another[/x] :cat: build." in out
    assert "not ready" in out


def test_a_missing_package_is_found_with_the_way_to_get_it() -> None:
    finding = packages.find_package("no-such-package-at-all")
    assert not finding.ok
    assert finding.hints == ("Run: pip install 'no-such-package-at-all'",)


def test_without_torch_the_rest_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {"torch": Finding("torch", False, "is not installed")}
    monkeypatch.setattr(doctor, "find_package", lambda name: missing.get(name) or Finding(name, True, "5.0"))
    findings = {finding.name: finding for finding in doctor.examine(progress_bars)}
    assert not findings["torch"].ok
    assert findings["memory"].ok
    assert "rpc" not in findings


def test_another_version_than_those_tried_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.metadata, "version", lambda name: "1.0")
    finding = packages.find_package("torch")
    assert finding.ok
    assert "shardnet was tried with torch" in finding.hints[0]


def test_a_light_device_is_ready_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    version = packages.importlib.metadata.version

    def installed(name: str) -> str:
        if name in ("transformers", "spake2"):
            raise packages.importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(packages.importlib.metadata, "version", installed)
    finding = packages.find_transformers()
    assert finding.verdict == "warning" and "light device" in finding.text
    lacking = packages.find_light_set()
    assert lacking.verdict == "problem" and lacking.hints == ("Run: pip install --no-deps spake2",)
    monkeypatch.setattr(packages, "is_phone", lambda: True)
    assert packages.find_transformers().verdict == "ok"
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    assert packages.find_light_set().hints[0].startswith("Run: pkg install python-torch python-numpy")


LIGHT = """
import sys
from importlib.abc import MetaPathFinder

class Forbids(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"transformers", "tokenizers", "accelerate", "safetensors", "packaging", "segno"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Forbids())
from shardnet.launch import cli
from shardnet.launch.doctor import thread_bench

thread_bench.SECONDS_EACH = 0.01
sys.argv = ["shardnet", "doctor", "--json"]
cli.main()
"""


def test_all_of_it_works_without_what_a_light_device_does_without() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ready"] and found["rpc"]["ok"] and found["threads"]["found"]["best"] >= 1


def test_products_that_cannot_be_kept_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process took seconds more to start, and nobody knew why."""
    own = native()
    if isinstance(own, WhyNot):
        pytest.skip(own.reason)
    monkeypatch.setattr(working, "KERNELS_S", 0.01)
    monkeypatch.setattr(own, "why_not_kept", "")
    assert working.find_kernels(silent).verdict == "ok"
    monkeypatch.setattr(own, "why_not_kept", "No space left on device")
    (hint,) = working.find_kernels(silent).hints
    assert "anew" in hint and "cannot be kept: No space left on device. Set SHARDNET_CACHE" in hint


def test_a_torch_without_rpc_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_available", lambda: False)
    finding = working.find_rpc(lambda what, done, total: None)
    assert finding.verdict == "problem" and "pkg upgrade python-torch" in finding.hints[0]


DAY_S = 86400.0
NOW_S = 1.8e9
JOINED = Joined("phone", NOW_S - DAY_S, NOW_S + 89 * DAY_S)


@pytest.mark.parametrize(
    ("now_s", "joined", "verdict"),
    [
        (NOW_S, None, "ok"),
        (NOW_S, JOINED, "ok"),
        (NOW_S - DAY_S - 1800, JOINED, "ok"),
        (NOW_S - 2 * DAY_S, JOINED, "problem"),
        (NOW_S + 90 * DAY_S, JOINED, "problem"),
        (0.0, None, "problem"),
    ],
)
def test_a_clock_that_is_wrong(now_s: float, joined: Joined | None, verdict: str) -> None:
    assert find_clock(now_s, joined).verdict == verdict


def test_a_network_that_keeps_devices_apart() -> None:
    assert find_neighbours(None).verdict == find_neighbours(Reached(True, {"a": True})).verdict == "ok"
    apart = find_neighbours(Reached(True, {"a": True, "b": False}))
    assert apart.verdict == "warning" and apart.text == "cannot be dialled: b" and "client isolation" in apart.hints[1]
    assert len(find_neighbours(Reached(False, {"b": False})).hints) == 1


def test_too_little_memory_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    for usable, verdict in ((2**28 - 1, "problem"), (2**28, "warning"), (2**29, "ok")):
        monkeypatch.setattr(doctor, "usable_memory_bytes", lambda usable=usable: usable)
        assert doctor.find_memory().verdict == verdict


def test_folders(tmp_path: Path) -> None:
    assert doctor.find_folder("x", tmp_path / "not" / "yet", "").ok
    finding = doctor.find_folder("x", Path("/proc/nowhere"), "Choose another.")
    assert not finding.ok
    assert finding.hints == ("Choose another.",)


def test_a_phone_gets_its_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "is_phone", lambda: True)
    finding = doctor.find_system()
    assert finding.data["kind"] == "termux"
    assert "--dtype float32" in finding.hints[0]


def test_threads_are_chosen_as_for_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` once went by decoding alone, and named two threads where `profile` saw them collapse under load."""
    alone = ThreadTrial(1, decode_s=0.02, decode_under_load_s=0.02, prefill_s=0.2)
    pair = ThreadTrial(2, decode_s=0.01, decode_under_load_s=0.4, prefill_s=0.1)
    monkeypatch.setattr(threads, "try_threads", lambda shard, pace, clock: (alone, pair))
    finding = working.find_threads(lambda what, done, total: None)
    assert finding.data["best"] == 1
    assert [set(each) for each in finding.data["tried"]] == [{"threads", "decode_bytes_per_s", "prefill_flops"}] * 2
    block_bytes = 4 * (4 * 1024**2 + 3 * 1024 * 2816 + 2 * 1024)
    assert finding.data["tried"][1]["decode_bytes_per_s"] == pytest.approx(block_bytes / 0.01)


def test_the_command_is_registered() -> None:
    assert any(command.callback is doctor_command.doctor for command in commands.app.registered_commands)


def test_hosts_that_do_not_answer_are_dialled_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten phones that are asleep would take minutes one after the other."""
    all_there = threading.Barrier(4)

    def connect(address: Address, timeout_s: float) -> None:
        all_there.wait(30)
        raise TimeoutError

    monkeypatch.setattr(network.socket, "create_connection", connect)
    hosts = {name: [Address("192.0.2.1", number)] for number, name in enumerate("abc", 1)}
    reached = network.dial([Address("192.0.2.2", 1)], hosts)
    assert reached == Reached(False, dict.fromkeys("abc", False)) and not all_there.broken


CLOSED = """
import os, sys
from pathlib import Path
import shardnet.trust.identity
from shardnet.launch.doctor import doctor, network

if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
folder = Path(sys.argv[1], "state", "default")
found = doctor.find_folder("state_folder", folder, "Change its owner.")
print(found.verdict, found.text.partition(": ")[2], network.read_joined(folder), network.dial_neighbours(folder))
"""


def test_a_folder_that_is_closed_to_this_user_is_a_problem_and_no_end() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0)
        command = [sys.executable, "-c", CLOSED, folder]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        Path(folder).chmod(0o700)
    assert done.stdout == "problem Permission denied None None\n", done.stderr
