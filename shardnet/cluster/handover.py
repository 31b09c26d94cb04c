"""One change from a ring to the next, in which no token is lost or changed.

    load      what is new, where units were lost or go to others
    fence     every stage adopts its place in the new ring, then switches to it, then answers to no other: nothing that
              an old ring still sends is applied from then on, and what the stages say of themselves is final
    pull      stages that take over from others which are there copy the last of what these know of sessions
    shape     stages give up units that others have now, and those of one device that follow each other become one
    catch up  the source is told what it has not heard, sessions are opened at new stages, and every stage is sent what
              it lacks: see `policy.mending`
    go on     sessions are pointed at the new ring

It goes by what is there, so it may be broken off anywhere and begun again with yet another ring.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring, WaitFor, WaitForStage
from shardnet.errors import ClusterError, KVMemorySpent, ShardnetError
from shardnet.policy.mending import CatchUp, catch_up
from shardnet.policy.succession import Away
from shardnet.session.session import Session, computed_anew
from shardnet.session.sessions import Sessions
from shardnet.transport.messages import SessionStanding, Tokens, Wanted


def load(ring: Ring, wait_for: WaitForStage) -> None:
    """Have the new stages of a ring loaded, all at the same time."""
    loads = zip(ring.load(), ring.sections, strict=True)
    ring.loaded([wait_for(loaded, stage) for loaded, stage in loads])


def fence(ring: Ring, wait_for: WaitFor) -> None:
    """Have every stage go over to a ring, and answer to no other any more."""
    for step in (ring.adopt, ring.switch, ring.retire_others):
        for answer in step():
            wait_for(answer)


def pull(ring: Ring, before: Sequence[RemoteStage], away: Away, wait_for: WaitFor) -> None:
    """Have new stages copy what those know that had their units. What cannot be had, they are sent, and compute.

    Args:
        before: the stages of the ring that was, as far as they are not lost.
        away: whom nobody asks, and over which ways nobody is asked.
    """
    kept = set(map(id, before))
    cut = away.cut | away.late
    pulled = []
    for stage, plan in zip(ring.members, ring.sections, strict=True):
        if id(stage) in kept:
            continue
        ends = [(owner, (owner.plan.device, plan.device)) for owner in before if owner.plan.device != plan.device]
        asked = [owner for owner, way in ends if way not in cut and way[::-1] not in cut]
        found = [owner.owner_of(plan) for owner in asked if owner.plan.device not in away.silent]
        owners = tuple(owner for owner in found if owner is not None)
        if owners:
            pulled.append(stage.pull(owners))
    for answer in pulled:
        wait_for(answer)


def shape(ring: Ring, wait_for: WaitFor) -> None:
    """Have every stage become what it is to be. Behind the fence, when nothing is on its way that would be applied."""
    ring.shape()
    ring.settle((), wait_for)


def go_on(ring: Ring, sessions: Sessions, wait_for: WaitFor) -> None:
    """Give every stage of a ring what it lacks, and let the sessions go on in it."""
    standings = [_by_session(wait_for(answer)) for answer in ring.standings()]
    sessions.close_strangers(number for standing in standings for number in standing)
    under_way = {each.spec.session: each for each in sessions.under_way()}
    needed = catch_up({number: each.history_from_stages() for number, each in under_way.items()}, standings)
    for number in needed.parted:
        sessions.fail_session(number, computed_anew())
    _tell(ring, sessions, under_way, needed)
    going_on = {number: under_way[number] for number in needed.histories if not _is_over(under_way[number])}
    _open(ring, sessions, going_on, needed, wait_for)
    wanted = _by_stage(needed, going_on)
    # All are asked at once, also of whom nothing is wanted: it drops what it only has copied.
    for answer in [stage.resend(ring.ring_id, tuple(wanted[index])) for index, stage in enumerate(ring.stages)]:
        wait_for(answer)
    for number, position in needed.feedings:
        if number in going_on:
            sessions.send(ring.route, going_on[number], position, needed.histories[number][position:])
    sessions.point_at(ring.route)


def _by_session(standings: Iterable[SessionStanding]) -> dict[int, SessionStanding]:
    return {standing.session: standing for standing in standings}


def _is_over(session: Session) -> bool:
    """Whether its last token is known."""
    answer = session.answer
    return bool(answer) and answer[-1].finish_reason != ""


def _tell(ring: Ring, sessions: Sessions, under_way: dict[int, Session], needed: CatchUp) -> None:
    """Tell the source the tokens of which it has not heard: who sampled them may be gone.

    Where the last stage is a new one, what the source has heard beyond a token that nobody knows is sampled again. In
    half precision it may be another one then, and the two must not be mixed.
    """
    last = len(ring.stages) - 1
    resampled = {opening.session for opening in needed.openings if opening.stage == last}
    for number, ids in needed.histories.items():
        session = under_way[number]
        if number in resampled:
            session.cut()
        else:
            session.take_ahead()
        known = len(session.answer)
        sampled = ids[session.spec.prompt_tokens + known :]
        told = [session.token(known + index, token_id) for index, token_id in enumerate(sampled)]
        sessions.tell(Tokens(ring.ring_id, tuple(told)))


def _open(ring: Ring, sessions: Sessions, going_on: dict[int, Session], needed: CatchUp, wait_for: WaitFor) -> None:
    """Open sessions where they are not. One for which there is no room ends, and the others go on."""
    asked = []
    for opening in needed.openings:
        if opening.session in going_on:
            ids, is_last = needed.histories[opening.session], opening.stage == len(ring.stages) - 1
            spec = going_on[opening.session].spec_at(
                ids,
                is_first=opening.stage == 0,
                is_last=is_last,
                send_from=opening.send_from,
                guess_from=needed.num_known[opening.session],
            )
            ask = partial(sessions.open_at, ring.route, opening.stage, spec)
            asked.append((opening.session, ask, ask()))
    for number, ask, answer in asked:
        try:
            _wait_for_room(sessions, ask, answer, wait_for)
        except ClusterError:
            if sessions.is_open(number):  # else nobody asks any more, where an answer was lost
                raise
        except ShardnetError as error:
            sessions.fail_session(number, error)


def _wait_for_room(sessions: Sessions, ask: Callable[[], Future[Any]], answer: Future[Any], wait_for: WaitFor) -> None:
    """What is kept ready for another loss takes no room from a conversation."""
    try:
        wait_for(answer)
    except KVMemorySpent:
        if not sessions.make_room():
            raise
        wait_for(ask())


def _by_stage(needed: CatchUp, going_on: Container[int]) -> defaultdict[int, list[Wanted]]:
    """Of what is over nothing is wanted, and not all of it may be kept."""
    wanted: defaultdict[int, list[Wanted]] = defaultdict(list)
    for stage, session, position in needed.resendings:
        if session in going_on:
            wanted[stage].append(Wanted(session, position, needed.num_known[session]))
    return wanted
