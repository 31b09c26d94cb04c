"""What values as bytes have in common for those who write and read them: limits, errors, and which messages may travel.

Each value says what it is by one byte, but for the fields of messages that are whole numbers.
"""

from __future__ import annotations

import struct

from shardnet.transport.wire.schema import Layout

MAX_BYTES = 2**28
"""Of all that is written at once."""
MAX_PARTS = 2**21
"""Of all tuples, lists and dicts together: they take more memory than their bytes. 100,000 spans are 1,000,000."""
TENSOR_PARTS = 64
"""A tensor in a message counts as so many of them: the smallest has 4 bytes there and takes over 1,000 in memory."""
MAX_DEPTH = 32
MAX_INT_BYTES = 16

INT, FLOAT, COUNT = struct.Struct("<q"), struct.Struct("<d"), struct.Struct("<I")

LAYOUTS: list[Layout] = []
"""Of the messages that may travel, in the order of their numbers."""
NUMBERS: dict[type, int] = {}


def allow(*messages: type) -> None:
    """Let NamedTuples and records travel. Their order gives their numbers, so that all devices must name them alike."""
    for message in messages:
        NUMBERS[message] = len(LAYOUTS)
        LAYOUTS.append(Layout(message))


class Undecodable(ValueError):
    """What arrived is not what we write."""


class Unsendable(TypeError):
    """A value that may not travel."""
