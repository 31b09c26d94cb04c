"""How large and how branched our own code may be; the numbers stand in `bench/count_house.py`."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))
import count_house as house

FUNCTIONS = [function for file in house.files_in(house.PRODUCT) for function in house.functions_in(file)]
LOOKING = {"all", "any", "hasattr", "isinstance", "len", "max", "min", "set", "sorted", "sum", "type"}


def named(function: house.Function) -> str:
    return f"{function.file.relative_to(house.ROOT)}:{function.line} {function.name}"


def test_no_file_is_too_long() -> None:
    lengths = {str(file.relative_to(house.ROOT)): house.num_lines(file) for file in house.files_in(house.PRODUCT)}
    assert {file: length for file, length in lengths.items() if length > house.MOST_FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    long = {named(each): each.num_lines for each in FUNCTIONS if each.num_lines > house.MOST_FUNCTION_LINES}
    assert long == {}


def test_no_function_branches_too_much() -> None:
    assert {named(each): each.branches for each in FUNCTIONS if each.branches > house.MOST_BRANCHES} == {}
    said = re.search(r"^max-complexity = (\d+)$", (house.ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert said is not None and int(said[1]) == house.MOST_BRANCHES, "ruff holds all code to the same"


def test_asserts_only_look() -> None:
    """Once, an assert took a session's rows: under `python -O`, which leaves asserts out, two sessions shared them."""
    asserts = [
        (file, node)
        for file in house.files_in(house.PRODUCT)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    acting = [f"{file.relative_to(house.ROOT)}:{node.lineno}" for file, node in asserts if does_something(node.test)]
    assert len(asserts) > 10 and acting == []


def does_something(expression: ast.expr) -> bool:
    """Whether it calls anything but builtins that look, or names a value."""
    nodes = list(ast.walk(expression))
    called = [node.func for node in nodes if isinstance(node, ast.Call)]
    only_looks = all(isinstance(each, ast.Name) and each.id in LOOKING for each in called)
    return not only_looks or any(isinstance(node, (ast.NamedExpr, ast.Await)) for node in nodes)


def test_few_functions_are_dense() -> None:
    dense = {named(each): each.density for each in FUNCTIONS if each.is_dense}
    assert house.dense_share(FUNCTIONS) <= house.MOST_DENSE_SHARE, dense


@pytest.mark.parametrize(
    ("body", "branches", "density"),
    [
        ("return x", 1, 1),
        ("return x and y or z", 1, 3),
        ("return a if b else c", 1, 2),
        ("return [a for b in c for a in b if a if b]", 1, 5),
        ("if a:\n  return 1\nelif b and c:\n  return 2\nelse:\n  return 3", 3, 4),
        ("for a in b:\n  while a:\n    pass\nelse:\n  pass", 3, 3),
        ("try:\n  pass\nexcept A:\n  pass\nexcept B:\n  pass\nelse:\n  pass\nfinally:\n  pass", 4, 4),
        ("with a:\n  if b:\n    pass", 2, 2),
        ("match a:\n  case 1:\n    pass\n  case _:\n    pass", 2, 2),
        ("def inner():\n  return a or b\nreturn inner", 2, 3),
    ],
)
def test_how_branches_are_counted(tmp_path: Path, body: str, branches: int, density: int) -> None:
    """As ruff 0.17 counts them: `ruff check --select C901 --config 'lint.mccabe.max-complexity=0'`."""
    file = tmp_path / "some.py"
    file.write_text("def some():\n" + "\n".join(f"    {line}" for line in body.split("\n")) + "\n")
    function = next(house.functions_in(file))
    assert (function.name, function.branches, function.density) == ("some", branches, density)
    assert function.num_lines == body.count("\n") + 2
