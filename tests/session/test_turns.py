"""Many prompts at once: turns by memory, and the end of all when one fails. With streams that only count."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from processes import wait_until

from shardnet.errors import BadRequest, DeviceLost, KVMemorySpent
from shardnet.session import turns as turns_module
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


def test_an_error_does_not_wait_for_a_session_that_is_being_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C waited up to 30 s for a device that did not say whether it had room. The session is closed when it is."""
    monkeypatch.setattr(turns_module, "GRACE_S", 0.05)
    memory = Memory(1)
    may_open, opening = threading.Event(), threading.Event()
    late: list[Stream] = []

    def start(prompt: list[int]) -> Stream:
        opening.set()
        assert may_open.wait(30)
        late.append(memory.start(prompt, lambda stream: stream.closed.wait(30)))
        return late[0]

    def press() -> None:
        assert opening.wait(30)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        Turns().answer_all([[0], [1]], start, Batch())
    presser.join()
    assert not late
    may_open.set()
    wait_until(lambda: late and memory._held == 0, 10)
