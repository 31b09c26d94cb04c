"""The rooms of `docs/structure.md`: a module imports only from its own row of that table and from those above it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "shardnet"
LAUNCH = ROOT / "launch"
ROWS_OF_LAUNCH = (
    {"console", "files", "flags", "values"},
    {"hosts", "generate"},
    {"bench", "cluster", "doctor", "launcher", "measure", "plan", "quality", "quantise", "serve", "task", "termux"},
    {"commands"},
    {"cli", "__main__"},
)
"""The same within `launch/`, where besides no command imports from another one's folder; but `quality` and `quantise`
load models as `generate` does."""
READERS_OF_THE_ENVIRONMENT = {
    "cluster/cluster.py": "hands it to `launched`",
    "cluster/local_workers.py": "hands it down to the devices",
    "coordinator/own_device.py": "hands it down to the device",
    "process/cache_folder.py": "SHARDNET_CACHE, which devices and commands read alike",
    "process/lasting.py": "XDG_STATE_HOME, which says where state folders are",
    "profiling/phone.py": "ANDROID_ROOT, by which a phone is known",
    "transport/rpc/elastic.py": "torch's own settings",
    "quantised/native/compiling.py": "hands it to the compiler, with a place for what that writes beside",
}
"""Besides `launch/`. Settings of our own are read by `launched`, which is given the environment, and `cache_folder`."""


@cache
def rows() -> list[set[str]]:
    """The table of rooms, as structure.md has it: what its first column names, row by row."""
    text = (ROOT / "docs/structure.md").read_text(encoding="utf-8")
    table = text.split("## The rooms")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    return [{name.rstrip("/") for name in re.findall(r"`([^`]+)`", cell)} for cell in cells]


def package_of(file: Path) -> str:
    """The package in which a file is, such as "shardnet.planner"."""
    folder = file.relative_to(ROOT).parent
    return ".".join(folder.parts if folder.parts[0] == "shardnet" else ("shardnet", *folder.parts))


def imported_by(node: ast.AST, package: str) -> Iterator[str]:
    """What one node imports, as full names: relative imports and names from a package, too."""
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, node.module] if node.module else above)
        yield base
        yield from (f"{base}.{name.name}" for name in node.names)
    elif isinstance(node, ast.Import):
        yield from (name.name for name in node.names)


@cache
def imported(file: Path) -> tuple[str, ...]:
    """Everything that a file imports: within functions, for types only, and modules named in strings, too."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names += imported_by(node, package_of(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[a-z_.]+", node.value):
            names.append(node.value)
    return tuple(names)


def rooms_of(file: Path, prefix: str, rooms: set[str]) -> set[str]:
    """The rooms that a file imports from, below `prefix`."""
    names = (name.removeprefix(prefix).split(".")[0] for name in imported(file) if name.startswith(prefix))
    return rooms.intersection(names)


def modules() -> dict[Path, str]:
    """The files of the rooms; `__main__` is the command, as `launch/` has it."""
    found = {file: file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in PACKAGE.rglob("*.py")}
    return {file: room for file, room in found.items() if room not in ("__init__", "__main__")}


def commands() -> dict[Path, str]:
    """The files of `launch/`, and which of its rooms each belongs to."""
    found = {file: file.relative_to(LAUNCH).parts[0].removesuffix(".py") for file in LAUNCH.rglob("*.py")}
    return {file: room for file, room in found.items() if room != "__init__"}


def arrows_upward(files: dict[Path, str], order: list[set[str]], prefix: str) -> list[str]:
    """Imports from a later row of `order`."""
    row = {room: index for index, rooms in enumerate(order) for room in rooms}
    return [
        f"{file.relative_to(ROOT)} imports from {other}, which stands below {room}"
        for file, room in files.items()
        for other in sorted(rooms_of(file, prefix, set(row)))
        if row[other] > row[room]
    ]


def test_imports_point_upwards() -> None:
    """Once, structure.md had `profiling` above `described`, from which it imports: the guard had its own order."""
    assert set(modules().values()) <= set().union(*rows()), "name the new room in structure.md"
    assert arrows_upward(modules(), rows(), "shardnet.") == []


def test_commands_do_not_know_each_other() -> None:
    order = list(ROWS_OF_LAUNCH)
    assert set(commands().values()) == set().union(*order), "name the new room in this test"
    assert arrows_upward(commands(), order, "shardnet.launch.") == []
    for file, room in commands().items():
        others = rooms_of(file, "shardnet.launch.", order[2]) - {room}
        assert room not in order[2] or not others, f"{file.relative_to(ROOT)} imports from {', '.join(sorted(others))}"


def test_every_room_of_the_table_is_there() -> None:
    named = set().union(*rows())
    assert named == {*modules().values(), "launch"}


def test_no_module_is_its_own_cause() -> None:
    """Within a row, too: what a file imports when it is loaded never leads back to it."""
    names = {_name(file): file for file in [*modules(), *commands()]}
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
    package = package_of(file)
    return package if file.stem == "__init__" else f"{package}.{file.stem}"


def _loaded(file: Path) -> Iterator[str]:
    """What is imported at the top of a file."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        yield from imported_by(node, package_of(file))


def test_who_reads_the_environment() -> None:
    """`launched.py` once said that it was the only one; a module of profiling/ looked for a phone there."""
    readers = {
        file.relative_to(PACKAGE).as_posix()
        for file in modules()
        if re.search(r"os\.(environ|getenv)", file.read_text(encoding="utf-8"))
    }
    assert readers == set(READERS_OF_THE_ENVIRONMENT)
