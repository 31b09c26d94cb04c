"""Writes values as bytes: plain data, tensors, our messages, and places for handles. Knows no network."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shardnet.transport.base import RemoteObject
from shardnet.transport.wire.schema import TENSOR_KINDS, Layout
from shardnet.transport.wire.values import (
    LAYOUTS,
    MAX_BYTES,
    MAX_DEPTH,
    MAX_INT_BYTES,
    MAX_PARTS,
    NUMBERS,
    TENSOR_PARTS,
    Unsendable,
)

if TYPE_CHECKING:
    import torch

_LONG_TUPLE = 4
"""From this length on, a tuple of whole numbers is written as one block."""
_INT_END = 2**63
_INT, _FLOAT, _COUNT = struct.Struct("<cq"), struct.Struct("<cd"), struct.Struct("<cI")
_CONSTANTS: dict[type, dict[Any, bytes]] = {type(None): {None: b"N"}, bool: {False: b"F", True: b"T"}}


class Writer:
    """Collects what values are as bytes. `handles` and large `tensors` go beside them, in order."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.handles: list[RemoteObject] = []
        self.tensors: list[torch.Tensor] = []
        self._num_parts = 0
        self._depth = 0

    def write(self, value: Any) -> None:
        """Write one value.

        Raises:
            Unsendable: something in it is not among what may travel, too deep, or too much.
        """
        kind = type(value)
        if kind is int:
            self.parts.append(_INT.pack(b"i", value) if -_INT_END <= value < _INT_END else _big(value))
        elif kind is str:
            text = value.encode("utf-8", "surrogatepass")
            self.parts += (_COUNT.pack(b"s", len(text)), text)
        elif kind is tuple:
            self._write_tuple(value)
        elif kind in NUMBERS:
            self.parts.append(b"m%c" % NUMBERS[kind])
            self.write_fields(LAYOUTS[NUMBERS[kind]], value)
        elif kind in _CONSTANTS:
            self.parts.append(_CONSTANTS[kind][value])
        elif kind is float:
            self.parts.append(_FLOAT.pack(b"f", value))
        else:
            self._write_rare(kind, value)

    def write_fields(self, layout: Layout, message: Any) -> None:
        """Write a message whose layout the reader knows."""
        if layout.values_of is not None:
            message = layout.values_of(message)
        if layout.numbers:
            self.parts.append(_block(layout, message))
        if layout.others:
            self._write_all([message[index] for index in layout.others])

    def _write_rare(self, kind: type, value: Any) -> None:
        if kind is list:
            self.parts.append(_COUNT.pack(b"l", len(value)))
            self._write_all(value)
        elif kind is dict:
            self._write_dict(value)
        elif kind is bytes:
            self.parts += (_COUNT.pack(b"b", len(value)), value)
        elif kind in TENSOR_KINDS:
            self._write_tensor(value)
        elif isinstance(value, RemoteObject):
            self.parts.append(_COUNT.pack(b"h", len(self.handles)))
            self.handles.append(value)
        else:
            name = getattr(value, "__qualname__", None) or f"a {kind.__module__}.{kind.__qualname__}"
            raise Unsendable(f"{name} is not among what may travel")

    def _write_tensor(self, value: torch.Tensor) -> None:
        from shardnet.transport.wire import tensors  # and torch, which the door does without

        try:
            tensor = tensors.sendable(value)
        except TypeError as error:
            raise Unsendable(str(error)) from None
        if tensor.nbytes > tensors.INLINE_BYTES:
            self.parts.append(b"X")
            self.tensors.append(tensor)
        else:
            self._count(TENSOR_PARTS)
            self.parts += (b"t", tensors.encoded(tensor))

    def _write_tuple(self, value: tuple[Any, ...]) -> None:
        kinds = set(map(type, value))
        only = kinds.pop() if len(kinds) == 1 else None
        if only is int and len(value) >= _LONG_TUPLE:
            try:
                numbers = struct.pack(f"<{len(value)}q", *value)
            except struct.error:
                pass  # one of them is too large
            else:
                self._count(len(value))
                self.parts += (_COUNT.pack(b"n", len(value)), numbers)
                return
        elif only in NUMBERS and not LAYOUTS[NUMBERS[only]].others:
            layout = LAYOUTS[NUMBERS[only]]
            self._count(len(value))
            self.parts.append(_COUNT.pack(b"r", len(value)) + b"%c" % NUMBERS[only])
            values_of = layout.values_of
            self.parts += [_block(layout, message if values_of is None else values_of(message)) for message in value]
            return
        self.parts.append(_COUNT.pack(b"(", len(value)))
        self._write_all(value)

    def _write_dict(self, value: dict[Any, Any]) -> None:
        if not set(map(type, value)) <= {str, int}:
            raise Unsendable("a dict travels only where its keys are texts or whole numbers")
        self.parts.append(_COUNT.pack(b"d", len(value)))
        self._write_all(list(itertools.chain.from_iterable(value.items())))

    def _write_all(self, values: Sequence[Any]) -> None:
        self._count(len(values))
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unsendable(f"what travels is nested no deeper than {MAX_DEPTH}")
        for value in values:
            self.write(value)
        self._depth -= 1

    def _count(self, num_parts: int) -> None:
        self._num_parts += num_parts
        if self._num_parts > MAX_PARTS:
            raise Unsendable(f"a message has at most {MAX_PARTS} parts")

    def joined(self, *before: bytes) -> bytes:
        """All that was written, behind what goes before it.

        Raises:
            Unsendable: it is too much for one message.
        """
        parts = [*before, *self.parts]
        if sum(map(len, parts)) > MAX_BYTES:
            raise Unsendable(f"a message has at most {MAX_BYTES} bytes")
        return b"".join(parts)


def _block(layout: Layout, message: tuple[Any, ...]) -> bytes:
    numbers = message if not layout.others else [message[index] for index in layout.numbers]
    try:
        return layout.block.pack(*numbers)
    except struct.error:
        raise Unsendable(f"a {layout.name} has a field that is no whole number of 64 bits: {message}") from None


def _big(number: int) -> bytes:
    size = number.bit_length() // 8 + 1
    if size > MAX_INT_BYTES:
        raise Unsendable(f"a whole number of more than {8 * MAX_INT_BYTES} bits may not travel")
    return b"I%c" % size + number.to_bytes(size, "little", signed=True)
