"""Damaged and endless files, given to the real commands: exit code 2, one sentence, little time and memory."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from damaged_models import change_json, copy_of, save_good_model
from tiny_gguf import write_gguf

SHARDNET = str(Path(sys.executable).parent / "shardnet")
MOST_MEMORY_KB = 500 * 1024
MOST_PROCESSOR_S = 20.0
"""The issue asks for 5 s on a quiet machine; processor time on a crowded one is several times that."""
MEASURED = """
import json, os, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True, stdin=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stdout, done.stderr, used.ru_maxrss, used.ru_utime + used.ru_stime]))
"""
"""A child's peak counts the memory of the process that forked it: a small one measures."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_good_model("llama", tmp_path_factory.mktemp("good") / "model")


def refused(tmp_path: Path, *arguments: str) -> str:
    """Run a command that must be refused; what it says."""
    environment = os.environ | {"SHARDNET_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-S", "-c", MEASURED, SHARDNET, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250, check=True)
    code, out, err, peak_kb, processor_s = json.loads(done.stdout)
    assert code == 2 and not out, (code, out, err)
    said = [line for line in err.splitlines() if line.startswith("shardnet: ")]
    assert len(said) == 1 and "Traceback" not in err and "mistake in shardnet" not in err, err
    assert "starting devices" not in err, err
    assert peak_kb < MOST_MEMORY_KB and processor_s < MOST_PROCESSOR_S, (peak_kb, processor_s)
    left = [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(each.info["cmdline"] or ())]
    assert not left
    return str(said[0])


def endless(folder: Path) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/dev/zero")


def piped(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def wrong(folder: Path, **changes: Any) -> None:
    change_json(folder / "config.json", lambda content: content.update(changes))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (endless, "it is a device, not a file"),
        (
            lambda folder: wrong(folder, num_hidden_layers=10**9),
            "num_hidden_layers must be a whole number, at most 510",
        ),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "The tokenizer in .* cannot be read"),
    ],
)
def test_generate(good: Path, tmp_path: Path, change: Callable[[Path], Any], words: str) -> None:
    """No device is started: the second took 2.9 GiB, the first 23 GiB until the system killed it."""
    change(copy_of(good, tmp_path / "model"))
    assert_says(words, refused(tmp_path, "generate", "--model", str(tmp_path / "model"), "--prompt", "once"))


def test_generate_from_gguf(tmp_path: Path) -> None:
    """2**32 - 1 blocks: over 60 s and 1.2 GiB, before."""
    path = write_gguf(tmp_path / "x.gguf")
    data = path.read_bytes()
    at = data.index(b"llama.block_count") + len("llama.block_count") + 4
    path.write_bytes(data[:at] + b"\xff" * 4 + data[at + 4 :])
    said = refused(tmp_path, "generate", "--model", str(path), "--prompt", "once")
    assert_says("block_count' must be a whole number, at most 510", said)


@pytest.mark.parametrize(
    ("command", "change", "words"),
    [
        ("plan", piped, "it is a pipe, not a file"),
        ("simulate", lambda folder: wrong(folder, hidden_size=-64), "hidden_size must be a whole number, 1 or more"),
    ],
)
def test_on_paper(good: Path, tmp_path: Path, command: str, change: Callable[[Path], Any], words: str) -> None:
    change(copy_of(good, tmp_path / "model"))
    assert_says(words, refused(tmp_path, command, "--model", str(tmp_path / "model"), "--cluster", "home"))


def test_a_prompt_without_end(good: Path, tmp_path: Path) -> None:
    said = refused(tmp_path, "generate", "--model", str(good), "--prompt-file", "/dev/zero")
    assert_says("/dev/zero", said)


IMPORTED = """
import sys
from shardnet.launch import cli
try:
    cli.main()
finally:
    print("torch" in sys.modules, "transformers" in sys.modules)
"""


@pytest.mark.parametrize("damage", ["folder", "gguf", "nothing"])
def test_what_is_refused_at_a_glance_does_without_torch(good: Path, tmp_path: Path, damage: str) -> None:
    """To import torch and transformers takes 3 to 4 s of processor time, and came before the first look at a file."""
    model = tmp_path / "model"
    if damage == "folder":
        wrong(copy_of(good, model), hidden_size=-1)
    elif damage == "gguf":
        model.write_bytes(b"GGUF" + bytes(100))
    command = [sys.executable, "-c", IMPORTED, "generate", "--model", str(model), "--prompt", "once"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout) == (2, "False False\n"), done.stderr


def assert_says(words: str, said: str) -> None:
    assert re.search(words, said), said
