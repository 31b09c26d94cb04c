"""A module that is put off is there at once, and runs before anybody can miss what it does."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from shardnet.process import late_imports
from shardnet.process.late_imports import import_whole, put_off

PACKAGE = "put_off_in_a_test"
HAS_RUN = f"{PACKAGE}.has_run.append(__name__.rpartition('.')[2])\n"
TORCH = """
import sys
from shardnet.device.process import import_all
from shardnet.process.late_imports import META_KERNELS
import_all()
import torch
assert META_KERNELS in sys.modules and "torch._refs" not in sys.modules
if sys.argv[1] == "weightless":
    from shardnet.models.weightless import weightless
    with weightless():
        layer = torch.nn.Linear(3, 2)
    assert layer.weight.is_meta and not layer.bias is None
else:
    __import__(sys.argv[1])
assert "activate_meta" in vars(sys.modules[META_KERNELS]) and "torch._refs" in sys.modules
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that imports a submodule of its own, as torch does."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text(f"has_run = []\nfrom {PACKAGE} import late\n")
    (folder / "late.py").write_text(f"import {PACKAGE}\nfrom {PACKAGE} import first\nWORD = 'here'\n{HAS_RUN}")
    for name in ("first", "second"):
        (folder / f"{name}.py").write_text(f"import {PACKAGE}\n{HAS_RUN}")
    monkeypatch.syspath_prepend(tmp_path)
    yield PACKAGE
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    assert not [finder for finder in sys.meta_path if isinstance(finder, late_imports._Late)]


def put_off_late(package: str) -> ModuleType:
    with put_off(f"{package}.late"):
        whole = importlib.import_module(package)
        importlib.import_module(f"{package}.late")
    inspect.getmodule(inspect.currentframe())  # looks at all modules: torch has it do so
    assert whole.late is sys.modules[f"{package}.late"] and whole.has_run == []
    return whole


def test_what_is_put_off_runs_when_it_is_asked_for(package: str) -> None:
    whole = put_off_late(package)
    for _ in range(2):
        import_whole(f"{package}.late")
        assert whole.has_run == ["first", "late"]
    assert isinstance(whole.late.__spec__.loader, SourceFileLoader)


def test_it_runs_when_something_of_it_is_used(package: str) -> None:
    whole = put_off_late(package)
    assert whole.late.WORD == "here" and whole.has_run == ["first", "late"]
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = whole.late.other


def test_it_runs_before_others_of_its_package_and_nothing_runs_twice(package: str) -> None:
    """Parts of torch that were imported in another order did not find each other whole."""
    whole = put_off_late(package)
    importlib.import_module(f"{package}.second")
    importlib.import_module(f"{package}.first")
    assert whole.has_run == ["first", "late", "second"]


def test_one_that_it_imports_itself_runs_once(package: str) -> None:
    whole = put_off_late(package)
    first = importlib.import_module(f"{package}.first")
    assert whole.has_run == ["first", "late"]
    assert first is whole.first is sys.modules[f"{package}.first"]
    assert isinstance(first.__spec__.loader, SourceFileLoader)


def test_what_is_there_already_stays(package: str) -> None:
    whole = importlib.import_module(package)
    with put_off(f"{package}.late"):
        importlib.import_module(f"{package}.late")
    import_whole(f"{package}.late")
    assert whole.late.WORD == "here"


def test_nothing_is_left_where_it_is_not_imported(package: str) -> None:
    before = [*sys.meta_path]
    with put_off(f"{package}.nowhere"):
        importlib.import_module(package)
    assert sys.meta_path == before


@pytest.mark.parametrize("by", ["weightless", "torch._refs"])
def test_a_device_has_the_whole_meta_device_of_torch_once_it_is_needed(by: str) -> None:
    """10 MB of every device, and a sixth of its start, went to what only stock blocks need."""
    subprocess.run([sys.executable, "-c", TORCH, by], check=True, timeout=120)
