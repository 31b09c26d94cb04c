"""Reads the texts that a command is given: files, pipes, standard input."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted

MOST_TEXT_BYTES = 16 * 2**20


def read_text_of(file: str, what: str) -> str:
    """The text of a file, or of a pipe such as the shell makes of <(command); "-" is standard input.

    Args:
        what: the file is called in messages, "prompt file" say.

    Raises:
        BadRequest: it cannot be read, is too long, or is no text in UTF-8.
    """
    if file == "-":
        return _text_of(sys.stdin.buffer, "standard input", what)
    shown = f"the {what} {quoted(file)}"
    try:
        # Without blocking: opening a pipe that nobody writes to would wait for ever.
        with open(file, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as opened:
            os.set_blocking(opened.fileno(), True)
            return _text_of(opened, shown, what)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise BadRequest(f"{_capitalised(shown)} cannot be read: {reason}.") from error


def _text_of(file: BinaryIO, shown: str, what: str) -> str:
    raw = file.read(MOST_TEXT_BYTES + 1)
    if len(raw) > MOST_TEXT_BYTES:
        kind = what.removesuffix(" file")
        raise BadRequest(f"{_capitalised(shown)} has more than the {MOST_TEXT_BYTES} bytes that a {kind} may have.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{_capitalised(shown)} is not text in UTF-8 (byte {error.start}).") from error


def _capitalised(words: str) -> str:
    return words[:1].upper() + words[1:]
