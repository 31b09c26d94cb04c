"""What a stranger on this host can make a living agent do: see docs/security.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from integration.rpc_device import TESTS, Device, expose_endpoints

from shardnet.transport import RpcTransport, serve_door


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path, Device]]:
    """How the attacks went, the folder that they were about, and the device."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "secret").write_text("a secret")
    with ExitStack() as ends:
        endpoint = ends.enter_context(serve_door()).endpoint
        source = ends.enter_context(RpcTransport.join(endpoint, "source"))
        device = ends.enter_context(Device(endpoint, "device"))
        expose_endpoints(source)
        device.wait_joined()
        (agent,) = [each.laddr for each in psutil.Process(device.pid).net_connections() if each.status == "LISTEN"]
        done = subprocess.run(
            [
                sys.executable,
                TESTS / "integration/stranger.py",
                f"uv://{agent.ip}:{agent.port}",
                str(device.ask("id")),
                folder,
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout), folder, device
        assert source.post("device", "echo", 1).result(10) == (1,)
        assert device.end() == 0
        assert device.printed() == ""


@pytest.mark.parametrize("attack", ["system", "reduce"])
def test_no_function_of_theirs_runs(attacked: Any, attack: str) -> None:
    outcomes, folder, _ = attacked
    assert outcomes[attack][0] == "refused"
    assert not (folder / "ran").exists()


def test_a_class_stays_as_it_is(attacked: Any) -> None:
    """An allow-list before pickle let Part through, and pickle's BUILD then set its attributes in the whole process."""
    outcomes, _, device = attacked
    assert outcomes["build"][0] == "refused"
    assert device.ask("is_part_touched") is False


def test_what_may_travel_is_not_what_may_be_called(attacked: Any) -> None:
    """Whatever the allow-list let through was a function that anybody could run: messages, `adopt`, `tensor_at`."""
    assert attacked[0]["not an entry"][0] == "refused"


@pytest.mark.parametrize("attack", ["read a file", "read it elsewhere", "make a file"])
def test_no_file_is_opened_for_a_stranger(attacked: Any, attack: str) -> None:
    """rpc_sync(worker, torch.from_file, ...) never met the unpickler: C++ serves operators before Python is asked."""
    outcomes, folder, _ = attacked
    kind, text = outcomes[attack]
    assert kind == "refused"
    assert "No file is opened for another device" in text
    assert not (folder / "made").exists()


def test_what_remains_is_what_the_documentation_says(attacked: Any) -> None:
    """Not a promise: torch serves operators to whoever connects. If this fails, docs/security.md is too gloomy."""
    assert attacked[0]["an operator"] == ["answered", "[2.0]"]
