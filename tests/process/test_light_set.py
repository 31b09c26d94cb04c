"""The light set is what `setup.py` says without what only sources need, and a device that lacks some of it says so."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardnet.errors import UsageError
from shardnet.process import light_set
from shardnet.process.light_set import COMPILED, PURE, require_light_set

ROOT = Path(__file__).parents[2]
FOR_SOURCES = {"transformers", "accelerate", "safetensors", "segno", "zeroconf"}


def base_install() -> set[str]:
    call = next(
        node.value
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    return {plain(need) for need in ast.literal_eval(call)}


def plain(need: str) -> str:
    """The name in what pip is asked for."""
    return re.split(r"[<>=!~ ;\[]", need)[0]


def test_the_base_install_is_the_light_set_and_what_sources_need() -> None:
    named = {*COMPILED, *map(plain, PURE), *FOR_SOURCES}
    assert base_install() <= named, "name what is new in shardnet/process/light_set.py, if a device needs it"


def test_what_is_called_pure_has_no_compiled_part() -> None:
    for name in map(plain, PURE):
        files = importlib.metadata.files(name) or []
        assert files and not [file for file in files if file.suffix == ".so"], name


def test_a_device_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    require_light_set()
    monkeypatch.setattr(light_set, "missing", lambda: ["psutil", "cryptography"])
    with pytest.raises(UsageError, match=r"psutil and cryptography are not installed\. Run: pip install psutil crypt"):
        require_light_set()


def test_a_device_process_without_one_of_them_is_one_sentence() -> None:
    """Real: psutil is as if it were not installed."""
    program = (
        "import sys, importlib.util as util; found = util.find_spec; "
        "util.find_spec = lambda name, *more: None if name == 'psutil' else found(name, *more); "
        "from shardnet.device.process import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "--endpoint", "127.0.0.1:9", "--name", "x"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stdout == ""
    [sentence] = ended.stderr.splitlines()
    assert "here psutil is not installed. Run: pip install psutil; in Termux: pkg install python-psutil" in sentence
