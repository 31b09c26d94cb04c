"""A stage that is prepared, and may have followed others, takes their place at any moment, lost or not, in the midst of
faults of the network: every session goes on with the very tokens that it has where nothing happens.

A schedule follows from its number: `schedule_of(17)` says what happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from bare_ring import BareRing, Request
from follow_schedules import SPANS, SPEED, play, schedule_of
from loss_schedules import NUM_APPLIED, NUM_TOKENS, REQUESTS
from processes import wait_until

from shardnet.device import following
from shardnet.device.stage_host import StageHost
from shardnet.errors import BadRequest, ClusterError, DeviceLost, KVMemorySpent, PlanNotInForce
from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import RingId, StageSpec, Stretch

NUM_SCHEDULES = 48
NUM_GROUPS = 6


@contextmanager
def ring_of(specs: tuple[StageSpec, ...]) -> Iterator[BareRing]:
    with InProcessNetwork(speed=SPEED) as network, BareRing(network, specs) as ring:
        yield ring


@pytest.fixture(scope="module")
def expected(specs: tuple[StageSpec, ...]) -> list[list[int]]:
    with ring_of(specs) as ring:
        for request in REQUESTS:
            ring.start(request)
        return list(ring.answers().values())


@pytest.mark.parametrize("group", range(NUM_GROUPS))
def test_every_session_goes_on_with_its_own_tokens(
    specs: tuple[StageSpec, ...], expected: list[list[int]], group: int
) -> None:
    for seed in range(group, NUM_SCHEDULES, NUM_GROUPS):
        schedule = schedule_of(seed)
        with ring_of(specs) as ring:
            assert play(ring, schedule) == expected, schedule
            ring.end_sessions()
            reserved = [ring.host(index).report().kv_reserved_bytes for index in range(len(ring.devices))]
            assert not any(reserved), schedule


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners may be slow: at this speed of the network's time, others' work on the machine would make them silent."""
    monkeypatch.setattr(following, "ANSWER_S", 1000.0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("span", SPANS)
@pytest.mark.parametrize("is_lost", [False, True])
def test_what_was_copied_is_not_computed_again(
    specs: tuple[StageSpec, ...], expected: list[list[int]], span: tuple[int, int], is_lost: bool
) -> None:
    with ring_of(specs) as ring:
        prepared = ring.prepare(*span)
        owners = ring.owners(prepared)
        for request in REQUESTS:
            ring.start(request)
        ring.wait_for(8)
        ring.follow(prepared, owners).result(20)
        num_known = sum(one.length for one in ring.copied_host(prepared).standings().result(5))
        for index in range(span[0], span[1] + 1) if is_lost else ():
            ring.lose(index)
        ring.take_over(prepared, owners)
        ring.recover()
        assert list(ring.answers().values()) == expected
        num_computed = ring.copied_host(prepared).report().totals.num_tokens
        assert num_known > 0 and num_computed <= NUM_APPLIED - num_known


@pytest.mark.usefixtures("patient")
def test_who_follows_closes_and_opens_what_its_owners_do(specs: tuple[StageSpec, ...]) -> None:
    with ring_of(specs) as ring:
        prepared = ring.prepare(0, 1)
        owners = ring.owners(prepared)
        ring.follow(prepared, ()).result(5)
        ring.follow(prepared, owners).result(5)
        follower = ring.copied_host(prepared)
        for request in REQUESTS:
            ring.start(request)
        ring.answers()
        lengths = [len(request.prompt) + request.max_new_tokens - 1 for request in REQUESTS]
        wait_until(lambda: [one.length for one in follower.standings().result(5)] == lengths, 10)
        ring.end_sessions()
        wait_until(lambda: follower.report().num_sessions == 0, 10)
        ring.start(REQUESTS[0])
        wait_until(lambda: follower.report().num_sessions == 1, 10)
        ring.follow(prepared, ()).result(5)
        assert follower.report()[2:4] == (0, 0)
        ring.follow(prepared, owners).result(5)
        assert follower.report().num_sessions == 1


@pytest.mark.usefixtures("patient")
def test_an_order_to_follow_that_is_late_does_nothing(specs: tuple[StageSpec, ...]) -> None:
    """Under another id the stage may follow again: another coordinator keeps it ready."""
    with ring_of(specs) as ring:
        prepared = ring.prepare(0, 1)
        owners = ring.owners(prepared)
        follower = ring.copied_host(prepared)
        ring.follow(prepared, owners).result(5)
        again = prepared._replace(spec=prepared.spec._replace(ring_id=RingId(b"t" * 16, 1000)))
        for _ in range(2):
            prepared.host.call("adopt", again.spec, timeout_s=1000.0).result(5)
        with pytest.raises(PlanNotInForce, match="follows nobody"):
            ring.follow(prepared, owners).result(5)
        ring.start(REQUESTS[0])
        assert follower.standings().result(5) == ()
        ring.follow(again, owners).result(5)
        prepared.host.call("adopt", again.spec, timeout_s=1000.0).result(5)
        ring.start(REQUESTS[1])
        wait_until(lambda: len(follower.standings().result(5)) == 2, 10)


@pytest.mark.usefixtures("patient")
def test_an_order_of_a_round_that_was_broken_off_stops_nothing_of_the_next(specs: tuple[StageSpec, ...]) -> None:
    """It is told again while no answer comes, and may come behind that of the next round: that would end the model."""
    with ring_of(specs) as ring:
        prepared = ring.prepare(0, 1)
        before = ring.owners(prepared)
        follower = ring.copied_host(prepared)
        ring.recover()
        owners = ring.owners(prepared)
        ring.start(REQUESTS[0])
        for order, follow in (
            (partial(follower.follow, prepared.spec.ring_id), follower.following.follow),
            (partial(follower.pull, prepared.spec.ring_id), follower.following.pull),
        ):
            ring.network.freeze(owners[0].device)
            pulled = order(owners)
            with pytest.raises(PlanNotInForce, match="of plan"):
                follow(before)
            assert not pulled.done()
            ring.network.restore(owners[0].device)
            pulled.result(10)


@pytest.mark.usefixtures("patient")
def test_what_is_still_copied_when_the_next_round_begins_is_copied_no_more(specs: tuple[StageSpec, ...]) -> None:
    """It would be applied while that round asks how far stages stand: a session stood still for ever, or the model
    ended. Nor does an order of the round before begin it anew.
    """
    with ring_of(specs) as ring:
        prepared = ring.prepare(1, 1)
        owners = ring.owners(prepared)
        follower = ring.copied_host(prepared)
        ring.start(REQUESTS[0])
        ring.answers()
        round_id = prepared.spec.ring_id
        ring.network.freeze(owners[0].device)
        pulled = follower.pull(round_id, owners)
        wait_until(lambda: pulled.running() or not follower.following._turn.is_over)
        next_spec = prepared.spec._replace(ring_id=RingId(b"t" * 16, 1000), tensors={})
        follower.adopt(next_spec)
        with pytest.raises(BadRequest, match="follows others now"):
            pulled.result(5)
        with pytest.raises(PlanNotInForce, match="another ring"):
            follower.pull(round_id, owners)
        ring.network.restore(owners[0].device)
        assert follower.standings().result(5) == ()
        follower.pull(next_spec.ring_id, owners).result(5)
        assert len(follower.standings().result(5)) == 1


@pytest.mark.usefixtures("patient")
def test_what_gives_units_up_while_it_follows_sends_again_nothing_that_it_has_forgotten(
    specs: tuple[StageSpec, ...],
) -> None:
    """An order to follow may come late, between two orders to follow nobody and to give units up. What had been copied
    of the last unit was forgotten with it, and taken to be there where another owner ends with the new last unit.
    """
    with ring_of(specs) as ring:
        ring.network.drop(ring.devices[2], ring.devices[0], endpoint="hop", count=10**6)
        prepared = ring.prepare(0, 1)
        follower, owner = ring.copied_host(prepared), ring.host(0)
        session = ring.start(REQUESTS[1])
        num_tokens = len(REQUESTS[1].prompt)
        wait_until(partial(ring.has_applied, 1, num_tokens), 20)
        ring.follow(prepared, ring.owners(prepared)).result(10)
        last_unit = owner._running().shard.last_unit
        follower.shape(prepared.spec.ring_id, (Stretch(follower.key[1], 0, last_unit),)).result(10)
        ring.follow(prepared, ring.owners(prepared)[:1]).result(10)
        [standing] = follower.standings().result(5)
        assert standing.length == num_tokens

        def sent_by(host: StageHost) -> torch.Tensor:
            stage = host._running()
            live = stage._sessions.get(session)
            assert live is not None
            return stage.between_steps(lambda: stage._log.rows(live, standing.kept_from, num_tokens)).result(5)

        if standing.kept_from < num_tokens:
            assert torch.equal(sent_by(follower), sent_by(owner))


def test_an_owner_that_is_silent_is_told_once(specs: tuple[StageSpec, ...]) -> None:
    """Who asked took it for the silence of the follower, and asked again, as fast as it could, for ever."""
    with ring_of(specs) as ring:
        prepared = ring.prepare(0, 1)
        owners = ring.owners(prepared)
        ring.network.freeze(owners[1].device)
        with pytest.raises(ClusterError, match="did not answer 'copy_sessions'"):
            ring.follow(prepared, owners).result(10)


@pytest.mark.usefixtures("patient")
def test_whatever_goes_wrong_with_a_copy_is_told(specs: tuple[StageSpec, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks is not left to ask for ever, and may ask again."""

    def spent(*_: object, **__: object) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 1 byte")

    with ring_of(specs) as ring:
        prepared = ring.prepare(0, 1)
        owners = ring.owners(prepared)
        follower = ring.copied_host(prepared)
        ring.start(REQUESTS[0])
        with monkeypatch.context() as patch:
            patch.setattr("shardnet.stage.followed.FollowedSessions.take", spent)
            for order in (follower.follow, follower.pull):
                with pytest.raises(ClusterError, match="could not be copied: RuntimeError: not enough memory"):
                    order(prepared.spec.ring_id, owners).result(5)
        ring.follow(prepared, owners).result(5)
        assert len(follower.standings().result(5)) == 1


@pytest.mark.usefixtures("patient")
def test_what_was_copied_makes_no_room_once_it_is_known_to_others(specs: tuple[StageSpec, ...]) -> None:
    """The stage before it sends only what comes behind: without its beginning the conversation stood still for ever."""
    small, large = Request([5, 6, 7, 8, 9], 30), REQUESTS[1]
    with ring_of(specs) as ring:
        ring.start(small)
        [undisturbed] = ring.answers().values()
        stage = ring.host(1).stage
        assert stage is not None
        room_bytes = (len(large.prompt) + NUM_TOKENS) * stage.kv.bytes_per_token
    with ring_of(specs) as ring:
        ring.network.drop(ring.devices[2], ring.devices[0], endpoint="hop", count=10**6)
        prepared = ring.prepare(1, 1, room_bytes=room_bytes)
        copied, too_large = ring.start(small), ring.start(large)
        ring.follow(prepared, ring.owners(prepared)).result(5)
        follower = ring.copied_host(prepared)
        wait_until(lambda: [(one.session, one.length) for one in follower.standings().result(5)] == [(copied, 5)], 10)
        ring.lose(1)
        ring.take_over(prepared, ())
        ring.network.restore()
        with pytest.raises(KVMemorySpent):
            ring.recover()
        ring.forget(too_large)
        ring.recover()
        assert ring.answers() == {copied: undisturbed}


@pytest.mark.usefixtures("patient")
def test_what_nobody_knows_any_more_is_sampled_again(specs: tuple[StageSpec, ...], expected: list[list[int]]) -> None:
    """The last stage took over in the midst of an answer, and knows what came since; then the source is another one,
    and the first stage is lost: the last one waited for ever for what comes behind the ids that it knows.
    """
    for span in (None, (2, 2)):
        with ring_of(specs) as ring:
            for request in REQUESTS:
                ring.start(request)
            ring.wait_for(10)
            ring.lose(2)
            ring.recover()
            ring.wait_for(20)
            if span is not None:
                prepared = ring.prepare(*span)
                ring.follow(prepared, ring.owners(prepared)).result(10)
                ring.lose(2)
                ring.take_over(prepared, ())
            ring.forget_told()
            ring.lose(0)
            ring.recover()
            assert list(ring.answers().values()) == expected


@pytest.mark.usefixtures("patient")
def test_an_owner_that_has_not_the_units_any_more_gives_none(specs: tuple[StageSpec, ...]) -> None:
    with ring_of(specs) as ring:
        prepared = ring.prepare(1, 1)
        [owner] = ring.owners(prepared)
        for request in REQUESTS:
            ring.start(request)
        ring.answers()
        for wrong, error, words in (
            (ring.owners(ring.prepare(0, 0))[0]._replace(first_unit=2, last_unit=3), BadRequest, "Units 2 to 3 cannot"),
            (owner._replace(key=(owner.key[0], 2)), PlanNotInForce, "not in force here"),
            (owner._replace(device="nobody"), DeviceLost, "nobody"),
        ):
            with pytest.raises(error, match=words):
                ring.follow(prepared, (wrong,)).result(5)
            assert ring.copied_host(prepared).report().num_sessions == 0
        prepared.host.call("pull", prepared.spec.ring_id, (wrong,), timeout_s=1000.0).result(5)
        assert ring.copied_host(prepared).standings().result(5) == ()


@pytest.mark.usefixtures("patient")
def test_copies_take_the_memory_that_is_left_and_give_it_to_sessions_that_need_it(
    specs: tuple[StageSpec, ...], expected: list[list[int]]
) -> None:
    """The newest go first; none is in the way of a session, and who asks for more than there is takes none away."""
    request = Request([5, 6, 7, 8, 9], NUM_TOKENS)
    capacity = len(request.prompt) + NUM_TOKENS
    with ring_of(specs) as ring:
        stages = [ring.host(index).stage for index in (0, 2)]
        copy_bytes, own_bytes = (capacity * stage.kv.bytes_per_token for stage in stages if stage is not None)
    budget_bytes = 3 * own_bytes + 2 * copy_bytes
    with ring_of((*specs[:2], specs[2]._replace(kv_budget_bytes=budget_bytes))) as ring:
        device = ring.devices[2]
        prepared = ring.prepare(0, 0, device)
        follower = ring.copied_host(prepared)

        def copied() -> list[int]:
            return sorted(one.session for one in follower.standings().result(5))

        ring.follow(prepared, ring.owners(prepared)).result(5)
        first, second, third = (ring.start(request) for _ in range(3))
        wait_until(lambda: copied() == [first, second], 10)
        fourth = ring.start(request)
        num_left = max(2 - -(-own_bytes // copy_bytes), 0)
        wait_until(lambda: copied() == [first, second][:num_left], 10)
        answers = ring.answers()
        assert answers == dict.fromkeys((first, second, third, fourth), expected[0])
        with pytest.raises(KVMemorySpent):
            ring.start(request._replace(max_new_tokens=2000))
        assert copied() == [first, second][:num_left]
        ring.end_sessions()
        newest = ring.start(request)
        wait_until(lambda: copied() == [newest], 10)


@pytest.mark.usefixtures("patient")
def test_a_session_that_was_closed_unheard_leaves_nothing(specs: tuple[StageSpec, ...]) -> None:
    """Its owner died before the follower heard of it."""
    with ring_of(specs) as ring:
        prepared = ring.prepare(0, 0)
        owners = ring.owners(prepared)
        for request in REQUESTS[:2]:
            ring.start(request)
        ring.wait_for(3)
        ring.follow(prepared, owners).result(5)
        ring.lose(0)
        ring.end_sessions()
        ring.take_over(prepared, owners)
        ring.recover()
        assert ring.copied_host(prepared).report()[2:4] == (0, 0)
