"""Streaming text: pieces add up to the whole, characters come whole, and nothing passes a stop string."""

from __future__ import annotations

import pytest

from shardnet.session.text import TextStream


class ByteTokenizer:
    """One token a byte, as the worst tokenizer would do it."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        return bytes(token_ids).decode(errors="replace")


def stream(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    told = TextStream(ByteTokenizer(), stop)
    pieces = []
    for byte in text.encode():
        pieces.append(told.push(byte))
        if told.is_stopped:
            return pieces, told
    return [*pieces, told.finish()], told


@pytest.mark.parametrize("text", ["", "plain", "häuser über flüssen", "雪が降る 🎉🎉", "a\n\nb"])
def test_pieces_add_up_to_the_whole_text(text: str) -> None:
    pieces, _ = stream(text)
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_incomplete_character_at_the_end_is_told_as_decoding_all_ids_tells_it() -> None:
    told = TextStream(ByteTokenizer())
    ids = list("aü".encode())[:2]
    pieces = [told.push(token) for token in ids] + [told.finish()]
    assert "".join(pieces) == bytes(ids).decode(errors="replace")


def test_nothing_past_a_stop_string_and_nothing_of_it() -> None:
    pieces, told = stream("one two STOP three", stop=("STOP",))
    assert told.is_stopped
    assert "".join(pieces) == "one two "


def test_beginning_of_a_stop_string_that_does_not_come_is_told_later() -> None:
    pieces, told = stream("a STO b STOLEN", stop=("STOP", "LENT"))
    assert not told.is_stopped
    assert "".join(pieces) == "a STO b STOLEN"
    assert pieces[:6] == ["a", " ", "", "", "", "STO "]


def test_earliest_of_several_stop_strings_counts() -> None:
    pieces, told = stream("x END y HALT", stop=("HALT", "END"))
    assert told.is_stopped
    assert "".join(pieces) == "x "
