"""What is typed in a chat, and what the model is asked then."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shardnet.errors import BadRequest
from shardnet.launch.cluster.chat_history import History
from shardnet.launch.cluster.chat_typed import HELP, ORDERS, PROMPT, PROMPT_ON, Order, order_of, read_turn


def lines(*typed: str) -> tuple[Callable[[str], str], list[str]]:
    """What reads them, and what it was told to show."""
    left, shown = list(typed), list[str]()

    def read(prompt: str) -> str:
        shown.append(prompt)
        if not left:
            raise EOFError
        return left.pop(0)

    return read, shown


def test_a_line_that_ends_with_a_backslash_goes_on_in_the_next_one() -> None:
    read, shown = lines("one\\", "", "two")
    assert read_turn(read) == "one\n"
    assert shown == [PROMPT, PROMPT_ON]
    assert read_turn(read) == "two"
    with pytest.raises(EOFError):
        read_turn(read)


def test_what_ends_in_the_midst_of_a_message_is_one() -> None:
    read, _ = lines("one\\", "two\\")
    assert read_turn(read) == "one\ntwo"


def test_orders_begin_with_a_slash() -> None:
    assert order_of("hello") is None and order_of(" /quit") is None
    assert order_of("/quit") == Order("/quit", "")
    assert order_of("/system  Be brief. ") == Order("/system", "Be brief.")
    with pytest.raises(BadRequest, match="'/frob' is nothing that a chat can be asked"):
        order_of("/frob it")
    assert all(order in HELP for order in ORDERS)


def test_a_prompt_has_all_that_was_said() -> None:
    history = History("Be brief.", [("Hello", " Hi there.")])
    assert history.messages("Why?") == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": " Hi there."},
        {"role": "user", "content": "Why?"},
    ]
    assert history.plain("Why?") == "Be brief.\nUser: Hello\nAssistant: Hi there.\nUser: Why?\nAssistant:"
    assert History().messages() == [] and History().plain("Why?") == "User: Why?\nAssistant:"
