"""What a member and the door say to each other, and how it stands in a stream of bytes. Knows no network.

    length of the rest (4 bytes) | kind (1 byte) | fields

A member may say little at once, and the door as much as a roster needs. Whatever is longer, of no kind of ours, or has
fields of other types is refused before memory is taken for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shardnet.transport.wire.reader import Reader
from shardnet.transport.wire.schema import Layout
from shardnet.transport.wire.values import COUNT, Undecodable
from shardnet.transport.wire.writer import Writer

MOST_SAID_BYTES = 2**12
"""By a member at once: a name and an address."""
GREETING_BYTES = 62
PROOF_BYTES = 32
"""Of what goes over before them: see `challenge`."""
MOST_TOLD_BYTES = 2**23
"""By the door at once: a roster of all the ids that there are."""


class Enter(NamedTuple):
    """Ask for an id."""

    number: int
    """Of the question. The answer names it."""


class Enlist(NamedTuple):
    """Ask to be put on the roster. The answer comes when the members know."""

    number: int
    name: str
    address: str
    """Of the member's agent."""
    secret: bytes
    """Drawn by the member: with it, and with nothing else, it may come back."""


class Return(NamedTuple):
    """Say that a member is back, whose connection broke: the door was closed meanwhile, say. What it has missed comes
    before the answer."""

    number: int
    id: int
    secret: bytes
    version: int
    """Of the roster, as the member knows it."""


class Strike(NamedTuple):
    """Ask that a member be struck off. The answer comes when the others know."""

    number: int
    id: int


class Leave(NamedTuple):
    """Say goodbye. The answer comes when the others know."""

    number: int


class Sync(NamedTuple):
    """Ask for the news that there are. They come before the answer."""

    number: int


class Draw(NamedTuple):
    """Ask for consecutive numbers that nobody else gets."""

    number: int
    counter: str
    how_many: int


class Heard(NamedTuple):
    """The roster is known here up to a version."""

    version: int


class Pong(NamedTuple):
    """This process is not frozen."""


class Done(NamedTuple):
    """The answer to a question."""

    number: int
    value: int


class Refused(NamedTuple):
    """The answer to a question that ended in an error, as in `Failure`."""

    number: int
    kind: str
    message: str


class News(NamedTuple):
    """What has changed on the roster, up to a version."""

    version: int
    joined: tuple[tuple[int, str, str, str], ...]
    """Who is there now and was not before: id, name, address, and its host, empty for that of the door."""
    left: tuple[int, ...]
    """The ids of those who are there no more, also of some that were never told of."""


class Ping(NamedTuple):
    """Is this process frozen?"""


class StruckOff(NamedTuple):
    """The others have struck this member off."""


class Carried(NamedTuple):
    """What a gate says first on a connection to the door that it carries."""

    host: str
    """On which it begins, by its certificate."""


class Carrying(NamedTuple):
    """What a gate says first on the connection on which the door tells it whom it is to carry for."""


class AddPort(NamedTuple):
    """Ask a gate to let other hosts reach a member of its own host, or to listen for one of another host."""

    number: int
    id: int
    port: int
    """Of the member's agent."""
    host: str
    """Of the member; empty for the door's."""


class DropPort(NamedTuple):
    """Tell a gate that a member is gone."""

    id: int


class AllTold(NamedTuple):
    """Tell a gate that it has heard of all who are there."""


class Unreachable(NamedTuple):
    """Say, as a gate, among what a member of its host says, that the port of another member is taken there."""

    id: int


KINDS: tuple[type, ...] = (
    Enter,
    Enlist,
    Return,
    Strike,
    Leave,
    Sync,
    Draw,
    Heard,
    Pong,
    Done,
    Refused,
    News,
    Ping,
    StruckOff,
    Carried,
    Carrying,
    AddPort,
    DropPort,
    Unreachable,
    AllTold,
)
"""The position is the number on the wire."""
SAID = frozenset(KINDS[:9])
"""By members. The others are told by the door, or said by a gate and to it."""
LAYOUTS = tuple(map(Layout, KINDS))
_NUMBERS = {kind: number for number, kind in enumerate(KINDS)}


def pack(message: Any) -> bytes:
    """A message as it stands in the stream."""
    number = _NUMBERS[type(message)]
    body = Writer()
    body.write_fields(LAYOUTS[number], message)
    content = body.joined(bytes([number]))
    return COUNT.pack(len(content)) + content


def length_in(head: bytes, most_bytes: int) -> int:
    """How many bytes follow the first four.

    Raises:
        Undecodable: more than may.
    """
    length: int = COUNT.unpack(head)[0]
    if not 0 < length <= most_bytes:
        raise Undecodable(f"a message of {length} bytes, and not of 1 to {most_bytes}")
    return length


def unpack(content: bytes) -> Any:
    """The message in what follows the first four bytes.

    Raises:
        Undecodable: it is none.
    """
    if content[0] >= len(KINDS):
        raise Undecodable("a message of no kind that there is")
    return Reader(content, 1).read_message_of(LAYOUTS[content[0]])
