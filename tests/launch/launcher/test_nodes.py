"""Several nodes on this machine, and devices that come, die and come back, while a script runs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import wait_until
from warm_python import WARM_PYTHON, warm_program

from shardnet.errors import UsageError
from shardnet.launch.launcher.meeting import meeting_of
from shardnet.launch.launcher.node import DoorTaken, open_door
from shardnet.launch.launcher.options import read_options

RUN = [*WARM_PYTHON, "-m", "shardnet.launch"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
AT_WORK = """
import sys, time, shardnet
def wait_for(*names):
    while set(cluster.devices) != set(names):
        time.sleep(0.02)
    print(*sorted(names), flush=True)
with shardnet.Cluster.connect() as cluster:
"""


@pytest.fixture(autouse=True, scope="module")
def warm(warm_python: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHON_EXEC", str(warm_program(tmp_path_factory.mktemp("python"))))
        yield


@pytest.fixture
def endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"127.0.0.1:{closed.getsockname()[1]}"


def script(folder: Path, *lines: str) -> str:
    path = folder / "script.py"
    path.write_text(AT_WORK + "".join(f"    {line}\n" for line in lines))
    return str(path)


def start(*arguments: str) -> subprocess.Popen[str]:
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([*RUN, *arguments], env=ENVIRONMENT, text=True, **pipes)


def device_in(folder: Path, name: str) -> int:
    """The process that prints into NAME.log somewhere in a folder; waits for it."""
    found: list[int] = []

    def look() -> bool:
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                output = Path(os.readlink(f"/proc/{process.pid}/fd/1"))
                if output.name == f"{name}.log" and folder in output.parents:
                    found.append(process.pid)
        return bool(found)

    wait_until(look)
    return found[-1]


def test_a_device_that_dies_is_started_again_and_gets_work(tmp_path: Path, tiny: Path) -> None:
    """Before, a cluster of `connect` took in nobody who came later."""
    generate = "model.generate(['Hi'], max_new_tokens=4)[0].token_ids"
    load = f"cluster.load({str(tiny)!r}, placement='spread', dtype='float32')"
    path = script(
        tmp_path,
        "wait_for('device-0', 'device-1')",
        f"model = {load}",
        f"before, number = {generate}, cluster._transport.number_of('device-1')",
        "print('loaded', flush=True); sys.stdin.readline()",
        "while cluster._transport.number_of('device-1') in (number, None):",
        "    time.sleep(0.02)",
        "wait_for('device-0', 'device-1')",
        f"model = {load}",
        "assert {stage.device for stage in model.plan.stages} == {'device-0', 'device-1'}",
        f"assert {generate} == before",
        "print('done', flush=True)",
    )
    with start("--nproc-per-node", "2", "--max-restarts", "1", "--log-dir", str(tmp_path / "logs"), path) as launcher:
        assert launcher.stdin and launcher.stdout and launcher.stderr
        assert [launcher.stdout.readline() for _ in range(2)] == ["device-0 device-1\n", "loaded\n"]
        os.kill(device_in(tmp_path, "device-1"), signal.SIGKILL)
        said = (line for line in launcher.stderr if line.startswith("shardnet-run"))
        assert next(said) == "shardnet-run: device-1 was killed by SIGKILL.\n"
        assert next(said) == "shardnet-run: device-1 is started again (1 of 1).\n"
        shown, _ = launcher.communicate("\n", timeout=100)
        assert shown == "device-0 device-1\ndone\n"
        assert launcher.returncode == 0


def test_nodes_come_and_are_sent_home_by_the_first(tmp_path: Path, endpoint: str) -> None:
    path = script(tmp_path, "wait_for('device-0', 'node-1-0', 'node-1-1')", "wait_for('device-0')")
    common = ["--nnodes", "1:2", "--rdzv-endpoint", endpoint]
    logs = tmp_path / "logs"
    with start(*common, "--node-rank", "0", path) as first:
        further = ["--node-rank", "1", "--nproc-per-node", "2", "--log-dir", str(logs), "--max-restarts", "1"]
        with start(*common, *further, "never.py") as second:
            assert first.stdout and second.stderr
            assert first.stdout.readline() == "device-0 node-1-0 node-1-1\n"
            second.send_signal(signal.SIGINT)
            assert second.wait(60) == 130
        assert first.stdout.readline() == "device-0\n"
        _, said = first.communicate(timeout=100)
        assert first.returncode == 0 and "Traceback" not in said and "shardnet-run" not in said


def test_who_comes_first_is_the_first_node_and_waits_for_the_others(tmp_path: Path, endpoint: str) -> None:
    path = script(tmp_path, "print(len(cluster.devices), flush=True)")
    nodes = [start("--nnodes", "2", "--rdzv-endpoint", endpoint, path) for _ in range(2)]
    done = [node.communicate(timeout=100) for node in nodes]
    assert sorted(said for said, _ in done) == ["", "2\n"]
    assert [node.returncode for node in nodes] == [0, 0], done


def test_two_that_find_the_address_free_at_the_same_time_are_not_both_the_first(endpoint: str) -> None:
    """What comes between looking and opening takes a second."""
    host, _, port = endpoint.rpartition(":")
    undecided = meeting_of(read_options(["--nnodes", "2", "--rdzv-endpoint", endpoint, "script.py"], {}))
    with socket.create_server((host, int(port))):
        with pytest.raises(DoorTaken):
            open_door(undecided)
        with pytest.raises(UsageError, match="Cannot listen on"):
            open_door(undecided._replace(is_host=True))


def test_a_node_whose_devices_fail_says_so(tmp_path: Path, endpoint: str) -> None:
    """Its devices were killed; node 0 goes on."""
    path = script(tmp_path, "sys.stdin.readline()")
    common = ["--nnodes", "2", "--rdzv-endpoint", endpoint]
    with start(*common, "--node-rank", "0", path) as first:
        with start(*common, "--node-rank", "1", "--log-dir", str(tmp_path / "logs"), path) as second:
            os.kill(device_in(tmp_path / "logs", "node-1-0"), signal.SIGKILL)
            _, said = second.communicate(timeout=100)
            assert (second.returncode, said) == (1, "shardnet-run: node-1-0 was killed by SIGKILL.\n")
        with start(*common, "--node-rank", "1", path):
            first.communicate("\n", timeout=100)
        assert first.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rdzv-conf", "join_timeout=0.5", "--node-rank", "1"], "No node has opened the door at 127.0.0.1:"),
        (
            ["--rdzv-conf", "join_timeout=0.5", "--node-rank", "0"],
            "2 devices should come, but after 0.5 s there are only",
        ),
    ],
)
def test_a_node_that_waits_in_vain_says_for_what(
    tmp_path: Path, endpoint: str, arguments: list[str], sentence: str
) -> None:
    node = start("--nnodes", "2", "--rdzv-endpoint", endpoint, *arguments, script(tmp_path, "pass"))
    _, said = node.communicate(timeout=100)
    assert node.returncode == 1 and sentence in said.splitlines()[-1] and "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rdzv-endpoint", "127.0.0.1:1", "--rdzv-conf", "invite=7-a-b"], "is for a node of another host"),
        (["--rdzv-endpoint", "192.0.2.1:1", "--rdzv-conf", "join_timeout=0.5"], "No node has opened the door at 192"),
        (["--rdzv-endpoint", "no.such.host.invalid:1"], "no.such.host.invalid is no host that is known here"),
    ],
)
def test_what_cannot_be_between_hosts_is_one_sentence(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    """How nodes of several hosts come together: tests/integration/test_hosts_run.py, which needs root."""
    node = start("--nnodes", "2", *arguments, script(tmp_path, "pass"))
    _, said = node.communicate(timeout=100)
    assert node.returncode in (1, 2)
    assert sentence in said.splitlines()[-1] and "Traceback" not in said


def test_the_script_of_every_node_is_told_its_rank(tmp_path: Path, endpoint: str) -> None:
    """As torchrun numbers them. One node fails once, and starts its own again."""
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "MASTER_PORT"]
    path = tmp_path / "script.py"
    path.write_text(
        f"import os, sys\nprint(*(os.environ[name] for name in {names}), flush=True)\n"
        "sys.exit(os.environ['RANK'] == '3' and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0')\n"
    )
    port = int(endpoint.rpartition(":")[2]) + 1
    common = ["--nnodes", "2", "--rdzv-endpoint", endpoint, "--nproc-per-node", "2", "--every-node"]
    nodes = [start(*common, "--max-restarts", "1", "--node-rank", str(rank), str(path)) for rank in range(2)]
    done = [node.communicate(timeout=100) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], done
    assert set(done[0][0].splitlines()) == {f"0 0 4 0 2 0 {port}", f"1 1 4 0 2 1 {port}"}
    assert set(done[1][0].splitlines()) == {f"2 0 4 1 2 2 {port}", f"3 1 4 1 2 3 {port}"}


def test_a_script_that_is_killed_is_started_again_and_finds_its_devices(tmp_path: Path, tiny: Path) -> None:
    """What it had loaded is gone with it."""
    path = script(
        tmp_path,
        "wait_for('device-0', 'device-1')",
        f"model = cluster.load({str(tiny)!r}, placement='spread', dtype='float32')",
        "print(model.generate(['Hi'], max_new_tokens=4)[0].token_ids, flush=True)",
        "import os, signal",
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':",
        "    os.kill(os.getpid(), signal.SIGKILL)",
    )
    with start("--nproc-per-node", "2", "--max-restarts", "1", path) as launcher:
        shown, said = launcher.communicate(timeout=100)
    first, second = shown.splitlines()[:2], shown.splitlines()[2:]
    assert launcher.returncode == 0 and first == second and len(first) == 2, said
    assert ") was killed by SIGKILL.\nshardnet-run: it is started again (1 of 1).\n" in said


def test_what_a_device_prints_is_shown_where_that_is_asked_for(tmp_path: Path, endpoint: str) -> None:
    """Two nodes of one rank are a mistake, which the later one's device tells."""
    common = ["--nnodes", "1:3", "--rdzv-endpoint", endpoint]
    path = script(tmp_path, "wait_for('device-0', 'node-1-0')", "sys.stdin.readline()")
    with start(*common, "--node-rank", "0", path) as first, start(*common, "--node-rank", "1", path):
        assert first.stdout and first.stdout.readline() == "device-0 node-1-0\n"
        with start(*common, "--node-rank", "1", "--tee", "3", path) as third:
            _, said = third.communicate(timeout=100)
        sentence = "A device called node-1-0 is in the cluster already. Choose another name."
        assert third.returncode == 1
        assert set(said.splitlines()) == {
            f"[node-1-0]:shardnet: {sentence}",
            f"shardnet-run: node-1-0 ended with exit code 1 ({sentence}).",
        }
        first.communicate("\n", timeout=100)


def test_only_one_process_at_a_time_coordinates_the_devices(tmp_path: Path) -> None:
    """Once, the others were told to choose another name."""
    second = "import shardnet; shardnet.Cluster.connect()"
    path = script(
        tmp_path,
        "import os, subprocess",
        f"command = [os.environ['PYTHON_EXEC'], '-c', {second!r}]",
        "done = subprocess.run(command, capture_output=True, text=True)",
        "print(done.stderr.splitlines()[-1], flush=True)",
    )
    with start(path) as launcher:
        shown, _ = launcher.communicate(timeout=100)
    assert shown.startswith("shardnet.errors.JoinFailed: Another process coordinates the devices at unix:")
