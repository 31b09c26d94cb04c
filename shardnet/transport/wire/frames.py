"""The frames that devices exchange: requests and answers, each as one `bytes`. Knows no network.

    mark (4 bytes) | kind (1 byte) | 0, or 1 and the handles (a tuple of `HandleRecord`) | fields

The mark is made of the names of all messages and their fields: a device whose messages differ is refused at once, with
a sentence, and so is whatever is not a frame. No other bytes are ever read as anything, and nothing is unpickled.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from shardnet.transport.base import RemoteObject
from shardnet.transport.wire.reader import Reader
from shardnet.transport.wire.registered import LAYOUTS
from shardnet.transport.wire.schema import Layout, mark_of
from shardnet.transport.wire.tensors import check_table
from shardnet.transport.wire.values import MAX_BYTES, Undecodable, Unsendable, allow
from shardnet.transport.wire.writer import Writer

Packed = tuple[bytes, list[torch.Tensor]]
"""A frame, and the large tensors that go beside it."""
ObjectId = tuple[int, int]
"""The id of the agent that asked for the object, and a number of its own."""


class Post(NamedTuple):
    """Call an endpoint that answers at once."""

    sender: int
    endpoint: str
    args: tuple[Any, ...]


class Call(NamedTuple):
    """Call an endpoint that may answer later."""

    sender: int
    endpoint: str
    args: tuple[Any, ...]


class CallMethod(NamedTuple):
    """Call a method of an object that lives at the receiver."""

    sender: int
    object_id: ObjectId
    method: str
    args: tuple[Any, ...]


class Claim(NamedTuple):
    """Hand an object that was just made over to the RRef that this request is for."""

    object_id: ObjectId


class Answer(NamedTuple):
    """What an endpoint or a method returned, or a `Failure`."""

    value: Any


class HandleRecord(NamedTuple):
    """A handle on its way to another device."""

    device: str
    owner: int
    holder: int
    object_id: ObjectId
    fork: tuple[int, int, int, int, int, int] | None
    """What torch's RRef says of itself, but for its type, which is always the same."""


MOST_POSTED_BYTES = 2**20
"""Of an answer to a `Post`."""
KINDS: tuple[type, ...] = (Post, Call, CallMethod, Claim, Answer)
"""The position is the number on the wire."""

allow(HandleRecord)


_LAYOUTS = tuple(map(Layout, KINDS))
_MARK = mark_of((*_LAYOUTS, *LAYOUTS))
_HEAD_BYTES = 6
_NO_HANDLES, _HANDLES = b"\0", b"\1"
_HEADS = {kind: (_MARK + bytes([number]), _LAYOUTS[number]) for number, kind in enumerate(KINDS)}
_KINDS = {
    head + tail: (kind, layout, tail == _HANDLES)
    for kind, (head, layout) in _HEADS.items()
    for tail in (_NO_HANDLES, _HANDLES)
}


def pack(content: Any, record_of: Callable[[RemoteObject], HandleRecord]) -> Packed:
    """A request or an answer as a frame, and its large tensors.

    Handles are recorded last: that is when torch begins to count them.

    Raises:
        Unsendable: something in it is not among what may travel.
        ClusterError: a handle was released.
    """
    head, layout = _HEADS[type(content)]
    body = Writer()
    body.write_fields(layout, content)
    if not body.handles:
        return body.joined(head, _NO_HANDLES), body.tensors
    records = Writer()
    records.write(tuple(map(record_of, body.handles)))
    return body.joined(head, _HANDLES, records.joined()), body.tensors


def pack_posted(value: Any) -> bytes:
    """The answer to a `Post` as a frame: within the same limits, whichever way it goes.

    Raises:
        Unsendable: it is too large, holds a handle, or may not travel at all.
    """
    frame, tensors = pack(Answer(value), no_handle)
    if tensors or len(frame) > MOST_POSTED_BYTES:
        raise Unsendable("such an answer is too large for `post`; it must be called")
    return frame


def no_handle(_: RemoteObject) -> HandleRecord:
    """For what carries none."""
    raise Unsendable("a handle is no answer to `post`; it must be called")


def kind_of(frame: bytes) -> type | None:
    """What a frame says that it is."""
    known = _KINDS.get(frame[:_HEAD_BYTES])
    return None if known is None else known[0]


def unpack(
    frame: bytes,
    table: list[torch.Tensor],
    handles_of: Callable[[Sequence[HandleRecord]], Sequence[RemoteObject]],
) -> Any:
    """The request or answer in a frame, with the tensors that came beside it.

    `handles_of` makes handles of their records.

    Raises:
        ValueError: it is none, or its fields are not of the types that they should be.
    """
    known = _KINDS.get(frame[:_HEAD_BYTES])
    if known is None:
        raise Undecodable("this is no message of shardnet, or of another version of it")
    if len(frame) > MAX_BYTES:
        raise Undecodable(f"a message has at most {MAX_BYTES} bytes")
    _, layout, has_handles = known
    reader = Reader(frame, _HEAD_BYTES)
    if table:
        check_table(table)
        reader.tensors = table
    if has_handles:
        records = reader.read_next()
        if type(records) is not tuple or any(type(record) is not HandleRecord for record in records):
            raise Undecodable("handles that are none")
        trial = copy.copy(reader)
        trial.handles = [None] * len(records)  # type: ignore[list-item]
        trial.read_message_of(layout)  # all of the message is sound before torch counts one holder more
        reader.handles = handles_of(records)
    return reader.read_message_of(layout)
