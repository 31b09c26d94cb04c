"""What is left where something ended: of closed sessions and models, of loads that were given up, of lost messages.

Real stages in one process. The garbage collector is off in most of these: where a device idles it does not come by.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, SPLIT, RingInProcess, alone, answer, load, ring_in_process
from processes import wait_until

from shardnet.cluster.cluster import COORDINATOR
from shardnet.device import source_news
from shardnet.device.source_news import Place, SourceNews
from shardnet.errors import ClusterError, DamagedCheckpoint
from shardnet.models import Shard
from shardnet.policy.membership import Limits
from shardnet.transport import InProcessNetwork
from shardnet.transport.messages import Hop, Part, RingId, RingStop, StageSpec, Tokens
from shardnet.transport.session_messages import SampledToken, SamplingOptions

SIZES = (16, 10, 16, 8, 8)
"""Of prompts, for chunks of 16 tokens."""


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> Iterator[RingInProcess]:
    monkeypatch.setattr("shardnet.device.orphans.LOOK_EVERY_S", 0.05)
    monkeypatch.setattr("shardnet.cluster.deployment.UNLOAD_S", 0.3)
    with ring_in_process() as ring:
        yield ring


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_a_closed_session_frees_its_kv_cache_while_the_stage_idles(
    ring: RingInProcess,
    tiny: Path,
    uncollected: None,
) -> None:
    """Once, a waiting stage held its last step, and with it the KV caches of sessions that were closed: the next
    session was given room that was not free."""
    alone = {"dtype": "float32", "split": SPLIT, "share_prefixes": False}
    with ring.connect() as cluster, cluster.load(tiny, **alone) as model:
        stream = model.stream(PROMPT, max_new_tokens=4)
        next(stream)
        caches = [
            weakref.ref(tensor)
            for worker in ring.workers.values()
            for host in worker._stages.hosts()
            if host.stage is not None
            for session in host.stage.kv._sessions.values()
            for run in session.runs
            for tensor in run.extent.keys.values()
        ]
        assert len(caches) == 4
        list(stream)
        del stream
        model._deployment.sessions.settle()
        wait_until(lambda: not any(cache() is not None for cache in caches), 5)


def test_a_closed_model_frees_its_weights(
    ring: RingInProcess,
    tiny: Path,
    uncollected: None,
) -> None:
    """Once, each message that had been sent referred to itself, and held its stage until the collector came."""
    with ring.connect() as cluster:
        model = load(cluster, tiny)
        answer(model)
        shards = [
            weakref.ref(host.stage.shard)
            for worker in ring.workers.values()
            for host in worker._stages.hosts()
            if host.stage is not None
        ]
        assert len(shards) == len(SPLIT)
        model.close()
        del model
        wait_until(lambda: not any(shard() is not None for shard in shards), 5)
        assert not any(len(worker.premises.weights) for worker in ring.workers.values())


def test_a_closed_model_frees_its_weights_while_a_prompt_waits_at_a_frozen_device(
    ring: RingInProcess,
    tiny: Path,
    uncollected: None,
) -> None:
    """Once, the chunk of a prompt that a frozen device had not answered held its sender's stage for a minute."""
    with ring.connect() as cluster:
        model = load(cluster, tiny)
        stage = next(iter(ring.workers["a"]._stages.hosts())).stage
        assert stage is not None
        shard, is_sent = weakref.ref(stage.shard), threading.Event()
        outlet: Any = stage._outlet
        bulk_hop = outlet.bulk_hop

        def freeze_and_send(*args: Any) -> None:
            if not is_sent.is_set():
                ring.network.freeze("b")
            bulk_hop(*args)
            is_sent.set()

        outlet.bulk_hop = freeze_and_send
        stream = model.stream(PROMPT * 4, max_new_tokens=2)
        assert is_sent.wait(20)
        del outlet.bulk_hop
        stream.close()
        model.close()
        del model, stage, outlet, stream
        wait_until(lambda: shard() is None, 5)
        ring.network.restore()


def test_a_load_that_was_given_up_frees_what_it_had_read(
    ring: RingInProcess,
    tiny: Path,
    uncollected: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, the error of the load held the frames that it had come through, and these all tensors read so far."""

    def fail(*_: Any, **__: Any) -> Any:
        raise DamagedCheckpoint("the file ends early.")

    monkeypatch.setattr("shardnet.device.stage_host.Stage", fail)
    with ring.connect() as cluster:
        with pytest.raises(DamagedCheckpoint, match="ends early"):
            load(cluster, tiny)
        wait_until(lambda: not any(len(worker.premises.weights) for worker in ring.workers.values()), 5)


# ---- stages that nobody has a use for ----


@pytest.mark.parametrize(("endpoint", "is_answer"), [("close", False), ("open_stage", True)])
def test_a_stage_whose_end_was_not_told_ends_by_itself(
    ring: RingInProcess,
    tiny: Path,
    endpoint: str,
    is_answer: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, one lost `close`, or one lost answer to `open_stage`, left a stage behind for as long as both lived."""
    ask = ring.network.ask

    def hasty_ask(*args: Any) -> Future[Any]:
        *others, timeout_s = args
        return ask(*others, min(timeout_s, 0.5) if args[2] == endpoint else timeout_s)

    monkeypatch.setattr(ring.network, "ask", hasty_ask)
    with ring.connect() as cluster:
        ring.network.drop("*", "*", endpoint=endpoint, answers=is_answer)
        try:
            load(cluster, tiny).close()
        except ClusterError:
            assert endpoint == "open_stage"
        wait_until(lambda: ring.num_stages() == 0, 10)


def test_a_coordinator_that_was_killed_and_has_no_successor_leaves_nothing(
    ring: RingInProcess,
    tiny: Path,
) -> None:
    cluster = ring.connect()
    model = load(cluster, tiny)
    answer(model)
    ring.network.kill(COORDINATOR)
    cluster._watch.close()
    wait_until(lambda: ring.num_stages() == 0, 10)


def test_a_device_that_was_struck_off_drops_what_it_had(
    ring: RingInProcess,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, a device that had been frozen for too long kept its stage after it had thawed: it was refused, and took
    that for nothing."""
    monkeypatch.setattr("shardnet.cluster.watch.LIMITS", Limits(ask_every_s=0.05, lost_after_s=0.2))
    monkeypatch.setattr("shardnet.device.orphans.ANSWER_S", 0.2)
    with ring.connect() as cluster, load(cluster, tiny):
        ring.network.freeze("b")
        wait_until(lambda: "b" in cluster._watch.lost, 10)
        ring.network.restore("b")
        wait_until(lambda: not ring.workers["b"]._stages.hosts(), 10)


def test_a_stage_that_its_device_has_dropped_is_an_error_and_no_silence(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, a device that could not reach the coordinator any more, though the coordinator reached it, dropped its
    stage in the middle of a step, and the session waited for ever."""
    monkeypatch.setattr("shardnet.cluster.watch.LIMITS", Limits(ask_every_s=0.05))
    with ring.connect() as cluster, load(cluster, tiny) as model:
        stream = model.stream(PROMPT, max_new_tokens=3000)
        next(stream)
        [host] = ring.workers["b"]._stages.hosts()
        ring.workers["b"]._drop(host.key[0])
        with pytest.raises(ClusterError, match=r"b has dropped stage 2 of 3|no stage 1"):
            list(stream)


def test_a_stage_that_has_ended_holds_no_names_of_tensors(ring: RingInProcess, tiny: Path) -> None:
    """The handle of a coordinator that was killed keeps it for ever. Once, its outlet kept all names twice."""
    with ring.connect() as cluster, load(cluster, tiny):
        [host] = ring.workers["b"]._stages.hosts()
        assert host._spec.tensors
        host._end()
        assert [host._spec.tensors, host._outlet._spec.tensors, host._outlet._news.spec.tensors] == [{}, {}, {}]


@pytest.mark.parametrize("is_dropped", [False, True])
def test_a_stage_that_ends_meanwhile_adopts_nothing(
    ring: RingInProcess, tiny: Path, is_dropped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, it could end just before it took the new place: its device listed a stage that was none."""
    worker = ring.workers["b"]
    with ring.connect() as cluster, load(cluster, tiny) as model:
        [host] = worker._stages.hosts()
        place = model._deployment.ring.specs[1]._replace(ring_id=model._deployment.next_ring_id())

        def end_now() -> None:
            worker._drop(host.key[0]) if is_dropped else host._end()

        monkeypatch.setattr(host, "_running", end_now)
        with pytest.raises(ClusterError, match="was closed"):
            host.adopt(place)
        assert worker._stages.keys() == []


def test_a_stage_that_answers_to_another_ring_too_outlives_the_first(ring: RingInProcess, tiny: Path) -> None:
    worker = ring.workers["b"]
    with ring.connect() as cluster, load(cluster, tiny) as model:
        [host] = worker._stages.hosts()
        place = model._deployment.ring.specs[1]._replace(ring_id=model._deployment.next_ring_id())
        host.adopt(place)
        worker._drop(host.key[0])
        assert worker._stages.keys() == [(place.ring_id, 1)] and host.stage is not None
        worker._drop(place.ring_id)
        assert worker._stages.keys() == [] and host.stage is None


def test_a_broken_ring_does_not_go_on_computing(ring: RingInProcess, tiny: Path) -> None:
    """Once, the sessions of a ring that had failed went round on it until their last token, for nobody."""
    with ring.connect() as cluster, load(cluster, tiny) as model:
        stream = model.stream(PROMPT, max_new_tokens=3000)
        next(stream)
        model._deployment.sessions.end(ClusterError("stage 2 of 3 failed"))
        with pytest.raises(ClusterError, match="stage 2"):
            list(stream)
        stages = [host.stage for worker in ring.workers.values() for host in worker._stages.hosts()]
        wait_until(lambda: all(stage is not None and stage.usage() == (0, 0) for stage in stages), 5)


def test_ctrl_c_while_a_session_is_closed_closes_it_all_the_same(
    ring: RingInProcess,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, the session was forgotten before the stages were told, and those not told yet kept its memory."""
    with ring.connect() as cluster, load(cluster, tiny) as model:
        session = model._deployment.sessions.start(PROMPT, max_new_tokens=4, eos_ids=(), sampling=SamplingOptions())
        closings = model._deployment.sessions._closings
        ask = closings._ask
        monkeypatch.setattr(closings, "_ask", interrupted_at(1, ask))
        with pytest.raises(KeyboardInterrupt):
            session.cancel()
        monkeypatch.setattr(closings, "_ask", ask)
        session.cancel()
        model._deployment.sessions.settle()
        assert all(report.kv_reserved_bytes == 0 for report in model.report())


def interrupted_at(number: int, function: Any) -> Any:
    def interrupted(ring: Any, index: int, *args: Any) -> Any:
        if index == number:
            raise KeyboardInterrupt
        return function(ring, index, *args)

    return interrupted


# ---- what is sent again ----


def test_a_hop_that_is_sent_again_while_it_waits_counts_once_in_the_report(
    ring: RingInProcess,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once, a chunk that waited for its turn was counted at every try, with all its waiting as time on the wire."""
    go_on, is_in_step = threading.Event(), threading.Event()
    forward = Shard.forward

    def slow(shard: Shard, *args: Any) -> Any:
        is_in_step.set()
        go_on.wait(20)
        return forward(shard, *args)

    with ring.connect() as cluster, load(cluster, tiny) as model:
        monkeypatch.setattr(Shard, "forward", slow)
        streams = [model.stream(PROMPT, max_new_tokens=1)]
        assert is_in_step.wait(20)
        [host] = ring.workers["a"]._stages.hosts()
        assert host.stage is not None
        before = host.stage.recorder.totals().messages_from
        hop = Hop(host.key[0], 0, (Part(12345, 0, 2),), torch.tensor([1, 2]), "x", 0, 0)
        for _ in range(5):
            host.stage.put(hop, 10**9, lambda: None)
        after = host.stage.recorder.totals().messages_from
        go_on.set()
        assert [each[:2] for each in set(after) - set(before) if each[0] == "x"] == [("x", 1)]
        for stream in streams:
            list(stream)


SPEC = StageSpec(
    RingId(b"epoch", 1), 0, (RingStop("stage", 0, 1, "float32"),), "source", "", "", {}, "float32", 0, 128, False, 1
)


def test_a_silent_source_gets_what_it_missed_in_few_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, each message was sent again by itself, for ever: who had slept for an hour found thousands."""
    monkeypatch.setattr(source_news, "CONFIRM_S", 0.05)
    heard: list[Tokens] = []
    with InProcessNetwork() as network:
        network.join("source").expose("tokens", heard.append)
        stage = network.join("stage")
        news = SourceNews(stage, Place(SPEC), lambda: False, lambda error: None)
        network.freeze("source")
        for index in range(200):
            news.tokens((SampledToken(1, index, index, ""),))
            if index == 20:
                wait_until(lambda: news._is_telling_again, 5)
        network.restore("source")
        wait_until(lambda: {token.index for tokens in heard for token in tokens.tokens} == set(range(200)), 10)
        wait_until(lambda: not news._is_telling_again, 10)
        assert len(heard) < 60
        news.tokens((SampledToken(1, 200, 200, ""),))
        wait_until(lambda: heard[-1].tokens[0].index == 200, 5)


def test_a_source_that_refuses_a_token_is_an_error_and_no_silence(
    ring: RingInProcess,
    tiny: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("a defect of the source")

    with ring.connect() as cluster, load(cluster, tiny) as model:
        monkeypatch.setattr("shardnet.session.sessions.Sessions.tell", refuse)
        with pytest.raises(ClusterError, match="a defect of the source"):
            answer(model)


def test_prompts_that_begin_together_keep_their_rows_where_packets_are_cut(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way in which two conversations got each other's prompts: the later session's part comes first in a packet,
    and the packet is cut by what is left of a step. Stages are held so that it comes to just that."""
    prompts = [[(31 * number + 3 * place) % 250 for place in range(size)] for number, size in enumerate(SIZES)]
    expected = alone(tiny, prompts, 3)
    first, second = threading.Semaphore(0), threading.Semaphore(0)
    at_first, at_second = threading.Semaphore(0), threading.Semaphore(0)
    forward = Shard.forward

    def held(shard: Shard, *args: Any) -> Any:
        layers = [block.layer for block in shard.kv_layout]
        if 0 in layers:
            at_first.release()
            first.acquire()
        elif 1 in layers:
            at_second.release()
            second.acquire()
        return forward(shard, *args)

    monkeypatch.setattr(Shard, "forward", held)
    with ring.connect() as cluster:
        with cluster.load(tiny, dtype="float32", split=SPLIT, prefill_chunk_tokens=16) as model:
            pipeline = model._deployment.sessions
            waiting_at = [host.stage._inbox for worker in "ab" for host in ring.workers[worker]._stages.hosts()]  # type: ignore[union-attr]
            send_prompt = pipeline.send
            streams = []
            for number, prompt in enumerate(prompts[:3]):
                streams.append(model.stream(prompt, max_new_tokens=3))
                assert at_first.acquire(timeout=60)  # or it would go into one step with the next one
                if number < 2:
                    first.release()
                    assert number > 0 or at_second.acquire(timeout=60)
                    wait_until(lambda number=number: len(waiting_at[1]._bulk) == number)  # type: ignore[misc]
            sends: list[Any] = []
            monkeypatch.setattr(pipeline, "send", lambda *args: sends.append(args))
            streams += [model.stream(prompt, max_new_tokens=3) for prompt in prompts[3:]]
            for send in reversed(sends):
                send_prompt(*send)
            wait_until(lambda: len(waiting_at[0]._bulk) == 2)
            first.release(1000)
            wait_until(lambda: len(waiting_at[1]._bulk) == 3)
            second.release()
            wait_until(lambda: len(waiting_at[1]._bulk) == 2 and len(waiting_at[0]._bulk) == 0)
            second.release(1000)
            with ThreadPoolExecutor(len(streams)) as threads:
                answers = list(threads.map(lambda stream: [*stream] and stream.result.token_ids, streams))
    assert answers == expected


def test_a_second_death_is_noticed_while_the_first_is_struck_off(
    ring: RingInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch itself struck off who was lost, and asked nobody else for up to 7 s."""
    may_go_on = threading.Event()
    with ring.connect() as cluster:
        monkeypatch.setattr(cluster._transport, "evict", lambda device: may_go_on.wait(60))
        for name in ring.names[:2]:
            ring.network.kill(name)
            wait_until(lambda name=name: name in cluster._watch.lost)  # type: ignore[misc]
        may_go_on.set()
    assert not any(thread.name == "shardnet-evict" for thread in threading.enumerate())
