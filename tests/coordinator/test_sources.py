"""Sources of a cluster that outlives them, with real stages in one process: whatever gets lost, each gets its answer,
or a sentence, and nothing is left of those that are gone."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import PROMPT, alone
from lasting_in_process import LastingInProcess, lasting_in_process
from processes import wait_until

from shardnet.cluster.cluster import Cluster
from shardnet.cluster.model import Model
from shardnet.coordinator import loads
from shardnet.coordinator.desk import SessionDesk
from shardnet.coordinator.loads import Loads
from shardnet.errors import BadRequest, ClusterError, DoesNotFit, KVMemorySpent, ModelNotFound
from shardnet.launch.cluster import ask
from shardnet.loader import open_model
from shardnet.session.session import Session
from shardnet.source import remote_deployment, running_cluster
from shardnet.source.running_cluster import RunningCluster
from shardnet.transport.session_messages import SamplingOptions
from shardnet.transport.source_messages import COORDINATOR

SPLIT = [3, 3]
NUM_TOKENS = 12
PROMPTS = [PROMPT, [40, 41, 42], [100, 101, 102, 103, 104, 105, 106]]
LONG = 4000
"""Tokens of an answer that does not end by itself in time."""


@pytest.fixture(scope="module")
def expected(tiny: Path) -> list[list[int]]:
    return alone(tiny, PROMPTS, NUM_TOKENS)


@pytest.fixture
def cluster() -> Iterator[LastingInProcess]:
    with lasting_in_process() as cluster:
        yield cluster


def loaded(source: RunningCluster, tiny: Path) -> Model:
    return source.load(tiny, dtype="float32", split=SPLIT)


def answers(model: Model) -> list[list[int]]:
    return [result.token_ids for result in model.generate(PROMPTS, max_new_tokens=NUM_TOKENS)]


def test_every_source_uses_what_one_has_loaded(
    cluster: LastingInProcess, tiny: Path, expected: list[list[int]]
) -> None:
    with cluster.connect() as source:
        model = loaded(source, tiny)
        assert answers(model) == expected
        assert [(stage.device, stage.last_unit) for stage in model.plan.stages] == [("a", 2), ("b", 5)]
        assert model.profile.num_units == 6
    sources = [cluster.connect() for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda source: answers(source.model), sources)) == [expected] * 3
    assert cluster.told("loaded") == [f"{tiny.name} is loaded: units 0-2 on a, units 3-5 on b."]
    assert len(cluster.told("session began")) == 12
    wait_until(lambda: len(cluster.told("session ended")) == 12)  # told when its source has heard the last token
    wait_until(lambda: cluster.num_sessions() == 0)


def test_an_answer_says_how_much_of_its_prompt_was_there(cluster: LastingInProcess, tiny: Path) -> None:
    """From another answer, of whatever source."""
    prompt = [7 + 3 * number for number in range(30)]
    with cluster.connect() as source:
        assert loaded(source, tiny).generate([prompt], max_new_tokens=2)[0].cached_prompt_tokens == 0
    with cluster.connect() as source:
        stream = source.model.stream([*prompt, 5, 6], max_new_tokens=LONG)
        next(stream)
        [session] = source.status().sessions
        stream.close()
        assert session.cached_prompt_tokens == stream.result.cached_prompt_tokens == len(prompt)
        assert stream.result.prompt_tokens == len(prompt) + 2


def test_who_asks_while_a_model_is_being_opened_waits_for_it(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, who asked while a GGUF file was converted was told that there is no model."""
    may_open = threading.Event()

    def open_slowly(*args: Any, **options: Any) -> Any:
        may_open.wait()
        return open_model(*args, **options)

    monkeypatch.setattr(loads, "open_model", open_slowly)
    first, second = cluster.connect(), cluster.connect()
    with ThreadPoolExecutor(2) as threads:
        loading = threads.submit(loaded, first, tiny)
        wait_until(lambda: second.status().loading == str(tiny))
        asking = threads.submit(lambda: second.model)
        may_open.set()
        assert asking.result().plan.devices == loading.result().plan.devices
    with pytest.raises(ModelNotFound):
        first.load(tiny / "none")
    assert not first.status().loading and first.model is not None


def test_a_model_that_is_asked_for_again_is_the_same_one(cluster: LastingInProcess, tiny: Path) -> None:
    """Each time there was another one, with a thread of its own."""
    with cluster.connect() as source:
        model = loaded(source, tiny)
        assert source.model is model and source.model is model
        model.close()
        again = source.model
        assert again is not model and again is source.model
        again.generate([PROMPT], max_new_tokens=2)
        other = loaded(source, tiny)
        assert other is not again and other is source.model


def test_text_streams_and_loops_are_those_of_any_model(cluster: LastingInProcess, tiny: Path) -> None:
    source = cluster.connect()
    model = loaded(source, tiny)
    whole = model.generate(["Hello"], max_new_tokens=NUM_TOKENS, temperature=0.9, seed=3)[0]
    with model.stream("Hello", max_new_tokens=NUM_TOKENS, temperature=0.9, seed=3) as stream:
        assert "".join(stream) == whole.text
    assert stream.result.token_ids == whole.token_ids
    assert stream.result.prompt_tokens == 5 and stream.result.finish_reason == "length"

    async def ask() -> str:
        return "".join([piece async for piece in model.astream("Hello", max_new_tokens=NUM_TOKENS)])

    assert asyncio.run(ask()) == model.generate(["Hello"], max_new_tokens=NUM_TOKENS)[0].text


def test_reports_and_profiles_reach_a_source(cluster: LastingInProcess, tiny: Path, tmp_path: Path) -> None:
    source = cluster.connect()
    model = source.load(tiny, dtype="float32", split=SPLIT, record_spans=True)
    model.reset_report()
    model.generate([PROMPT], max_new_tokens=NUM_TOKENS)
    num_tokens = len(PROMPT) + NUM_TOKENS - 1
    # A stage sends what a step gave, and counts it then.
    wait_until(
        lambda: [(each.device, each.num_tokens) for each in model.report()] == [("a", num_tokens), ("b", num_tokens)]
    )
    assert all(report.compute_s > 0 for report in model.report())
    model.write_profile(tmp_path / "run")
    assert '"compute' in (tmp_path / "run" / "trace.json").read_text()


def test_how_the_cluster_is(cluster: LastingInProcess, tiny: Path) -> None:
    source, other = cluster.connect(), cluster.connect()
    empty = source.status()
    assert [(each.name, each.state, each.units) for each in empty.members] == [
        ("a", "present", ()),
        ("b", "present", ()),
    ]
    assert (empty.model, empty.plan_version, empty.sessions) == ("", 0, ())
    assert empty.sources == ("@source-1", "@source-2")
    stream = loaded(other, tiny).stream(PROMPT, max_new_tokens=LONG)
    next(stream)
    busy = source.status()
    assert [each.units for each in busy.members] == [((0, 2),), ((3, 5),)]
    assert [each.num_sessions for each in busy.members] == [1, 1]
    assert (busy.model, busy.plan_version) == (tiny.name, 1)
    [session] = busy.sessions
    assert (session.source, session.prompt_tokens) == ("@source-2", len(PROMPT))
    stream.close()
    wait_until(lambda: source.status().sessions == ())
    other.unload()
    assert source.status().model == "" and source.status().why_none == ""


def test_what_a_source_asks_wrongly_is_one_sentence_and_harms_nobody(
    cluster: LastingInProcess, tiny: Path, expected: list[list[int]]
) -> None:
    source = cluster.connect()
    with pytest.raises(BadRequest, match=r"holds no model\. Load one: shardnet load"):
        source.model  # noqa: B018
    model = loaded(source, tiny)
    with pytest.raises(ModelNotFound, match=r"There is no \./nothing"):
        source.load("./nothing")
    with pytest.raises(BadRequest, match="dtype must be one of"):
        source.load(tiny, dtype="int3")
    with pytest.raises(BadRequest, match="but the context holds 4096"):
        model.stream(PROMPT, max_new_tokens=5000)
    with pytest.raises(BadRequest, match=r"no device of this cluster is called 'c'\. There are a, b"):
        source.leave("c")
    with pytest.raises(BadRequest, match=r"a answers\. Let it leave in order"):
        source.remove("a")
    assert answers(model) == expected, "what was loaded stays"


def test_commands_in_sentences_mean_the_cluster_that_was_asked(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They meant the one in the default folder, which may be another one."""
    folder = tmp_path / "state"
    with lasting_in_process(0, folder=folder) as cluster:
        source = cluster.connect()
        with pytest.raises(BadRequest, match=f"Load one: shardnet load MODEL --cluster {folder}$"):
            source.model  # noqa: B018
        with pytest.raises(DoesNotFit, match=f"Let one join: shardnet join --cluster {folder}$"):
            cluster.coordinator.begin(str(tiny), {}).done.result(30)
        for name in "ab":
            cluster.join(name)
        with pytest.raises(BadRequest, match=f"Let it leave in order: shardnet leave a --cluster {folder}$"):
            source.remove("a")
        monkeypatch.setattr(RunningCluster, "connect", staticmethod(lambda folder: source))
        with pytest.raises(BadRequest, match=f"Name one: shardnet leave b --cluster {folder}$"):
            ask.tell_device(folder, "leave", None)


def test_the_coordinator_checks_what_a_source_did_not(cluster: LastingInProcess, tiny: Path) -> None:
    """Ids that are none of the model's would end the stage that looks them up, for everybody."""
    model = loaded(cluster.connect(), tiny)
    sessions = model.deployment.sessions
    with pytest.raises(BadRequest, match="not in the model's vocabulary"):
        sessions.start([10**6], max_new_tokens=4, eos_ids=(), sampling=SamplingOptions())
    with pytest.raises(BadRequest, match="the context holds 4096"):
        sessions.start([5], max_new_tokens=10**6, eos_ids=(), sampling=SamplingOptions())
    with pytest.raises(BadRequest, match="top_p must be"):
        sessions.start([5], max_new_tokens=4, eos_ids=(), sampling=SamplingOptions(top_p=7.0))
    assert len(answers(model)) == 3


def test_many_prompts_wait_for_their_turn(cluster: LastingInProcess, tiny: Path) -> None:
    """Memory for one session at a time: the error that says so crosses the wire as itself."""
    source = cluster.connect()
    model = source.load(tiny, dtype="float32", split=SPLIT, kv_memory_bytes=2**17)
    first = model.stream(PROMPT, max_new_tokens=100)
    with pytest.raises(KVMemorySpent):
        model.stream(PROMPT, max_new_tokens=LONG)
    first.close()
    results = model.generate([PROMPT] * 8, max_new_tokens=60)
    assert [len(result.token_ids) for result in results] == [60] * 8


# ---- sources that go ----


def test_a_source_that_leaves_ends_its_sessions_at_once(cluster: LastingInProcess, tiny: Path) -> None:
    with cluster.connect() as source:
        model = loaded(source, tiny)
        streams = [model.stream(PROMPT, max_new_tokens=LONG) for _ in range(3)]
        next(streams[0])
        assert cluster.num_sessions() == 6
    wait_until(lambda: cluster.num_sessions() == 0, 5)
    wait_until(lambda: len(cluster.told("session ended")) == 3)


def test_a_stream_that_nobody_reads_is_closed(cluster: LastingInProcess, tiny: Path) -> None:
    model = loaded(cluster.connect(), tiny)
    stream = model.stream(PROMPT, max_new_tokens=LONG)
    next(stream)
    del stream
    wait_until(lambda: cluster.num_sessions() == 0, 5)
    assert len(answers(model)) == 3


def test_a_stream_that_nobody_has_begun_to_read_is_closed(
    cluster: LastingInProcess, tiny: Path, expected: list[list[int]]
) -> None:
    """It went on to its end, held its memory for a lease, and was kept as an answer that broke off."""
    source = cluster.connect()
    model = loaded(source, tiny)
    stream = model.stream(PROMPT, max_new_tokens=LONG)
    assert cluster.num_sessions() == 2
    del stream
    wait_until(lambda: cluster.num_sessions() == 0, 5)
    wait_until(lambda: not model.deployment.sessions._opened)  # type: ignore[attr-defined]
    assert answers(model) == expected


def test_who_holds_no_model_any_more_keeps_nothing_of_it(cluster: LastingInProcess, tiny: Path) -> None:
    """The coordinator kept the last 256 with their tokenizers, and a source all that it had ever asked."""
    source = cluster.connect()
    asked = weakref.ref(loaded(source, tiny))
    held = weakref.ref(cluster.coordinator._loads.loaded().model)
    loaded(source, tiny)
    for model in (held, asked):
        wait_until(lambda model=model: gc.collect() is not None and model() is None)  # type: ignore[misc]


def test_a_source_that_is_killed_keeps_its_sessions_for_a_lease(tiny: Path) -> None:
    with lasting_in_process(lease_s=1.0) as cluster:
        keeper, source = cluster.connect(), cluster.connect()
        loaded(keeper, tiny)
        kept = keeper.model.stream(PROMPT, max_new_tokens=LONG)
        stream = source.model.stream(PROMPT, max_new_tokens=LONG)
        next(stream)
        began_s = time.monotonic()
        cluster.network.kill("@source-2")
        while cluster.num_sessions() > 2:
            next(kept)
            assert time.monotonic() < began_s + 20
        assert time.monotonic() > began_s + 0.9
        assert next(kept), "who follows keeps it"


# ---- calls that get lost, twice, late ----

ENDPOINTS = ("start_session", "follow", "close_session", "load", "model_info", "cluster_status")


@pytest.mark.parametrize("kind", ["request", "answer", "twice"])
def test_lost_and_repeated_calls_change_nothing(tiny: Path, expected: list[list[int]], kind: str) -> None:
    with lasting_in_process(speed=100.0) as cluster:
        source = cluster.connect()
        for endpoint in ENDPOINTS:
            cluster.disturb("@source-1", endpoint, kind)
        assert answers(loaded(source, tiny)) == expected
        wait_until(lambda: cluster.num_sessions() == 0, 10)
        assert len(cluster.told("loaded")) == 1
        assert len(cluster.told("session began")) == 3


def test_what_was_asked_before_is_not_done_again(cluster: LastingInProcess, tiny: Path) -> None:
    """A message that comes twice may come late: then it is for another model, or another device of that name."""
    source = cluster.connect()

    def ask(endpoint: str, *args: object) -> object:
        return source._connection.ask(endpoint, *args, timeout_s=10)

    loaded(source, tiny)
    ask("unload", 7)
    assert source.status().model == ""
    loaded(source, tiny)
    ask("unload", 7)
    assert source.status().model == tiny.name
    for _ in range(2):
        ask("leave", 8, "b")
        assert cluster.workers["b"].left.is_set()
    cluster.leave("b")
    wait_until(lambda: cluster.told("left") == ["b has left."])
    cluster.join("b")
    wait_until(lambda: source.devices == ("a", "b"))
    ask("leave", 8, "b")
    assert not cluster.workers["b"].left.is_set()


@pytest.mark.parametrize("seed", range(4))
def test_calls_in_any_order_change_nothing(tiny: Path, expected: list[list[int]], seed: int) -> None:
    with lasting_in_process(speed=20.0) as cluster:
        source = cluster.connect()
        model = loaded(source, tiny)
        cluster.network.scatter(0.2, seed)
        assert answers(model) == expected
        stream = model.stream(PROMPT, max_new_tokens=LONG)
        next(stream)
        stream.close()
        wait_until(lambda: cluster.num_sessions() == 0, 10)


def test_a_session_that_was_closed_before_its_start_arrived_is_not_opened(
    cluster: LastingInProcess, tiny: Path
) -> None:
    source = cluster.connect()
    model = loaded(source, tiny)
    cluster.network.delay("@source-1", COORDINATOR, 0.5)
    opening = threading.Thread(target=lambda: _refused(model), daemon=True)
    opening.start()
    time.sleep(0.1)
    cluster.network.restore()
    [session] = list(model.deployment.sessions._opened.values())  # type: ignore[attr-defined]
    session.cancel()
    opening.join(10)
    assert not opening.is_alive()
    assert cluster.num_sessions() == 0 and cluster.told("session began") == []


def test_a_source_that_asks_again_and_again_is_waited_for(
    tiny: Path, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, where its session took longer than a lease to be opened, another one was opened for it beside."""
    opened: list[object] = []
    open_session = SessionDesk._open

    def late(desk: SessionDesk, *asked: Any) -> Session | None:
        opened.append(asked)
        time.sleep(2.5)  # several leases
        return open_session(desk, *asked)

    monkeypatch.setattr(SessionDesk, "_open", late)
    monkeypatch.setattr(remote_deployment, "OPEN_S", 0.1)
    with lasting_in_process(2, lease_s=1.0) as cluster:
        model = loaded(cluster.connect(), tiny)
        [result] = model.generate([PROMPT], max_new_tokens=NUM_TOKENS)
        assert result.token_ids == expected[0] and len(opened) == 1


def _refused(model: Model) -> None:
    with pytest.raises(BadRequest, match="was closed"):
        model.stream(PROMPT, max_new_tokens=LONG)


# ---- a coordinator that goes ----


def test_a_coordinator_that_is_silent_for_a_while_is_waited_for(
    cluster: LastingInProcess, tiny: Path, expected: list[list[int]]
) -> None:
    model = loaded(cluster.connect(), tiny)
    stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
    next(stream)
    cluster.network.freeze(COORDINATOR)
    thaw = threading.Timer(1.0, cluster.network.restore, [COORDINATOR])
    thaw.start()
    for _ in stream:
        pass
    thaw.join()
    assert stream.result.token_ids == expected[0]


@pytest.mark.parametrize("how", ["killed", "left"])
def test_a_coordinator_that_is_gone_is_one_sentence(cluster: LastingInProcess, tiny: Path, how: str) -> None:
    source = cluster.connect(away_s=0.5)
    stream = loaded(source, tiny).stream(PROMPT, max_new_tokens=LONG)
    next(stream)
    if how == "killed":
        cluster.network.kill(COORDINATOR)
    else:
        cluster.coordinator._transport.close()
    with pytest.raises(ClusterError, match=r"has not answered for|the cluster was ended") as caught:
        for _ in stream:
            pass
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ClusterError):
        source.status()


def test_a_cluster_that_ends_tells_those_who_wait(cluster: LastingInProcess, tiny: Path) -> None:
    """They got what had come so far, as if it were all."""
    stream = loaded(cluster.connect(), tiny).stream(PROMPT, max_new_tokens=LONG)
    next(stream)
    threading.Timer(0.2, cluster.coordinator.close).start()
    with pytest.raises(ClusterError, match="the cluster was ended"):
        for _ in stream:
            pass


def test_a_coordinator_that_takes_its_time_is_waited_for(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever unloaded in the midst of a long load, or told a device to leave from which much had to move, was told
    after a minute that the coordinator does not answer."""
    source = cluster.connect(away_s=0.3)
    loaded(source, tiny)
    may_go_on = threading.Event()
    unload = Loads._unload

    def slowly(loads: Loads) -> None:
        may_go_on.wait(60)
        unload(loads)

    monkeypatch.setattr(Loads, "_unload", slowly)
    monkeypatch.setattr(running_cluster, "ASK_S", 0.2)
    cluster.network.at("unload", 5, may_go_on.set)
    source.unload()
    assert may_go_on.is_set()


def test_unloading_what_is_being_loaded_says_what_it_was(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said that no model was loaded."""
    source = cluster.connect()
    monkeypatch.setattr(RunningCluster, "connect", staticmethod(lambda folder: source))
    may_go_on = threading.Event()
    load = Cluster.load

    def slowly(here: Cluster, model: Any, **options: Any) -> Model:
        may_go_on.wait(60)
        return load(here, model, **options)

    monkeypatch.setattr(Cluster, "load", slowly)
    cluster.coordinator.load(5, str(tiny), {"dtype": "float32", "split": (3, 3)})
    wait_until(lambda: source.status().loading == tiny.name)
    cluster.network.at("unload", 0, may_go_on.set)
    ask.unload(Path("state"))
    assert capsys.readouterr().out == f"{tiny.name} is unloaded.\n"


# ---- a model that finds no room ----


@pytest.fixture
def full(cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> LastingInProcess:
    """Nothing fits."""

    def refuse(here: Cluster, model: Any, **options: Any) -> Model:
        raise DoesNotFit("there is no room.")

    monkeypatch.setattr(Cluster, "load", refuse)
    with pytest.raises(DoesNotFit):
        cluster.coordinator.begin(str(tiny), {"dtype": "float32"}).done.result(30)
    return cluster


def test_who_only_asks_is_no_reason_to_load_again(full: LastingInProcess) -> None:
    """Each command that came and went had it tried twice."""
    with full.connect():
        pass
    full.join("c")
    wait_until(lambda: len(full.told("loading")) >= 2)
    full.coordinator._loads._errands.settle(30)
    assert len(full.told("loading")) == 2


def test_what_comes_while_it_is_tried_is_tried_once(full: LastingInProcess) -> None:
    """While a download took minutes it was looked for four times a second what had become of the model before, and each
    look tried anew to load that."""
    loads = full.coordinator._loads
    may_go_on = threading.Event()
    loads._errands.do(may_go_on.wait)
    for _ in range(5):
        loads.look()
    may_go_on.set()
    loads._errands.settle(30)
    assert len(full.told("loading")) == 2
    loads.look()
    loads._errands.settle(30)
    assert len(full.told("loading")) == 3


# ---- models and devices that change ----


def test_another_model_ends_the_answers_of_the_one_before(cluster: LastingInProcess, tiny: Path) -> None:
    source, other = cluster.connect(), cluster.connect()
    model = loaded(source, tiny)
    stream = model.stream(PROMPT, max_new_tokens=LONG)
    next(stream)
    assert len(answers(loaded(other, tiny))) == 3
    with pytest.raises(BadRequest, match="the model was closed"):
        for _ in stream:
            pass
    with pytest.raises(ClusterError, match="holds another model by now"):
        model.stream(PROMPT)
    assert len(answers(source.model)) == 3


def test_who_joins_is_used_by_the_next_load_and_who_leaves_by_none(
    cluster: LastingInProcess, tiny: Path, expected: list[list[int]]
) -> None:
    source = cluster.connect()
    loaded(source, tiny)
    cluster.join("c")
    wait_until(lambda: source.devices == ("a", "b", "c"))
    assert {stage.device for stage in source.model.plan.stages} == {"a", "b"}
    model = source.load(tiny, dtype="float32", split=[2, 2, 2])
    assert answers(model) == expected
    assert source.leave("b") in ("units 2-3 went to a", "units 2-3 went to c")
    assert cluster.workers["b"].left.wait(5)
    cluster.leave("b")
    wait_until(lambda: source.devices == ("a", "c"))
    assert cluster.told("left") == ["b has left."] and cluster.told("lost") == []
    assert source.leave("c").endswith(" went to a")
    cluster.leave("c")
    assert source.leave("a") == "nobody else could take over units 0-5 before"


def test_a_lost_device_is_replaced_and_a_source_notices_nothing(tiny: Path, expected: list[list[int]]) -> None:
    with lasting_in_process() as cluster:
        model = loaded(cluster.connect(), tiny)
        stream = model.stream(PROMPT, max_new_tokens=NUM_TOKENS)
        next(stream)
        cluster.lose("b")
        for _ in stream:
            pass
        assert stream.result.token_ids == expected[0]
        assert [event.event for event in model.events] == ["lost", "recovered"]
        assert {stage.device for stage in model.plan.stages} == {"a"} and model.plan.version == 2
        wait_until(lambda: cluster.told("recovered"))
        kinds = [event.event for event in cluster.events]
        assert kinds[kinds.index("lost") :].count("taken over") == kinds.count("recovered") == 1


def test_who_is_about_to_leave_takes_over_nothing(tiny: Path, expected: list[list[int]]) -> None:
    with lasting_in_process(3) as cluster:
        model = cluster.connect().load(tiny, dtype="float32", placement="spread", rebalance=False, standby_gib=0.5)
        assert cluster.coordinator._goodbye("a") and cluster.coordinator._goodbye("c")
        assert cluster.coordinator._drain("a").result(30) == "units 0-1 went to b"
        assert cluster.coordinator._drain("c").result(30) == "others hold what c held"
        assert model.plan.devices == ("b",)
        assert answers(model) == expected


def test_a_model_comes_back_when_devices_do(tiny: Path, expected: list[list[int]]) -> None:
    with lasting_in_process(1) as cluster:
        source = cluster.connect()
        model = source.load(tiny, dtype="float32", placement="even")
        assert answers(model) == expected
        cluster.lose("a")
        wait_until(lambda: cluster.told("lost"))
        with pytest.raises((ClusterError, DoesNotFit)):
            answers(source.model)
        cluster.join("b")
        wait_until(lambda: len(cluster.told("loaded")) == 2)
        assert answers(source.model) == expected
