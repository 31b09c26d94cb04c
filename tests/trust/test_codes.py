"""Short codes as people type them, and addresses."""

from __future__ import annotations

import itertools
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardnet.errors import UsageError
from shardnet.trust.addresses import Address, address_of, parse_address
from shardnet.trust.codes import MOST_SLOTS, Code, new_code, parse_code
from shardnet.trust.words import LETTERS, WORDS, number_of

HARBOUR = Code(7, ("harbour", "green"))


def test_there_are_256_words_and_each_is_known_by_its_first_letters() -> None:
    assert len(WORDS) == len(set(WORDS)) == len({word[:LETTERS] for word in WORDS}) == 256
    assert all(word.isascii() and word.isalpha() and word.islower() and 4 <= len(word) <= 8 for word in WORDS)
    assert [number_of(word) for word in WORDS] == list(range(256))


@pytest.mark.parametrize(
    "typed",
    [
        "7-harbour-green",
        " 7 Harbour Green ",
        "7-harb-gree",
        "07.harbor_GREEN",
        "7 – harbour — green",
        "7harbour green\n",
        "7, harbour, green.",
    ],
)
def test_a_code_may_be_typed_in_many_ways(typed: str) -> None:
    assert parse_code(typed) == HARBOUR


@given(st.integers(1, MOST_SLOTS))
def test_a_code_is_what_it_shows(slot: int) -> None:
    code = new_code(slot, secrets.token_bytes)
    assert parse_code(str(code)) == parse_code(str(code).upper()) == code


def test_every_code_has_a_secret_of_its_own() -> None:
    secrets_of = {Code(1, words).secret for words in itertools.product(WORDS, WORDS)}
    assert len(secrets_of) == 2**16


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "A code is a number and two words"),
        ("harbour-green", "A code is a number and two words"),
        ("7-harbour", "A code is a number and two words"),
        ("0-harbour-green", "A code is a number and two words"),
        ("700-harbour-green", "A code is a number and two words"),
        ("7-harbour-green-green", "A code is a number and two words"),
        ("7-harbour-7", "A code is a number and two words"),
        ("7-har-green", "No code has the word 'har'"),
        ("7-harbour-gruen", "No code has the word 'gruen'"),
        ("7" * 10**6, "A code is a number and two words"),
    ],
)
def test_what_is_no_code_is_refused_in_one_sentence(typed: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        parse_code(typed)
    assert len(str(refused.value)) < 250


@given(st.text(max_size=120))
def test_any_text_is_a_code_or_refused(typed: str) -> None:
    try:
        code = parse_code(typed)
    except UsageError:
        return
    assert 1 <= code.slot <= MOST_SLOTS and set(code.words) <= set(WORDS)


@pytest.mark.parametrize("text", ["192.168.1.5:29400", "[fe80::1]:29400", "laptop.local:1", "my_host:65535"])
def test_addresses_are_read_and_shown(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:-1",
        "host:٣",
        "fe80::1:29400",
        "[fe80::1%wlan0]:29400",
        "[host]:1",
        "0.0.0.0:1",
        "[::]:1",
        "224.0.0.1:1",
        "127.1:1",
        "1:1",
        "0x7f000001:1",
        "-host:1",
        "ho st:1",
        "a" * 300 + ":1",
        "host\n:1",
    ],
)
def test_where_nothing_can_be_dialled_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="An address is host:port, such as"):
        parse_address(text)


def test_a_name_is_an_address_in_lower_case() -> None:
    assert address_of("LapTop", 5) == Address("laptop", 5)
    assert address_of("FE80:0::1", 5) == Address("fe80::1", 5)
