"""Many prompts at once: turns by memory, and the end of all when one fails. With streams that only count."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from shardnet.errors import BadRequest, DeviceLost, KVMemorySpent
from shardnet.session.stream import Stream
from shardnet.session.turns import MAX_SESSIONS_AT_ONCE, Batch, Turns


class Memory:
    """Room for so many streams at once."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.most = 0
        self._held = 0
        self._lock = threading.Lock()

    def start(self, prompt: list[int], answer: Callable[[FakeStream], None] = lambda stream: None) -> Stream:
        with self._lock:
            if self._held >= self.room:
                raise KVMemorySpent("full")
            self._held += 1
            self.most = max(self.most, self._held)
        return cast(Stream, FakeStream(prompt, self, answer))

    def give_back(self) -> None:
        with self._lock:
            self._held -= 1


class FakeStream:
    def __init__(self, prompt: list[int], memory: Memory, answer: Callable[[FakeStream], None]) -> None:
        self.result: Any = prompt
        self.closed = threading.Event()
        self._memory = memory
        self._answer = answer

    def __iter__(self) -> Iterator[str]:
        self._answer(self)
        yield "piece"

    def close(self) -> None:
        if not self.closed.is_set():
            self.closed.set()
            self._memory.give_back()


def test_answers_come_in_the_prompts_order_and_wait_for_memory() -> None:
    memory = Memory(2)
    prompts = [[index] for index in range(MAX_SESSIONS_AT_ONCE + 8)]
    assert Turns().answer_all(prompts, memory.start, Batch()) == prompts
    assert memory.most <= 2
    assert Turns().answer_all([], memory.start, Batch()) == []


def test_calls_of_two_threads_wait_for_each_other() -> None:
    """Once, the second call failed: nothing of its own was running, so it thought that waiting would not help."""
    memory, turns = Memory(1), Turns()
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(turns.answer_all, [[call, 0], [call, 1]], memory.start, Batch()) for call in range(4)]
        assert [call.result() for call in calls] == [[[call, 0], [call, 1]] for call in range(4)]


def test_what_fits_not_even_alone_is_refused() -> None:
    with pytest.raises(KVMemorySpent):
        Turns().answer_all([[1], [2]], Memory(0).start, Batch())


@pytest.mark.parametrize("error", [DeviceLost("gone"), BadRequest("no"), KeyboardInterrupt()])
def test_an_error_ends_the_others_at_once(error: BaseException) -> None:
    """Once, the error came when all others had been answered to the end; Ctrl-C, too."""
    memory = Memory(2)  # the third prompt waits for its turn, which must never come
    started: list[list[int]] = []

    def answer(stream: FakeStream) -> None:
        started.append(stream.result)
        if stream.result == [1]:
            raise error
        assert stream.closed.wait(30), "was not ended"

    with pytest.raises(type(error)):
        Turns().answer_all([[0], [1], [2]], lambda prompt: memory.start(prompt, answer), Batch())
    assert memory.most == 2 and memory._held == 0
    assert [2] not in started or started.index([2]) == 2


def test_a_later_call_is_not_kept_waiting_by_one_that_failed() -> None:
    memory, turns = Memory(1), Turns()

    def fail(_: FakeStream) -> None:
        raise BadRequest("no")

    with pytest.raises(BadRequest):
        turns.answer_all([[0]], lambda prompt: memory.start(prompt, fail), Batch())
    assert turns.answer_all([[1]], memory.start, Batch()) == [[1]]
