"""Commands that name a model on the hub, as users type them: fetched once, or on after a kill, and used offline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, fake_hub, surroundings
from processes import wait_until
from tiny_gguf import write_gguf
from tiny_text_model import save_text_model

SHARDNET = str(Path(sys.executable).parent / "shardnet")
ASKED = ("--prompt", "Once", "-n", "4", "--devices", "1", "--dtype", "float32", "--json")
WEIGHTS = "model.safetensors"
LIMIT_S = 250


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as hub:
        yield hub


def start(hub: FakeHub, home: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **surroundings(hub, home), **more}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    return subprocess.Popen([SHARDNET, *arguments], text=True, env=environment, **pipes)


def said(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it printed; where it was refused, the sentence."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == code, (out, err)
    if not code:
        return out
    [sentence] = [line for line in err.splitlines() if line.startswith("shardnet: ")]
    assert "Traceback" not in err
    return sentence


def test_generate_fetches_a_model_once_and_needs_no_network_then(hub: FakeHub, tmp_path: Path) -> None:
    model = save_text_model(tmp_path / "model")
    hub.add_folder("org/tiny", model)
    asked = ("generate", "--model", "org/tiny", *ASKED)
    process = start(hub, tmp_path, *asked)
    first = json.loads(said(process))
    assert hub.sent[WEIGHTS] == (model / WEIGHTS).stat().st_size
    hub.forget()
    again = json.loads(said(start(hub, tmp_path, *asked, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")))
    assert again["text"] == first["text"] and not hub.asked
    refused = said(start(hub, tmp_path, "generate", "--model", "org/none", *ASKED), 2)
    assert "no model org/none that everybody may read" in refused


def test_a_command_that_is_killed_while_it_fetches_goes_on_when_it_is_given_again(hub: FakeHub, tmp_path: Path) -> None:
    model = save_text_model(tmp_path / "model")
    hub.add_folder("org/tiny", model)
    goes_on = threading.Event()
    hub.will("GET", WEIGHTS, cut_after=400_000, until=goes_on)
    process = start(hub, tmp_path, "generate", "--model", "org/tiny", *ASKED)
    part = tmp_path / "hf" / "hub"
    wait_until(lambda: any(file.stat().st_size > 300_000 for file in part.rglob("*.incomplete")), LIMIT_S)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    goes_on.set()
    said(start(hub, tmp_path, "generate", "--model", "org/tiny", *ASKED))
    size = (model / WEIGHTS).stat().st_size
    assert hub.sent[WEIGHTS] < size + 100_000
    spans = [span for _, path, span in hub.asked if path.startswith("/network/")]
    assert spans[0] == "" and int(spans[1].removeprefix("bytes=").removesuffix("-")) > 300_000


def test_profile_reads_no_weights_of_a_model_on_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    model = save_text_model(tmp_path / "model")
    hub.add_folder("org/tiny", model)
    file = write_gguf(tmp_path / "tiny-Q8_0.gguf")
    hub.add("org/tiny-GGUF", {file.name: file.read_bytes() + bytes(3 << 20)})
    for name in ("org/tiny", "org/tiny-GGUF:Q8_0"):
        measured = said(start(hub, tmp_path, "profile", "--model", name, "--max-seconds", "2", "--json"))
        assert json.loads(measured)
    assert hub.fetched() == {"config.json", file.name} and hub.sent[file.name] == 1 << 20
