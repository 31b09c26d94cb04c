"""Answers for an event loop: what waits for devices runs in a thread beside it, and ends with the task that waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from shardnet.errors import BadRequest
from shardnet.session.stream import Generation, Piece, Stream

GRACE_S = 2.0
"""A cancelled task waits no longer for its thread; one that still opens a session then closes it by itself."""

Result = TypeVar("Result")


class AsyncStream:
    """An answer as it comes, for `async for`. Made by `Model.astream`; `result` is there when it has ended.

    It begins at the first `await`, and is read once, as a `Stream` is. It ends early when the task that waits for a
    piece is cancelled, with `aclose`, with an `async with` block, and when nobody holds it any more. Its thread ends
    with it.
    """

    def __init__(self, start: Callable[[], Stream]) -> None:
        self._start = start
        self._stream: Stream | None = None
        self._is_closed = False
        self._closing = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "shardnet-stream")

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> str:
        while (piece := await self._next_piece()) is not None:
            if piece.text:
                return piece.text
        raise StopAsyncIteration

    async def pieces(self) -> AsyncIterator[Piece]:
        """See `Stream.pieces`."""
        while (piece := await self._next_piece()) is not None:
            yield piece

    async def _next_piece(self) -> Piece | None:
        if self._is_closed:
            return None
        try:
            piece = await run_beside(self._thread, self._next, self._close)
        except BaseException:
            self._close()
            raise
        if piece is None:
            self._close()
        return piece

    async def aclose(self) -> None:
        """Stop generating. Safe to call twice, and after the end."""
        self._close()

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    @property
    def result(self) -> Generation:
        """What was generated; after an early end, what came until then.

        Raises:
            BadRequest: nothing of it was read yet.
        """
        if self._stream is None:
            raise BadRequest("this stream has no result, for nothing of it was read. Iterate over it first.")
        return self._stream.result

    def _next(self) -> Piece | None:
        """In the thread: the next piece; None at the end."""
        if self._stream is None:
            stream = self._start()
            with self._closing:
                self._stream, is_closed = stream, self._is_closed
            if is_closed:  # while the session was being opened
                stream.close()
        assert self._stream is not None
        return self._stream.next_piece()

    def _close(self) -> None:
        with self._closing:
            self._is_closed, stream = True, self._stream
        if stream is not None:
            stream.close()
        self._thread.shutdown(wait=False)


async def run_beside(thread: ThreadPoolExecutor, work: Callable[[], Result], stop: Callable[[], object]) -> Result:
    """Run blocking `work` in `thread` and wait for it here; if this task is cancelled, end the work by `stop`."""
    running = thread.submit(work)
    try:
        return await asyncio.wrap_future(running)
    except asyncio.CancelledError:
        stop()
        await _ended(running)
        raise


async def _ended(running: Future[Any]) -> None:
    ended = asyncio.wrap_future(running)
    ended.add_done_callback(lambda future: future.cancelled() or future.exception())  # nobody else will look
    await asyncio.wait([ended], timeout=GRACE_S)
