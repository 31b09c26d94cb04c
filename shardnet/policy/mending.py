"""What the stages of a ring lack when some of them are new, or have less than others: who must be sent what. Pure.

When every stage has said how far it stands, `catch_up` says what each lacks. It goes by what is there and by nothing
else, so it may be asked again at any time: after a further loss, or where nothing was lost at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shardnet.transport.messages import SessionStanding


class Opening(NamedTuple):
    """A session is to be opened at a stage; anew, where it is open there. A copy at either end keeps its tokens."""

    stage: int
    session: int
    send_from: int
    """What comes before, the next stage has."""


class Resending(NamedTuple):
    """A stage is to send again what it has sent of a session, from a position on: what the next stage lacks.

    Every stage is told, also where that is nothing: it reckons by this with what the next stage has. Behind the last
    stage comes the first.
    """

    stage: int
    session: int
    position: int


class Feeding(NamedTuple):
    """The first stage is to be sent the ids of a session from a position on; it may have them and not come to them."""

    session: int
    position: int


@dataclass(frozen=True)
class CatchUp:
    """What a ring needs to go on where it stood."""

    histories: Mapping[int, tuple[int, ...]]
    """The ids of each session that goes on, as the one knows them who knows most."""
    parted: tuple[int, ...]
    """Sessions of which the ring's ends and the source know different answers: nothing is needed for them."""
    openings: tuple[Opening, ...]
    resendings: tuple[Resending, ...]
    feedings: tuple[Feeding, ...]
    num_known: Mapping[int, int]
    """Of each session the most tokens that a stage has, or anybody knows."""


def catch_up(known: Mapping[int, tuple[int, ...]], standings: Sequence[Mapping[int, SessionStanding]]) -> CatchUp:
    """What the stages of a ring lack.

    Args:
        known: by session, those that are to go on, with the ids of prompt and answer that the source knows.
        standings: of each stage in order, by session; sessions that are not open there are missing.

    Whoever sampled last is among the first stage, the last one and the source: a token is told to the source and to the
    first stage. Where the last stage died between the two, the longer history is the true one. Where its source alone
    has heard a token, and another one was sampled in its place, no history is: such a session cannot go on.

    A stage that has not kept what the next one lacks computes the session anew from the beginning: so the one before it
    must have kept all, and so on towards the first stage, which is sent ids. A last stage that was copied from another
    is told what is known of the answer by now: it is not to sample that again. A first one is told what the ends of a
    ring know of the session: it may have been copied from one that was none. A last one that knows only what comes
    behind tokens that nobody else knows any more begins anew, too, and samples them again: it took over in the midst of
    the answer, and then source and first stage were lost together.
    """
    longest = {session: _longest(session, ids, standings) for session, ids in known.items()}
    histories = {session: ids for session, ids in longest.items() if ids is not None}
    parted = tuple(known.keys() - histories.keys())
    openings: list[Opening] = []
    resendings: list[Resending] = []
    feedings: list[Feeding] = []
    num_known: dict[int, int] = {}
    last = len(standings) - 1
    for session, ids in histories.items():
        has_gap = session in standings[last] and standings[last][session].kept_from > len(ids)
        lengths = _lengths(session, standings, has_gap=has_gap)
        for stage, standing in enumerate(standings):
            is_there = session in standing and standing[session].length == lengths[stage]
            is_told = is_there and stage in (0, last) and standing[session].is_copy
            if not is_there or is_told or (stage == last and has_gap):
                openings.append(Opening(stage, session, lengths[stage + 1] if stage < last else 0))
            resendings.append(Resending(stage, session, lengths[stage + 1] if stage < last else lengths[0]))
        if lengths[0] < len(ids):
            feedings.append(Feeding(session, lengths[0]))
        num_known[session] = max([len(ids), *(each[session].length for each in standings if session in each)])
    return CatchUp(histories, parted, tuple(openings), tuple(resendings), tuple(feedings), num_known)


def _lengths(session: int, standings: Sequence[Mapping[int, SessionStanding]], *, has_gap: bool) -> list[int]:
    """How many tokens of a session each stage goes on from: 0 where it is not open, or is to be opened anew.

    Args:
        has_gap: the last one is to be: what it has sent are ids, and others do not know those before them.
    """
    lengths = [each[session].length if session in each else 0 for each in standings]
    if has_gap:
        lengths[-1] = 0
    for stage in reversed(range(len(standings) - 1)):
        standing = standings[stage].get(session)
        if standing is not None and lengths[stage + 1] < min(standing.kept_from, standing.length):
            lengths[stage] = 0
    return lengths


def _longest(
    session: int, ids: tuple[int, ...], standings: Sequence[Mapping[int, SessionStanding]]
) -> tuple[int, ...] | None:
    """The ids of a session: what the source knows, and what the ring's ends know beyond; None where they contradict."""
    for end in (standings[0], standings[-1]):
        standing = end.get(session)
        if standing is not None and standing.ids_from <= len(ids):
            here, there = ids[standing.ids_from :], standing.ids
            num_both = min(len(here), len(there))
            if here[:num_both] != there[:num_both]:
                return None
            ids += there[num_both:]
    return ids
