"""Answers that broke off, and are resumed: real stages, coordinator and sources in one process, and a state folder."""

from __future__ import annotations

import math
import random
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lasting_in_process import LastingInProcess, ids_of, lasting_in_process
from processes import wait_until
from tiny_text_model import save_text_model

from shardnet.cluster.model import Model
from shardnet.coordinator import broken_off
from shardnet.coordinator.broken_off import KEPT_S, UNSET_S, BrokenSessions
from shardnet.coordinator.desk import SessionDesk
from shardnet.coordinator.loaded import Loaded
from shardnet.coordinator.notebook import BrokenPage, Notebook, SessionPage
from shardnet.errors import BadRequest, ClusterError, ShardnetError
from shardnet.process.state_folder import StateFolder
from shardnet.session.session import Session
from shardnet.session.stream import Stream
from shardnet.source.running_cluster import RunningCluster
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec
from shardnet.transport.source_messages import COORDINATOR, ModelMark, SessionRequest

OPTIONS: dict[str, Any] = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
PROMPT = [5 + index % 90 for index in range(30)]
NUM_TOKENS = 24
GREEDY: dict[str, Any] = {}
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 20, "repetition_penalty": 1.3, "seed": 11}
LONG = 3000
BEFORE_ALL, IN_PROMPT = -2, -1
"""Positions, beside those of tokens."""


@pytest.fixture(scope="module")
def undisturbed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, list[int]]:
    """The ids, greedy (False) and sampled (True)."""
    with lasting_in_process(3, folder=tmp_path_factory.mktemp("state") / "calm") as cluster:
        model = begun(cluster, tiny)
        return {bool(how): ids_of(model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **how)) for how in (GREEDY, SAMPLED)}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LastingInProcess]:
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        yield cluster


def begun(cluster: LastingInProcess, model: Path, **options: Any) -> Model:
    cluster.coordinator.begin(str(model), {**OPTIONS, **options}).done.result(60)
    return cluster.connect().model


def tokens_of(cluster: LastingInProcess) -> int:
    return max((each.num_tokens for each in cluster.coordinator._desk.sessions()), default=0)


def hold_at(cluster: LastingInProcess, position: int) -> None:
    """Nothing comes behind the token of that index, counted from now on."""
    first, second, last = devices_of_plan(cluster)
    if position == BEFORE_ALL:
        cluster.network.drop(COORDINATOR, first, endpoint="bulk_hop", count=10**6)
    elif position == IN_PROMPT:
        cluster.network.drop(first, second, endpoint="bulk_hop", count=10**6, skip=3)
    else:
        cluster.network.drop(last, first, endpoint="hop", count=10**6, skip=position)


def devices_of_plan(cluster: LastingInProcess) -> tuple[str, ...]:
    return tuple(stage.device for stage in cluster.coordinator._loads.loaded().model.plan.stages)


def wait_for_tokens(cluster: LastingInProcess, num_tokens: int) -> None:
    wait_until(lambda: [each.num_tokens for each in cluster.coordinator._desk.sessions()] == [num_tokens])


def lose_where_nobody_has_room(cluster: LastingInProcess, device: str) -> None:
    rings = cluster.coordinator._loads.loaded().model._deployment._rings  # type: ignore[attr-defined]
    assert rings is not None and rings.blueprint is not None
    full = tuple(replace(each, memory_bytes=2**10) for each in rings.blueprint.devices)
    rings.blueprint = replace(rings.blueprint, devices=full)
    cluster.lose(device)


def break_off(cluster: LastingInProcess, stream: Stream) -> str:
    """The answer to a stream ends since the device in the middle is lost; the sentence."""
    lose_where_nobody_has_room(cluster, devices_of_plan(cluster)[1])
    with pytest.raises(ShardnetError) as caught:
        ids_of(stream)
    cluster.network.restore()
    return str(caught.value)


def pages(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "state").glob("*-*.page"))


def load_again(cluster: LastingInProcess, model: Path, device: str = "d") -> RunningCluster:
    cluster.join(device)
    source = cluster.connect()
    source.load(model, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4)
    return source


def resumed(cluster: LastingInProcess, model: Path, position: int) -> Stream:
    """A sampled answer that broke off behind ten tokens goes on, and is held at a position."""
    loaded = begun(cluster, model)
    hold_at(cluster, 9)
    stream = loaded.stream(PROMPT, max_new_tokens=NUM_TOKENS, **SAMPLED)
    wait_for_tokens(cluster, 10)
    break_off(cluster, stream)
    source = load_again(cluster, model)
    hold_at(cluster, position)
    return source.resume()


# ---- devices are lost, and nobody has room ----


@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("position", [BEFORE_ALL, IN_PROMPT, 0, 1, 7, NUM_TOKENS - 3, NUM_TOKENS - 2])
def test_an_answer_that_broke_off_anywhere_goes_on_when_a_device_has_joined(
    cluster: LastingInProcess,
    tiny: Path,
    tmp_path: Path,
    undisturbed: dict[bool, list[int]],
    position: int,
    how: dict[str, Any],
) -> None:
    model = begun(cluster, tiny)
    hold_at(cluster, position)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **how)
    wait_for_tokens(cluster, max(position + 1, 0))
    told = break_off(cluster, stream)
    assert "b is lost" in told and "the others cannot take over" in told and len(told.splitlines()) == 1
    assert told.endswith(f". Let the answer go on then: shardnet resume 1 --cluster {tmp_path / 'state'}")
    assert pages(tmp_path) == ["broken-00000001.page"]

    source = load_again(cluster, tiny)
    [broken] = source.broken_off
    assert source.status().broken_off == (broken,)
    assert (broken.number, broken.model.name, broken.model.dtype) == (1, tiny.name, "float32")
    assert (broken.prompt_tokens, broken.num_tokens) == (len(PROMPT), max(position + 1, 0))
    resumed = source.resume()
    assert ids_of(resumed) == undisturbed[bool(how)]
    assert (resumed.result.finish_reason, resumed.result.prompt_tokens) == ("length", len(PROMPT))
    assert source.broken_off == ()
    wait_until(lambda: cluster.num_sessions() == 0 and pages(tmp_path) == [])


def test_one_that_breaks_off_again_and_again_loses_nothing(
    cluster: LastingInProcess, tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]]
) -> None:
    """Each time under the same number, and with what came meanwhile; stopped by its source, too."""
    model = begun(cluster, tiny)
    hold_at(cluster, 3)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **SAMPLED)
    wait_for_tokens(cluster, 4)
    break_off(cluster, stream)
    source = load_again(cluster, tiny)
    hold_at(cluster, 5)
    stream = source.resume(1)
    wait_for_tokens(cluster, 10)  # it holds 4 and has sent 6 hops
    assert "shardnet resume 1 " in break_off(cluster, stream)
    source = load_again(cluster, tiny, "e")
    assert [broken.num_tokens for broken in source.broken_off] == [10]
    hold_at(cluster, 2)
    stream = source.resume(1)
    wait_for_tokens(cluster, 13)
    stream.close()
    wait_until(lambda: cluster.num_sessions() == 0 and [each.num_tokens for each in source.broken_off] == [13])
    cluster.network.restore()
    assert pages(tmp_path) == ["broken-00000001.page"]
    assert ids_of(source.resume(1)) == undisturbed[True]


def test_a_resumed_answer_outlives_losses_like_any_other(
    cluster: LastingInProcess, tiny: Path, undisturbed: dict[bool, list[int]]
) -> None:
    """The loss comes before anything of it was computed again, and in the midst of that."""
    stream = resumed(cluster, tiny, BEFORE_ALL)
    wait_for_tokens(cluster, 10)
    cluster.lose(devices_of_plan(cluster)[1])
    wait_until(lambda: cluster.told("recovered"))
    cluster.network.restore()
    assert ids_of(stream) == undisturbed[True]


def test_the_last_device_of_a_resumed_answer_is_lost(
    cluster: LastingInProcess, tiny: Path, undisturbed: dict[bool, list[int]]
) -> None:
    stream = resumed(cluster, tiny, 4)
    wait_for_tokens(cluster, 15)
    cluster.lose(devices_of_plan(cluster)[-1])
    wait_until(lambda: cluster.told("recovered"))
    cluster.network.restore()
    assert ids_of(stream) == undisturbed[True]


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_break_off_at_any_moment_are_whole_in_the_end(
    cluster: LastingInProcess, tiny: Path, seed: int
) -> None:
    """Two at once, three times; each time when some more tokens have come of either."""
    chance = random.Random(seed)
    model = begun(cluster, tiny)
    asked = [dict(max_new_tokens=120, **how) for how in (GREEDY, {**SAMPLED, "seed": seed})]
    calm = [ids_of(model.stream(PROMPT, **how)) for how in asked]
    streams = [model.stream(PROMPT, **how) for how in asked]
    source = cluster.connect()
    whole: list[list[int]] = []
    for device in "def":
        few = chance.randrange(100)
        wait_until(lambda few=few: tokens_of(cluster) >= few or not cluster.coordinator._desk.sessions())  # type: ignore[misc]
        lose_where_nobody_has_room(cluster, devices_of_plan(cluster)[1])
        whole += what_ended(streams)
        source = load_again(cluster, tiny, device)
        streams = [source.resume(each.number) for each in source.broken_off]
    whole += what_ended(streams)
    assert sorted(whole) == sorted(calm)
    assert source.broken_off == ()


def what_ended(streams: list[Stream]) -> list[list[int]]:
    """The answers that are whole."""
    found = []
    for stream in streams:
        with suppress(ShardnetError):
            found.append(ids_of(stream))
    return found


def test_in_half_precision_what_was_told_stays(cluster: LastingInProcess, tiny: Path) -> None:
    model = begun(cluster, tiny, dtype="bfloat16")
    hold_at(cluster, 9)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **SAMPLED)
    wait_for_tokens(cluster, 10)
    break_off(cluster, stream)
    known = stream.result.token_ids
    source = load_again(cluster, tiny)
    with pytest.raises(BadRequest, match="is of"):
        source.resume()
    source.load(tiny, **{**OPTIONS, "dtype": "bfloat16"})
    ids = ids_of(source.resume())
    assert len(known) == 10 and ids[:10] == known and len(ids) == NUM_TOKENS


# ---- the model or the cluster ends ----


def test_unloading_and_another_model_break_off_what_was_asked_of_the_one_before(
    cluster: LastingInProcess, tiny: Path, undisturbed: dict[bool, list[int]]
) -> None:
    model = begun(cluster, tiny)
    hold_at(cluster, 6)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    wait_for_tokens(cluster, 7)
    source = cluster.connect()
    source.unload()
    with pytest.raises(BadRequest, match=r"the model was closed.*shardnet resume 1"):
        ids_of(stream)
    cluster.network.restore()
    with pytest.raises(BadRequest, match="holds no model"):
        source.resume(1)
    source.load(tiny, dtype="float32", split=[3, 2, 1])
    assert ids_of(source.resume(1)) == undisturbed[False]


@pytest.mark.parametrize("how", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_cluster_that_was_ended_and_started_again(
    tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]], how: dict[str, Any]
) -> None:
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        model = begun(cluster, tiny)
        hold_at(cluster, 6)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **how)
        wait_for_tokens(cluster, 7)
        ending = threading.Thread(target=cluster.coordinator.close, daemon=True)
        ending.start()
        with pytest.raises(
            ClusterError, match=r"the cluster was ended.*up --model MODEL --state .*shardnet resume 1 --cluster"
        ):
            ids_of(stream)
        ending.join(30)
    assert pages(tmp_path) == ["broken-00000001.page"]
    modes = [path.stat().st_mode for path in (tmp_path / "state").glob("broken-*")]
    assert [stat.S_IMODE(mode) for mode in modes] == [0o600]
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        begun(cluster, tiny)
        source = cluster.connect()
        assert [(each.number, each.num_tokens) for each in source.broken_off] == [(1, 7)]
        assert ids_of(source.resume()) == undisturbed[bool(how)]
    assert pages(tmp_path) == []


def test_what_a_killed_coordinator_has_left_and_no_device_holds(
    cluster: LastingInProcess, tiny: Path, undisturbed: dict[bool, list[int]]
) -> None:
    model = begun(cluster, tiny)
    hold_at(cluster, 6)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **SAMPLED)
    wait_for_tokens(cluster, 7)
    cluster.kill()
    for device in ("a", "b", "c"):
        cluster.lose(device)
    cluster.network.restore()
    cluster.restart()
    for device in ("a", "b", "c"):
        cluster.join(device)
    begun(cluster, tiny)
    with pytest.raises(ClusterError, match=r"what held this answer is gone\. Let the answer go on then: shardnet res"):
        ids_of(stream)
    assert ids_of(cluster.connect().resume()) == undisturbed[True]


def test_a_coordinator_that_is_killed_just_when_an_answer_breaks_off(
    cluster: LastingInProcess,
    tiny: Path,
    tmp_path: Path,
    undisturbed: dict[bool, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both pages are there, and it is one answer."""
    model = begun(cluster, tiny)
    hold_at(cluster, 6)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **SAMPLED)
    wait_for_tokens(cluster, 7)
    forget, is_kept = Notebook.forget_session, threading.Event()

    def never(notebook: Notebook, ticket: int) -> None:
        is_kept.set()

    monkeypatch.setattr(Notebook, "forget_session", never)
    cluster.connect().unload()
    assert is_kept.wait(10)
    cluster.kill()
    monkeypatch.setattr(Notebook, "forget_session", forget)
    cluster.network.restore()
    cluster.network.kill("@source-1")
    assert len(pages(tmp_path)) == 2
    cluster.restart()
    begun(cluster, tiny)
    source = cluster.connect()
    wait_until(lambda: [each.number for each in source.broken_off] == [1])
    assert pages(tmp_path) == ["broken-00000001.page"]
    assert ids_of(source.resume()) == undisturbed[True]
    del stream


@pytest.mark.parametrize("position", [BEFORE_ALL, IN_PROMPT, 4])
def test_a_coordinator_that_is_killed_while_an_answer_is_resumed(
    cluster: LastingInProcess, tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]], position: int
) -> None:
    """The next one goes on with it, and nobody can resume it beside."""
    model = begun(cluster, tiny)
    hold_at(cluster, 9)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS, **SAMPLED)
    wait_for_tokens(cluster, 10)
    source = cluster.connect()
    source.unload()
    with pytest.raises(BadRequest):
        ids_of(stream)
    cluster.network.restore()
    source.load(tiny, dtype="float32", split=[2, 2, 2], prefill_chunk_tokens=4)
    hold_at(cluster, position)
    stream = source.resume()
    wait_for_tokens(cluster, 10 + max(position + 1, 0))
    cluster.kill()
    cluster.network.restore()
    cluster.restart()
    assert source.broken_off == ()
    begun(cluster, tiny)
    assert len(cluster.told("resumed")) == 1
    assert ids_of(stream) == undisturbed[True]
    wait_until(lambda: pages(tmp_path) == [])


def test_an_answer_that_nobody_had_read_when_the_cluster_was_ended(
    tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]]
) -> None:
    """Its last token had come, and its source was gone, or read slowly: such an answer was lost."""
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        stream = begun(cluster, tiny).stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        wait_until(lambda: cluster.told("session ended"))
        cluster.network.kill("@source-1")
        cluster.coordinator.close()
        assert pages(tmp_path) == ["broken-00000001.page"]
        del stream
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        begun(cluster, tiny)
        assert ids_of(cluster.connect().resume()) == undisturbed[False]


def test_an_end_before_it_is_known_what_goes_on_keeps_what_nobody_has_read_as_it_is(
    cluster: LastingInProcess, tiny: Path, tmp_path: Path
) -> None:
    stream = begun(cluster, tiny).stream(PROMPT, max_new_tokens=NUM_TOKENS)
    next(stream)
    wait_until(lambda: cluster.told("session ended"))
    before = pages(tmp_path)
    cluster.kill()
    cluster.restart()
    cluster.coordinator.close()
    assert len(before) == 1 and pages(tmp_path) == before


# ---- sources that go ----


def test_the_answer_to_a_source_that_is_gone(tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]]) -> None:
    """In the midst of it, and when its last token has come and was not fetched."""
    with lasting_in_process(3, folder=tmp_path / "state", lease_s=1.0) as cluster:
        model = begun(cluster, tiny)
        streams = [model.stream(PROMPT, max_new_tokens=most) for most in (NUM_TOKENS, LONG)]
        wait_until(lambda: cluster.told("session ended"))
        cluster.network.kill("@source-1")
        source = cluster.connect()
        wait_until(lambda: len(source.broken_off) == 2)
        wait_until(lambda: cluster.num_sessions() == 0)
        whole, part = sorted(source.broken_off, key=lambda each: each.max_new_tokens)
        assert whole.num_tokens == NUM_TOKENS and part.num_tokens < LONG
        assert ids_of(source.resume(whole.number)) == undisturbed[False]
        source.forget(part.number)
        assert source.broken_off == ()
        wait_until(lambda: pages(tmp_path) == [])
        del streams


def test_a_source_that_comes_back_too_late_is_told_how_its_answer_goes_on(
    tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]]
) -> None:
    """A laptop that slept: it was told to ask anew."""
    with lasting_in_process(3, folder=tmp_path / "state", lease_s=1.0) as cluster:
        stream = begun(cluster, tiny).stream(PROMPT, max_new_tokens=NUM_TOKENS)
        hold_at(cluster, 6)
        next(stream)
        source = cluster.connect()
        cluster.network.freeze("@source-1")
        wait_until(lambda: source.broken_off)
        cluster.network.restore("@source-1")
        cluster.network.restore()
        with pytest.raises(
            ClusterError, match=r"was not heard of\. Let the answer go on then: shardnet resume 1 --cluster"
        ):
            ids_of(stream)
        assert ids_of(source.resume(1)) == undisturbed[False]
        with pytest.raises(ClusterError, match="Ask anew"):
            source._connection.ask("follow", 5, 0, 0, (), timeout_s=10)


def test_what_its_source_has_ended_is_not_kept(cluster: LastingInProcess, tiny: Path, tmp_path: Path) -> None:
    model = begun(cluster, tiny)
    stream = model.stream(PROMPT, max_new_tokens=LONG)
    next(stream)
    stream.close()
    ids_of(model.stream(PROMPT, max_new_tokens=4))
    with pytest.raises(BadRequest, match="no finite numbers"):
        ids_of(model.stream(PROMPT, max_new_tokens=4, repetition_penalty=1e-40))
    wait_until(lambda: pages(tmp_path) == [])
    assert cluster.connect().broken_off == ()
    cluster.coordinator.close()
    assert pages(tmp_path) == []


def test_stop_strings_count_from_the_beginning(cluster: LastingInProcess, tiny: Path, tmp_path: Path) -> None:
    """One that reaches over the place where the answer broke off."""
    model = begun(cluster, tiny)
    whole = "".join(model.stream("Hello", max_new_tokens=NUM_TOKENS, temperature=0.9, seed=3))
    at = next(at for at in range(4, len(whole) - 3) if whole.find(whole[at : at + 3]) == at)
    stop = whole[at : at + 3]
    calm = model.stream("Hello", max_new_tokens=NUM_TOKENS, temperature=0.9, seed=3, stop=stop)
    ids = ids_of(calm)
    assert calm.result.finish_reason == "stop"
    wait_until(lambda: cluster.num_sessions() == 0)  # what it still sends would count
    hold_at(cluster, len(ids) - 3)
    stream = model.stream("Hello", max_new_tokens=NUM_TOKENS, temperature=0.9, seed=3, stop=stop)
    wait_for_tokens(cluster, len(ids) - 2)
    break_off(cluster, stream)
    source = load_again(cluster, tiny)
    resumed = source.resume()
    assert "".join(resumed) == whole[:at] and resumed.result.finish_reason == "stop"
    assert resumed.result.token_ids == ids
    assert source.broken_off == ()
    wait_until(lambda: pages(tmp_path) == [])


# ---- what is refused ----


def test_each_refusal_is_one_sentence(
    cluster: LastingInProcess, tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]]
) -> None:
    model = begun(cluster, tiny)
    source, other = cluster.connect(), cluster.connect()
    with pytest.raises(BadRequest, match="no answer of this cluster broke off"):
        source.resume()
    with pytest.raises(BadRequest, match="no answer of this cluster broke off"):
        source.forget(3)
    hold_at(cluster, 6)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    wait_for_tokens(cluster, 7)
    second = model.stream(PROMPT, max_new_tokens=LONG)
    source.unload()
    for each in (stream, second):
        with pytest.raises(BadRequest, match="the model was closed"):
            ids_of(each)
    cluster.network.restore()
    assert sorted(each.number for each in source.broken_off) == [1, 2]
    with pytest.raises(BadRequest, match=r"several answers broke off: 1, 2\. Name one"):
        source.resume()
    for strange in ("1", True, 1.5, [1], 0, -1):
        for ask in (source.resume, source.forget):
            with pytest.raises(BadRequest, match="the number of an answer must be "):
                ask(strange)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="the number of an answer must be a whole number, but is None"):
        source.forget(None)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match=r"has the number 7, or it is being resumed\. There are 1, 2"):
        source.resume(7)
    [number] = [each.number for each in source.broken_off if each.max_new_tokens == NUM_TOKENS]

    half = {**OPTIONS, "dtype": "bfloat16"}
    source.load(tiny, **half)
    with pytest.raises(BadRequest, match=r"is of .* \(float32\), and this cluster holds .* \(bfloat16\)\. Load that"):
        source.resume(number)
    other_files = save_text_model(tmp_path / "other" / tiny.name, intermediate=96)
    source.load(other_files, **OPTIONS)
    with pytest.raises(BadRequest, match="with other files than the one that is loaded here"):
        source.resume(number)
    source.load(tiny, **{**OPTIONS, "context_tokens": 40})
    with pytest.raises(BadRequest, match="but the context holds 40"):
        source.resume(number)
    source.load(tiny, **OPTIONS)
    hold_at(cluster, 1)
    first = source.resume(number)
    wait_for_tokens(cluster, 9)
    assert [each.number for each in other.broken_off] == [3 - number]
    _, remote = other._present()
    late = other.broken_off[0]._replace(number=number)  # who has read the list before asks so
    with pytest.raises(BadRequest, match=f"answer {number} is being resumed already"):
        remote.sessions.resume(late, ())
    cluster.network.restore()
    assert ids_of(first) == undisturbed[False]
    with pytest.raises(BadRequest, match=f"no answer that broke off has the number {number}. There are {3 - number}"):
        remote.sessions.resume(late, ())
    source.forget(3 - number)
    wait_until(lambda: pages(tmp_path) == [])


@pytest.mark.parametrize("kind", ["request", "answer", "twice"])
def test_lost_and_repeated_calls_change_nothing(tiny: Path, tmp_path: Path, kind: str) -> None:
    with lasting_in_process(3, speed=50.0, folder=tmp_path / "state") as cluster:
        model = begun(cluster, tiny)
        calm = ids_of(model.stream(PROMPT, max_new_tokens=1500))
        stream = model.stream(PROMPT, max_new_tokens=1500)
        next(stream)
        source = cluster.connect()
        source.unload()
        with pytest.raises(BadRequest, match="shardnet resume 1 "):
            ids_of(stream)
        source.load(tiny, **OPTIONS)
        for endpoint in ("broken_off", "resume_session", "forget_session"):
            cluster.disturb("@source-2", endpoint, kind)
        assert ids_of(source.resume()) == calm
        assert source.broken_off == () and len(cluster.told("session began")) == 3
        wait_until(lambda: cluster.num_sessions() == 0 and pages(tmp_path) == [])


# ---- pages ----


def test_a_torn_page_is_passed_over_and_its_number_not_given_again(
    tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]]
) -> None:
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        model = begun(cluster, tiny)
        streams = [model.stream(PROMPT, max_new_tokens=LONG) for _ in range(3)]
        for each in streams:
            next(each)
        cluster.coordinator.close()
    torn, damaged, _ = sorted((tmp_path / "state").glob("broken-*.page"))
    torn.write_bytes(torn.read_bytes()[:-1])
    damaged.write_bytes(b"")
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        model = begun(cluster, tiny)
        source = cluster.connect()
        assert [each.number for each in source.broken_off] == [3]
        with pytest.raises(BadRequest, match="has the number 1"):
            source.resume(1)
        source.forget(3)
        stream = model.stream(PROMPT, max_new_tokens=LONG)
        next(stream)
        source.unload()
        with pytest.raises(BadRequest, match="shardnet resume 4 "):
            ids_of(stream)


def test_pages_that_are_no_pages_do_no_harm(tmp_path: Path) -> None:
    """One with a right sum that says something impossible, a copy of another one, an empty one, and one that cannot be
    read now: that one may be read another time, and stays.
    """
    with closing(StateFolder(tmp_path / "state")) as state:
        notebook = Notebook(state)
        notebook.keep_broken_off(page(2, time.time()))
        whole = tmp_path / "state" / "broken-00000002.page"
        names = {
            "strange": "broken-00000001.page",
            "copy": "broken-00000002 (copy).page",
            "lent": "broken-00000003.page",
        }
        places = {name: tmp_path / "state" / file for name, file in names.items()}
        notebook.keep_broken_off(page(1, time.time())._replace(at_s="today"))  # type: ignore[arg-type]
        assert places["strange"].exists()
        for number, at_s in ((0, 1.0), (-1, 1.0), (5, math.nan), (6, math.inf), (7, 1e300), (8, -1.0)):
            assert notebook.keep_broken_off(page(number, at_s))
        places["copy"].write_bytes(whole.read_bytes())
        places["lent"].symlink_to(tmp_path / "disk" / "page")
        sessions = BrokenSessions(notebook)
        assert [each.number for each in sessions.listed()] == [2]
        assert not places["strange"].exists() and not places["copy"].exists() and places["lent"].is_symlink()
        assert pages(tmp_path) == ["broken-00000002.page", "broken-00000003.page"]


def request(ticket: int) -> SessionRequest:
    return SessionRequest(ticket, "@source", 1, (1, 2, 3), 8, SamplingOptions(), ("end",))


def page(number: int, at_s: float) -> BrokenPage:
    answer = (SampledToken(5, 0, 7, ""),)
    return BrokenPage(number, request(number), ModelMark("m", "c", "float32", "float32"), answer, at_s)


def test_two_pages_of_one_answer(tmp_path: Path) -> None:
    """One has just ended, and its page could not be removed, when another source resumed the answer. A coordinator that
    was killed then could not be started again in that folder.
    """
    with closing(StateFolder(tmp_path / "state")) as state:
        notebook = Notebook(state)
        kept = page(1, time.time())
        notebook.keep_broken_off(kept)
        spec = SessionSpec(9, 11, 3, 3, 8, (), SamplingOptions())
        for ticket in (7, 8):
            notebook.keep_session(
                SessionPage(request(ticket), spec._replace(session=ticket), kept.mark, 1, kept.answer)
            )
        desk = SessionDesk(no_model, lambda _: None, notebook=notebook)
        assert len(desk.left()) == 2 and desk.broken_off() == ()
        desk.go_on({})
        assert [each.number for each in desk.broken_off()] == [1]
        assert pages(tmp_path) == ["broken-00000001.page"]


def test_an_answer_that_ends_in_two_ways_at_once_has_one_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What held it was gone, and so was its source: both were noticed at the same time, and it was there twice."""
    with closing(StateFolder(tmp_path / "state")) as state:
        notebook = Notebook(state)
        spec = SessionSpec(9, 11, 3, 3, 8, (), SamplingOptions())
        mark = ModelMark("m", "c", "float32", "float32")
        notebook.keep_session(SessionPage(request(7), spec, mark, 0, ()))
        desk = SessionDesk(no_model, lambda _: None, notebook=notebook)
        keep = Notebook.keep_broken_off
        other = threading.Thread(target=desk.go_on, args=({},))

        def keep_slowly(notebook: Notebook, page: BrokenPage) -> bool:
            if other.ident is None:
                other.start()
                other.join(0.5)
            return keep(notebook, page)

        monkeypatch.setattr(Notebook, "keep_broken_off", keep_slowly)
        desk.look(time.monotonic() + 3600)
        other.join(10)
        assert [each.number for each in desk.broken_off()] == [1]


@pytest.mark.parametrize("number", [0, 1])
def test_what_its_source_has_ended_before_it_was_known_what_goes_on(tmp_path: Path, number: int) -> None:
    """Where nothing went on, it was kept all the same. One that was resumed stays what it was."""
    with closing(StateFolder(tmp_path / "state")) as state:
        desk = desk_with_one_session(state, number)
        desk.close_session(7)
        desk.go_on({})
        assert [each.number for each in desk.broken_off()] == [1] * number
        assert pages(tmp_path) == ["broken-00000001.page"] * number


def test_an_end_just_when_it_is_known_what_goes_on(tmp_path: Path) -> None:
    """Sessions that went on were closed, and their pages removed, as if their sources had ended them."""
    with closing(StateFolder(tmp_path / "state")) as state:
        desk = desk_with_one_session(state, 0)
        [left] = desk.left()
        desk.close()
        desk.go_on({left.spec.session: Session(Nobody(), left.spec, left.prompt_ids, left.answer())})
        wait_until(lambda: pages(tmp_path) == ["broken-00000001.page"])


def desk_with_one_session(state: StateFolder, number: int) -> SessionDesk:
    """As a coordinator was killed. Args: `number`, of the answer that the session resumes; 0 for none."""
    notebook = Notebook(state)
    kept = page(1, time.time())
    if number:
        notebook.keep_broken_off(kept)
    spec = SessionSpec(9, 11, 3, 3, 8, (), SamplingOptions())
    notebook.keep_session(SessionPage(request(7), spec, kept.mark, number, kept.answer))
    return SessionDesk(no_model, lambda _: None, notebook=notebook)


class Nobody:
    """Whoever opened a session, and holds it no more."""

    def close_session(self, session: int) -> None:
        pass

    def close_session_later(self, session: int) -> None:
        pass


def no_model() -> Loaded:
    raise BadRequest("none")


def test_what_cannot_be_written_is_not_promised(
    cluster: LastingInProcess, tiny: Path, tmp_path: Path, undisturbed: dict[bool, list[int]]
) -> None:
    """The disk was full, and sources were told to resume what no later process had ever heard of. What was written down
    before stays.
    """
    model = begun(cluster, tiny)
    hold_at(cluster, 3)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    wait_for_tokens(cluster, 4)
    (tmp_path / "state" / "broken-00000001.page.half").mkdir()
    source = cluster.connect()
    source.unload()
    with pytest.raises(BadRequest, match=r"the model was closed\. Load it again\.$"):
        ids_of(stream)
    assert source.broken_off == () and pages(tmp_path) == []
    cluster.network.restore()
    source.load(tiny, **OPTIONS)
    hold_at(cluster, 3)
    stream = source.model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    wait_for_tokens(cluster, 4)
    source.unload()
    with pytest.raises(BadRequest, match="shardnet resume 2 "):
        ids_of(stream)
    cluster.network.restore()
    (tmp_path / "state" / "broken-00000002.page.half").mkdir()
    source.load(tiny, **OPTIONS)
    hold_at(cluster, 3)
    stream = source.resume(2)
    wait_for_tokens(cluster, 8)
    source.unload()
    with pytest.raises(BadRequest, match="shardnet resume 2 "):
        ids_of(stream)
    cluster.network.restore()
    assert [(each.number, each.num_tokens) for each in source.broken_off] == [(2, 4)]
    source.load(tiny, **OPTIONS)
    assert ids_of(source.resume(2)) == undisturbed[False]


def test_what_cannot_be_removed_is_not_said_to_be_forgotten(tmp_path: Path) -> None:
    """The disk can only be read any more, say: the prompt was still there, and came back with the next coordinator."""
    with closing(StateFolder(tmp_path / "state")) as state:
        notebook = Notebook(state)
        notebook.keep_broken_off(page(1, time.time()))
        sessions = BrokenSessions(notebook)
        whole = tmp_path / "state" / "broken-00000001.page"
        whole.unlink()
        whole.mkdir()  # which no file is removed from
        with pytest.raises(ClusterError, match="answer 1 cannot be removed from the disk"):
            sessions.forget(1)
        assert [each.number for each in sessions.listed()] == [1]
        whole.rmdir()
        sessions.forget(1)
        assert sessions.listed() == ()


def test_pages_do_not_pile_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that broke off first go first, but for those that are being resumed just now."""
    monkeypatch.setattr(broken_off, "MOST_KEPT", 3)
    now_s = [1000.0]
    state = StateFolder(tmp_path / "state")
    notebook = Notebook(state)
    for number, at_s in ((1, 10.0), (2, 30.0), (3, 20.0)):
        notebook.keep_broken_off(page(number, at_s))
    sessions = BrokenSessions(notebook, lambda: now_s[0])
    assert [each.number for each in sessions.listed()] == [1, 2, 3]
    claimed = sessions.claim(1, 77)
    assert claimed == page(1, 10.0)
    spec = SessionSpec(9, 11, 3, 3, 8, (), SamplingOptions())
    session = SessionPage(request(9), spec, claimed.mark, 0, ())
    assert sessions.keep(0, session, claimed.answer) == 4
    assert [each.number for each in sessions.listed()] == [2, 4]
    now_s[0] = 30.0 + KEPT_S + 1
    sessions.drop_old()
    assert [each.number for each in sessions.listed()] == [4] and 1 in sessions
    sessions.release(1, 78)
    assert 1 in sessions and [each.number for each in sessions.listed()] == [4]
    sessions.release(1, 77)
    sessions.drop_old()
    assert pages(tmp_path) == ["broken-00000004.page"]
    state.close()


def test_what_broke_off_before_the_clock_was_set_is_as_old_as_that(tmp_path: Path) -> None:
    """Once, a board without a battery dropped it as from 1970 as soon as it knew the time."""
    now_s = [100.0]
    with closing(StateFolder(tmp_path / "state")) as state:
        notebook = Notebook(state)
        notebook.keep_broken_off(page(1, 90.0))
        sessions = BrokenSessions(notebook, lambda: now_s[0])
        now_s[0] = UNSET_S + 1000.0
        sessions.drop_old()
        assert [each.number for each in sessions.listed()] == [1]
        now_s[0] += KEPT_S + 1
        sessions.drop_old()
        assert sessions.listed() == ()
