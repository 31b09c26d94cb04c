"""Reads values from bytes that anybody may have sent. Knows no network.

Reading makes nothing but plain data, tensors and our messages, looks nothing up by name, and refuses a length that says
more than is there before it takes memory for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shardnet.transport.base import RemoteObject
from shardnet.transport.wire.schema import Layout
from shardnet.transport.wire.values import (
    COUNT,
    FLOAT,
    INT,
    LAYOUTS,
    MAX_DEPTH,
    MAX_INT_BYTES,
    MAX_PARTS,
    TENSOR_PARTS,
    Undecodable,
)

if TYPE_CHECKING:
    import torch


class Reader:
    """Stands somewhere in the bytes."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.handles: Sequence[RemoteObject] = ()
        """What places for handles are filled with."""
        self.tensors: Sequence[torch.Tensor] = ()
        """What came beside the data: each has its place, in order."""
        self._num_taken = 0
        self._data = data
        self._at = at
        self._room = MAX_PARTS
        self._depth = 0

    def read(self) -> Any:
        """The one value that the bytes are.

        Raises:
            Undecodable: they are none.
        """
        return self._whole(Reader._read)

    def read_message_of(self, layout: Layout) -> Any:
        """The one message that the bytes are, of a kind that is known.

        Raises:
            Undecodable: they are none.
        """
        return self._whole(Reader._read_fields, layout)

    def read_next(self) -> Any:
        """A value, with more behind it.

        Raises:
            Undecodable: what stands there is none.
        """
        return self._guarded(Reader._read)

    def _whole(self, read: Callable[..., Any], *args: Any) -> Any:
        value = self._guarded(read, *args)
        if self._at != len(self._data):
            raise Undecodable(f"{len(self._data) - self._at} bytes too many")
        if self._num_taken != len(self.tensors):
            raise Undecodable("tensors too many")
        return value

    def _guarded(self, read: Callable[..., Any], *args: Any) -> Any:
        try:
            return read(self, *args)
        except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
            raise Undecodable(f"broken after {self._at} of {len(self._data)} bytes") from error

    def _read(self) -> Any:
        at = self._at
        self._at = at + 1
        return _READERS[self._data[at]](self)

    def read_int(self) -> int:
        at = self._at
        self._at = at + 8
        number: int = INT.unpack_from(self._data, at)[0]
        return number

    def read_big(self) -> int:
        size = self._data[self._at]
        self._at += 1
        if size > MAX_INT_BYTES:
            raise Undecodable("a whole number that is too large")
        return int.from_bytes(self._take(size), "little", signed=True)

    def read_float(self) -> float:
        at = self._at
        self._at = at + 8
        number: float = FLOAT.unpack_from(self._data, at)[0]
        return number

    def read_text(self) -> str:
        return self.read_bytes().decode("utf-8", "surrogatepass")

    def read_bytes(self) -> bytes:
        start = self._at + 4
        self._at = end = start + COUNT.unpack_from(self._data, self._at)[0]
        if end > len(self._data):
            raise Undecodable("a length that says more than is there")
        return self._data[start:end]

    def read_numbers(self) -> tuple[int, ...]:
        count = self._read_count()
        self._spend(count, 8)
        return struct.unpack(f"<{count}q", self._take(8 * count))

    def read_tuple(self) -> tuple[Any, ...]:
        return tuple(self._read_all(self._read_count()))

    def read_list(self) -> list[Any]:
        return self._read_all(self._read_count())

    def read_dict(self) -> dict[Any, Any]:
        parts = self._read_all(2 * self._read_count())
        keys = parts[::2]
        if not set(map(type, keys)) <= {str, int}:
            raise Undecodable("a dict whose keys are neither texts nor whole numbers")
        made = dict(zip(keys, parts[1::2]))
        if len(made) != len(keys):
            raise Undecodable("a dict that names a key twice")
        return made

    def read_message(self) -> Any:
        number = self._data[self._at]
        self._at += 1
        return self._read_fields(LAYOUTS[number])

    def _read_fields(self, layout: Layout) -> Any:
        numbers: tuple[int, ...] = ()
        if layout.numbers:
            numbers = layout.block.unpack_from(self._data, self._at)
            self._at += layout.block.size
        if not layout.others:
            return layout.make(numbers)
        try:
            return layout.assemble(numbers, self._read_all(len(layout.others)))
        except ValueError as error:
            raise Undecodable(str(error)) from None

    def read_rows(self) -> tuple[Any, ...]:
        """Several messages of one kind that have nothing but whole numbers."""
        count = self._read_count()
        layout = LAYOUTS[self._data[self._at]]
        self._at += 1
        if layout.others or not layout.numbers:
            raise Undecodable("rows of what has more than whole numbers")
        self._spend(count, layout.block.size)
        return tuple(map(layout.make, layout.block.iter_unpack(self._take(count * layout.block.size))))

    def read_tensor(self) -> torch.Tensor:
        from shardnet.transport.wire import tensors  # and torch, which the door does without

        self._spend(TENSOR_PARTS, 0)
        try:
            tensor, self._at = tensors.decoded(self._data, self._at)
        except ValueError as error:
            raise Undecodable(str(error)) from None
        return tensor

    def read_large_tensor(self) -> torch.Tensor:
        self._num_taken += 1
        return self.tensors[self._num_taken - 1]

    def read_handle(self) -> RemoteObject:
        return self.handles[self._read_count()]

    def _read_all(self, count: int) -> list[Any]:
        self._spend(count, 1)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Undecodable(f"nested deeper than {MAX_DEPTH}")
        values = [self._read() for _ in range(count)]
        self._depth -= 1
        return values

    def _spend(self, num_parts: int, part_bytes: int) -> None:
        """Refuse more parts than can be there, before there is a list for them."""
        self._room -= num_parts
        if self._room < 0 or num_parts * part_bytes > len(self._data) - self._at:
            raise Undecodable("a length that says more than is there")

    def _read_count(self) -> int:
        at = self._at
        self._at = at + 4
        count: int = COUNT.unpack_from(self._data, at)[0]
        return count

    def _take(self, num_bytes: int) -> bytes:
        start, self._at = self._at, self._at + num_bytes
        if self._at > len(self._data):
            raise Undecodable("a length that says more than is there")
        return self._data[start : self._at]


_READERS: dict[int, Callable[[Reader], Any]] = {
    ord("N"): lambda reader: None,
    ord("F"): lambda reader: False,
    ord("T"): lambda reader: True,
    ord("i"): Reader.read_int,
    ord("I"): Reader.read_big,
    ord("f"): Reader.read_float,
    ord("s"): Reader.read_text,
    ord("b"): Reader.read_bytes,
    ord("n"): Reader.read_numbers,
    ord("r"): Reader.read_rows,
    ord("("): Reader.read_tuple,
    ord("l"): Reader.read_list,
    ord("d"): Reader.read_dict,
    ord("m"): Reader.read_message,
    ord("t"): Reader.read_tensor,
    ord("X"): Reader.read_large_tensor,
    ord("h"): Reader.read_handle,
}
