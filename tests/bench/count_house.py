"""How large and how branched the code is: the figures that `tests/test_house.py` holds it to.

    python tests/bench/count_house.py          all figures, and every function that is too dense
    python tests/bench/count_house.py FOLDER   the same of other code, for comparison

*Branches* are counted as ruff's C901 does: 1, and 1 for each `if`, `elif`, loop, `except`, `case`, `else` of a
`try`, and nested function, with what is within it. *Density* also counts what makes a single expression hard to
read: each `and` and `or`, each ternary, and each `for` and `if` of a comprehension.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parent.parent.parent
PRODUCT = (ROOT / "shardnet", ROOT / "launch")
MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 60
MOST_BRANCHES = 10
MOST_DENSE_SHARE = 0.015


@dataclass(frozen=True)
class Function:
    """One `def`, a method or a nested one, too."""

    file: Path
    name: str
    line: int
    num_lines: int
    branches: int
    density: int

    @property
    def is_dense(self) -> bool:
        return self.density > MOST_BRANCHES


def files_in(folders: Sequence[Path]) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*.py"))


def num_lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def functions_in(file: Path) -> Iterator[Function]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            branches = 1 + sum(_branches(each) for each in node.body)
            inline = sum(_inline(each) for body in node.body for each in ast.walk(body))
            yield Function(file, node.name, node.lineno, length, branches, branches + inline)


def dense_share(functions: Sequence[Function]) -> float:
    """The share of functions that are over the bar when `and`, `or`, ternaries and comprehensions count."""
    return sum(each.is_dense for each in functions) / len(functions)


def _branches(node: ast.stmt) -> int:
    """As ruff's C901 has it: statements only, with all that is nested in them."""
    own = _own_branches(node)
    return own + sum(_branches(each) for each in _statements_in(node))


def _own_branches(node: ast.stmt) -> int:
    if isinstance(node, (ast.If, ast.For, ast.AsyncFor, ast.While, ast.FunctionDef, ast.AsyncFunctionDef)):
        return 1
    if isinstance(node, ast.Try):
        return len(node.handlers) + bool(node.orelse)
    if isinstance(node, ast.Match):
        return len(node.cases) - _ends_with_any(node)
    return 0


def _ends_with_any(node: ast.Match) -> bool:
    """`case _:` is what `else` is to an `if`."""
    last = node.cases[-1]
    return last.guard is None and isinstance(last.pattern, ast.MatchAs) and last.pattern.pattern is None


def _statements_in(node: ast.stmt) -> Iterator[ast.stmt]:
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.stmt):
            yield each
        elif isinstance(each, (ast.ExceptHandler, ast.match_case)):
            yield from each.body


def _inline(node: ast.AST) -> int:
    """What one expression adds to the density, without what is within it."""
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return int(isinstance(node, ast.IfExp))


def main() -> int:
    folders = [Path(each) for each in sys.argv[1:]] or PRODUCT
    files = files_in(folders)
    functions = [each for file in files for each in functions_in(file)]
    print(f"{len(files)} files:", _spread([num_lines(file) for file in files]), "lines")
    print(f"{len(functions)} functions:", _spread([each.num_lines for each in functions]), "lines")
    print(f"over {MOST_FILE_LINES} lines:", *(file for file in files if num_lines(file) > MOST_FILE_LINES))
    print(f"over {MOST_FUNCTION_LINES} lines:", *_named(each for each in functions if _is_long(each)))
    print(f"over {MOST_BRANCHES} branches:", *_named(each for each in functions if each.branches > MOST_BRANCHES))
    print(f"dense: {dense_share(functions):.2%}")
    for each in sorted(functions, key=lambda each: -each.density):
        if each.is_dense:
            print(f"  {each.density:3} {each.file}:{each.line} {each.name}")
    return 0


def _is_long(function: Function) -> bool:
    return function.num_lines > MOST_FUNCTION_LINES


def _named(functions: Iterator[Function]) -> Iterator[str]:
    return (f"{each.file}:{each.line} {each.name}" for each in functions)


def _spread(values: Sequence[int]) -> str:
    """Median / 90th percentile / most."""
    return f"{median(values):.0f} / {quantiles(values, n=10)[-1]:.0f} / {max(values)}"


if __name__ == "__main__":
    sys.exit(main())
