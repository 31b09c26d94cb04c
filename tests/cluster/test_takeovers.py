"""Who takes over in awkward moments: devices that are heard again in the midst of a change, that die as they are asked,
that have no room, and links that are cut. Over a whole ring in this process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from in_process_ring import PROMPT, alone, answer, blueprint_of, loaded, rings_of
from processes import wait_until

from shardnet.cluster import handover
from shardnet.cluster.model import Model
from shardnet.cluster.placement import kept_bytes_per_token
from shardnet.cluster.present import Present
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.device import outlet
from shardnet.errors import ClusterError, DoesNotFit
from shardnet.plan import Plan, StagePlan
from shardnet.session.stream import TextStream
from shardnet.timeline.events import Event
from shardnet.transport.messages import Owner

pytestmark = pytest.mark.usefixtures("quick_watch")
NUM_TOKENS = 24
WAIT_S = 20.0


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[int]:
    return alone(tiny, [PROMPT], NUM_TOKENS)[0]


def rest_of(stream: TextStream) -> list[int]:
    """All ids of an answer that was begun; fails where it takes too long."""
    with ThreadPoolExecutor(1) as threads:
        threads.submit("".join, stream).result(timeout=WAIT_S)
    return stream.result.token_ids


def begun(model: Model) -> TextStream:
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    next(stream)
    return stream


def events_of(model: Model) -> list[tuple[str, str]]:
    return [(event.event, event.device) for event in model.events]


def set_speeds(model: Model, **seconds: float) -> None:
    """Have the policy take these devices for so fast, and the others for slow."""
    blueprint = blueprint_of(model)
    num_units = model.profile.num_units
    devices = []
    for device in blueprint.devices:
        times = (seconds.get(device.name, 10.0),) * num_units
        devices.append(replace(device, decode_unit_s=times, prefill_unit_s_per_token=times))
    rings_of(model).blueprint = replace(blueprint, devices=tuple(devices))


def set_memory(model: Model, share: float, **shares: float) -> None:
    """Have the policy take each device for one that has room for a share of the model. Args: `shares`, of devices."""
    blueprint = blueprint_of(model)
    num_bytes = sum(unit.weight_bytes for unit in model.profile.units)
    devices = tuple(
        replace(device, memory_bytes=int(num_bytes * shares.get(device.name, share))) for device in blueprint.devices
    )
    rings_of(model).blueprint = replace(blueprint, devices=devices)


def is_changing(model: Model) -> bool:
    return rings_of(model).is_changing


def test_who_is_heard_again_in_the_midst_of_a_change_is_used_later_and_may_be_lost_then(
    tiny: Path, expected: list[int]
) -> None:
    """Once, its loss began no round, and sessions hung."""
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        set_speeds(model, a=1.0, b=0.01, c=1.0)
        ring.network.freeze("b")
        for other in "ac":
            ring.network.delay("coordinator", other, 0.1)
        wait_until(partial(is_changing, model))
        ring.network.restore("b")
        wait_until(lambda: not is_changing(model))
        for other in "ac":
            ring.network.delay("coordinator", other, 0.0)
        assert answer(model, PROMPT, NUM_TOKENS) == expected
        ring.network.kill("c")
        assert answer(model, PROMPT, NUM_TOKENS) == expected
        assert "b" in model.plan.devices
        stream = begun(model)
        ring.network.kill("b")
        assert rest_of(stream) == expected


def test_a_taker_that_falls_silent_is_waited_for_where_nobody_else_has_room(tiny: Path, expected: list[int]) -> None:
    """Once, the model ended."""
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        set_memory(model, 0.9)
        stream = begun(model)
        ring.network.at("open_stage", 0, partial(ring.network.freeze, "c"))
        Timer(1.5, ring.network.restore, ["c"]).start()
        ring.network.kill("b")
        assert rest_of(stream) == expected
        assert ("suspected", "c") in events_of(model)


@pytest.mark.parametrize("options", [{}, {"kv_memory_bytes": 25_000}])
def test_stages_that_are_left_stay_when_the_taker_dies_as_it_is_asked(
    tiny: Path, expected: list[int], options: dict[str, Any]
) -> None:
    """Once, the stages behind it were loaded anew, beside the old ones; where room was short, the session ended."""
    with loaded(tiny, [1, 2, 3, 0, 0], **options) as (ring, model):
        set_speeds(model, d=0.001, e=0.002)
        before = ring.workers["c"]._stages.hosts()
        stream = begun(model)
        ring.network.at("open_stage", 0, partial(ring.network.kill, "d"))
        ring.network.kill("b")
        assert rest_of(stream) == expected
        assert ring.workers["c"]._stages.hosts() == before
        assert [len(ring.workers[name]._stages.hosts()) for name in "ace"] == [1, 1, 1]


@pytest.mark.parametrize("pause_s", [0.0, 1.0])
def test_a_token_that_is_sampled_while_others_take_over_comes_to_the_new_first_stage(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    """Once it was lost, and the session hung: the new first stage was not open yet when the token was sent to it."""
    real = handover.catch_up

    def late(*arguments: Any) -> Any:
        time.sleep(pause_s)
        return real(*arguments)

    monkeypatch.setattr(handover, "catch_up", late)
    with loaded(tiny, [2, 2, 2, 0]) as (ring, model):
        set_speeds(model, d=0.001)
        ring.network.delay("b", "c", 0.5)
        stream = begun(model)
        time.sleep(0.1)  # by now a row is on its way from b to c
        ring.network.kill("a")
        wait_until(lambda: not pause_s or ("lost", "a") in events_of(model))
        time.sleep(pause_s / 2)
        ring.network.delay("b", "c", 0.001)
        assert rest_of(stream) == expected


def test_who_is_told_of_events_may_ask_the_model(tiny: Path, expected: list[int]) -> None:
    """Once it was told on the thread of the recovery, which then waited for itself."""
    models: list[Model] = []
    seen: list[str] = []

    def on_event(event: Event) -> None:
        models[0].report()
        seen.append(event.event)

    with loaded(tiny, [2, 2, 2], on_event=on_event) as (ring, model):
        models.append(model)
        for lost in ("b", "c"):
            stream = begun(model)
            ring.network.kill(lost)
            assert rest_of(stream) == expected
        wait_until(lambda: seen == ["lost", "recovered"] * 2)


def test_no_session_ends_for_the_silence_of_a_moment(tiny: Path, expected: list[int]) -> None:
    """Once, what was silent was replaced by who had no room for the sessions, and these ended."""
    with loaded(tiny, [1, 2, 3], kv_memory_bytes=25_000) as (ring, model):
        stream = begun(model)
        ring.network.freeze("b")
        wait_until(lambda: bool(model.events))
        ring.network.restore("b")
        assert rest_of(stream) == expected


def test_who_was_silent_may_replace_who_is_lost(tiny: Path, expected: list[int]) -> None:
    """Once, the model ended where a device was lost while another one was silent, though that came back."""
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        set_memory(model, 0.9)
        stream = begun(model)
        ring.network.freeze("c")
        wait_until(lambda: events_of(model)[-1:] == [("recovered", "")])
        Timer(0.5, ring.network.restore, ["c"]).start()
        ring.network.kill("b")
        assert rest_of(stream) == expected
        assert answer(model, PROMPT, NUM_TOKENS) == expected


def test_where_the_taker_has_no_memory_another_one_takes_over(tiny: Path, expected: list[int]) -> None:
    """Once, the model ended."""

    def refuse(num_bytes: int, stage: object) -> None:
        raise DoesNotFit("another model has it by now")

    with loaded(tiny, [2, 2, 2, 0]) as (ring, model):
        set_speeds(model, d=0.001)
        ring.workers["d"].premises.memory.reserve_weights = refuse  # type: ignore[method-assign]
        stream = begun(model)
        ring.network.kill("b")
        assert rest_of(stream) == expected
        assert "d" not in model.plan.devices


@pytest.mark.parametrize(("source", "target"), [("a", "b"), ("b", "c"), ("c", "a")])
@pytest.mark.parametrize("num_read", [0, 5])
def test_the_ring_goes_round_a_link_that_is_cut(
    tiny: Path, expected: list[int], source: str, target: str, num_read: int
) -> None:
    with loaded(tiny, [2, 2, 2], speed=20.0) as (ring, model):
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        for _ in range(num_read):
            next(stream)
        ring.network.drop(source, target, count=10**6)
        assert rest_of(stream) == expected
        if num_read:
            [event] = [each for each in model.events if each.event == "cut off"]
            assert event.device in (source, target)
            assert f"what {source} sends does not reach {target}" in event.text
        ring.network.restore()
        assert answer(model, PROMPT, NUM_TOKENS) == expected


def test_a_link_that_is_cut_in_a_prompt_is_known_before_a_chunk_is_late(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, it was known when the chunk had not been answered for as long as one may wait for its turn."""
    monkeypatch.setattr(outlet, "BULK_HOP_S", 1e5)
    with loaded(tiny, [2, 2, 2], speed=20.0) as (ring, model):
        ring.network.drop("b", "c", count=10**6)
        assert answer(model, PROMPT, NUM_TOKENS) == expected
        assert [event.event for event in model.events] == ["cut off", "recovered"]


def test_nobody_is_asked_for_copies_over_a_link_that_is_cut(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, a repair waited 15 s for them."""
    asked: list[frozenset[str]] = []

    def pull(stage: RemoteStage, owners: tuple[Owner, ...]) -> Future[Any]:
        asked.extend(frozenset((stage.plan.device, owner.device)) for owner in owners)
        return real(stage, owners)

    real = RemoteStage.pull
    monkeypatch.setattr(RemoteStage, "pull", pull)
    with loaded(tiny, [2, 2, 2, 0], speed=20.0) as (ring, model):
        ring.network.drop("b", "c", count=10**6)
        ring.network.drop("c", "b", count=10**6)
        assert answer(model, PROMPT, NUM_TOKENS) == expected
        assert "cut off" in [event.event for event in model.events]
        assert frozenset("bc") not in asked


def test_where_there_is_no_way_round_a_cut_link_a_sentence_says_so(tiny: Path) -> None:
    with loaded(tiny, [3, 3], speed=40.0) as (ring, model):
        set_memory(model, 0.7)
        stream = begun(model)
        ring.network.drop("a", "b", count=10**6)
        with pytest.raises(ClusterError, match=r"what a sends does not reach b: .*\. There is no way round it: .* GiB"):
            rest_of(stream)


def test_who_cannot_take_over_from_one_that_leaves_may_do_so_when_it_has_left(tiny: Path, expected: list[int]) -> None:
    """Once, what had failed was used for the next loss, which ended the model."""

    def refuse(num_bytes: int, stage: object) -> None:
        raise DoesNotFit("another model has it now")

    with loaded(tiny, [3, 3, 0]) as (ring, model):
        set_speeds(model, c=0.001)
        memory = ring.workers["c"].premises.memory
        reserve = memory.reserve_weights
        memory.reserve_weights = refuse  # type: ignore[method-assign]
        stream = begun(model)
        assert model._deployment.drain("b", ()) == ""
        wait_until(lambda: not ring.workers["c"]._stages.hosts())
        memory.reserve_weights = reserve  # type: ignore[method-assign]
        ring.network.kill("b")
        assert rest_of(stream) == expected
        wait_until(lambda: "c" in model.plan.devices)


def test_it_is_said_that_answers_go_on_when_all_is_mended(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it was said before, and not then, where a device was lost at the last moment of a change."""
    lost: list[str] = []
    with loaded(tiny, [2, 2, 2]) as (ring, model):
        rings, go_on = rings_of(model), handover.go_on

        def last_moment(*arguments: Any) -> None:
            go_on(*arguments)
            if not lost:
                lost.append("c")
                ring.network.kill("c")
                wait_until(lambda: "c" in rings.absences.lost)

        monkeypatch.setattr(handover, "go_on", last_moment)
        stream = begun(model)
        rings.go_over(lambda *_: Plan((StagePlan("a", 0, 0), StagePlan("b", 1, 3), StagePlan("c", 4, 5))))
        assert rest_of(stream) == expected
        wait_until(lambda: not is_changing(model))
        assert events_of(model) == [("lost", "c"), ("recovered", "")]


def test_no_session_ends_for_a_move_that_it_came_too_late_for(
    tiny: Path, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, one did that began while layers were loaded, and had no room where they went."""
    tokens = len(PROMPT) + NUM_TOKENS
    with loaded(tiny, [2, 2, 2]) as (_, model):
        profile = model.profile
    kv_bytes = sum(unit.kv_bytes_per_token for unit in profile.units)
    aside_bytes = int(1.05 * tokens * (kv_bytes + 2 * kept_bytes_per_token(profile)))
    with loaded(tiny, [2, 2, 2], kv_memory_bytes=aside_bytes) as (ring, model):
        for one in ring.names:
            ring.network.delay(one, "a", 0.01)
        rings = rings_of(model)
        assert rings.standby is not None
        streams = [begun(model)]
        load = rings.standby.load

        def late(present: Present, stages: Sequence[StagePlan]) -> list[StagePlan]:
            copied = load(present, stages)
            streams.append(begun(model))
            return copied

        monkeypatch.setattr(rings.standby, "load", late)
        alone_on_a = Plan((StagePlan("a", 0, 5),))
        assert not rings.go_over(lambda *_: alone_on_a)
        assert [rest_of(stream) for stream in streams] == [expected, expected]
        monkeypatch.setattr(rings.standby, "load", load)
        streams = [begun(model)]
        assert rings.go_over(lambda *_: alone_on_a)
        assert rest_of(streams[0]) == expected


def test_an_answer_that_is_stopped_as_others_take_over_ends_alone(tiny: Path, expected: list[int]) -> None:
    """Once the model ended, where the answer of who was to open it was lost, too."""
    with loaded(tiny, [2, 2, 2, 0], speed=20.0) as (ring, model), ThreadPoolExecutor(1) as threads:
        set_speeds(model, d=0.001)
        stream = begun(model)
        stopped: list[Future[None]] = []

        def stop() -> None:
            stopped.append(threads.submit(stream.close))

        ring.network.drop("d", "coordinator", endpoint="open_session", count=1, answers=True)
        ring.network.at("open_session", 0, stop)
        ring.network.kill("b")
        wait_until(lambda: stopped)
        stopped[0].result(WAIT_S)
        assert answer(model, PROMPT, NUM_TOKENS) == expected
        assert "d" in model.plan.devices


def test_who_falls_silent_as_it_gives_up_units_is_asked_later_what_it_has(tiny: Path, expected: list[int]) -> None:
    """Once it was taken to have them all still, and the session hung."""

    def refuse(*_: object) -> None:
        raise ClusterError("not now")

    with loaded(tiny, [2, 2, 2, 0]) as (ring, model), ThreadPoolExecutor(1) as threads:
        set_memory(model, 0.6, a=0.47)
        ring.workers["d"].premises.transport.expose("open_stage", refuse)
        stream = begun(model)
        ring.network.at("shape", 0, partial(ring.network.freeze, "b"))
        other = Plan((StagePlan("a", 0, 1), StagePlan("b", 2, 2), StagePlan("c", 3, 5)))
        moved = threads.submit(rings_of(model).go_over, lambda *_: other)
        wait_until(lambda: "d" in rings_of(model).absences.full)
        ring.network.restore("b")
        assert rest_of(stream) == expected
        moved.result(WAIT_S)
        assert answer(model, PROMPT, NUM_TOKENS) == expected
