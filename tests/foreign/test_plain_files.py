"""Files are read with limits, and a message quotes no more of them than a person reads."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from shardnet.errors import BadConfiguration, DamagedCheckpoint
from shardnet.foreign.plain_files import parse_json, read_bytes, read_json, read_text
from shardnet.foreign.quoting import quoted, shortened


def written(folder: Path, content: bytes) -> Path:
    path = folder / "some.json"
    path.write_bytes(content)
    return path


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """A pipe hung for ever, /dev/zero filled 23 GiB before the system killed the process."""
    pipe, bound = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(bound))
        link = tmp_path / "link"
        link.symlink_to("/dev/zero")
        for path, said in ((pipe, "a pipe"), (bound, "a socket"), (link, "a device"), (tmp_path, "a folder")):
            with pytest.raises(BadConfiguration, match=f"Cannot read the plan .*: it is {said}, not a file"):
                read_text(path, 1000, "the plan")
    with pytest.raises(BadConfiguration, match="No such file or directory"):
        read_text(tmp_path / "missing", 1000, "the plan")
    with pytest.raises(BadConfiguration, match="null"):
        read_text("a\0b", 1000, "the plan")
    with pytest.raises(DamagedCheckpoint, match="a folder"):
        read_bytes(tmp_path, 1000, "the index", DamagedCheckpoint)


def test_sizes_are_looked_at_first(tmp_path: Path) -> None:
    """A sparse file of a terabyte takes no memory; a file of /proc says size 0 and has more."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BadConfiguration, match="1099511627776 bytes, more than the 1000"):
        read_bytes(large, 1000, "the plan")
    with pytest.raises(BadConfiguration, match="more than the 10 bytes"):
        read_bytes("/proc/self/status", 10, "the plan")
    assert read_bytes(written(tmp_path, b"x" * 1000), 1000, "the plan") == b"x" * 1000


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    assert read_json(written(tmp_path, b'\xef\xbb\xbf{"a": 1}'), 100, "the plan") == {"a": 1}
    with pytest.raises(BadConfiguration, match="not UTF-8 text"):
        read_json(written(tmp_path, '{"a": 1}'.encode("utf-16")), 100, "the plan")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "has the key 'c' twice"),
        ("[NaN]", "has NaN"),
        ("[-Infinity]", "has -Infinity"),
        ("[1e400]", "the number 1e400"),
        ("[1" + "0" * 5000 + "]", "5001 digits"),
        ("[" * 101 + "]" * 101, "deeper than 100 levels"),
        ("[" * 100_000 + "]" * 100_000, "deeper than 100 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "deeper than 100 levels"),
        ('["\\ud800"]', "half a character"),
        ("{", "is not JSON"),
    ],
)
def test_json_means_one_thing(text: str, said: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        parse_json(text, "the plan mine.json")
    assert str(caught.value).startswith("The plan mine.json ")
    assert said in str(caught.value)
    assert len(str(caught.value)) < 200


def test_json_that_is_fine() -> None:
    text = '{"a": [1, -2.5e-3, true, null], "b": "\\ud83d\\ude00 \\u00e9"}'
    assert parse_json(text, "it") == {"a": [1, -0.0025, True, None], "b": "\U0001f600 é"}
    assert parse_json("[" * 100 + "]" * 100, "it")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("name", "'name'"),
        ("x" * 200_000, "'" + "x" * 40 + "'... (200000 characters)"),
        (5, "5"),
        (10**400, "a whole number of about 401 digits"),
        (True, "True"),
        ([], "[]"),
        ([1, 2], "[1, 2]"),
        ([1, 2, 3, 4], "[1, 2, 3, ...]"),
        ([[1]], "a list of 1"),
        ({"a": {"b": 1}}, "an object with the key 'a'"),
        ("\ud800\n", "'\\ud800\\n'"),
    ],
)
def test_what_a_message_quotes(value: object, shown: str) -> None:
    assert quoted(value) == shown


def test_a_text_without_quotation_marks() -> None:
    assert shortened("a/b.json") == "a/b.json"
    assert shortened("a\x1b[2J\nb\ud800") == "a\\x1b[2J\\nb\\ud800"
    assert len(shortened("x" * 5000)) == 200


def test_deep_values_are_quoted_without_going_down() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert quoted(deep) == "a list of 1"
