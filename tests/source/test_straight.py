"""Tokens that come straight from the device that samples them: each once, in order, whatever is lost on either way,
and whoever has sampled them. Real stages, coordinator and sources in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import PROMPT, alone
from lasting_in_process import LastingInProcess, ids_of, lasting_in_process
from processes import wait_until

from shardnet.cluster.model import Model
from shardnet.coordinator.held_session import HeldSession
from shardnet.device.listeners import MOST_OPEN, Listeners
from shardnet.errors import ClusterError
from shardnet.session.session import Session
from shardnet.session.stream import Stream
from shardnet.source.following import MOST_AHEAD, Following
from shardnet.source.running_cluster import RunningCluster
from shardnet.stage.sampling import Scores
from shardnet.transport import InProcessNetwork
from shardnet.transport.listener_messages import StraightToken, digest
from shardnet.transport.source_messages import COORDINATOR

OPTIONS: dict[str, Any] = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
NUM_TOKENS = 24
LAST, SOURCE = "c", "@source-1"
ALWAYS = 10**6


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, [PROMPT], NUM_TOKENS)[0]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LastingInProcess]:
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        yield cluster


def begin(cluster: LastingInProcess, tiny: Path) -> None:
    cluster.coordinator.begin(str(tiny), OPTIONS).done.result(60)


def begun(cluster: LastingInProcess, tiny: Path) -> Model:
    begin(cluster, tiny)
    return cluster.connect().model


def following(stream: Stream) -> Following:
    found: Following = stream._session._following  # type: ignore[attr-defined]
    return found


def num_heard(stream: Stream) -> int:
    return len(following(stream)._heard.tokens)


def told_to_the_coordinator(cluster: LastingInProcess) -> int:
    return max((each.num_tokens for each in cluster.coordinator._desk.sessions()), default=0)


def hold_behind(cluster: LastingInProcess, num_tokens: int) -> None:
    """No further token is sampled than so many, counted from now on."""
    cluster.network.drop(LAST, "a", endpoint="hop", count=ALWAYS, skip=num_tokens - 1)


def sample_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on other tokens are sampled, as it may be in half precision where others take over."""
    draw = Scores.draw

    def otherwise(*args: Any) -> Any:
        token = draw(*args)
        return token if isinstance(token, Exception) else (token + 1) % 90

    monkeypatch.setattr(Scores, "draw", otherwise)


def test_tokens_come_straight_also_where_the_coordinator_is_told_nothing(
    cluster: LastingInProcess, tiny: Path, expected: list[int]
) -> None:
    """It hears from the source what it has not heard from the stage, and so knows all of the answer."""
    model = begun(cluster, tiny)
    cluster.network.drop(LAST, COORDINATOR, endpoint="tokens", count=ALWAYS)
    assert ids_of(model.stream(PROMPT, max_new_tokens=NUM_TOKENS)) == expected
    wait_until(
        lambda: cluster.told("session ended") == [f"The answer to {SOURCE} has ended after {NUM_TOKENS} tokens."]
    )
    wait_until(lambda: cluster.num_sessions() == 0)


@pytest.mark.parametrize("skip", [0, 1, 7])
def test_what_does_not_come_straight_the_coordinator_tells(
    cluster: LastingInProcess, tiny: Path, expected: list[int], skip: int
) -> None:
    """As for a source that not all devices can reach."""
    model = begun(cluster, tiny)
    cluster.network.drop(LAST, SOURCE, endpoint="hear", count=5 if skip == 1 else ALWAYS, skip=skip)
    assert ids_of(model.stream(PROMPT, max_new_tokens=NUM_TOKENS)) == expected


def test_the_next_answer_has_the_memory_of_the_one_before_although_that_is_not_known_to_be_over(
    cluster: LastingInProcess, tiny: Path
) -> None:
    """Its source has the last token before the coordinator."""
    cluster.coordinator.begin(str(tiny), {**OPTIONS, "kv_memory_bytes": 2**17}).done.result(60)
    model, num_tokens = cluster.connect().model, 100
    first = alone(tiny, [PROMPT], num_tokens)[0]
    cluster.network.delay(LAST, COORDINATOR, 0.2)
    for _ in range(3):
        assert ids_of(model.stream(PROMPT, max_new_tokens=num_tokens)) == first


@pytest.mark.parametrize("seed", range(3))
def test_the_answers_of_two_sources_are_never_mixed(
    cluster: LastingInProcess, tiny: Path, expected: list[int], seed: int
) -> None:
    begin(cluster, tiny)
    sources = [cluster.connect() for _ in range(2)]
    others = [40, 41, 42]
    alone_there = alone(tiny, [others], NUM_TOKENS)[0]
    cluster.network.scatter(0.01, seed)
    for source in ("@source-1", "@source-2"):
        cluster.network.duplicate(LAST, source, endpoint="hear", count=10)
        cluster.network.drop(LAST, source, endpoint="hear", count=3, skip=4)
    asked = [
        source.model.stream(prompt, max_new_tokens=NUM_TOKENS) for source in sources for prompt in (PROMPT, others)
    ]
    assert [ids_of(stream) for stream in asked] == [expected, alone_there] * 2


def test_no_other_member_puts_a_token_into_an_answer(
    cluster: LastingInProcess, tiny: Path, expected: list[int]
) -> None:
    """It knows the ticket, the session's number, and all tokens; but not the key."""
    model = begun(cluster, tiny)
    hold_behind(cluster, 3)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    wait_until(lambda: num_heard(stream) == 3)
    member, spec = cluster.network.join("@stranger"), following(stream)
    [session] = cluster.coordinator._loads.loaded().model.deployment.sessions.under_way()  # type: ignore[attr-defined]
    for key in (spec._ticket, session.spec.session, 0, 1):
        member.post(SOURCE, "hear", (StraightToken(key, 3, 5, digest(expected[:3])),)).result(5)
    for nonsense in ((), (1, "x"), ((1, 2, 3, 4),)):
        member.post(SOURCE, "hear", nonsense).result(5)
    assert num_heard(stream) == 3
    keys = [spec.listener.key for spec in specs_at(cluster, "c") if spec.listener is not None]
    assert keys == [session.spec.listener.key] and not any(spec.listener for spec in specs_at(cluster, "ab"))


def specs_at(cluster: LastingInProcess, devices: str) -> list[Any]:
    hosts = [host for device in devices for host in cluster.workers[device]._stages.hosts()]
    return [live.spec for host in hosts if host.stage is not None for live in host.stage._sessions.all()]


def heard_by_the_source_alone(cluster: LastingInProcess, model: Model, num_tokens: int) -> Stream:
    """An answer that is held behind so many tokens, of which the stage has told its source alone the last two."""
    hold_behind(cluster, num_tokens)
    cluster.network.drop(LAST, COORDINATOR, endpoint="tokens", count=ALWAYS, skip=num_tokens - 2)
    return model.stream(PROMPT, max_new_tokens=NUM_TOKENS)


def test_what_only_its_source_knows_is_not_sampled_again(
    cluster: LastingInProcess, tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last stage dies when it has told its source and nobody else. Who takes over would sample other tokens."""
    model = begun(cluster, tiny)
    stream = heard_by_the_source_alone(cluster, model, 9)
    begun_to_read = iter(stream)
    next(begun_to_read)
    wait_until(lambda: num_heard(stream) == 9 and told_to_the_coordinator(cluster) == 9)
    sample_otherwise(monkeypatch)
    cluster.lose(LAST)
    wait_until(lambda: cluster.told("recovered"))
    cluster.network.restore()
    ids = ids_of(stream)
    assert ids[:9] == expected[:9] and ids[9] != expected[9] and len(ids) == NUM_TOKENS


@pytest.mark.parametrize("is_over", [True, False])
def test_where_the_two_part_the_source_is_told_how_its_answer_goes_on(
    cluster: LastingInProcess, tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch, is_over: bool
) -> None:
    """The same, where the coordinator has not heard from the source in time: other tokens were sampled meanwhile."""
    monkeypatch.setattr("shardnet.source.following.ANSWER_S", 1.0)
    model = begun(cluster, tiny)
    cluster.network.drop(SOURCE, COORDINATOR, endpoint="follow", count=ALWAYS)
    stream = heard_by_the_source_alone(cluster, model, 9)
    if not is_over:
        cluster.network.drop("b", "a", endpoint="hop", count=ALWAYS, skip=3)
    begun_to_read = iter(stream)
    next(begun_to_read)
    wait_until(lambda: num_heard(stream) == 9 and told_to_the_coordinator(cluster) == 7)
    sample_otherwise(monkeypatch)
    cluster.lose(LAST)
    wait_until(lambda: cluster.told("session ended") if is_over else told_to_the_coordinator(cluster) > 9)
    cluster.network.restore()
    with pytest.raises(
        ClusterError, match=r"goes on otherwise than it began\. Let the answer go on then: shardnet resum"
    ):
        ids_of(stream)
    assert stream.result.token_ids[:9] == expected[:9] and len(stream.result.token_ids) == 9
    source = cluster.connect()
    whole = ids_of(source.resume(1))
    assert whole[:8] == expected[:8] and whole[8] != expected[8] and len(whole) == NUM_TOKENS


def test_where_the_two_part_and_the_coordinator_is_killed_the_next_one_does_not_mix_them(
    cluster: LastingInProcess, tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, what the source had was continued with what the stages knew behind other tokens, and nobody was told."""
    model = begun(cluster, tiny)
    cluster.network.drop(SOURCE, COORDINATOR, endpoint="follow", count=ALWAYS)
    stream = heard_by_the_source_alone(cluster, model, 9)
    cluster.network.drop("b", "a", endpoint="hop", count=ALWAYS, skip=6)
    begun_to_read = iter(stream)
    next(begun_to_read)
    wait_until(lambda: num_heard(stream) == 9 and told_to_the_coordinator(cluster) == 7)
    sample_otherwise(monkeypatch)
    cluster.lose(LAST)
    wait_until(lambda: told_to_the_coordinator(cluster) > 11)
    cluster.kill()
    cluster.network.restore()
    cluster.restart()
    wait_until(lambda: [len(held.ahead) for held in held_of(cluster)] == [9])
    begin(cluster, tiny)
    with pytest.raises(ClusterError, match=r"goes on otherwise than it began\. Let the answer go on then"):
        ids_of(stream)
    assert stream.result.token_ids == expected[:9]
    assert ids_of(cluster.connect().resume(1))[:9] == expected[:9]
    wait_until(lambda: cluster.num_sessions() == 0)


def test_what_its_source_tells_in_the_midst_of_a_recovery_is_not_mixed_with_what_is_sampled_anew(
    cluster: LastingInProcess, tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes when it is settled from where on is sampled. Once, it was forgotten then, but told already."""
    monkeypatch.setattr("shardnet.source.following.ANSWER_S", 0.2)
    model = begun(cluster, tiny)
    cluster.network.drop(SOURCE, COORDINATOR, endpoint="follow", count=ALWAYS)
    stream = heard_by_the_source_alone(cluster, model, 9)
    begun_to_read = iter(stream)
    next(begun_to_read)
    wait_until(lambda: num_heard(stream) == 9 and told_to_the_coordinator(cluster) == 7)
    sample_otherwise(monkeypatch)
    cut = Session.cut

    def cut_late(session: Session, *args: Any) -> None:
        cluster.network.restore()
        wait_until(lambda: [len(held.ahead) for held in held_of(cluster)] == [9])
        cut(session, *args)

    monkeypatch.setattr(Session, "cut", cut_late)
    cluster.lose(LAST)
    with pytest.raises(ClusterError, match=r"goes on otherwise than it began\. Let the answer go on then"):
        ids_of(stream)
    assert stream.result.token_ids == expected[:9]


@pytest.mark.parametrize("lost", ["", "c", "ac"])
def test_a_source_that_has_more_than_the_next_coordinator(
    cluster: LastingInProcess, tiny: Path, expected: list[int], lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens come while no coordinator is there. Where the devices that have sampled them are lost, too, their source
    alone knows them."""
    model = begun(cluster, tiny)
    cluster.network.drop(LAST, "a", endpoint="hop", count=1, skip=2)  # it is sent again after a while
    hold_behind(cluster, 12)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    begun_to_read = iter(stream)
    next(begun_to_read)
    cluster.kill()
    wait_until(lambda: num_heard(stream) == 12)
    for device in lost:
        cluster.lose(device)
        cluster.join_unseen(device)
    if lost == "ac":
        sample_otherwise(monkeypatch)
    cluster.network.restore()
    cluster.restart()
    wait_until(lambda: [len(held.ahead) for held in held_of(cluster)] == [12])
    begin(cluster, tiny)
    ids = ids_of(stream)
    assert ids[:12] == expected[:12] and len(ids) == NUM_TOKENS
    assert (ids == expected) == (lost != "ac")
    wait_until(lambda: cluster.num_sessions() == 0)


@pytest.mark.parametrize("num_tokens", [12, NUM_TOKENS])
def test_what_only_a_source_knows_is_kept_where_nothing_else_is_left(
    cluster: LastingInProcess, tiny: Path, expected: list[int], num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator was killed, and all devices were lost. Once, the answer was resumed from its beginning, and could
    be another one than its source had; also one of which that had all."""
    model = begun(cluster, tiny)
    cluster.network.drop(LAST, "a", endpoint="hop", count=1, skip=2)  # it is sent again after a while
    hold_behind(cluster, num_tokens)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    begun_to_read = iter(stream)
    next(begun_to_read)
    cluster.kill()
    wait_until(lambda: num_heard(stream) == num_tokens)
    for device in "abc":
        cluster.lose(device)
        cluster.join_unseen(device)
    sample_otherwise(monkeypatch)
    cluster.network.restore()
    cluster.restart()
    wait_until(lambda: [len(held.ahead) for held in held_of(cluster)] == [num_tokens])
    begin(cluster, tiny)
    if num_tokens == NUM_TOKENS:
        assert ids_of(stream) == expected and cluster.connect().broken_off == ()
        return
    with pytest.raises(ClusterError, match=r"what held this answer is gone\. Let the answer go on then"):
        ids_of(stream)
    ids = ids_of(cluster.connect().resume(1))
    assert ids[:num_tokens] == expected[:num_tokens] and len(ids) == NUM_TOKENS and ids != expected


def test_a_frozen_coordinator_does_not_find_a_message_for_each_token(
    cluster: LastingInProcess, tiny: Path, expected: list[int]
) -> None:
    model = begun(cluster, tiny)
    stream = model.stream(PROMPT, max_new_tokens=2000)
    begun_to_read = iter(stream)
    next(begun_to_read)
    cluster.network.freeze(COORDINATOR)
    few = num_heard(stream)
    wait_until(lambda: num_heard(stream) > few + 100)
    coordinator = cluster.network.member(COORDINATOR)
    asked = [pair for pair in list(cluster.network._pending.values()) if pair[1] is coordinator]
    assert len([pair for pair in asked if pair[0].name == SOURCE]) <= 2 * MOST_AHEAD + 2
    cluster.network.restore(COORDINATOR)
    stream.close()
    wait_until(lambda: cluster.num_sessions() == 0)


def test_a_listener_that_is_stopped_or_gone_costs_a_few_messages() -> None:
    with InProcessNetwork(speed=1000.0) as network:
        device, source = network.join("a"), network.join("@source")
        heard: list[Any] = []
        source.expose("hear", heard.append)
        listeners = Listeners(device)
        network.freeze("@source")
        for _ in range(1000):
            listeners.tell("@source", (StraightToken(1, 0, 5, 0),))
            listeners.tell("@nobody", (StraightToken(1, 0, 5, 0),))
        assert len(network._pending) <= MOST_OPEN
        network.restore("@source")
        num_heard = len(heard)

        def is_told() -> bool:
            listeners.tell("@source", (StraightToken(1, 0, 5, 0),))
            return len(heard) > num_heard

        wait_until(is_told)
        wait_until(lambda: not listeners._num_open)


def test_a_source_that_only_asks_hears_nothing_straight(
    cluster: LastingInProcess, tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardnet.source.listening.Listening.open", lambda *_: 0)
    source: RunningCluster = cluster.connect()
    begin(cluster, tiny)
    stream = source.model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    assert not any(spec.listener for spec in specs_at(cluster, "abc"))
    assert ids_of(stream) == expected


def test_who_reads_slowly_is_not_taken_for_one_that_is_gone(
    tmp_path: Path, tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All has come long ago; once, the answer was given up after a lease."""
    monkeypatch.setattr("shardnet.source.following.RENEW_S", 0.1)
    with lasting_in_process(3, folder=tmp_path / "state", lease_s=4.0) as cluster:
        model, was_asked = begun(cluster, tiny), threading.Event()
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        begun_to_read = iter(stream)
        next(begun_to_read)
        wait_until(lambda: cluster.told("session ended"))
        cluster.network.at("follow", 50, was_asked.set)
        assert was_asked.wait(30)
        assert cluster.connect().broken_off == ()
        assert ids_of(stream) == expected
        wait_until(lambda: all(held.is_closed for held in held_of(cluster)))


def held_of(cluster: LastingInProcess) -> list[HeldSession]:
    return list(cluster.coordinator._desk._held.values())
