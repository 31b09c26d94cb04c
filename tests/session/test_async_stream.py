"""Answers for an event loop: it goes on meanwhile, and whoever is cancelled leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from answers import Answer

from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.session.async_stream import AsyncStream, run_beside
from shardnet.session.stream import Stream
from shardnet.session.turns import Batch, Turns

pytestmark = pytest.mark.timeout(30)
TEXT = "a stream beside a loop"


def no_threads() -> bool:
    """Whether the threads of streams end: they have nothing left to do, but may not have had their turn yet."""
    left = [each for each in threading.enumerate() if each.name.startswith(("shardnet-stream", "shardnet-generate"))]
    for thread in left:
        thread.join(10)
    return not any(thread.is_alive() for thread in left)


def test_the_loop_goes_on_between_pieces() -> None:
    """Once, iterating held the loop up. Here the loop brings the tokens itself: if it waited, it would for ever."""
    answer = Answer(is_whole=False)

    async def read() -> list[str]:
        return [piece async for piece in stream]

    async def bring() -> None:
        for letter in TEXT:
            await asyncio.sleep(0)
            answer.tell(letter)
        answer.tell(".", is_last=True)

    async def both() -> list[str]:
        pieces, _ = await asyncio.gather(read(), bring())
        return pieces

    stream = AsyncStream(lambda: answer.stream)
    assert asyncio.run(both()) == [*TEXT, "."]
    assert stream.result.text == TEXT + "." and answer.closed and no_threads()


def test_many_at_once_and_none_without_a_thread() -> None:
    """More than the loop's own threads, all waiting at the same time."""
    answers = [Answer(is_whole=False) for _ in range(40)]

    async def read(answer: Answer) -> str:
        return "".join([piece async for piece in AsyncStream(lambda: answer.stream)])

    async def all_of_them() -> list[str]:
        reading = [asyncio.create_task(read(answer)) for answer in answers]
        await asyncio.sleep(0.05)
        for answer in reversed(answers):
            answer.tell(TEXT, is_last=True)
        return await asyncio.gather(*reading)

    assert asyncio.run(all_of_them()) == [TEXT] * 40
    assert no_threads()


def test_a_task_that_is_cancelled_ends_the_answer() -> None:
    answer = Answer("ab", is_whole=False)
    stream = AsyncStream(lambda: answer.stream)

    async def cancel() -> list[str]:
        pieces = [await anext_of(stream), await anext_of(stream)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext_of(stream), 0.1)
        assert answer.closed and no_threads()
        assert [piece async for piece in stream] == []
        return pieces

    assert asyncio.run(cancel()) == ["a", "b"]
    assert stream.result.text == "ab" and stream.result.finish_reason == "cancelled"


def test_a_task_that_is_cancelled_while_its_session_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task does not wait for a device that does not answer; the session is closed as soon as it stands."""
    monkeypatch.setattr("shardnet.session.async_stream.GRACE_S", 0.01)
    answer, may_open = Answer(TEXT), threading.Event()

    def open_slowly() -> Stream:
        may_open.wait(20)
        return answer.stream

    async def cancel() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext_of(AsyncStream(open_slowly)), 0.05)
        assert not answer.closed
        may_open.set()

    asyncio.run(cancel())
    assert no_threads() and answer.closed


def test_errors_come_from_the_iteration() -> None:
    def refuse() -> Stream:
        raise BadRequest("the prompt is empty")

    async def read() -> None:
        stream = AsyncStream(refuse)
        with pytest.raises(BadRequest, match="no result"):
            _ = stream.result
        with pytest.raises(BadRequest, match="empty"):
            await anext_of(stream)
        broken = Answer("a", is_whole=False)
        broken.fail(BadRequest("no finite numbers"))
        with pytest.raises(BadRequest, match="finite"):
            async for _ in AsyncStream(lambda: broken.stream):
                pass
        assert broken.closed

    asyncio.run(read())
    assert no_threads()


@pytest.mark.parametrize("how", ["break", "with", "aclose"])
def test_every_early_end_frees_the_memory(how: str) -> None:
    answer = Answer(TEXT, is_whole=False)

    async def read() -> None:
        stream = AsyncStream(lambda: answer.stream)
        if how == "with":
            async with stream:
                assert await anext_of(stream) == "a"
        elif how == "aclose":
            assert await anext_of(stream) == "a"
            await stream.aclose()
        else:
            async for _ in stream:
                break
            del stream, answer.stream
            gc.collect()

    asyncio.run(read())
    assert answer.closed and no_threads()


def test_a_call_for_many_prompts_that_is_cancelled_stops_all() -> None:
    turns, batch = Turns(), Batch()
    answers = [Answer("a", is_whole=False) for _ in range(3)]
    free = list(answers)

    def start(prompt: list[int]) -> Stream:
        if not free:
            raise KVMemorySpent("full")
        return free.pop().stream

    async def cancel() -> None:
        thread = ThreadPoolExecutor(1, "shardnet-generate")
        prompts: Any = [[1], [2], [3], [4]]  # the last one waits for its turn
        call = run_beside(thread, lambda: turns.answer_all(prompts, start, batch), batch.stop)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(call, 0.2)
        thread.shutdown(wait=False)

    asyncio.run(cancel())
    assert all(answer.closed for answer in answers) and no_threads()


async def anext_of(stream: AsyncStream) -> str:
    return await stream.__anext__()
