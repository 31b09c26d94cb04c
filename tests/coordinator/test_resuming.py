"""A coordinator that is killed, and the one that comes after it: real stages in one process, and a state folder."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import PROMPT, alone
from lasting_in_process import LastingInProcess, lasting_in_process
from processes import wait_until

from shardnet.cluster import resuming, standby, watch
from shardnet.cluster.model import Model
from shardnet.cluster.rings import Rings
from shardnet.coordinator.desk import SessionDesk
from shardnet.coordinator.notebook import MODEL
from shardnet.device.stage_host import StageHost
from shardnet.device.worker import Worker
from shardnet.errors import ClusterError
from shardnet.loader import fingerprint, open_model
from shardnet.policy.membership import Limits

OPTIONS: dict[str, Any] = {"dtype": "float32", "split": (2, 2, 2), "prefill_chunk_tokens": 4}
LONG_PROMPT = [5 + index % 90 for index in range(300)]
NUM_TOKENS = 150
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_k": 20, "repetition_penalty": 1.3, "seed": 11}
GREEDY: dict[str, Any] = {}


@pytest.fixture(scope="module")
def greedy(tiny: Path) -> list[int]:
    [ids] = alone(tiny, [LONG_PROMPT], NUM_TOKENS)
    return ids


@pytest.fixture(scope="module")
def sampled(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    with lasting_in_process(3, folder=tmp_path_factory.mktemp("state") / "calm") as cluster:
        return asked(begun(cluster, tiny), SAMPLED)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the devices that have read weights, once for each time."""
    devices: list[str] = []
    load = StageHost._load_shard

    def counted(host: StageHost) -> Any:
        devices.append(host._premises.transport.name)
        return load(host)

    monkeypatch.setattr(StageHost, "_load_shard", counted)
    return devices


@pytest.fixture
def cluster(tmp_path: Path, loads: list[str]) -> Iterator[LastingInProcess]:
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        yield cluster


def begin(cluster: LastingInProcess, model: Path, **options: Any) -> None:
    cluster.coordinator.begin(str(model), {**OPTIONS, **options}).done.result(60)


def begun(cluster: LastingInProcess, model: Path) -> Model:
    """The model as a source sees it."""
    begin(cluster, model)
    return cluster.connect().model


def asked(model: Model, options: dict[str, Any]) -> list[int]:
    [result] = model.generate([LONG_PROMPT], max_new_tokens=NUM_TOKENS, **options)
    return result.token_ids


def stages(cluster: LastingInProcess) -> list[object]:
    return [host.stage for worker in cluster.workers.values() for host in worker._stages.hosts()]


def test_a_model_whose_weights_were_hashed_meanwhile_goes_on(
    cluster: LastingInProcess, tiny: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As when a device has joined that has no copy: the next coordinator knows the files by another name."""
    monkeypatch.setattr("shardnet.cluster.copies.AT_ONCE_BYTES", 0)
    begin(cluster, tiny, cache_dir=str(tmp_path / "cache"), standby="none")
    num_loads = len(loads)
    assert cluster.connect().model.checkpoint.startswith("local-")
    fingerprint(open_model(str(tiny), "float32").copy, tmp_path / "cache")
    cluster.kill()
    cluster.restart()
    begin(cluster, tiny, cache_dir=str(tmp_path / "cache"), standby="none")
    assert len(loads) == num_loads and asked(cluster.connect().model, GREEDY)


def test_links_keep_the_codecs_that_they_had(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the next coordinator would choose: what was sent is kept as it is, and texts go on with their tokens."""
    options = {name: value for name, value in OPTIONS.items() if name != "split"} | {"wire": "auto", "standby": "none"}
    monkeypatch.setattr("shardnet.cluster.blueprint.codec_for", lambda *_: "int8")
    cluster.coordinator.begin(str(tiny), options).done.result(60)
    ids = asked(cluster.connect().model, GREEDY)
    cluster.kill()
    monkeypatch.setattr("shardnet.cluster.blueprint.codec_for", lambda *_: "float32")
    cluster.restart()
    cluster.coordinator.begin(str(tiny), options).done.result(60)
    running = cluster.connect()
    sent_as = [stage.sent_as for stage in running.status().stages]
    assert len(sent_as) == 3 and sent_as == ["int8", "int8", ""]
    assert [stage.sent_as for stage in running.model.report()] == sent_as
    assert asked(running.model, GREEDY) == ids


# ---- the answers of sources ----


@pytest.mark.parametrize("seed", range(6))
def test_answers_go_on_whenever_it_is_killed(
    cluster: LastingInProcess,
    tiny: Path,
    loads: list[str],
    greedy: list[int],
    sampled: list[int],
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three times, at random moments: before a session is open, in its prompt, in its answer, in the round of the
    coordinator that came after."""
    monkeypatch.setattr(standby, "QUIET_S", 600.0)  # what is kept ready is loaded, too
    chance = random.Random(seed)
    begin(cluster, tiny)
    models = [cluster.connect().model for _ in range(2)]
    before = stages(cluster)
    with ThreadPoolExecutor(2) as sources:
        answers = [sources.submit(asked, model, how) for model, how in zip(models, (GREEDY, SAMPLED), strict=True)]
        for _ in range(3):
            time.sleep(chance.uniform(0, 0.3))
            cluster.kill()
            time.sleep(chance.uniform(0, 0.1))
            cluster.restart()
            beginning = cluster.coordinator.begin(str(tiny), OPTIONS)
            if chance.random() < 0.5:
                beginning.done.result(30)
        assert answers[0].result(60) == greedy
        assert answers[1].result(60) == sampled
    beginning.done.result(30)
    assert sorted(loads) == ["a", "b", "c"] and stages(cluster) == before, "nothing is loaded again"
    wait_until(lambda: cluster.num_sessions() == 0)


def test_what_has_ended_is_told_after_a_restart(cluster: LastingInProcess, tiny: Path) -> None:
    """A source that has not heard the last tokens asks the coordinator that comes after."""
    model = begun(cluster, tiny)
    stream = model.stream(PROMPT, max_new_tokens=20)
    next(stream)
    wait_until(lambda: len(cluster.told("session ended")) == 1)
    cluster.kill()
    cluster.restart()
    for _ in stream:
        pass
    assert len(stream.result.token_ids) == 20
    begin(cluster, tiny)
    assert asked(model, GREEDY), "and its model is the same one"


def test_a_source_that_does_not_return_is_waited_for_a_lease(tmp_path: Path, tiny: Path) -> None:
    with lasting_in_process(3, folder=tmp_path / "state", lease_s=1.0) as cluster:
        model = begun(cluster, tiny)
        stream = model.stream(PROMPT, max_new_tokens=4000)
        next(stream)
        cluster.kill()
        cluster.network.kill("@source-1")
        cluster.restart()
        begin(cluster, tiny)
        assert cluster.num_sessions() == 3
        wait_until(lambda: cluster.num_sessions() == 0, 20)
        assert list((tmp_path / "state").glob("session-*")) == []


def test_sessions_of_which_nothing_was_written_are_closed(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed before it had written down a session that is open on all stages: its source asks for it anew."""
    model = begun(cluster, tiny)
    written, goes_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        written.set()
        goes_on.wait(30)

    monkeypatch.setattr(cluster.coordinator._notebook, "keep_session", slow)
    with ThreadPoolExecutor(1) as source:
        answer = source.submit(lambda: model.generate([PROMPT], max_new_tokens=20)[0].token_ids)
        assert written.wait(10)
        assert cluster.num_sessions() == 3
        cluster.kill()
        cluster.restart()
        begin(cluster, tiny)
        assert len(answer.result(30)) == 20
        wait_until(lambda: cluster.num_sessions() == 0)
        goes_on.set()


# ---- devices that are not there any more ----


@pytest.mark.parametrize("device", ["a", "b", "c"])
def test_what_a_device_held_goes_to_others(
    cluster: LastingInProcess, tiny: Path, loads: list[str], greedy: list[int], device: str
) -> None:
    model = begun(cluster, tiny)
    with ThreadPoolExecutor(1) as source:
        answer = source.submit(asked, model, GREEDY)
        wait_until(lambda: cluster.num_sessions() == 3)
        time.sleep(0.1)
        cluster.kill()
        cluster.lose(device)
        cluster.restart()
        begin(cluster, tiny)
        assert answer.result(60) == greedy
    assert device not in loads[3:] and len(loads) == 4, "the other stages stay as they are"
    assert "1 stage had to be loaded" in cluster.told("resumed")[0]


def test_a_device_that_was_started_again_loads_its_stage(
    cluster: LastingInProcess, tiny: Path, loads: list[str], greedy: list[int]
) -> None:
    model = begun(cluster, tiny)
    with ThreadPoolExecutor(1) as source:
        answer = source.submit(asked, model, GREEDY)
        wait_until(lambda: cluster.num_sessions() == 3)
        cluster.kill()
        cluster.lose("b")
        cluster.join_unseen("b")
        cluster.restart()
        begin(cluster, tiny)
        assert answer.result(60) == greedy
    assert loads[3:] == ["b"]


def test_a_silent_device_is_not_waited_for(
    cluster: LastingInProcess, tiny: Path, greedy: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is used again when it is heard: it has lost what it had."""
    monkeypatch.setattr(resuming, "RETURN_S", 0.3)
    model = begun(cluster, tiny)
    with ThreadPoolExecutor(1) as source:
        answer = source.submit(asked, model, GREEDY)
        wait_until(lambda: cluster.num_sessions() == 3)
        cluster.kill()
        cluster.network.freeze("b")
        cluster.restart()
        begin(cluster, tiny)
        assert answer.result(60) == greedy
    cluster.network.restore("b")
    wait_until(lambda: all(key[0].plan_version > 1 for key, _ in cluster.workers["b"]._stages.items()), 20)
    assert asked(model, GREEDY) == greedy


def test_a_device_that_is_heard_in_the_midst_of_it_is_silent_no_more(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the model took it for silent ever after: it was not used, and what did not answer was waited for."""
    monkeypatch.setattr(watch, "LIMITS", Limits(ask_every_s=0.05, suspect_after_s=0.3))
    monkeypatch.setattr(resuming, "RETURN_S", 1.0)
    begin(cluster, tiny)
    cluster.kill()
    cluster.network.freeze("b")
    cluster.restart()
    coordinated, stand_again = cluster.coordinator._cluster, resuming.stand_again

    def late(*found: Any) -> Any:
        assert "b" in coordinated.suspected
        cluster.network.restore("b")
        wait_until(lambda: not coordinated.suspected)
        return stand_again(*found)

    monkeypatch.setattr("shardnet.cluster.cluster.stand_again", late)
    begin(cluster, tiny)
    assert cluster.told("heard again")
    assert not rings_in(cluster).absences.silent


def test_where_nothing_is_left_it_is_loaded_anew(cluster: LastingInProcess, tiny: Path, loads: list[str]) -> None:
    model = begun(cluster, tiny)
    stream = model.stream(PROMPT, max_new_tokens=4000)
    next(stream)
    cluster.kill()
    for device in ("a", "b", "c"):
        cluster.lose(device)
    cluster.restart()
    for device in ("a", "b", "c"):
        cluster.join(device)
    begin(cluster, tiny)
    with pytest.raises(ClusterError, match="what held this answer is gone"):
        for _ in stream:
            pass
    assert len(loads) == 6
    assert "no device has anything of it any more" in cluster.told("not resumed")[0]


# ---- devices that have come ----


def test_who_came_after_the_last_page_was_written_is_used(cluster: LastingInProcess, tiny: Path) -> None:
    begin(cluster, tiny)
    cluster.join("d")
    cluster.kill()
    cluster.join_unseen("e")
    cluster.restart()
    begin(cluster, tiny)
    wait_until(lambda: devices_in(cluster) == set("abcde"))


def test_who_comes_while_it_is_loaded_is_used(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, may_load, has_begun = StageHost._load_shard, threading.Event(), threading.Event()

    def late(host: StageHost) -> Any:
        has_begun.set()
        may_load.wait(10)
        return load(host)

    monkeypatch.setattr(StageHost, "_load_shard", late)
    beginning = cluster.coordinator.begin(str(tiny), OPTIONS)
    assert has_begun.wait(10)
    cluster.join("d")
    may_load.set()
    beginning.done.result(30)
    wait_until(lambda: devices_in(cluster) == set("abcd"))


# ---- what is kept ready ----


def rings_in(cluster: LastingInProcess) -> Rings:
    rings = cluster.coordinator._loads.loaded().model._deployment._rings
    assert rings is not None
    return rings


def devices_in(cluster: LastingInProcess) -> set[str]:
    """Those that may be given units."""
    blueprint = rings_in(cluster).blueprint
    assert blueprint is not None
    return {each.name for each in blueprint.devices} - set(rings_in(cluster).absences.lost)


def are_ready(cluster: LastingInProcess, num_stages: int) -> None:
    """So many, and the coordinator that comes after this one knows of them."""

    def counts() -> tuple[int, int]:
        ready, notebook = rings_in(cluster).standby, cluster.coordinator._notebook
        page = None if notebook is None else notebook.model()
        return 0 if ready is None else len(ready.stages), 0 if page is None else len(page.left.ready)

    wait_until(lambda: counts() == (num_stages, num_stages))


def test_what_is_kept_ready_stays_so(
    cluster: LastingInProcess, tiny: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    begin(cluster, tiny)
    are_ready(cluster, 3)
    before = set(stages(cluster))
    monkeypatch.setattr(standby, "QUIET_S", 1.0)
    for _ in range(2):
        cluster.kill()
        cluster.restart()
        begin(cluster, tiny)
        are_ready(cluster, 3)
    time.sleep(1.3)  # what is to be ready is thought over then
    assert set(stages(cluster)) == before and len(before) == len(loads) == 6


def test_what_is_kept_ready_stays_so_where_stages_have_become_one(
    cluster: LastingInProcess, tiny: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, nothing more was kept ready, nor written down, when the stages of a device had become one."""
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    begin(cluster, tiny)
    are_ready(cluster, 3)
    cluster.lose("b")
    wait_until(lambda: len(cluster.told("recovered")) == 1)
    are_ready(cluster, 2)
    monkeypatch.setattr(standby, "QUIET_S", 60.0)
    before = len(loads)
    cluster.kill()
    cluster.restart()
    begin(cluster, tiny)
    are_ready(cluster, 2)
    assert len(loads) == before


@pytest.mark.parametrize("device", ["a", "b", "c"])
def test_what_is_kept_ready_takes_over(
    cluster: LastingInProcess,
    tiny: Path,
    loads: list[str],
    greedy: list[int],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
) -> None:
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    model = begun(cluster, tiny)
    are_ready(cluster, 3)
    monkeypatch.setattr(standby, "QUIET_S", 60.0)
    with ThreadPoolExecutor(1) as source:
        answer = source.submit(asked, model, GREEDY)
        wait_until(lambda: cluster.num_sessions() == 3)
        cluster.kill()
        cluster.lose(device)
        cluster.restart()
        begin(cluster, tiny)
        assert answer.result(60) == greedy
    assert len(loads) == 6, "nothing had to be loaded"


# ---- stages that change just then ----


def test_it_may_be_killed_while_stages_become_one(
    cluster: LastingInProcess, tiny: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the next one found both of them, of which one was about to end, and loaded everything anew."""
    become, may_become, has_begun = StageHost._become_part_of, threading.Event(), threading.Event()
    find, finds = Worker.find_stage, threading.Semaphore(0)

    def late(host: StageHost, other: StageHost) -> None:
        has_begun.set()
        may_become.wait(10)
        become(host, other)

    def counted(worker: Worker, *asked: Any) -> StageHost:
        finds.release()
        return find(worker, *asked)

    begin(cluster, tiny)
    monkeypatch.setattr(StageHost, "_become_part_of", late)
    cluster.lose("b")
    assert has_begun.wait(10)
    before = len(loads)
    cluster.kill()
    monkeypatch.setattr(Worker, "find_stage", counted)
    for worker in cluster.workers.values():
        worker.premises.transport.expose("find_stage", worker.find_stage)
    cluster.restart()
    beginning = cluster.coordinator.begin(str(tiny), OPTIONS)
    for _ in range(6):
        assert finds.acquire(timeout=10)
    may_become.set()
    beginning.done.result(30)
    assert cluster.told("not resumed") == [] and len(loads) == before
    model = cluster.connect().model
    assert asked(model, GREEDY)


def test_what_is_kept_hot_copies_on(
    cluster: LastingInProcess, tiny: Path, greedy: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, what the next coordinator had found ready followed nobody any more."""
    monkeypatch.setattr(standby, "QUIET_S", 0.05)
    begin(cluster, tiny, standby="hot")
    are_ready(cluster, 3)
    cluster.kill()
    cluster.restart()
    begin(cluster, tiny, standby="hot")
    are_ready(cluster, 3)
    model = cluster.connect().model
    cluster.network.drop("c", "a", endpoint="hop", count=10**6)
    with ThreadPoolExecutor(1) as source:
        answer = source.submit(asked, model, GREEDY)
        wait_until(lambda: cluster.num_sessions() == 6)  # as long as the answer stands still
        cluster.network.restore()
        assert answer.result(60) == greedy


# ---- which model it is ----


def test_a_model_that_a_source_has_loaded_goes_on(cluster: LastingInProcess, tiny: Path, loads: list[str]) -> None:
    begin(cluster, tiny)
    source = cluster.connect()
    model = source.load(tiny, dtype="float32", split=(3, 2, 1))
    cluster.kill()
    cluster.restart()
    begin(cluster, tiny)
    assert [stage.last_unit for stage in model.plan.stages] == [2, 4, 5]
    assert len(loads) == 6
    source.load(tiny, dtype="float32", split=(1, 2, 3))
    assert [stage.last_unit for stage in source.model.plan.stages] == [0, 2, 5]


@pytest.mark.parametrize("is_early", [True, False])
def test_a_source_that_has_not_heard_that_its_load_is_over_asks_again(
    cluster: LastingInProcess, tiny: Path, loads: list[str], is_early: bool
) -> None:
    """Once it was loaded anew, or what the cluster was begun with took its place."""
    begin(cluster, tiny)
    ticket, options = 77, {**OPTIONS, "split": (3, 2, 1)}
    cluster.coordinator.load(ticket, str(tiny), options).done.result(30)
    before = stages(cluster)
    cluster.kill()
    cluster.restart()
    if is_early:
        again = cluster.coordinator.load(ticket, str(tiny), options)
        assert not again.state().is_over
    beginning = cluster.coordinator.begin(str(tiny), OPTIONS)
    if not is_early:
        again = cluster.coordinator.load(ticket, str(tiny), options)
    beginning.done.result(30)
    again.done.result(30)
    assert stages(cluster) == before and len(loads) == 6
    cluster.coordinator.load(78, str(tiny), options).done.result(30)
    assert len(loads) == 9


def test_one_that_is_started_with_something_else_loads_that(
    cluster: LastingInProcess, tiny: Path, loads: list[str]
) -> None:
    begin(cluster, tiny)
    left = stages(cluster)
    cluster.kill()
    cluster.restart()
    begin(cluster, tiny, split=(1, 2, 3))
    assert len(loads) == 6 and not set(map(id, left)).intersection(map(id, stages(cluster)))
    assert len(stages(cluster)) == 3, "what was left is ended"


def test_it_may_be_killed_while_it_loads(
    cluster: LastingInProcess, tiny: Path, greedy: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a model is of no use to the next one, and ends."""
    load, has_begun = StageHost._load_shard, threading.Event()

    def slow(host: StageHost) -> Any:
        has_begun.set()
        if host._premises.transport.name == "b":
            time.sleep(0.5)
        return load(host)

    monkeypatch.setattr(StageHost, "_load_shard", slow)
    cluster.coordinator.begin(str(tiny), OPTIONS)
    assert has_begun.wait(10)
    wait_until(lambda: sum(stage is not None for stage in stages(cluster)) == 2)
    cluster.kill()
    cluster.restart()
    model = begun(cluster, tiny)
    assert asked(model, GREEDY) == greedy
    assert len(stages(cluster)) == 3


@pytest.mark.parametrize(
    "damage", [lambda page: page[:-1], lambda page: b"", lambda page: page[:40] + b"x" + page[41:]]
)
def test_a_damaged_page_is_noticed(
    cluster: LastingInProcess, tiny: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    model = begun(cluster, tiny)
    stream = model.stream(PROMPT, max_new_tokens=4000)
    next(stream)
    cluster.kill()
    for page in (tmp_path / "state").glob("*.page"):
        page.write_bytes(damage(page.read_bytes()))
    cluster.restart()
    begin(cluster, tiny)
    assert f"{MODEL} is damaged, or of another version of shardnet" in cluster.told("not resumed")[0]
    assert len(stages(cluster)) == 3
    with pytest.raises(ClusterError, match="does not know this answer"):
        for _ in stream:
            pass


def test_a_model_that_ends_just_when_it_goes_on(
    cluster: LastingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the coordinator had begun with was never over, and it said to be waiting for it until it was ended."""
    begin(cluster, tiny)
    cluster.kill()
    go_on = SessionDesk.go_on

    def ended(desk: SessionDesk, resumed: Any) -> None:
        cluster.coordinator._loads.loaded().model.deployment.end(ClusterError("it is over."))  # type: ignore[attr-defined]
        go_on(desk, resumed)

    monkeypatch.setattr(SessionDesk, "go_on", ended)
    cluster.restart()
    cluster.coordinator.begin(str(tiny), OPTIONS).done.result(30)


def test_who_asks_meanwhile_is_answered_when_it_is_known_what_goes_on(cluster: LastingInProcess, tiny: Path) -> None:
    model = begun(cluster, tiny)
    cluster.kill()
    cluster.restart()
    with ThreadPoolExecutor(3) as sources:
        answers: list[Future[Any]] = [
            sources.submit(asked, model, GREEDY),
            sources.submit(lambda: model.plan.version),
            sources.submit(model.report),
        ]
        time.sleep(0.2)
        assert not any(answer.done() for answer in answers)
        begin(cluster, tiny)
        for answer in answers:
            assert answer.result(30)


def test_an_end_before_it_is_known_what_goes_on_leaves_all_as_it_was(
    cluster: LastingInProcess, tiny: Path, tmp_path: Path, loads: list[str], greedy: list[int]
) -> None:
    """Once, Ctrl-C while a silent device was waited for made it forget the model and its answers."""
    model = begun(cluster, tiny)
    stream = model.stream(LONG_PROMPT, max_new_tokens=NUM_TOKENS)
    next(stream)
    cluster.kill()
    cluster.network.freeze("b")
    cluster.restart()
    cluster.coordinator.begin(str(tiny), OPTIONS)
    errands = cluster.coordinator._loads._errands
    cluster.coordinator.close()
    errands._thread.join(30)
    assert not errands._thread.is_alive()
    assert (tmp_path / "state" / MODEL).exists() and len(list((tmp_path / "state").glob("session-*"))) == 1
    cluster.kill()
    cluster.network.restore("b")
    cluster.restart()
    begin(cluster, tiny)
    assert len(cluster.told("resumed")) == 1 and sorted(loads) == ["a", "b", "c"]


def test_an_end_in_the_midst_of_what_goes_on_leaves_it_as_it_was(
    cluster: LastingInProcess, tiny: Path, tmp_path: Path, greedy: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the stage of a device that was lost was loaded by others: all devices were told to unload."""
    model = begun(cluster, tiny)
    stream = model.stream(LONG_PROMPT, max_new_tokens=NUM_TOKENS)
    next(stream)
    cluster.kill()
    cluster.lose("b")
    has_begun, may_go_on = threading.Event(), threading.Event()
    load = StageHost._load_shard

    def slowly(host: StageHost) -> Any:
        has_begun.set()
        may_go_on.wait(60)
        return load(host)

    monkeypatch.setattr(StageHost, "_load_shard", slowly)
    cluster.restart()
    cluster.coordinator.begin(str(tiny), OPTIONS)
    assert has_begun.wait(30)
    running = [stage for stage in stages(cluster) if stage is not None]
    cluster.coordinator.close()
    assert len(running) == 2 and all(stage in stages(cluster) for stage in running)
    assert (tmp_path / "state" / MODEL).exists() and len(list((tmp_path / "state").glob("session-*"))) == 1
    cluster.kill()
    may_go_on.set()
    cluster.restart()
    begin(cluster, tiny)
    assert len(cluster.told("resumed")) == 1
    for _ in stream:
        pass
    assert stream.result.token_ids == greedy


def test_an_orderly_end_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    """But for what says of which format the folder is."""
    with lasting_in_process(3, folder=tmp_path / "state") as cluster:
        model = begun(cluster, tiny)
        assert asked(model, GREEDY)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["format.json", "lock"]
