"""Many prompts at once: those that find no KV memory beside the others wait for their turn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait

from shardnet.errors import KVMemorySpent
from shardnet.session.stream import Generation, Stream

MAX_SESSIONS_AT_ONCE = 32
"""Of one call; more prompts wait for their turn."""
GRACE_S = 1.0
"""An error waits no longer for the others' threads; one that still opens a session then closes it by itself."""
LOOK_AGAIN_S = 1.0
"""Memory also becomes free where nobody tells: when a stream of the caller's is closed."""

Start = Callable[[list[int]], Stream]
"""Opens a session for a prompt's ids."""


class Turns:
    """The calls of one model that answer many prompts. They wait for each other, too."""

    def __init__(self) -> None:
        self._room = threading.Condition()
        self._num_running = 0

    def answer_all(self, prompts: Sequence[list[int]], start: Start, batch: Batch) -> list[Generation]:
        """Answer prompts at the same time, as far as there is memory; in the prompts' order.

        The first error, and also Ctrl-C, stops the others at once; so does `batch.stop`, from any thread.

        Raises:
            KVMemorySpent: a prompt does not fit even while no other is being answered.
        """
        if not prompts:
            return []
        threads = ThreadPoolExecutor(min(len(prompts), MAX_SESSIONS_AT_ONCE), "shardnet-generate")
        answers: list[Future[Generation]] = []
        try:
            answers.extend(threads.submit(self._answer, prompt, start, batch) for prompt in prompts)
            done, _ = wait(answers, return_when=FIRST_EXCEPTION)
            for answer in done:
                answer.result()
            return [answer.result() for answer in answers]
        finally:
            batch.stop()
            threads.shutdown(wait=False, cancel_futures=True)
            _, opening = wait([answer for answer in answers if not answer.cancelled()], timeout=GRACE_S)
            threads.shutdown(wait=not opening)

    def _answer(self, prompt: list[int], start: Start, batch: Batch) -> Generation:
        stream = self._start_in_turn(prompt, start, batch)
        try:
            batch.add(stream)
            for _ in stream:
                pass
            return stream.result
        finally:
            stream.close()
            with self._room:
                self._num_running -= 1
                self._room.notify_all()

    def _start_in_turn(self, prompt: list[int], start: Start, batch: Batch) -> Stream:
        with self._room:  # one opens at a time: two half-open sessions could keep each other out
            while not batch.is_over:
                try:
                    stream = start(prompt)
                except KVMemorySpent:
                    if self._num_running == 0:
                        raise
                    self._room.wait(LOOK_AGAIN_S)
                else:
                    self._num_running += 1
                    return stream
        raise CancelledError


class Batch:
    """The streams of one call, to be stopped together."""

    def __init__(self) -> None:
        self.is_over = False
        self._streams: list[Stream] = []
        self._lock = threading.Lock()

    def add(self, stream: Stream) -> None:
        with self._lock:
            self._streams.append(stream)
            if self.is_over:
                stream.close()

    def stop(self) -> None:
        """Let nothing start any more and end what runs. Harmless when all has ended."""
        with self._lock:
            self.is_over = True
            streams = list(self._streams)
        for stream in streams:
            stream.close()
