"""Answers that are handed to a reader instead of being iterated over: of this process, and of a running cluster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from in_process_ring import PROMPT, load, ring_in_process
from lasting_in_process import lasting_in_process
from processes import wait_until

from shardnet.cluster.model import Model
from shardnet.session.options import GenerationOptions
from shardnet.source.following import REST_S
from shardnet.transport.session_messages import SampledToken


class Reader:
    """Keeps what it is handed."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.reasons: list[str] = []
        self.errors: list[BaseException | None] = []
        self.has_ended = threading.Event()

    def take(self, tokens: Sequence[SampledToken]) -> None:
        assert [each.index for each in tokens] == list(range(len(self.ids), len(self.ids) + len(tokens)))
        self.ids += [each.token_id for each in tokens]
        self.reasons.append(tokens[-1].finish_reason)

    def end(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self.has_ended.set()


Lose = Callable[[], None]


@contextmanager
def here(tiny: Path) -> Iterator[tuple[Model, Lose]]:
    with ring_in_process() as ring, ring.connect() as cluster:
        yield load(cluster, tiny), lambda: ring.network.kill("b")


@contextmanager
def elsewhere(tiny: Path) -> Iterator[tuple[Model, Lose]]:
    with lasting_in_process(3) as cluster:
        source = cluster.connect()
        source.load(tiny, dtype="float32")
        yield source.model, lambda: cluster.lose("b")


@pytest.mark.parametrize("place", [here, elsewhere])
def test_a_reader_is_handed_what_an_iteration_gives(
    tiny: Path, place: Callable[[Path], AbstractContextManager[tuple[Model, Lose]]]
) -> None:
    with place(tiny) as (model, _):
        asked = GenerationOptions(max_new_tokens=40)
        [expected] = model.generate([PROMPT], max_new_tokens=40)
        reader = Reader()
        conversation = model.converse(PROMPT, asked)
        conversation.hand_to(reader)
        wait_until(lambda: reader.ids == expected.token_ids)
        assert reader.reasons[-1] in ("eos", "length") and not any(reader.errors)
        conversation.cancel()
        assert reader.has_ended.wait(10) and reader.errors[0] is None


@pytest.mark.parametrize("place", [here, elsewhere])
def test_a_loss_changes_nothing_for_a_reader(
    tiny: Path, place: Callable[[Path], AbstractContextManager[tuple[Model, Lose]]]
) -> None:
    with place(tiny) as (model, lose):
        [expected] = model.generate([PROMPT], max_new_tokens=400, ignore_eos=True)
        reader = Reader()
        conversation = model.converse(PROMPT, GenerationOptions(max_new_tokens=400, ignore_eos=True))
        conversation.hand_to(reader)
        wait_until(lambda: len(reader.ids) > 5)
        lose()
        wait_until(lambda: reader.ids == expected.token_ids)
        conversation.cancel()


def test_a_reader_hears_what_ended_it(tiny: Path) -> None:
    with ring_in_process() as ring, ring.connect() as cluster:
        model = load(cluster, tiny)
        reader = Reader()
        conversation = model.converse(PROMPT, GenerationOptions(max_new_tokens=4000, ignore_eos=True))
        conversation.hand_to(reader)
        wait_until(lambda: len(reader.ids) > 5)
        model.close()
        assert reader.has_ended.wait(10) and reader.errors[0] is not None


def test_a_source_with_a_reader_asks_seldom(tiny: Path) -> None:
    with lasting_in_process(2) as cluster:
        source = cluster.connect()
        source.load(tiny, dtype="float32")
        model = source.model
        asked: list[str] = []
        connection = source._connection
        plain = connection.ask

        def ask(endpoint: str, *what: Any, **how: Any) -> Any:
            asked.append(endpoint)
            return plain(endpoint, *what, **how)

        connection.ask = ask  # type: ignore[method-assign]
        reader, begun_s = Reader(), time.monotonic()
        conversation = model.converse(PROMPT, GenerationOptions(max_new_tokens=300, ignore_eos=True))
        conversation.hand_to(reader)
        wait_until(lambda: len(reader.ids) == 300)
        seconds = time.monotonic() - begun_s
        conversation.cancel()
        wait_until(lambda: cluster.num_sessions() == 0)
        assert asked.count("follow") < 20 + 2 * seconds / REST_S
