"""Numbers and names that stand in options."""

from __future__ import annotations

import math
import re

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import MOST_DIGITS, quoted

MOST_S = 10**6


def count(option: str, text: str, least: int, most: int) -> int:
    """A whole number.

    Raises:
        BadRequest: it is none, or beyond these two.
    """
    is_number = text.isdecimal() and len(text) <= MOST_DIGITS
    if not is_number or not least <= int(text) <= most:
        raise BadRequest(f"{option} must be a whole number from {least} to {most}, but is {quoted(text)}.")
    return int(text)


def seconds(option: str, text: str) -> float:
    """A number of seconds above 0.

    Raises:
        BadRequest: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= MOST_S:
        raise BadRequest(f"{option} must be a number of seconds above 0, but is {quoted(text)}.")
    return number


def name(option: str, text: str) -> str:
    """What may become part of a file's name.

    Raises:
        BadRequest: it may not.
    """
    if not re.fullmatch(r"[\w-][\w.-]{0,63}", text):
        raise BadRequest(f"{option} must be a name of letters, digits, _, . and -, but is {quoted(text)}.")
    return text
