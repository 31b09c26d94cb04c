"""A part of a package that the package imports for what it does, and that almost nobody needs: imported when it is
needed.

For one of which nothing is used but that it ran. Whatever the package imports besides of its own, from then on, finds
things as they always are: what was put off runs before.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

META_KERNELS = "torch._meta_registrations"
"""What torch says in Python of its operators on the meta device: 10 MB, and a sixth of a device's start. Only stock
blocks need it, while they are made."""


@contextmanager
def put_off(name: str) -> Iterator[None]:
    """If a module is imported for the first time in this block, it is there and does not run. It runs after the block:
    before another module of its package is imported for the first time, when something of it is used, or by
    `import_whole`. By one thread at a time."""
    late = _Late(name)
    sys.meta_path.insert(0, late)
    try:
        yield
    finally:
        late.is_awaited = late.module is not None
        if not late.is_awaited:
            sys.meta_path.remove(late)


def import_whole(name: str) -> None:
    """Import a module, and have it run where it was put off."""
    module = importlib.import_module(name)
    late = None if module.__spec__ is None else module.__spec__.loader
    if isinstance(late, _Late):
        late.run()


class _Late(MetaPathFinder, Loader):
    """Finds a module, and runs it late. Not the `LazyLoader` of Python, which runs it as soon as `inspect` looks
    through all modules, as torch has it do."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._package = f"{name.rpartition('.')[0]}."
        self._loader: Any = None
        self.module: ModuleType | None = None
        self.is_awaited = False

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        is_other = self.is_awaited and fullname.startswith(self._package)
        if fullname != self._name and not is_other:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and is_other:
            spec.loader = _Behind(spec.loader, self.run)
        elif spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """As Python does."""

    def exec_module(self, module: ModuleType) -> None:
        self.module = module
        vars(module)["__getattr__"] = partial(self._used, module)

    def run(self) -> None:
        """Another thread that comes meanwhile does not wait: each may hold a module that the other one imports."""
        try:
            sys.meta_path.remove(self)
        except ValueError:
            return
        assert self.module is not None and self.module.__spec__ is not None
        del vars(self.module)["__getattr__"]
        self.module.__loader__ = self.module.__spec__.loader = self._loader
        self._loader.exec_module(self.module)

    def _used(self, module: ModuleType, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
        self.run()
        return getattr(module, name)


class _Behind(Loader):
    """Loads a module when another one has run, and not where that has imported it by then."""

    def __init__(self, loader: Any, run: Callable[[], None]) -> None:
        self._loader = loader
        self._run = run
        self._is_there = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        self._run()
        there = sys.modules.get(spec.name)
        self._is_there = there is not None
        created: ModuleType | None = self._loader.create_module(spec) if there is None else there
        return created

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        if not self._is_there:
            self._loader.exec_module(module)
