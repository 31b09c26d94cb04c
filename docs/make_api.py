"""Writes docs/api.md from the docstrings of what shardnet exports.

    python docs/make_api.py          writes it
    python docs/make_api.py --check  ends with 1 where it is not up to date

The text comes from the source, so that strings under fields count as their documentation, as they do for a reader.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import shardnet
from shardnet.options import Options, keywords_of, words_for

TARGET = Path(__file__).parent / "api.md"
ROOMS = {
    "shardnet": "Devices, models and answers. What needs torch is imported when it is first used.",
    "shardnet.planner": "Plans without any device: no torch, no network. See [planning](planning.md).",
    "shardnet.simulator": "Predicted runs of a plan.",
}
OPENING = """# Reference

What `import shardnet` offers, made from the docstrings by `make docs` (`docs/make_api.py`): do not edit it by hand.
Seconds end in `_s`, bytes in `_bytes`; units are numbered from 0. The [quickstart](quickstart.md) shows how it goes
together.
"""


def reference() -> str:
    """The whole text of docs/api.md."""
    parts = [OPENING]
    for room, about in ROOMS.items():
        module = import_module(room)
        parts.append(f"## {room}\n\n{about}\n")
        names = [name for name in module.__all__ if name[0].isalpha()]
        found = {name: getattr(module, name) for name in names}
        errors = {name: each for name, each in found.items() if _is_error(each)}
        parts += [_entry(name, each) for name, each in found.items() if name not in errors]
        if errors:
            parts.append(_errors(errors))
    return "\n".join(parts)


def _is_error(each: Any) -> bool:
    return inspect.isclass(each) and issubclass(each, Exception)


def _errors(errors: dict[str, Any]) -> str:
    rows = [
        f"| `{name}` | {each.__base__.__name__} | {each.exit_code} | {_line(each)} |" for name, each in errors.items()
    ]
    return (
        "### Errors\n\n| error | is a | exit code of commands | means |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _line(each: Any) -> str:
    return " ".join((inspect.getdoc(each) or "").split("\n\n")[0].split())


def _entry(name: str, each: Any) -> str:
    if not (inspect.isclass(each) or inspect.isfunction(each)):
        return f"### {name}\n\n```python\n{name} = {each!r}\n```\n"
    [node] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
    if isinstance(node, ast.FunctionDef):
        return f"### {name}\n\n{_signature(node)}\n\n{_text(node)}\n"
    assert isinstance(node, ast.ClassDef)
    parts = [f"### {name}\n", _text(node) + "\n"]
    fields = list(_options(each) if issubclass(each, Options) else _fields(node))
    if fields:
        parts.append("\n".join(fields) + "\n")
    for method in [*_methods(node), *_inherited(each)]:
        _spell_out(method, getattr(each, method.name))
        parts.append(f"{_signature(method, of=name)}\n\n{_text(method)}\n")
    return "\n".join(parts)


def _inherited(kind: type) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public methods that a class has from a base of ours which is not exported itself."""
    for base in kind.__mro__[1:]:
        if base.__module__.startswith("shardnet.cluster") and base.__name__ not in shardnet.__all__:
            [node] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(node, ast.ClassDef)
            yield from _methods(node)


def _options(record: Any) -> Iterator[str]:
    """The fields of a record of options, each with what it means."""
    for name, parameter in keywords_of(record).items():
        yield f"- `{name}: {parameter.annotation} = {parameter.default!r}`: {words_for(record, name)}"


def _spell_out(node: ast.FunctionDef | ast.AsyncFunctionDef, method: Any) -> None:
    """Put the fields of a record where a method has `**options` for them: in the call and in the docstring."""
    if "__signature__" not in vars(method):
        return
    keywords = inspect.signature(method).parameters.values()
    for each in keywords:
        if each.kind is each.KEYWORD_ONLY:
            kind = ast.parse(each.annotation, mode="eval").body
            node.args.kwonlyargs.append(ast.arg(each.name, kind))
            node.args.kw_defaults.append(ast.Constant(each.default))
    node.args.kwarg = None
    assert isinstance(node.body[0], ast.Expr)
    node.body[0].value = ast.Constant(method.__doc__)


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """Public fields, each with the string under it, and properties."""
    for each, below in zip(node.body, [*node.body[1:], None]):
        if isinstance(each, ast.AnnAssign):
            yield from _field(each.target, each, _string(below))
        elif isinstance(each, ast.FunctionDef) and each.name == "__init__":
            yield from _set_in(each)
        elif isinstance(each, ast.FunctionDef) and _is_property(each) and each.name[0] != "_":
            kind = "" if each.returns is None else f": {ast.unparse(each.returns)}"
            yield f"- `{each.name}{kind}`: {' '.join((ast.get_docstring(each) or '').split())}".rstrip(": ")


def _set_in(init: ast.FunctionDef) -> Iterator[str]:
    """What `__init__` sets and documents."""
    for each, below in zip(init.body, init.body[1:]):
        about = _string(below)
        target = each.targets[0] if isinstance(each, ast.Assign) else None
        if about and isinstance(target, ast.Attribute) and target.attr[0] != "_":
            yield f"- `{target.attr}`: {about}"


def _field(target: ast.expr, node: ast.AnnAssign, about: str) -> Iterator[str]:
    if isinstance(target, ast.Name) and target.id[0] != "_":
        default = "" if node.value is None else f" = {ast.unparse(node.value)}"
        yield f"- `{target.id}: {ast.unparse(node.annotation)}{default}`" + (f": {about}" if about else "")


def _methods(node: ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and each.name[0] != "_" and not _is_property(each):
            yield each


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(each).endswith("property") for each in node.decorator_list)


def _string(node: ast.stmt | None) -> str:
    """The text of a statement that is nothing but a string."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return " ".join(node.value.value.split())
    return ""


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, of: str = "") -> str:
    """The call as a block of code; one argument a line where it is long."""
    arguments = node.args
    if of and not any(ast.unparse(each) == "staticmethod" for each in node.decorator_list):
        arguments.args = arguments.args[1:]  # self or cls
    start = f"{'async ' if isinstance(node, ast.AsyncFunctionDef) else ''}{of + '.' if of else ''}{node.name}"
    end = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    listed = ast.unparse(arguments)
    whole = f"{start}({listed}){end}"
    if len(whole) > 100:
        lines = ",\n    ".join(_listed(arguments))
        whole = f"{start}(\n    {lines},\n){end}"
    return f"```python\n{whole}\n```"


def _listed(arguments: ast.arguments) -> list[str]:
    plain = [ast.unparse(each) for each in arguments.args]
    defaults = [f" = {ast.unparse(each)}" for each in arguments.defaults]
    plain = [text + default for text, default in zip(plain, [""] * (len(plain) - len(defaults)) + defaults)]
    if arguments.vararg is not None:
        plain.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        plain.append("*")
    for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        plain.append(ast.unparse(each) + ("" if default is None else f" = {ast.unparse(default)}"))
    return plain + ([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg is not None else [])


def _text(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    """The docstring, its sections (`Args:`, `Raises:`) as lists."""
    lines: list[str] = []
    in_section = False
    for line in (ast.get_docstring(node) or "").splitlines():
        heading, _, rest = line.partition(":")
        if heading in ("Args", "Raises", "Returns"):
            in_section = True
            lines += [f"*{heading}*: {rest.strip()}".rstrip(), ""] if rest.strip() else [f"*{heading}*", ""]
        elif in_section and line.startswith("        "):
            lines[-1] += " " + line.strip()
        elif in_section and line.strip():
            lines.append(_item(line.strip()))
        else:
            in_section = in_section and not line.strip()
            lines.append(line)
    return "\n".join(lines).strip()


def _item(line: str) -> str:
    name, colon, rest = line.partition(":")
    return f"- `{name}`{colon}{rest}" if colon else f"- {line}"


def main() -> int:
    text = reference()
    if "--check" in sys.argv[1:]:
        return int(not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
