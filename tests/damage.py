"""Damage for good inputs: other types, magnitudes beyond meaning, missing, extra and double keys, nesting, names.

Strategies of hypothesis draw what is done; `damaged` does it to a copy.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

Path_ = tuple[Any, ...]
NAMES = (
    *("", " ", "[/x]", "[b]", "[", "\\", ":cat:", "a>b", "a:b=3", "all", "source", "\ud800", "\x1b[2J", "\x00", "\n"),
    *(
        "x" * 300,
        "x" * 200_000,
        "é" * 50,
        "\u202e",
        "日本",
        "😀",
        "nan",
        "null",
        "../../etc/passwd",
        "%s{}",
        "$\\frac{$",
    ),
)
NUMBERS = (
    *(0, -0.0, -1, 1, 2, 3, 7, 0.5, -1e-3, 1e-320, 1e-18, 1e-17, 1e-9, 1e9, 1e17, 1e18, 1e19, 1e39, 1e308, -1e308),
    *(2**31, 2**32 - 1, 2**53, 2**63, 2**64, 10**19, 10**99, 10**300, 10**400, -(10**400)),
    *(float("nan"), float("inf"), float("-inf")),
)
FACTORS = (-1, 0, 1e-300, 1e-30, 1e-15, 1e-9, 1e-3, 0.5, 2, 1000, 10**9, 1e12, 1e15, 1e30, 1e300)
MOST_DEEP = 5
OTHERS = (None, True, False, [], {}, [[]], [None], {"a": 1}, [1] * 100, "1", "1e3", ["x"] * 3000)


def deep(levels: int) -> Any:
    value: Any = 1
    for number in range(levels):
        value = [value] if number % 2 else {"a": value}
    return value


def values() -> st.SearchStrategy[Any]:
    """What may stand in the place of a good value."""
    drawn = [st.sampled_from(NUMBERS), st.sampled_from(NAMES), st.sampled_from(OTHERS), st.integers(), st.floats()]
    return st.one_of(*drawn, st.text(max_size=8), st.integers(1, 300).map(deep)).map(copy.deepcopy)


def places(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """The way to every value in some nested lists and objects, but for the whole."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield (*at, key)
        if len(at) < MOST_DEEP:
            yield from places(each, (*at, key))


@st.composite
def damaged(draw: st.DrawFn, good: Any) -> Any:
    """A copy of `good`: up to three values replaced, removed, added, repeated, renamed, scaled, or one throughout."""
    value = copy.deepcopy(good)
    if draw(st.booleans()):
        return _throughout(draw, value)
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        ways = list(places(value))
        if not ways:
            break
        way = draw(st.sampled_from(ways))
        holder = value
        for key in way[:-1]:
            holder = holder[key]
        _do(draw, holder, way[-1])
    return value


def _throughout(draw: st.DrawFn, value: Any) -> Any:
    """Every number of one key, or every occurrence of a word, changed alike: the whole stays consistent."""
    ways = list(places(value))
    way = draw(st.sampled_from(ways))
    found = value
    for key in way:
        found = found[key]
    named = [key for key in way if isinstance(key, str)][-1]
    if isinstance(found, str):
        other = draw(st.sampled_from(NAMES))
        return _mapped(value, lambda key, each: other if each == found else each)
    factor, fixed = draw(st.sampled_from(FACTORS)), draw(st.sampled_from(NUMBERS))
    is_scaled = draw(st.booleans())

    def change(key: Any, each: Any) -> Any:
        is_number = isinstance(each, (int, float)) and not isinstance(each, bool)
        return (each * factor if is_scaled else fixed) if is_number and key == named else each

    return _mapped(value, change)


def _mapped(value: Any, change: Callable[[Any, Any], Any], key: Any = None) -> Any:
    """The value with its plain parts changed; `key` is the nearest one above each."""
    if isinstance(value, dict):
        return {inner: _mapped(each, change, inner) for inner, each in value.items()}
    if isinstance(value, list):
        return [_mapped(each, change, key) for each in value]
    return change(key, value)


def _do(draw: st.DrawFn, holder: Any, key: Any) -> None:
    deed = draw(st.sampled_from(("replace", "replace", "remove", "add", "repeat", "rename", "scale", "swap")))
    if deed == "remove":
        del holder[key]
    elif deed == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from(("about", "name", "x", "x" * 200_000, "devices", "\ud800", "[/x]")))] = draw(
            values()
        )
    elif deed == "repeat" and isinstance(holder, list):
        holder.extend([holder[key]] * draw(st.sampled_from((1, 2, 50, 5000))))
    elif deed == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from((f"{key}s", str(key).upper(), str(key)[:-1])))] = holder.pop(key)
    elif deed == "scale" and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
        holder[key] = holder[key] * draw(st.sampled_from(FACTORS))
    elif deed == "swap" and isinstance(holder, list) and len(holder) > 1:
        holder[key], holder[0] = holder[0], holder[key]
    else:
        holder[key] = draw(values())


@st.composite
def damaged_text(draw: st.DrawFn, value: Any) -> bytes:
    """The value as a JSON file; now and then the text itself is damaged: cut, a key doubled, another encoding."""
    text = json.dumps(value)
    deed = draw(
        st.sampled_from(("none",) * 6 + ("cut", "double", "utf-16", "bom", "latin", "comma", "nested", "empty"))
    )
    if deed == "cut":
        return text[: draw(st.integers(0, len(text)))].encode("utf-8", "surrogatepass")
    if deed == "double" and text.startswith("{"):
        end = text.find(",")
        text = "{" + text[1 : end + 1] + text[1:]
    elif deed == "nested":
        text = "[" * 100_000 + text
    elif deed == "comma":
        text = text.replace(",", ",,", 1)
    elif deed == "empty":
        text = draw(st.sampled_from(("", " ", "null", "[]", "{}", "0", '"x"', "\x00")))
    elif deed in ("utf-16", "latin"):
        return (text + "é").encode({"utf-16": "utf-16", "latin": "latin-1"}[deed], "replace")
    return ((b"\xef\xbb\xbf") if deed == "bom" else b"") + text.encode("utf-8", "surrogatepass")
