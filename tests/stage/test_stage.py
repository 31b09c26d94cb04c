"""One stage by itself: what is asked of it between steps, and from where it samples."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_ring import PROMPT, alone
from processes import wait_until

from shardnet.codecs.rows import codec_named
from shardnet.errors import BadRequest, ClusterError
from shardnet.loader import load_shard, open_model
from shardnet.models import Segment, Shard
from shardnet.stage.cache import KVCache
from shardnet.stage.idle_time import IdleTime
from shardnet.stage.sent_log import kept_by
from shardnet.stage.stage import Stage
from shardnet.timeline.recorder import Recorder
from shardnet.timeline.spans import Span
from shardnet.transport.messages import Hop, Part, RingId
from shardnet.transport.session_messages import SampledToken, SamplingOptions, SessionSpec

RING = RingId(b"epoch", 1)
SAMPLED = SamplingOptions(temperature=0.8, seed=3)

CODEC = codec_named("float32")


class Loop:
    """An outlet that sends the whole model's own tokens back to it, and keeps what was sampled."""

    def __init__(self) -> None:
        self.told: list[SampledToken] = []
        self.refused: list[tuple[int, str]] = []
        self.news = threading.Condition()
        self.stage: Stage

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        self.stage.put(Hop(RING, 0, parts, rows, "self", 0, 0), 0)

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        raise AssertionError("the whole model has no next stage")

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        with self.news:
            self.told += tokens
            self.news.notify_all()

    def session_failed(self, session: int, error: BadRequest) -> None:
        self.refused.append((session, str(error)))

    def failed(self, error: BaseException) -> None:
        raise AssertionError(error)

    def wait_for(self, num_tokens: int) -> list[int]:
        with self.news:
            assert self.news.wait_for(lambda: len(self.told) >= num_tokens, timeout=10)
            return [token.token_id for token in sorted(self.told, key=lambda token: token.index)]


@pytest.fixture(scope="module")
def shard(tiny: Path) -> Shard:
    """The whole model."""
    files = open_model(str(tiny), "float32")
    last = files.profile.num_units - 1
    return load_shard(files.config, files.tensors_of(0, last), 0, last, "float32")


@pytest.fixture
def loop(shard: Shard) -> Iterator[Loop]:
    loop = Loop()
    kv = KVCache(shard.kv_layout, shard.dtype, kept=kept_by(shard, CODEC))
    with Stage(shard, kv, Recorder("here", 0), loop, chunk_tokens=4, num_threads=1, sent_as=CODEC) as loop.stage:
        yield loop


def spec(session: int, max_new_tokens: int, *, sample_from: int = len(PROMPT), greedy: bool = False) -> SessionSpec:
    sampling = SamplingOptions() if greedy else SAMPLED
    return SessionSpec(session, 64, len(PROMPT), sample_from, max_new_tokens, (), sampling)


def feed(stage: Stage, session: int, ids: list[int], *, position: int = 0) -> None:
    stage.put(Hop(RING, 0, (Part(session, position, len(ids)),), torch.tensor(ids), "self", 0, 0), 0, lambda: None)


def test_a_prompt_that_comes_in_parts_is_computed_in_just_these_and_is_one_session_on_its_way(loop: Loop) -> None:
    loop.stage.recorder.keep_spans = True
    loop.stage.open_session(spec(1, 1))
    parts = (Part(1, 0, 1), Part(1, 1, 3), Part(1, 4, 1))
    loop.stage.put(Hop(RING, 0, parts, torch.tensor(PROMPT), "source", 0, 0), 0, lambda: None)
    loop.wait_for(1)
    spans = [Span(*span) for span in loop.stage.recorder.drain()]
    assert [span.num_sessions for span in spans if span.source_device == "source"] == [1]
    assert [span.num_tokens for span in spans if span.kind == "compute"][:2] == [1, 3]


def test_what_is_replayed_is_not_sampled_again_and_draws_no_number(loop: Loop) -> None:
    """Once, whatever ended behind the prompt was sampled: a replay would have drawn, and told, its tokens twice."""
    stage = loop.stage
    stage.open_session(spec(1, 12))
    feed(stage, 1, PROMPT)
    undisturbed = loop.wait_for(12)
    loop.told.clear()

    stage.open_session(spec(2, 6))
    feed(stage, 2, PROMPT)
    assert loop.wait_for(6) == undisturbed[:6]
    stage.between_steps(lambda: stage.kv.crop(2, 2)).result(timeout=5)
    feed(stage, 2, [*PROMPT, *undisturbed[:5]][2:], position=2)
    stage.between_steps(lambda: None).result(timeout=5)
    assert len(loop.told) == 6, "every position was sampled already"


def test_a_session_that_another_stage_began_is_sampled_from_where_it_stood(loop: Loop, tiny: Path) -> None:
    [whole] = alone(tiny, [PROMPT], 10)
    loop.stage.open_session(spec(1, 10, sample_from=len(PROMPT) + 4, greedy=True))
    feed(loop.stage, 1, [*PROMPT, *whole[:4]])
    assert loop.wait_for(6) == whole[4:]
    assert sorted(token.index for token in loop.told) == list(range(4, 10))


def test_what_is_done_between_steps_is_done_by_the_thread_that_computes(loop: Loop) -> None:
    stage, seen = loop.stage, []
    threads = [threading.Thread(target=lambda: seen.append(stage.between_steps(threading.get_ident).result(5)))]
    threads += [threading.Thread(target=feed, args=(stage, 1, PROMPT))]
    stage.open_session(spec(1, 12))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [stage._thread.ident]
    loop.wait_for(12)


def test_an_error_between_steps_is_the_askers(loop: Loop) -> None:
    with pytest.raises(BadRequest, match="cannot be cropped"):
        loop.stage.open_session(spec(1, 4))
        loop.stage.between_steps(lambda: loop.stage.kv.crop(1, 3)).result(timeout=5)
    feed(loop.stage, 1, PROMPT)
    assert len(loop.wait_for(4)) == 4


def test_a_stopped_stage_does_nothing_between_steps(loop: Loop) -> None:
    loop.stage.close()
    with pytest.raises(ClusterError, match="no more work"):
        loop.stage.between_steps(lambda: None).result(timeout=5)


def test_a_session_that_is_closed_in_the_middle_of_a_step_keeps_its_rows_until_the_step_ends(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, they were given back at once, and the step wrote to them afterwards: memory that nobody had reserved."""
    stage, in_step = loop.stage, []
    forward = stage.shard.forward

    def close_and_run(*args: Any) -> torch.Tensor:
        if not in_step:
            stage.close_sessions([1])
            in_step.append((stage.usage(), len(stage.kv.extents)))
        return forward(*args)

    monkeypatch.setattr(stage.shard, "forward", close_and_run)
    stage.open_session(spec(1, 4))
    feed(stage, 1, PROMPT)
    wait_until(lambda: len(in_step) == 1, 5)
    stage.between_steps(lambda: None).result(timeout=5)
    assert in_step == [((0, 0), 1)], "others may reserve at once what it had reserved, and nobody gets its rows"
    assert stage.kv.extents == []


def test_work_for_which_a_session_has_no_room_does_not_end_the_stage(loop: Loop) -> None:
    """Once, it did where the hop had come before the session was opened."""
    stage = loop.stage

    def put_and_open() -> None:
        feed(stage, 1, [*PROMPT, 9, 9])
        stage.open_session(spec(1, 4)._replace(capacity_tokens=len(PROMPT)))

    stage.between_steps(put_and_open).result(timeout=5)
    stage.open_session(spec(2, 4))
    feed(stage, 2, PROMPT)
    assert len(loop.wait_for(4)) == 4
    [(session, why)] = loop.refused
    assert session == 1 and f"has room for {len(PROMPT)}" in why


def test_a_session_that_cannot_be_is_refused_and_the_stage_goes_on(loop: Loop) -> None:
    """An id of no token ended the stage with the first token that a penalty was for; a prompt of fewer than no tokens
    had random numbers drawn for ever.
    """
    penalty = SamplingOptions(temperature=1.0, repetition_penalty=1.3, seed=1)
    whole = spec(1, 4)._replace(sampling=penalty, prompt_ids=tuple(PROMPT))
    for wrong in (
        whole._replace(prompt_ids=(*PROMPT[:-1], 10**6)),
        whole._replace(prompt_ids=(*PROMPT[:-1], -1)),
        whole._replace(prompt_tokens=-(2**60)),
        whole._replace(sample_from=len(PROMPT) - 1),
        whole._replace(sample_from=65),
        whole._replace(send_from=-1),
    ):
        with pytest.raises(BadRequest, match="Session 1"):
            loop.stage.open_session(wrong)
    loop.stage.open_session(whole)
    feed(loop.stage, 1, PROMPT)
    assert len(loop.wait_for(4)) == 4


def test_what_comes_behind_the_end_of_a_stage_is_refused(loop: Loop) -> None:
    """Who followed it was told, before its thread had ended, that it has no sessions, and dropped its own."""
    stage, may_go_on = loop.stage, threading.Event()
    stage.between_steps(lambda: may_go_on.wait(5))
    ended, asked = stage.between_steps(stage.end_for_another), stage.between_steps(stage.standings)
    may_go_on.set()
    ended.result(5)
    with pytest.raises(ClusterError, match="part of another stage"):
        asked.result(5)


def test_a_stage_that_waits_holds_nothing_of_its_last_command(loop: Loop) -> None:
    """Once, it held the command and its result: a block that had been taken from it, say."""

    class Block:
        pass

    taken = weakref.ref(loop.stage.between_steps(Block).result(timeout=5))
    wait_until(lambda: taken() is None, 5)


@pytest.mark.parametrize(("num_groups", "most"), [(1, 4), (2, 2)])
def test_a_step_takes_a_groups_share_or_all_that_waits(
    shard: Shard, monkeypatch: pytest.MonkeyPatch, num_groups: int, most: int
) -> None:
    forward, num_decoded = shard.forward, []

    def count_and_run(rows: torch.Tensor, segments: list[Segment]) -> torch.Tensor:
        if len(rows) == len(segments):  # no prompt's
            num_decoded.append(len(rows))
        return forward(rows, segments)

    monkeypatch.setattr(shard, "forward", count_and_run)
    loop, kv = Loop(), KVCache(shard.kv_layout, shard.dtype, kept=kept_by(shard, CODEC))
    recorder = Recorder("here", 0)
    with Stage(shard, kv, recorder, loop, chunk_tokens=4, num_threads=1, sent_as=CODEC) as loop.stage:
        loop.stage.begin_ring(0, num_groups)
        for session in range(4):
            loop.stage.open_session(spec(session, 12))
            feed(loop.stage, session, PROMPT)
        loop.wait_for(4 * 12)
    assert max(num_decoded) == most


class PlayedClock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = 0
        monkeypatch.setattr("shardnet.stage.idle_time.clock_ns", lambda: self.now_ns)

    def pass_by(self, seconds: int = 1) -> None:
        self.now_ns += seconds * 10**9


def test_a_stage_is_idle_while_it_waits_and_has_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, a session that was opened in the wait in which the last one had ended counted for nothing."""
    clock, recorder = PlayedClock(monkeypatch), Recorder("here", 0)
    idle = IdleTime(recorder)
    idle.note_waiting(True)
    clock.pass_by(100)
    for num_sessions, seconds in ((1, 1), (2, 2), (1, 4), (0, 100), (1, 8)):
        idle.note_sessions(num_sessions)
        clock.pass_by(seconds)
    idle.note_waiting(False)
    assert recorder.totals().idle_s == 1 + 2 + 4 + 8
    clock.pass_by(100)
    idle.note_waiting(True)
    assert recorder.totals().idle_s == 15


def test_what_is_done_between_steps_is_no_idle_time(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = PlayedClock(monkeypatch)
    loop.stage.open_session(spec(1, 4))
    loop.stage.between_steps(clock.pass_by).result(timeout=5)
    feed(loop.stage, 1, PROMPT)
    loop.wait_for(4)
    assert loop.stage.recorder.totals().idle_s == 0
