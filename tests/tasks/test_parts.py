"""Long texts in parts: nothing is lost, all parts fit, and cuts are where a reader would make them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.tasks.parts import parts_of, trimmed


@given(st.text(alphabet="ab .!?\n。é", max_size=200), st.integers(1, 40))
def test_parts_one_behind_the_other_are_the_text(text: str, most: int) -> None:
    parts = parts_of(text, lambda part: len(part) <= most)
    assert "".join(parts) == text
    assert all(len(part) <= most for part in parts)


@pytest.mark.parametrize(
    ("text", "most", "parts"),
    [
        ("One. Two.\n\nThree.", 12, ["One. Two.\n\n", "Three."]),
        ("One. Two. Three.", 10, ["One. Two. ", "Three."]),
        ("one two three", 8, ["one two ", "three"]),
        ("abcdef", 3, ["abc", "def"]),
        ("short", 10, ["short"]),
    ],
)
def test_a_text_is_cut_at_the_best_place(text: str, most: int, parts: list[str]) -> None:
    assert parts_of(text, lambda part: len(part) <= most) == parts


@given(st.text(alphabet="a \n", max_size=20))
def test_white_space_stays_around_what_is_within(text: str) -> None:
    before, within, behind = trimmed(text)
    assert before + within + behind == text
    assert within == text.strip()
