"""That every stage of a ring gets what it lacks: on rings that only keep books."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from shardnet.policy.mending import Opening, catch_up
from shardnet.transport.messages import SessionStanding

NUM_PROMPT = 3


@dataclass
class Books:
    """A stage that counts: row p of a session is applied in order and once."""

    length: int = 0
    kept_from: int = 0
    send_from: int = 0
    came: list[int] = field(default_factory=list)
    sampled_from: int = 0
    sampled: list[int] = field(default_factory=list)
    is_open: bool = True

    def standing(self, is_first: bool, is_last: bool) -> SessionStanding:
        ids: list[int] = []
        ids_from = 0
        if is_first:
            ids = list(self.came)
        if is_last:
            beyond = [token for at, token in enumerate(self.sampled, self.sampled_from) if at >= len(ids)]
            ids_from, ids = (0, ids + beyond) if is_first else (self.sampled_from, list(self.sampled))
        return SessionStanding(1, self.length, ids_from, tuple(ids), self.sampled_from if is_last else self.kept_from)

    def open(self, send_from: int, num_known: int) -> None:
        """Also anew; so many ids are known."""
        self.length, self.kept_from, self.send_from, self.is_open = 0, 0, send_from, True
        self.sampled_from, self.sampled = num_known, []


def token_at(position: int) -> int:
    """What the whole model says."""
    return 100 + position


@st.composite
def broken_rings(draw: st.DrawFn) -> tuple[list[Books], list[int]]:
    """A ring of which any stages were replaced by empty ones, at any moment, and the ids that the source knows.

    Stages may have forgotten some of what they sent: those that followed others, or whose last block moved.
    """
    num_stages = draw(st.integers(1, 5))
    num_ids = draw(st.integers(NUM_PROMPT, 9))
    ids = [token_at(position) for position in range(num_ids)]
    lengths = sorted(draw(st.lists(st.integers(0, num_ids), min_size=num_stages, max_size=num_stages)), reverse=True)
    ring = [Books(length, draw(st.sampled_from((0, 0, length, draw(st.integers(0, length)))))) for length in lengths]
    sampled = ids[NUM_PROMPT:] + ([token_at(num_ids)] if lengths[-1] == num_ids else [])
    ring[-1].sampled_from, ring[-1].sampled = NUM_PROMPT, sampled
    ring[0].came = ids[: draw(st.integers(max(lengths[0], NUM_PROMPT), num_ids))]
    known = ids[: draw(st.integers(NUM_PROMPT, num_ids))]
    for stage in draw(st.sets(st.integers(0, num_stages - 1))):
        fresh = draw(st.booleans())
        ring[stage] = Books(is_open=not fresh, send_from=0 if fresh else draw(st.integers(0, num_ids)))
        ring[stage].sampled_from = num_ids
    return ring, known


@settings(max_examples=400, deadline=None)
@given(broken_rings())
def test_every_ring_goes_on_where_it_stood(broken: tuple[list[Books], list[int]]) -> None:
    ring, known = broken
    last = len(ring) - 1
    standings = [
        {1: stage.standing(index == 0, index == last)} if stage.is_open else {} for index, stage in enumerate(ring)
    ]
    needed = catch_up({1: tuple(known)}, standings)
    ids = list(needed.histories[1])
    assert ids == [token_at(position) for position in range(len(ids))]
    assert len(ids) >= max(len(known), len(ring[0].came))
    present = [stage.is_open for stage in ring]
    for opening in needed.openings:
        if present[opening.stage]:
            assert begins_anew(ring, opening.stage, len(ids)), "what can be sent again is not computed again"
    for opening in needed.openings:
        ring[opening.stage].open(opening.send_from, len(ids))
    assert ring[last].sampled_from <= len(ids), "of the ids that it sends none is missing before the first"
    assert all(stage.is_open for stage in ring)
    came = range(min(len(ids), len(ring[0].came)))
    wires: list[set[int]] = [set(came)] + [set() for _ in ring[1:]]
    for feeding in needed.feedings:
        wires[0] |= set(range(feeding.position, len(ids)))
    assert [stage for stage, _, _ in needed.resendings] == list(range(len(ring))), "each reckons with what the next has"
    for stage, _, position in needed.resendings:
        assert position == ring[(stage + 1) % len(ring)].length
        if stage < last:
            assert position >= min(ring[stage].kept_from, ring[stage].length), "what is kept no more is not asked for"
            ring[stage].send_from = position
            wires[stage + 1] |= set(range(position, ring[stage].length))
    for index, stage in enumerate(ring):
        while stage.length in wires[index]:
            if index < last and stage.length >= stage.send_from:
                wires[index + 1].add(stage.length)
            stage.length += 1
    assert all(stage.length >= len(ids) for stage in ring), "every stage has all tokens that are known"


def begins_anew(ring: list[Books], stage: int, num_known: int) -> bool:
    """Whether a stage has not kept what the next one needs: what that lacks, or all, where that begins anew, too. The
    last one: whether it knows no ids but some behind others that nobody knows.
    """
    if not ring[stage].is_open:
        return True
    if stage == len(ring) - 1:
        return ring[stage].sampled_from > num_known
    behind = 0 if begins_anew(ring, stage + 1, num_known) else ring[stage + 1].length
    return behind < ring[stage].kept_from


def test_who_has_not_kept_what_the_next_lacks_begins_anew_and_so_on_towards_the_first() -> None:
    """Of four stages the third has kept nothing and the last one lacks two tokens; the second lacks its beginning."""
    lengths, kept_from = (9, 9, 8, 6), (0, 3, 8, 5)
    standings = [{1: SessionStanding(1, length, 0, (), kept)} for length, kept in zip(lengths, kept_from, strict=True)]
    needed = catch_up({1: tuple(range(9))}, standings)
    assert needed.openings == (Opening(1, 1, 0), Opening(2, 1, 6))
    assert [position for _, _, position in needed.resendings] == [0, 0, 6, 9]
    assert needed.feedings == ()


def test_a_copy_at_either_end_is_told_what_is_known_by_now() -> None:
    """Others' copies are not: they sample nothing, and guess nothing."""
    copy = SessionStanding(1, 6, 0, (), 0, is_copy=True)
    own = copy._replace(is_copy=False)
    known = {1: tuple(range(8))}
    assert catch_up(known, [{1: copy}] * 3).openings == (Opening(0, 1, 6), Opening(2, 1, 0))
    assert catch_up(known, [{1: own}, {1: copy}, {1: own}]).openings == ()


@given(
    known=st.lists(st.integers(0, 2), max_size=6),
    first=st.lists(st.integers(0, 2), max_size=6),
    last=st.lists(st.integers(0, 2), max_size=6),
    last_from=st.integers(0, 6),
)
def test_a_history_holds_all_that_anybody_says_or_there_is_none(
    known: list[int], first: list[int], last: list[int], last_from: int
) -> None:
    """Once, what a source alone had heard was continued with what the stages had sampled behind other tokens."""
    standings = [{1: SessionStanding(1, 0, 0, tuple(first))}, {1: SessionStanding(1, 0, last_from, tuple(last))}]
    needed = catch_up({1: tuple(known)}, standings)
    said = [(0, known), (0, first)]
    if last_from <= max(len(known), len(first)):
        said.append((last_from, last))
    at: dict[int, set[int]] = {}
    for start, ids in said:
        for position, token in enumerate(ids, start):
            at.setdefault(position, set()).add(token)
    if any(len(tokens) > 1 for tokens in at.values()):
        assert needed.parted == (1,) and not (needed.histories or needed.openings or needed.resendings)
    else:
        assert needed.parted == ()
        assert list(needed.histories[1]) == [min(at[position]) for position in range(len(at))]
