"""All that a ring promises, at the same time: weights of few bits, the same for all units or not, and as a .gguf file
has them, keys and values of 8 bits, tokens that are guessed by look-up and by a draft, and shared beginnings, while
devices are lost, fall silent and take over, layers move, and sessions are closed at any moment. Every answer is that of
the same weights on one device without guesses, token for token. (hypothesis; the network's threads are real.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import tiny_gguf
from guesses import Oracle
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from in_process_ring import RingInProcess, ring_in_process, rings_of

from shardnet.cluster import remote_stage, standby, tidying
from shardnet.cluster.model import Model
from shardnet.errors import ShardnetError
from shardnet.loader import ModelFiles, open_model
from shardnet.plan import Plan, stages_from_counts
from shardnet.quantised.kernels.native import native
from shardnet.quantised.native.products import Native
from shardnet.session import beginnings
from shardnet.session.stream import Stream
from shardnet.speculation.guesser import Guesser
from shardnet.stage import front

pytestmark = pytest.mark.usefixtures("quick_watch")
NUM_UNITS = 6
NAMES = ("a", "b", "c", "d", "e")
SPLITS = ([2, 2, 2, 0, 0], [1, 4, 1, 0, 0], [6, 0, 0, 0, 0], [1, 1, 2, 1, 1], [3, 3, 0, 0, 0])
NUM_EXAMPLES, NUM_LONG = 20, 500
MOST_PROMPT = 70
MOST_LOST = 3
HOW: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_k": 20, "seed": 5},
    "penalised": {"temperature": 1.1, "top_p": 0.9, "repetition_penalty": 1.3, "seed": 6},
}
MIXED = "mixed"
BITS = ("int4", "int4", "int8", "float32", "int8", "int8")
"""Of each unit, where they are mixed, as `quality` mixes them."""
HELD: dict[str, dict[str, Any]] = {
    "floats": {"dtype": "float32"},
    "int4": {"dtype": "float32", "weights": "int4"},
    "int8": {"dtype": "float32", "weights": "int8"},
    MIXED: {"dtype": "float32"},
    "file": {"dtype": "float32"},
}
"""What a model is loaded with; "file" is the one of a .gguf file."""
HELD_IN_C: dict[str, dict[str, Any]] = {
    "int4, in C": {"weights": "int4"},
    "int4, in C, keys and values": {"weights": "int4", "kv_dtype": "int8"},
    "file, in C": {},
    "file, in C, keys and values": {"kv_dtype": "int8"},
}
"""In bfloat16: all of a row is computed alike there whatever is beside it, so that keys and values that are computed
anew are rounded to the same 8 bits."""
if isinstance(native(), Native):
    HELD |= HELD_IN_C


class Alone:
    """The models on one device, without guesses."""

    def __init__(self, folder: Path, file: Path, resources: ExitStack) -> None:
        self._folder, self._file = folder, file
        self._resources = resources
        self._models: dict[str, Model] = {}
        self._known: dict[tuple[str, str, tuple[int, ...]], list[int]] = {}

    def path(self, held: str) -> Path:
        """Of the model."""
        return self._file if held.startswith("file") else self._folder

    def model(self, held: str) -> Path | ModelFiles:
        """As it is to be loaded."""
        return open_model(str(self._folder), "float32").held_as(BITS) if held == MIXED else self.path(held)

    def answer(self, held: str, how: str, prompt: list[int], num_tokens: int) -> list[int]:
        key = (held, how, tuple(prompt))
        if len(self._known.get(key, ())) < num_tokens:
            [result] = self._model(held).generate([prompt], max_new_tokens=num_tokens, **HOW[how])
            self._known[key] = result.token_ids
        return self._known[key][:num_tokens]

    def _model(self, held: str) -> Model:
        if held not in self._models:
            ring = self._resources.enter_context(ring_in_process(1))
            cluster = self._resources.enter_context(ring.connect())
            options = {**HELD[held], "split": [NUM_UNITS]}  # by hand, as the ring: both have the same products
            self._models[held] = cluster.load(self.model(held), **options, standby="none", share_prefixes=False)
        return self._models[held]


class Talk:
    """One answer under way."""

    def __init__(self, stream: Stream, prompt: list[int], right: list[int]) -> None:
        self.stream = stream
        self.prompt = prompt
        self.right = right

    def check(self) -> None:
        told = self.stream.result.token_ids
        assert told == self.right[: len(told)], (told, self.right)


class Conversations(RuleBasedStateMachine):
    """Of one ring, from its load to its end."""

    def __init__(self, alone: Alone, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.alone = alone
        self.patch = patch
        self.resources = ExitStack()
        self.talks: list[Talk] = []
        self.texts: list[list[int]] = [[5, 6, 7, 8, 9, 10, 11, 12], [40, 41] * 6]
        self.conversations: list[list[int]] = []
        self.num_lost = 0
        self.frozen: str | None = None

    @initialize(
        held=st.sampled_from(tuple(HELD)),
        split=st.sampled_from(SPLITS),
        kept=st.sampled_from(("hot", "warm", "cold")),
        share=st.sampled_from((None, 0.5, 0.9)),
        most_s=st.sampled_from((0.0, 0.1)),
    )
    def load(self, held: str, split: list[int], kept: str, share: float | None, most_s: float) -> None:
        self.held = held
        self.ring: RingInProcess = self.resources.enter_context(ring_in_process(len(split), speed=50.0))
        cluster = self.resources.enter_context(self.ring.connect())
        self.model: Model = cluster.load(
            self.alone.model(held), **HELD[held], split=split, prefill_chunk_tokens=4, standby=kept
        )
        oracle = Oracle((), share or 0.0)
        oracle._conversations = self.conversations

        def guesser(way: str, *about: Any) -> Any:
            return (Guesser if share is None or way == "draft" else oracle.guesser)(way, *about)

        self.patch.setattr(front, "Guesser", guesser)
        self.ring.network.scatter(most_s, 1)

    @rule(
        data=st.data(),
        how=st.sampled_from(tuple(HOW)),
        guesses=st.sampled_from(("lookup", "auto", "draft", "off")),
        num_tokens=st.integers(1, 24),
        new=st.lists(st.integers(0, 249), max_size=6),
        repeats=st.integers(1, 3),
    )
    @precondition(lambda self: len(self.talks) < 4)
    def begin(self, data: st.DataObject, how: str, guesses: str, num_tokens: int, new: list[int], repeats: int) -> None:
        text = data.draw(st.sampled_from(self.texts[-6:]), "text")
        beginning = text[: data.draw(st.sampled_from((len(text), max(len(text) // 2, 1))), "size")]
        prompt = (beginning * repeats + new)[-MOST_PROMPT:]
        right = self.alone.answer(self.held, how, prompt, num_tokens)
        self.conversations.append(prompt + right)
        options = {"draft": str(self.alone.path(self.held))} if guesses == "draft" else {"speculate": guesses}
        stream = self.model.stream(prompt, max_new_tokens=num_tokens, **options, **HOW[how])
        self.talks.append(Talk(stream, prompt, right))

    @rule(data=st.data(), num_tokens=st.integers(1, 10))
    @precondition(lambda self: self.talks)
    def read(self, data: st.DataObject, num_tokens: int) -> None:
        talk = data.draw(st.sampled_from(self.talks), "talk")
        for _ in range(num_tokens):
            next(talk.stream, "")

    @rule(data=st.data(), whole=st.booleans())
    @precondition(lambda self: self.talks)
    def end(self, data: st.DataObject, whole: bool) -> None:
        talk = data.draw(st.sampled_from(self.talks), "talk")
        self.talks.remove(talk)
        self._end(talk, whole=whole)

    def _end(self, talk: Talk, *, whole: bool) -> None:
        if whole:
            "".join(talk.stream)
            assert talk.stream.result.token_ids == talk.right
        talk.stream.close()
        talk.check()
        self.texts.append(talk.prompt + talk.right)

    # What is drawn goes by what was drawn before and by nothing else: hypothesis would call the test flaky.

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.num_lost < MOST_LOST)
    def lose(self, number: int) -> None:
        self.num_lost += 1
        lost = self._holder(number)
        if not self._is_gone(lost):
            self.ring.network.kill(lost)

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.frozen is None and self.num_lost < MOST_LOST)
    def freeze(self, number: int) -> None:
        self.num_lost += 1
        self.frozen = self._holder(number)
        if not self._is_gone(self.frozen):
            self.ring.network.freeze(self.frozen)

    def _holder(self, number: int) -> str:
        """One of those that hold layers."""
        devices = sorted(self.model.plan.devices)
        return devices[number % len(devices)]

    @rule()
    @precondition(lambda self: self.frozen is not None)
    def thaw(self) -> None:
        assert self.frozen is not None
        if not self._is_gone(self.frozen):
            self.ring.network.restore(self.frozen)
        self.frozen = None

    @rule()
    def renew(self) -> None:
        rings_of(self.model).renew()

    @rule(owners=st.permutations(NAMES), cuts=st.sets(st.integers(1, NUM_UNITS - 1), max_size=4))
    def move(self, owners: list[str], cuts: set[int]) -> None:
        """Layers go to other devices, as far as these are there."""
        there = [name for name in owners if name != self.frozen and not self._is_gone(name)]
        places = sorted(cuts)[: len(there) - 1]
        counts = [end - first for first, end in zip([0, *places], [*places, NUM_UNITS])]
        with suppress(ShardnetError):  # somebody is lost meanwhile
            rings_of(self.model).go_over(lambda *_: Plan(stages_from_counts(there[: len(counts)], counts)))

    def _is_gone(self, name: str) -> bool:
        member = self.ring.network.member(name)
        return member is None or member.is_dead

    @rule(device=st.sampled_from(NAMES))
    def forget(self, device: str) -> None:
        """It has no room for what stays of sessions."""
        for host in self.ring.workers[device]._stages.hosts():
            stage = host.stage
            if stage is not None:
                stage.kv.drop_recent()

    @rule(data=st.data())
    def score(self, data: st.DataObject) -> None:
        text = data.draw(st.sampled_from(self.texts), "text")
        assert len(self.model.score(text).log_likelihoods) == len(text) - 1

    def teardown(self) -> None:
        with self.resources:
            for talk in self.talks:
                self._end(talk, whole=True)
            self.talks.clear()


@pytest.fixture(scope="module")
def alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    with ExitStack() as resources, pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_gguf.SIZES, "blocks", NUM_UNITS - 2)
        file = tiny_gguf.write_gguf(tmp_path_factory.mktemp("file") / "tiny.gguf", kind="Q4_1")
        yield Alone(tiny, file, resources)


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(beginnings, "LEAST_TOKENS", 1)
    monkeypatch.setattr(standby, "QUIET_S", 0.02)
    monkeypatch.setattr(remote_stage, "REWIRE_TRIES", 8)
    monkeypatch.setattr(tidying, "FIRST_S", 0.002)
    return monkeypatch


def play(alone: Alone, patch: pytest.MonkeyPatch, num_examples: int, *, derandomize: bool) -> None:
    """Nothing is shrunk: threads make no two runs alike."""
    chosen = settings(
        max_examples=num_examples,
        stateful_step_count=14,
        deadline=None,
        database=None,
        derandomize=derandomize,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: Conversations(alone, patch), settings=chosen)


def test_every_answer_is_that_of_one_device(alone: Alone, patch: pytest.MonkeyPatch) -> None:
    play(alone, patch, NUM_EXAMPLES, derandomize=True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_every_answer_is_that_of_one_device_however_long(alone: Alone, patch: pytest.MonkeyPatch) -> None:
    play(alone, patch, NUM_LONG, derandomize=False)
