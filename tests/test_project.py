"""What is installed: every module, the data, the commands, and a few public names that load nothing early."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import shardnet
from shardnet.process.light_set import COMPILED, PURE, TORCH_NEEDS

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("top", ["shardnet", "launch", "configs"])
def test_every_folder_with_code_is_a_package(top: str) -> None:
    """Otherwise setup.py would leave it out of a wheel, while an editable install shows nothing amiss."""
    for file in (ROOT / top).rglob("*.py"):
        assert (file.parent / "__init__.py").exists(), f"{file.parent} needs an __init__.py"


def test_the_version_is_told_once() -> None:
    assert importlib.metadata.version("shardnet") == shardnet.__version__
    assert f"## {shardnet.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_commands_are_installed() -> None:
    commands = {each.name: each for each in importlib.metadata.distribution("shardnet").entry_points}
    assert set(commands) == {"shardnet", "shardnet-run"}
    assert all(callable(each.load()) for each in commands.values())


NO_DEVICE_NEEDS = {
    *("pulp", "highspy", "tensorboard", "matplotlib", "pytest"),
    *("flask", "werkzeug", "fastapi", "starlette", "uvicorn", "django", "tornado", "aiohttp", "gunicorn"),
}
"""Solvers, plotting, and frameworks for web servers."""


def needs_of(name: str) -> set[str]:
    """What a package that is installed here wants to have, without extras."""
    wanted = map(Requirement, importlib.metadata.requires(name) or [])
    return {canonicalize_name(each.name) for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})}


def names_of(needs: Iterable[str]) -> set[str]:
    """Of what pip is asked for."""
    return {canonicalize_name(Requirement(each).name) for each in needs}


def brought_by(*needs: str) -> set[str]:
    """What pip installs for these; as far as it is installed here."""
    found: set[str] = set()
    waiting = names_of(needs)
    while waiting:
        found.add(name := waiting.pop())
        with suppress(importlib.metadata.PackageNotFoundError):  # it is for another system, say
            waiting |= needs_of(name) - found
    return found


def test_what_a_device_needs_brings_no_solver_and_no_web_framework() -> None:
    assert {"torch", "cryptography", "transformers"} <= brought_by("shardnet")
    assert not NO_DEVICE_NEEDS & (brought_by("shardnet") | brought_by(*COMPILED, *PURE, *TORCH_NEEDS))
    assert "pulp" in brought_by("pulp"), "the names are found where they are"


def test_the_pure_part_of_the_light_set_needs_nothing_beside_it() -> None:
    """Once, a new release of typer wanted pydantic: who installed the light set then could not even ask for help."""
    assert set().union(*map(needs_of, names_of(PURE))) <= names_of((*COMPILED, *PURE))


def test_the_configurations_are_installed() -> None:
    assert importlib.resources.files("shardnet.configs_data").joinpath("clusters").is_dir()


def test_public_names() -> None:
    for name in shardnet.__all__:
        assert getattr(shardnet, name).__module__.startswith("shardnet.")
    assert set(shardnet.__all__) < set(dir(shardnet))
    with pytest.raises(AttributeError, match="no attribute 'Clutser'"):
        _ = shardnet.Clutser


def test_importing_shardnet_loads_nothing_heavy() -> None:
    program = "import sys, shardnet; print(*{'torch', 'transformers', 'pulp', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_make_sets_up_again_where_another_python_or_torch_is_asked_for(tmp_path: Path) -> None:
    """`make test TORCH=...` went on with the one that was there."""
    (tmp_path / ".ready").write_text("PYTHON=python3\nTORCH=torch==2.13.0\n")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "TORCH", "MAKEFLAGS")}

    def planned(*asked: str) -> str:
        command = ["make", "-n", "check", f"VENV={tmp_path}", *asked]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    assert "pip" not in planned() + planned("PYTHON=python3", "TORCH=torch==2.13.0")
    again = planned("TORCH=torch==2.11.0")
    assert 'install "torch==2.11.0"' in again and "--clear" not in again
    assert f"python3.12 -m venv --clear {tmp_path}" in planned("PYTHON=python3.12")
