"""The rooms of `docs/structure.md`: a module imports only from its own row of that table and from those above it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "shardnet"
READERS_OF_THE_ENVIRONMENT = {
    "cluster/cluster.py": "hands it to `launched`",
    "cluster/local_workers.py": "hands it down to the devices",
    "profiling/hardware.py": "ANDROID_ROOT, by which a phone is known",
    "transport/elastic.py": "torch's own settings",
}
"""Besides `launch/`. Settings of shardnet's own are read by `launched` alone, which is given the environment."""


@cache
def rows() -> list[set[str]]:
    """The table of rooms, as structure.md has it: what its first column names, row by row."""
    text = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    table = text.split("## The rooms")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [{name.rstrip("/") for name in re.findall(r"`([^`]+)`", cell)} for cell in cells]


def imported(file: Path, package: str) -> Iterator[str]:
    """What a file imports, as full names: relative imports, names from a package, and modules named in strings, too.

    Args:
        package: the file's own, such as "shardnet.planner".
    """
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            yield base
            yield from (f"{base}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[a-z_.]+", node.value):
            yield node.value


def rooms_of(file: Path) -> set[str]:
    """The rooms that a file imports from."""
    package = ".".join(["shardnet", *file.relative_to(PACKAGE).parent.parts])
    names = (name.split(".") for name in imported(file, package))
    known = set().union(*rows())
    return {name[1] for name in names if name[0] == "shardnet" and len(name) > 1 and name[1] in known}


def modules() -> dict[Path, str]:
    """The files of the rooms; `__main__` is the command, as `launch/` has it."""
    found = {file: file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in PACKAGE.rglob("*.py")}
    return {file: room for file, room in found.items() if room not in ("__init__", "__main__")}


# Written down rather than done: the nursery is the process that `launch/` provides for local devices.
STARTED = {("cluster/local_workers.py", "launch")}


def test_imports_point_upwards() -> None:
    """Once, structure.md had `profiling` above `described`, from which it imports: the guard had its own order."""
    row = {room: index for index, rooms in enumerate(rows()) for room in rooms}
    assert set(modules().values()) <= set(row), "name the new room in structure.md"
    for file, room in modules().items():
        where = file.relative_to(PACKAGE).as_posix()
        later = {other for other in rooms_of(file) if row[other] > row[room] and (where, other) not in STARTED}
        assert not later, f"{where} must not import from {', '.join(sorted(later))}, which stand below it"


def test_every_room_of_the_table_is_there() -> None:
    named = set().union(*rows())
    assert named == {*modules().values(), "launch"}


def test_no_module_is_its_own_cause() -> None:
    """Within a row, too: what a file imports when it is loaded never leads back to it."""
    names = {_name(file): file for file in modules()}
    above = {name: {each for each in _loaded(file) if each in names} for name, file in names.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way, name])
        if name not in done:
            for each in above[name]:
                visit(each, (*way, name))
            done.add(name)

    for name in names:
        visit(name, ())


def _name(file: Path) -> str:
    return ".".join(["shardnet", *file.relative_to(PACKAGE).with_suffix("").parts])


def _loaded(file: Path) -> Iterator[str]:
    """What is imported at the top of a file."""
    package = ".".join(["shardnet", *file.relative_to(PACKAGE).parent.parts])
    top = ast.parse(file.read_text(encoding="utf-8"))
    top.body = [node for node in top.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in top.body:
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            yield base
            yield from (f"{base}.{name.name}" for name in node.names)


def test_who_reads_the_environment() -> None:
    """`launched.py` once said that it was the only one; `hardware.py` looked for a phone there."""
    readers = {
        file.relative_to(PACKAGE).as_posix()
        for file in modules()
        if re.search(r"os\.(environ|getenv)", file.read_text(encoding="utf-8"))
    }
    assert readers == set(READERS_OF_THE_ENVIRONMENT)
