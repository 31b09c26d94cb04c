"""This repository as it is installed elsewhere: a source distribution, and a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("shardnet", "launch", "configs")
SOME_DAY = str(1_767_225_600)
"""By which files are dated in what is built: the same is built again, to the last byte."""


def copy_tree(folder: Path) -> Path:
    """What is packed, without what an earlier build has left in the tree: that would get into the next one."""
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def build_wheel(folder: Path, source: Path | None = None) -> Path:
    """Build it into a folder.

    Args:
        source: an unpacked source distribution; None for this repository.
    """
    with tempfile.TemporaryDirectory() as copy:
        built_from = source or copy_tree(Path(copy))
        quiet = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation")
        command = [sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", str(folder), str(built_from)]
        subprocess.run(command, check=True, cwd=folder, env={**os.environ, "SOURCE_DATE_EPOCH": SOME_DAY})
    [wheel] = folder.glob("shardnet-*.whl")
    return wheel


def build_sdist(folder: Path) -> Path:
    """The same as a source distribution."""
    program = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    with tempfile.TemporaryDirectory() as copy:
        command = [sys.executable, "-c", program, str(folder)]
        subprocess.run(command, check=True, cwd=copy_tree(Path(copy)), stdout=subprocess.DEVNULL)
    [sdist] = folder.glob("shardnet-*.tar.gz")
    return sdist
