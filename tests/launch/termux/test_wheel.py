"""The wheel that this machine makes of its own shardnet: what is in it, and that it installs and runs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from shardnet import __version__
from shardnet.launch.termux import wheel
from shardnet.launch.termux.script import script_for
from shardnet.launch.termux.wheel import make_wheel
from shardnet.process.light_set import PURE, TERMUX

ROOT = Path(__file__).parent.parent.parent.parent


def test_it_is_the_same_each_time_and_has_every_module() -> None:
    made = make_wheel()
    assert made == make_wheel() and made.sha256 == hashlib.sha256(made.content).hexdigest()
    with zipfile.ZipFile(BytesIO(made.content)) as content:
        names = set(content.namelist())
        assert content.testzip() is None
    for folder, path in ((ROOT / "shardnet", "shardnet"), (ROOT / "launch", "shardnet/launch")):
        modules = {f"{path}/{each.relative_to(folder).as_posix()}" for each in folder.rglob("*.py")}
        assert modules <= names
    assert {"shardnet/py.typed", "shardnet/launch/termux/setup.sh", "shardnet/configs_data/clusters/home.yaml"} <= names
    assert not [name for name in names if name.endswith((".pyc", ".so")) or "/." in name]


def test_pip_installs_it_and_it_runs(tmp_path: Path) -> None:
    made = make_wheel()
    file = tmp_path / made.name
    file.write_bytes(made.content)
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    done = subprocess.run([*pip, str(file)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    asks = "import shardnet, shardnet.launch.cli, sys; print(shardnet.__file__); sys.argv = ['shardnet', '--version']; "
    run = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            f"import sys; sys.path.insert(0, {str(target)!r}); {asks}shardnet.launch.cli.main()",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr
    where, version = run.stdout.splitlines()
    assert Path(where).is_relative_to(target) and version == f"shardnet {__version__}"
    assert (target / "bin" / "shardnet").exists() and (target / "bin" / "shardnet-run").exists()


def test_the_script_has_the_one_list_of_packages() -> None:
    made = make_wheel()
    script = script_for(made, "https://192.168.1.5:29501").decode()
    assert f"sha256='{made.sha256}'" in script and "from='https://192.168.1.5:29501'" in script
    assert f"pure='{' '.join(PURE)}'" in script and f"termux_packages='{' '.join(TERMUX)}'" in script
    assert "@" not in script.replace('"$@"', "")
    assert "from=''" in script_for(made).decode()


def test_what_would_break_out_of_its_quotes_is_not_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        script_for(make_wheel(), "https://x'; rm -rf ~; '")


def test_without_an_installation_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheel, "PACKAGE", "no-such-package-at-all")
    with pytest.raises(wheel.UsageError, match="is not installed here"):
        make_wheel()
