"""Whose turn it is where memory is spent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shardnet.errors import KVMemorySpent
from shardnet.serve.errors import ApiError
from shardnet.serve.line import Line


class Memory:
    """Room for some answers."""

    def __init__(self, line: Line, room: int) -> None:
        self.line = line
        self.room = room
        self.opened: list[str] = []

    def attempt(self, name: str) -> Callable[[], object]:
        async def one() -> str:
            await asyncio.sleep(0)
            if self.room == 0:
                raise KVMemorySpent("spent.")
            self.room -= 1
            self.opened.append(name)
            return name

        return one

    def free(self) -> None:
        self.room += 1
        self.line.note_end(1.0)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_clients_take_turns_and_each_is_answered_in_order() -> None:
    async def run() -> list[str]:
        line = Line(10, 30.0)
        memory = Memory(line, 1)
        asked = ["a0", "a1", "a2", "a3", "b0", "c0", "b1"]
        tasks = []
        for name in asked:
            tasks.append(asyncio.ensure_future(line.open(name[0], memory.attempt(name))))  # type: ignore[arg-type]
            await asyncio.sleep(0.005)
        for number in range(1, len(asked)):
            await until(lambda: len(memory.opened) == number)  # noqa: B023
            memory.free()
        await asyncio.gather(*tasks)
        assert line.num_waiting == 0
        return memory.opened

    # a1 tries first; behind it a has two more, and b and c come in between.
    assert asyncio.run(run()) == ["a0", "a1", "a2", "b0", "c0", "a3", "b1"]


def test_too_many_and_too_long() -> None:
    async def run() -> None:
        line = Line(1, 0.05)
        memory = Memory(line, 0)
        first = asyncio.ensure_future(line.open("a", memory.attempt("a")))  # type: ignore[arg-type]
        await until(lambda: line.num_waiting == 1)
        with pytest.raises(ApiError) as refused:
            await line.open("b", memory.attempt("b"))  # type: ignore[arg-type]
        assert refused.value.status == 429 and refused.value.headers["Retry-After"] == "1"
        with pytest.raises(ApiError):
            await first
        assert line.num_waiting == 0

    asyncio.run(run())


def test_who_goes_away_holds_up_nobody() -> None:
    async def run() -> None:
        line = Line(10, 30.0)
        memory = Memory(line, 0)
        tasks = {}
        for name in ("a", "b", "c"):
            tasks[name] = asyncio.ensure_future(line.open(name, memory.attempt(name)))  # type: ignore[arg-type]
            await asyncio.sleep(0.005)
        tasks["a"].cancel()
        tasks["b"].cancel()
        await asyncio.sleep(0.005)
        memory.free()
        assert await tasks["c"] == "c"
        assert line.num_waiting == 0

    asyncio.run(run())


@pytest.mark.parametrize("steps", range(8))
def test_who_goes_away_just_as_its_turn_comes_opens_nothing(steps: int) -> None:
    """Once Python 3.11 forgot the cancelling, and what was opened then was nobody's."""

    async def run() -> list[str]:
        line = Line(10, 30.0)
        memory = Memory(line, 0)
        tasks = {}
        for name in ("a", "b", "c"):
            tasks[name] = asyncio.ensure_future(line.open(name, memory.attempt(name)))  # type: ignore[arg-type]
            await asyncio.sleep(0.005)
        memory.free()
        await tasks["a"]
        memory.free()
        memory.opened.clear()
        for _ in range(steps):
            await asyncio.sleep(0)
        is_late = tasks["b"].done()
        tasks["b"].cancel()
        await asyncio.wait((tasks["b"],))
        assert tasks["b"].cancelled() != is_late
        if is_late:
            memory.free()
        assert await tasks["c"] == "c"
        assert line.num_waiting == 0
        return [] if is_late else memory.opened

    assert asyncio.run(run()) in ([], ["c"])


@pytest.mark.parametrize("moment", range(4))
def test_who_goes_away_just_as_there_is_room_opens_nothing(moment: int) -> None:
    async def run() -> None:
        line = Line(10, 30.0)
        memory = Memory(line, 0)
        task = asyncio.ensure_future(line.open("a", memory.attempt("a")))  # type: ignore[arg-type]
        await until(lambda: line.num_waiting == 1)
        await asyncio.sleep(0.01)
        memory.free()
        for _ in range(moment):
            await asyncio.sleep(0)
        is_late = task.done()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled() != is_late
        assert line.num_waiting == 0

    asyncio.run(run())


def test_where_nobody_may_wait_nobody_does() -> None:
    async def run() -> None:
        line = Line(0, 3000.0)
        with pytest.raises(ApiError) as refused:
            await asyncio.wait_for(line.open("a", Memory(line, 0).attempt("a")), 20.0)  # type: ignore[arg-type]
        assert refused.value.status == 429 and line.num_waiting == 0

    asyncio.run(run())
