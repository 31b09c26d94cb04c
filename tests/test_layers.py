"""A module imports only from modules that stand before it here. `docs/structure.md` says what each is for."""

from __future__ import annotations

import ast
from pathlib import Path

STOREYS = """
    records   errors quoting bounds plain_files checks forks launched plan progress text foreign config_bounds
    watch     timeline
    wire      transport
    models    models cache
    plan      planner described rebalance simulator
    profile   profiling
    load      loader
    run       inbox sampling stage pipeline
    use       cluster
    start     launch
"""
ORDER = [module for storey in STOREYS.strip().splitlines() for module in storey.split()[1:]]


def imported(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    names += [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    return {name.split(".")[1] for name in names if name.startswith("shardnet.")}


def test_imports_point_upwards() -> None:
    package = Path(__file__).parent.parent / "shardnet"
    modules = {file: file.relative_to(package).parts[0].removesuffix(".py") for file in package.rglob("*.py")}
    assert not set(modules.values()) - {*ORDER, "__init__"}, "name the new module in STOREYS"
    for file, module in modules.items():
        if module != "__init__":
            later = {other for other in imported(file) if ORDER.index(other) > ORDER.index(module)}
            assert not later, f"{module} must not import {', '.join(sorted(later))}, which come after it"
