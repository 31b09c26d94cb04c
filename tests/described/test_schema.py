from __future__ import annotations

from dataclasses import dataclass

import pytest

from shardnet.described.schema import LocatedDict, Place, read_record
from shardnet.errors import BadConfiguration


@dataclass(frozen=True)
class Inner:
    size_gib: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    name: str
    inner: tuple[Inner, ...]
    from_: str | tuple[str, ...] = ""
    count: int = 1
    active_w: float | None = None
    times: tuple[float, ...] | None = None
    pinned: bool = False


GOOD = {"name": "a", "inner": [{"size_gib": 2, "names": ["x"]}], "from": ["p", "q"], "count": 3}


def test_reads_nested_records() -> None:
    outer = read_record(Outer, GOOD, Place())
    assert outer == Outer("a", (Inner(2.0, ("x",)),), ("p", "q"), 3)
    assert isinstance(outer.inner[0].size_gib, float)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nam": "b"}, "unknown key 'nam'; did you mean 'name'?"),
        ({"zzz": 1}, "unknown key 'zzz'; known are"),
        ({"count": 2.5}, "count: must be a whole number, but is 2.5"),
        ({"count": True}, "must be a whole number, but is True"),
        ({"name": 3}, "must be text, but is 3"),
        ({"active_w": float("nan")}, "must be a finite number"),
        ({"active_w": "much"}, "must be a number, but is 'much'"),
        ({"inner": "no"}, "must be a list"),
        ({"inner": [{"size_gib": 1, "nmes": []}]}, "inner[0].nmes: unknown key 'nmes'; did you mean 'names'?"),
        ({"inner": [5]}, "inner[0]: must be a mapping with keys such as size_gib"),
        ({"inner": [{}]}, "inner[0]: the key 'size_gib' is missing"),
        ({"pinned": 1}, "must be true or false"),
        ({"times": 3}, "times: must be a list, but is 3"),  # it was a StopIteration
        ({"active_w": 10**400}, "must be a finite number"),
        ({"name": "\ud800"}, "half a character"),
        ({"x" * 100_000: 1}, "(100000 characters)"),
    ],
)
def test_says_what_is_wrong_and_where(change: dict[str, object], said: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        read_record(Outer, {**GOOD, **change}, Place("f.yaml"))
    assert said in str(caught.value)
    assert str(caught.value).startswith("f.yaml")


def test_names_the_line_where_it_is_known() -> None:
    row = LocatedDict({"size_gib": 1, "nmes": []}, {"size_gib": 7, "nmes": 8}, 7)
    with pytest.raises(BadConfiguration, match=r"f\.yaml, line 8, inner\[0\]\.nmes"):
        read_record(Outer, {**GOOD, "inner": [row]}, Place("f.yaml"))
