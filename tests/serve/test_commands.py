"""`shardnet serve` and `up --serve` as processes, a cluster that loses a device, and TLS."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
from own_certificate import make_certificate
from processes import wait_until
from serve_client import chat
from serve_command import LONG_S, SERVE, ask, events, start
from tiny_text_model import save_text_model

from shardnet.process.lasting import is_running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("model") / "tiny", ends=False)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVE, *arguments], capture_output=True, text=True, timeout=LONG_S, check=False)


def test_devices_of_its_own(model: Path) -> None:
    process = start(
        *SERVE, "--model", str(model), "--devices", "2", "--port", "0", "--json", "--served-model-name", "us"
    )
    try:
        url = events(process, "serving")["url"]
        status, told = ask(f"{url}/v1/chat/completions", chat(model="us"))
        assert status == 200 and told["usage"]["completion_tokens"] == 8
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=LONG_S)
    assert process.returncode == 0 and "Traceback" not in said


@pytest.fixture
def cluster(model: Path, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    folder = tmp_path / "state"
    command = [sys.executable, "-m", "shardnet", "up", "--model", str(model), "--state", str(folder)]
    command += ["--listen", "none", "--serve", "--serve-port", "0", "--json"]
    process = start(*command)
    try:
        yield process, events(process, "serving")["url"], folder
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LONG_S)


def test_beside_a_cluster(cluster: tuple[subprocess.Popen[str], str, Path]) -> None:
    up, url, folder = cluster
    wait_until(lambda: ask(f"{url}/health")[0] == 200, timeout_s=LONG_S)
    assert ask(f"{url}/v1/chat/completions", chat(model="tiny"))[0] == 200
    assert ask(f"{url}/cluster/status")[1]["members"][0]["state"] == "present"
    subprocess.run([sys.executable, "-m", "shardnet", "unload", "--cluster", str(folder)], check=True, timeout=LONG_S)
    status, told = ask(f"{url}/v1/chat/completions", chat(model="tiny"))
    assert status == 503 and told["error"]["type"] == "server_error"
    wait_until(lambda: ask(f"{url}/health")[0] == 503)
    up.kill()

    def is_gone() -> bool:
        try:
            urlopen(f"{url}/health", timeout=5)
        except (HTTPError, TimeoutError):
            return False
        except URLError:
            return True
        return False

    wait_until(is_gone, timeout_s=LONG_S)
    assert not is_running(folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0", "--model", "x"], "TLS and a key"),
        (["--tls-cert", "a.pem", "--model", "x"], "go together"),
        (["--cluster", "/nowhere"], "/nowhere"),
        (["--model", "/nowhere"], "/nowhere"),
        (["--api-key-file", "/nowhere", "--model", "x"], "cannot be read"),
        (["--port", "70000", "--model", "x"], "--port"),
        (["--allow-origin", "https://chat.example/", "--model", "x"], "must be as browsers send it"),
        (["--allow-host", "chat.example:8000", "--model", "x"], "must be a name alone"),
    ],
)
def test_what_cannot_be(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode in (1, 2) and words in done.stderr and "Traceback" not in done.stderr


def test_nobody_has_to_read_its_log(model: Path) -> None:
    """Its answers waited for a terminal that was stopped by Ctrl-S."""
    process = start(*SERVE, "--model", str(model), "--devices", "1", "--port", "0", "--json")
    try:
        url = events(process, "serving")["url"]
        for _ in range(60):  # 2 KiB a line: more than a pipe holds
            assert ask(f"{url}/{'x' * 2000}", timeout=LONG_S)[0] == 404
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=LONG_S)
        _, said = process.communicate(timeout=LONG_S)
    assert code == 0 and "-> 404" in said


def test_help_is_quick() -> None:
    begun_s = time.process_time(), os.times().children_user
    assert "--served-model-name" in run("--help").stdout
    assert os.times().children_user - begun_s[1] < 2.0


def test_tls_and_a_key(model: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    make_certificate(key, certificate)
    (tmp_path / "keys").write_text("a-key-of-some-length\n")
    secure = ["--tls-cert", str(certificate), "--tls-key", str(key), "--api-key-file", str(tmp_path / "keys")]
    process = start(
        *SERVE, "--model", str(model), "--devices", "1", "--host", "0.0.0.0", "--port", "0", "--json", *secure
    )
    try:
        url = events(process, "serving")["url"].replace("0.0.0.0", "127.0.0.1")
        context = ssl.create_default_context(cafile=str(certificate))
        assert url.startswith("https://")
        assert ask(f"{url}/v1/models", context=context)[0] == 401
        bearer = {"Authorization": "Bearer a-key-of-some-length"}
        assert ask(f"{url}/v1/chat/completions", chat(), headers=bearer, context=context)[0] == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=LONG_S)
