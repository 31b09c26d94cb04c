"""Looks whether the packages are there that a device needs, and those that only a source needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import shlex

from shardnet.launch.doctor.finding import Finding
from shardnet.process.light_set import COMPILED, PURE, TERMUX
from shardnet.profiling.phone import is_phone


def find_package(name: str) -> Finding:
    """A package's version, and whether it is one that shardnet was tried with."""
    wanted = _wanted(name)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, "is not installed", None, (f"Run: pip install '{wanted}'",))
    hint = () if _was_tried(version, wanted) else (f"shardnet was tried with {wanted}.",)
    return Finding(name, True, version, version, hint)


def find_light_set() -> Finding:
    """What every device needs."""
    compiled = [name for name in COMPILED if importlib.util.find_spec(name) is None]
    pure = [each for each in PURE if not _is_installed(re.split("[~=<>!]", each)[0])]
    hints: tuple[str, ...] = ()
    if compiled and is_phone():
        packages = [package for name, package in zip(COMPILED, TERMUX) if name in compiled]
        hints += (f"Run: pkg install {' '.join(packages)}; under proot: pip install {' '.join(compiled)}",)
    elif compiled:
        hints += (f"Run: pip install {' '.join(compiled)}",)
    if pure:
        hints += (f"Run: pip install --no-deps {' '.join(map(shlex.quote, pure))}",)
    lacking = [*compiled, *pure]
    text = f"{', '.join(lacking)} missing" if lacking else f"{len(COMPILED) + len(PURE)} packages are there"
    return Finding("light_set", not lacking, text, {"missing": lacking}, hints)


def find_transformers() -> Finding:
    """What a source needs, and a device of some families."""
    finding = find_package("transformers")
    if finding.ok:
        return finding
    text = "is not installed: this machine can be a light device, and type no prompts"
    return Finding(finding.name, True, text, None, () if is_phone() else finding.hints)


def _wanted(name: str) -> str:
    requirements = importlib.metadata.requires("shardnet") or []
    return next((each for each in requirements if re.match(rf"{name}\b", each)), name)


def _was_tried(version: str, wanted: str) -> bool:
    try:
        from packaging.requirements import Requirement
    except ImportError:  # a light device need not have it
        return True
    return Requirement(wanted).specifier.contains(version, prereleases=True)


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
