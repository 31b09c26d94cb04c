"""Stages that go on under another plan version, with conversations under way: over a whole ring in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from in_process_ring import PROMPT, RingInProcess, alone, answer, load, ring_in_process
from processes import wait_until

from shardnet.cluster.cluster import COORDINATOR
from shardnet.cluster.model import Model
from shardnet.cluster.ring import Ring
from shardnet.errors import BadRequest, CallTimeout, ClusterError, PlanNotInForce
from shardnet.transport.messages import Hop, Part, RingId

PROMPTS = [[5 + number, 6, 7, *range(20, 20 + 3 * number)] for number in range(6)]
NUM_TOKENS = 20


@pytest.fixture
def ring() -> Iterator[RingInProcess]:
    with ring_in_process() as ring:
        yield ring


def test_conversations_go_on_while_their_ring_is_exchanged_again_and_again(ring: RingInProcess, tiny: Path) -> None:
    """Hops, prompts and tokens are on their way all the time, on links that are slow enough for them to meet."""
    for one in ring.names:
        for other in ring.names:
            ring.network.delay(one, other, 0.002)
    with ring.connect() as cluster, load(cluster, tiny) as model, ThreadPoolExecutor(len(PROMPTS)) as threads:
        answers = [threads.submit(answer, model, prompt, NUM_TOKENS) for prompt in PROMPTS]
        versions = [renewed(model) for _ in model.stream(PROMPT, max_new_tokens=NUM_TOKENS)]
        texts = [each.result() for each in answers]
        assert len(versions) > 5 and versions == sorted(set(versions))
        assert model.plan.version == versions[-1]
        assert answer(model, PROMPT, 12) == alone(tiny, [PROMPT], 12)[0]
        assert [len(worker._stages.keys()) for worker in ring.workers.values()] == [1, 1, 1]
    assert texts == alone(tiny, PROMPTS, NUM_TOKENS)
    wait_until(lambda: ring.num_stages() == 0, 5)


def renewed(model: Model) -> int:
    model._deployment.renew()
    return model.plan.version


def test_what_an_old_ring_still_sends_is_refused_and_goes_on_in_the_new_one(ring: RingInProcess, tiny: Path) -> None:
    """A hop that was lost under the old plan version is sent again, finds that version gone, and takes the new way."""
    with ring.connect() as cluster, load(cluster, tiny) as model:
        old = model._deployment.ring.ring_id
        ring.network.drop("b", "c", endpoint="hop", count=1)
        stream = model.stream(PROMPT, max_new_tokens=12)
        next(stream)
        model._deployment.renew()
        "".join(stream)
        assert stream.result.token_ids == alone(tiny, [PROMPT], 12)[0]
        hop = Hop(old, 1, (Part(1, 0, 1),), torch.zeros(1, 64), "a", 0, 2)
        with pytest.raises(PlanNotInForce, match="not in force"):
            ring.network.member("a").post("b", "hop", hop).result()  # type: ignore[union-attr]


def test_what_was_sampled_and_arrives_when_its_ring_is_over_is_told_again_along_the_new_one(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, the source confirmed it and dropped it: the session waited for that token for ever."""
    with ring.connect() as cluster, load(cluster, tiny) as model:
        arrive = hold_first(ring, "c", "tokens", monkeypatch)
        stream = model.stream(PROMPT, max_new_tokens=12)
        wait_until(lambda: len(arrive) == 1)
        model._deployment.renew()
        arrive[0]()
        "".join(stream)
        assert stream.result.token_ids == alone(tiny, [PROMPT], 12)[0]


def test_a_failed_session_that_is_told_when_its_ring_is_over_is_told_again_along_the_new_one(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model:
        arrive = hold_first(ring, "c", "session_failed", monkeypatch)
        stream = model.stream(PROMPT, max_new_tokens=3000)
        next(stream)
        [host] = ring.workers["c"]._stages.hosts()
        [number] = model._deployment.sessions._open
        host._outlet.session_failed(number, BadRequest("it cannot go on"))
        model._deployment.renew()
        arrive[0]()
        with pytest.raises(BadRequest, match="it cannot go on"):
            list(stream)


def test_a_failure_that_is_told_when_its_ring_is_over_is_told_again_along_the_new_one(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model:
        arrive = hold_first(ring, "b", "stage_failed", monkeypatch)
        stream = model.stream(PROMPT, max_new_tokens=3000)
        next(stream)
        [host] = ring.workers["b"]._stages.hosts()
        host._outlet.failed(RuntimeError("a defect"))
        model._deployment.renew()
        arrive[0]()
        with pytest.raises(ClusterError, match="stage 2 of 3 on b failed: RuntimeError: a defect"):
            list(stream)


def hold_first(
    ring: RingInProcess, device: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> list[Callable[[], object]]:
    """Hold the first message of that kind from a device; returns a list that gets a function that lets it arrive."""
    transport: Any = ring.network.member(device)
    post, held = transport.post, []
    answer: Future[Any] = Future()

    def pass_on(sent: Future[Any]) -> None:
        error = sent.exception()
        answer.set_result(sent.result()) if error is None else answer.set_exception(error)

    def post_or_hold(target: str, called: str, *args: Any, **options: Any) -> Future[Any]:
        send = partial(post, target, called, *args, **options)
        if called != endpoint or held:
            return send()
        held.append(lambda: send().add_done_callback(pass_on))
        return answer

    monkeypatch.setattr(transport, "post", post_or_hold)
    return held


def test_a_session_that_begins_meanwhile_begins_in_the_new_ring(ring: RingInProcess, tiny: Path) -> None:
    with ring.connect() as cluster, load(cluster, tiny) as model, ThreadPoolExecutor(1) as thread:
        sessions = model._deployment.sessions
        sessions.suspend()
        begun = thread.submit(answer, model)
        with pytest.raises(TimeoutError):
            begun.result(timeout=0.1)
        model._deployment.renew()
        assert begun.result() == alone(tiny, [PROMPT], 12)[0]


def test_a_stage_that_does_not_answer_ends_the_model_and_not_the_cluster(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardnet.cluster.remote_stage.REWIRE_S", 0.05)
    with ring.connect() as cluster:
        model = load(cluster, tiny)
        stream = model.stream(PROMPT, max_new_tokens=4000)
        next(stream)
        ring.network.drop(COORDINATOR, "b", endpoint="adopt", count=8)
        with pytest.raises(CallTimeout):
            model._deployment.renew()
        with pytest.raises(ClusterError):
            list(stream)
        with pytest.raises(ClusterError):
            model.stream(PROMPT)
        model.close()
        with load(cluster, tiny) as again:
            assert answer(again) == alone(tiny, [PROMPT], 12)[0]


def test_ctrl_c_in_mid_change_ends_the_model_and_keeps_nobody_waiting(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions stayed suspended: every later `stream` waited for ever."""

    def interrupted(_: Ring) -> NoReturn:
        raise KeyboardInterrupt

    with ring.connect() as cluster, load(cluster, tiny) as model:
        stream = model.stream(PROMPT, max_new_tokens=4000)
        monkeypatch.setattr(Ring, "switch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model._deployment.renew()
        for wait in (lambda: list(stream), lambda: model.stream(PROMPT)):
            with pytest.raises(ClusterError, match="the change to another ring was broken off"):
                wait()


def test_a_model_that_is_closed_meanwhile_stays_closed(
    ring: RingInProcess, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held its rings again, and devices kept their stages for it."""
    with ring.connect() as cluster:
        deployment = load(cluster, tiny)._deployment
        ring_id = deployment.next_ring_id()

        def close_first() -> RingId:
            deployment.close()
            return ring_id

        monkeypatch.setattr(deployment._rings, "_draw_id", close_first)
        with pytest.raises(BadRequest, match="closed"):
            deployment.renew()
        assert not deployment.holds(ring_id)


def test_a_stage_that_failed_just_before_ends_the_model_all_the_same(ring: RingInProcess, tiny: Path) -> None:
    """The news was of the old ring, and by the time that its device was known to live, there was another."""
    with ring.connect() as cluster, load(cluster, tiny) as model:
        cluster._on_stage_failed(model._deployment.ring.ring_id, 1, "b", "no finite numbers")
        model._deployment.renew()
        with pytest.raises(ClusterError, match="stage 2 of 3 on b failed: no finite numbers"):
            list(model.stream(PROMPT, max_new_tokens=4000))
