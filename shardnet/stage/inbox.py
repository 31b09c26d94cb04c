"""The work that waits at a stage, and which of it goes into the next step.

A step takes *all* waiting decode work of all sessions, and prompt chunks up to a token budget: so a long prompt neither
stalls the others nor is starved by them. Work of one session is applied in order and once: what comes too early waits,
what was applied before is dropped. No locks, no clock, no tensors' contents: `shardnet.stage.stage` guards it.

A part and its rows stay together: what waits is a list of pieces, and each says at which row of its packet it begins.

Legend: T new tokens, H hidden size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

import torch

from shardnet.errors import BadRequest
from shardnet.speculation.lineage import Line, is_stale, moved, reach
from shardnet.speculation.tags import TAG_BYTES
from shardnet.stage.pieces import Piece, rows_of
from shardnet.transport.messages import Part

OnTaken = Callable[[], None]


class Standing(NamedTuple):
    """Of a session at this stage: tokens that it has cached, and that it has room for."""

    length: int
    capacity: int
    stop: int | None = None
    """Where the head is: no step goes beyond so many tokens, for behind them one is sampled."""
    is_held: bool = False
    """It takes part in no step now."""
    branch: int = 0
    """Of which these tokens are; 0 at the first stage, to which ids come: they are of none."""
    certain: int = 0
    """So many tokens are known to be no guesses."""

    @property
    def line(self) -> Line:
        return Line(self.branch, self.length, self.certain)


StandingOf = Callable[[int], "Standing | None"]
"""None where the session is not open."""


class Packet:
    """What one hop brought: parts and their rows.

    Args:
        parts: new tokens of sessions; one session may have several parts.
        rows: hidden states [sum T, H], or token ids [sum T], in the order of `parts`.
        on_taken: called when the last of a prompt's chunks here is taken: the sender may send another.

    Raises:
        BadRequest: the rows are not as many as the parts say, or a part is no part.
    """

    __slots__ = ("on_taken", "parts", "pieces", "rows")

    def __init__(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: OnTaken | None = None) -> None:
        self.parts = parts
        self.rows = rows
        self.on_taken = [] if on_taken is None else [on_taken]
        self.pieces: list[Piece] = []
        first_row = 0
        for part in parts:
            if part.num_tokens < 1 or part.position < 0:
                raise BadRequest(f"{part.num_tokens} tokens at position {part.position} are no work for a stage.")
            num_tags = min(part.num_guesses, part.num_tokens)
            if part.num_guesses < 0 or part.branch < 0 or len(part.tags) != num_tags * TAG_BYTES:
                raise BadRequest(f"{len(part.tags)} bytes are no tags of {num_tags} guesses.")
            self.pieces.append(Piece(part, first_row))
            first_row += part.num_tokens
        if first_row != rows.shape[0]:
            raise BadRequest(f"A hop's parts count {first_row} tokens and it brings {rows.shape[0]} rows.")


@dataclass(slots=True)
class StepWork:
    """What goes through the shard in one step; at most one part a session."""

    parts: list[Part]
    rows: torch.Tensor
    num_bulk_parts: int
    """The last so many of `parts` belong to prompts."""

    @property
    def decode_parts(self) -> list[Part]:
        return self.parts[: len(self.parts) - self.num_bulk_parts]

    @property
    def bulk_parts(self) -> list[Part]:
        return self.parts[len(self.parts) - self.num_bulk_parts :]


@dataclass(slots=True)
class Taken:
    """The outcome of one look at the inbox."""

    work: StepWork | None = None
    """None where nothing that waits can run now."""
    on_taken: list[OnTaken] = field(default_factory=list)
    """To be called, without a lock: packets of prompts of which nothing waits any more."""
    refused: list[tuple[int, BadRequest]] = field(default_factory=list)
    """Sessions that got work for which they have no room, and cannot go on."""
    lines: dict[int, Line] = field(default_factory=dict)
    """What sessions have become by what came, before it is applied: to be put into force first."""


class Inbox:
    """Decode packets and prompt packets, each in order of arrival."""

    def __init__(self, chunk_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._decode: deque[Packet] = deque()
        self._bulk: deque[Packet] = deque()

    def put(self, packet: Packet, *, is_bulk: bool) -> bool:
        """Let a packet wait; False for one that is sent again while the first waits: it is answered with that one.

        Not where something of the first was taken: a session may have begun anew since, and lack just that.
        """
        waiting = self._bulk if is_bulk else self._decode
        twin = next((other for other in waiting if other.pieces == packet.pieces), None)
        if twin is not None:
            twin.on_taken += packet.on_taken
            return False
        waiting.append(packet)
        if not is_bulk:
            self._drop_given_up(packet)
        return True

    def _drop_given_up(self, packet: Packet) -> None:
        """Let nothing wait that is given up by what comes: of an earlier branch, behind where a later one begins."""
        later = {piece.part.session: piece.part for piece in packet.pieces if piece.part.branch_from}
        if later and len(self._decode) > 1:
            for other in self._decode:
                other.pieces = [each for each in other.pieces if not _is_given_up(each.part, later)]
            self._decode = deque(other for other in self._decode if other.pieces)

    def clear(self) -> list[OnTaken]:
        """Drop everything; return whom to tell that it was taken."""
        dropped = [on_taken for packet in self._bulk for on_taken in packet.on_taken]
        self._decode.clear()
        self._bulk.clear()
        return dropped

    @property
    def is_empty(self) -> bool:
        return not self._decode and not self._bulk

    @property
    def num_decode_parts(self) -> int:
        return sum(len(packet.pieces) for packet in self._decode)

    def waiting(self) -> dict[int, list[tuple[int, torch.Tensor]]]:
        """Of each session what waits: position and rows, in order of position."""
        found: dict[int, list[tuple[int, torch.Tensor]]] = {}
        for packet in (*self._decode, *self._bulk):
            for piece in packet.pieces:
                part = piece.part
                found.setdefault(part.session, []).append((part.position, rows_of([piece], packet.rows)))
        return {session: sorted(pieces, key=itemgetter(0)) for session, pieces in found.items()}

    def take(self, standing_of: StandingOf, *, allow_bulk: bool, most_decode: int | None = None) -> Taken:
        """Choose the next step.

        Args:
            most_decode: pieces of decode work; all that waits where None.
        """
        step = _Choice(standing_of)
        self._decode = step.choose(self._decode, most_decode)
        num_decode_parts = len(step.parts)
        if allow_bulk:
            self._bulk = step.choose(self._bulk, self._chunk_tokens, counts_tokens=True)
        if not step.parts:
            return Taken(None, step.on_taken, step.refused, step.lines)
        rows = step.rows[0] if len(step.rows) == 1 else torch.cat(step.rows)
        work = StepWork(step.parts, rows, len(step.parts) - num_decode_parts)
        return Taken(work, step.on_taken, step.refused, step.lines)


class _Choice:
    """What was chosen for a step so far: at most one part of each session."""

    def __init__(self, standing_of: StandingOf) -> None:
        self.parts: list[Part] = []
        self.rows: list[torch.Tensor] = []
        self.on_taken: list[OnTaken] = []
        self.refused: list[tuple[int, BadRequest]] = []
        self.lines: dict[int, Line] = {}
        self._standing_of = standing_of
        self._sessions: set[int] = set()

    def choose(self, packets: deque[Packet], budget: int | None, *, counts_tokens: bool = False) -> deque[Packet]:
        """Take what can run now, oldest first, up to `budget` pieces or tokens; return what goes on waiting.

        A piece with more tokens than what is left of the budget is cut, where these count.
        """
        waiting: deque[Packet] = deque()
        for packet in packets:
            if budget == 0 or not self._goes_with(packet.rows):
                waiting.append(packet)
                continue
            now: list[Piece] = []
            later: list[Piece] = []
            for piece in packet.pieces:
                budget = self._sort(piece, budget, now, later, counts_tokens=counts_tokens)
            if now:
                self.parts += [piece.part for piece in now]
                self.rows.append(rows_of(now, packet.rows))
            if later:
                packet.pieces = later
                waiting.append(packet)
            else:
                self.on_taken += packet.on_taken
        return waiting

    def _goes_with(self, rows: torch.Tensor) -> bool:
        """Rows of one step are in one codec: others wait for the next one."""
        return not self.rows or rows.dtype == self.rows[0].dtype

    def _sort(
        self, piece: Piece, budget: int | None, now: list[Piece], later: list[Piece], *, counts_tokens: bool
    ) -> int | None:
        """Put a piece, or its halves, where they belong; return what is left of the budget.

        Drops what is repeated or given up, what has no open session, and what its session has no room for.
        """
        session, _, num_tokens = piece.part[:3]
        standing = self._standing_of(session)
        if standing is None:
            return budget
        line = self.lines.get(session, standing.line)
        if is_stale(line, piece.part) or (line.branch == piece.part.branch and piece.part.end <= line.length):
            return budget
        if piece.part.end > standing.capacity:
            position = piece.part.position
            what = f"{num_tokens} tokens came for position {position} of a session that has room for "
            self.refused.append((session, BadRequest(f"{what}{standing.capacity}.")))
            return budget
        common = reach(line, piece.part)
        if standing.is_held or common is None or session in self._sessions or budget == 0:
            later.append(piece)
            return budget
        self.lines[session] = moved(line, piece.part, common)
        if piece.part.end <= common:
            return budget
        if piece.part.position < common:
            _, piece = piece.cut(common - piece.part.position)
        most = _most(piece.part, standing.stop)
        if budget is not None and counts_tokens:
            most = min(most, budget)
        if piece.part.num_tokens > most:
            piece, rest = piece.cut(most)
            later.append(rest)
        if budget is not None:
            budget -= piece.part.num_tokens if counts_tokens else 1
        self._sessions.add(session)
        now.append(piece)
        return budget


def _is_given_up(part: Part, later: Mapping[int, Part]) -> bool:
    other = later.get(part.session)
    return other is not None and part.branch < other.branch and part.position >= other.branch_from


def _most(part: Part, stop: int | None) -> int:
    """So many of its tokens go into one step. Guesses are sampled behind, one after the other."""
    return part.num_tokens if stop is None or part.certain <= stop else stop - part.position
