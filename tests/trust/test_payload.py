"""What a QR code says, and how it is drawn."""

from __future__ import annotations

import base64
import hashlib
import secrets

import pytest
import segno
from hypothesis import given
from hypothesis import strategies as st

from shardnet.errors import UsageError
from shardnet.trust.addresses import Address, address_of
from shardnet.trust.payload import MOST_ADDRESSES, Payload, is_payload, parse_payload
from shardnet.trust.qr import QUIET, drawn

PAYLOAD = Payload(
    bytes(range(32)),
    bytes(range(16)),
    (Address("192.168.1.5", 29400), Address("fd00::5", 29400), Address("laptop.local", 1)),
)


def test_it_is_what_it_says() -> None:
    assert parse_payload(PAYLOAD.text) == PAYLOAD
    assert parse_payload(PAYLOAD._replace(addresses=()).text).addresses == ()


def test_it_may_be_pasted_in_any_case_and_with_line_breaks() -> None:
    text = PAYLOAD.text.lower()
    assert parse_payload(f"  {text[:30]}\n{text[30:]} \n") == PAYLOAD
    assert is_payload(" shardnet:abc") and not is_payload("7-harbour-green") and not is_payload("")


@given(st.binary(min_size=32, max_size=32), st.lists(st.tuples(st.ip_addresses(), st.integers(1, 65535)), max_size=8))
def test_any_addresses_come_through(fingerprint: bytes, addresses: list[tuple[object, int]]) -> None:
    known = [address_of(str(host), port) for host, port in addresses]
    payload = Payload(fingerprint, secrets.token_bytes(16), tuple(each for each in known if each is not None))
    assert parse_payload(payload.text) == payload


def test_more_addresses_than_have_room_are_left_out() -> None:
    many = tuple(Address(f"10.0.0.{number}", 1) for number in range(1, 20))
    assert parse_payload(PAYLOAD._replace(addresses=many).text).addresses == many[:MOST_ADDRESSES]


@given(st.integers(0, 10**6), st.characters(min_codepoint=32, max_codepoint=126))
def test_a_changed_letter_is_noticed(place: int, letter: str) -> None:
    text = PAYLOAD.text
    place %= len(text)
    changed = text[:place] + letter + text[place + 1 :]
    try:
        assert parse_payload(changed) == PAYLOAD  # of the other case
    except UsageError as error:
        assert "not a whole invitation" in str(error)


@pytest.mark.parametrize("length", range(0, len(PAYLOAD.text), 7))
def test_what_is_cut_off_is_noticed(length: int) -> None:
    with pytest.raises(UsageError, match="not a whole invitation of shardnet"):
        parse_payload(PAYLOAD.text[:length])


@given(st.text(max_size=300))
def test_any_text_is_refused_in_one_sentence(text: str) -> None:
    for each in (text, f"shardnet:{text}"):
        with pytest.raises(UsageError, match="not a whole invitation of shardnet"):
            parse_payload(each)


@given(st.binary(max_size=200))
def test_no_content_with_a_right_sum_does_harm(content: bytes) -> None:
    """Whoever makes a QR code can make its sum, too."""

    for said in (content, bytes([1]) + content, bytes([1]) + bytes(48) + content):
        whole = said + hashlib.sha256(said).digest()[:4]
        try:
            payload = parse_payload("SHARDNET:" + base64.b32encode(whole).decode())
        except UsageError:
            continue
        assert len(payload.fingerprint) == 32 and len(payload.token) == 16
        assert all(address_of(*each) == each for each in payload.addresses)


def test_a_long_text_is_not_looked_at() -> None:
    with pytest.raises(UsageError, match="not a whole invitation"):
        parse_payload("SHARDNET:" + "A" * 10**7)


def test_another_version_is_told() -> None:

    said = bytes([2]) + bytes(60)
    text = "SHARDNET:" + base64.b32encode(said + hashlib.sha256(said).digest()[:4]).decode().rstrip("=")
    with pytest.raises(UsageError, match=r"runs an unknown version of shardnet \(wire format 2\); this is shardnet"):
        parse_payload(text)


def test_the_drawing_has_every_module_and_a_quiet_zone() -> None:
    lines = drawn(PAYLOAD.text, in_colours=False)
    light = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
    rows = [[light[each][half] for each in line] for line in lines for half in (0, 1)]
    code = segno.make(PAYLOAD.text, error="l", micro=False)
    size = len(code.matrix)
    assert code.mode == "alphanumeric" and size + 2 * QUIET <= 60
    inner = [row[QUIET : QUIET + size] for row in rows[QUIET : QUIET + size]]
    assert inner == [[1 - module for module in row] for row in code.matrix]
    border = rows[:QUIET] + rows[QUIET + size :] + [row[:QUIET] + row[QUIET + size :] for row in rows]
    assert all(all(row) for row in border)
    assert len(lines) <= 30 and len({len(line) for line in lines}) == 1


def test_colours_are_set_and_taken_back_on_each_line() -> None:
    plain = drawn(PAYLOAD.text, in_colours=False)
    coloured = drawn(PAYLOAD.text, in_colours=True)
    assert coloured == [f"\x1b[97;40m{line}\x1b[0m" for line in plain]
