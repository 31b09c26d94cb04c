"""The work that waits at a stage, and which of it goes into the next step.

A step takes *all* waiting decode work of all sessions, and prompt chunks up to a token budget: so a long prompt neither
stalls the others nor is starved by them. Work of one session is applied in order and once: what comes too early waits,
what was applied before is dropped. No locks, no clock, no tensors' contents: `shardnet.stage` guards it.

Legend: T new tokens, H hidden size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from shardnet.transport.messages import Part

LengthOf = Callable[[int], "int | None"]
"""Tokens that a session has cached at this stage; None where it is not open."""


@dataclass(slots=True)
class Packet:
    """What one hop brought: parts and their rows."""

    parts: tuple[Part, ...]
    rows: torch.Tensor
    """Hidden states [sum T, H], or token ids [sum T]."""
    on_taken: Callable[[], None] | None = None
    """Called when the last of a prompt's chunks here is taken: the sender may send another."""


@dataclass(slots=True)
class StepWork:
    """What goes through the shard in one step; at most one part a session."""

    parts: list[Part]
    rows: torch.Tensor
    num_bulk_parts: int
    """The last so many of `parts` belong to prompts."""
    taken: list[Callable[[], None]]


class Inbox:
    """Decode packets and prompt packets, each in order of arrival."""

    def __init__(self, chunk_tokens: int) -> None:
        self._chunk_tokens = chunk_tokens
        self._decode: deque[Packet] = deque()
        self._bulk: deque[Packet] = deque()

    def put(self, packet: Packet, *, is_bulk: bool) -> None:
        (self._bulk if is_bulk else self._decode).append(packet)

    def __len__(self) -> int:
        return len(self._decode) + len(self._bulk)

    def clear(self) -> list[Callable[[], None]]:
        """Drop everything; return whom to tell that it was taken."""
        dropped = [packet.on_taken for packet in self._bulk if packet.on_taken is not None]
        self._decode.clear()
        self._bulk.clear()
        return dropped

    def take(self, length_of: LengthOf, *, allow_bulk: bool) -> StepWork | None:
        """The next step, or None where nothing that waits can run now."""
        chosen: list[tuple[list[Part], torch.Tensor]] = []
        taken: list[Callable[[], None]] = []
        sessions: set[int] = set()
        self._take_decode(length_of, sessions, chosen)
        num_decode_parts = sum(len(parts) for parts, _ in chosen)
        if allow_bulk:
            self._take_bulk(length_of, sessions, chosen, taken)
        if not chosen:
            for on_taken in taken:
                on_taken()
            return None
        parts = [part for some, _ in chosen for part in some]
        rows = chosen[0][1] if len(chosen) == 1 else torch.cat([rows for _, rows in chosen])
        return StepWork(parts, rows, len(parts) - num_decode_parts, taken)

    def _take_decode(
        self, length_of: LengthOf, sessions: set[int], chosen: list[tuple[list[Part], torch.Tensor]]
    ) -> None:
        waiting = self._decode
        self._decode = deque()
        for packet in waiting:
            now, later = _split(packet.parts, length_of, sessions)
            if now:
                keep = len(now) == len(packet.parts)
                chosen.append((now, packet.rows if keep else _rows_of(packet, now)))
            if later:
                self._decode.append(Packet(tuple(later), _rows_of(packet, later)))

    def _take_bulk(
        self,
        length_of: LengthOf,
        sessions: set[int],
        chosen: list[tuple[list[Part], torch.Tensor]],
        taken: list[Callable[[], None]],
    ) -> None:
        """Fill the token budget with prompt chunks, oldest first; a chunk that is too long is cut."""
        budget = self._chunk_tokens
        waiting = self._bulk
        self._bulk = deque()
        while waiting:
            packet = waiting.popleft()
            if budget == 0:
                self._bulk.append(packet)
                continue
            now, later = _split(packet.parts, length_of, sessions)
            now, budget, cut = _within(now, budget)
            if now:
                chosen.append((now, _rows_of(packet, now)))
            later = sorted(later + cut)
            if later:
                self._bulk.append(Packet(tuple(later), _rows_of(packet, later), packet.on_taken))
            elif packet.on_taken is not None:
                taken.append(packet.on_taken)


def _split(parts: tuple[Part, ...], length_of: LengthOf, sessions: set[int]) -> tuple[list[Part], list[Part]]:
    """Parts that can run now, and parts that must wait. Drops what is repeated or has no open session."""
    now: list[Part] = []
    later: list[Part] = []
    for part in parts:
        length = length_of(part.session)
        if length is None or part.position + part.num_tokens <= length:
            continue
        if part.position < length:
            part = Part(part.session, length, part.position + part.num_tokens - length)
        if part.position == length and part.session not in sessions:
            sessions.add(part.session)
            now.append(part)
        else:
            later.append(part)
    return now, later


def _within(parts: list[Part], budget: int) -> tuple[list[Part], int, list[Part]]:
    """The parts that fit into `budget` tokens, what is left of it, and what was cut off."""
    fitting: list[Part] = []
    cut: list[Part] = []
    for part in parts:
        size = min(part.num_tokens, budget)
        if size:
            fitting.append(Part(part.session, part.position, size))
        if size < part.num_tokens:
            cut.append(Part(part.session, part.position + size, part.num_tokens - size))
        budget -= size
    return fitting, budget, cut


def _rows_of(packet: Packet, parts: list[Part]) -> torch.Tensor:
    """The rows of `packet` that belong to `parts`, each of which lies within one of the packet's own parts."""
    pieces: list[torch.Tensor] = []
    start = 0
    for own in packet.parts:
        for part in parts:
            if part.session == own.session and own.position <= part.position < own.position + own.num_tokens:
                offset = start + part.position - own.position
                pieces.append(packet.rows[offset : offset + part.num_tokens])
        start += own.num_tokens
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
