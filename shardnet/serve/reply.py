"""What comes of one request: the choices of its answer, as they are read in the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from shardnet.errors import ClusterError
from shardnet.serve.answer import Answer, Likely
from shardnet.serve.bridge import Bridge, News
from shardnet.session.conversation import Handing

Close = Callable[[Callable[[], object]], object]
"""Has something done that may take a moment, elsewhere."""


class Piece(NamedTuple):
    """What has come of one choice since the last one."""

    choice: int
    text: str
    finish_reason: str | None
    likely: tuple[Likely, ...] = ()
    """Of the tokens of this text, where that was asked for."""


@dataclass(frozen=True)
class Usage:
    """What an answer took."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    def as_object(self) -> dict[str, object]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Reply:
    """Lives in the event loop. It is read as fast as tokens come, however slowly its client reads, so that no session
    stays open for a client.

    Args:
        close: has sessions closed on another thread, as that takes locks.
    """

    def __init__(self, bridge: Bridge, close: Close) -> None:
        self.answers: list[Answer] = []
        self.started_s = time.monotonic()
        self.first_token_s: float | None = None
        self._bridge = bridge
        self._close = close
        self._conversations: dict[int, Handing] = {}
        self._pieces: dict[int, list[str]] = {}
        self._told: set[int] = set()
        """The choices of which the end was given out."""
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self._prompt_tokens = self._cached_tokens = 0

    def begin(self, conversations: Sequence[Handing], answers: Sequence[Answer], num_choices: int = 1) -> None:
        """Read these, one for each choice. Args: `num_choices`, of each prompt; prompts count once."""
        for first in conversations[::num_choices]:
            self._prompt_tokens += first.spec.prompt_tokens
            self._cached_tokens += min(first.num_shared, first.spec.prompt_tokens)
        self.answers = list(answers)
        self._conversations = dict(enumerate(conversations))
        for index, conversation in enumerate(conversations):
            conversation.hand_to(self._bridge.reader(partial(self._hear, index)))

    async def next(self) -> list[Piece]:
        """What has come since it was asked last, once there is something; none where all has come.

        Raises: what ended a session.
        """
        while not (pieces := self._pieces_now()):
            if self._error is not None:
                raise self._error
            if len(self._told) == len(self.answers):
                return []
            self._changed.clear()
            await self._changed.wait()
        return pieces

    @property
    def usage(self) -> Usage:
        """So far."""
        return Usage(self._prompt_tokens, self._cached_tokens, sum(each.num_tokens for each in self.answers))

    def end(self) -> None:
        """Close what is open. Safe to call twice."""
        for index in list(self._conversations):
            self._end(index)

    def _pieces_now(self) -> list[Piece]:
        taken, self._pieces = self._pieces, {}
        pieces = []
        for index, texts in taken.items():
            reason = self.answers[index].finish_reason
            if reason is not None:
                self._told.add(index)
            pieces.append(Piece(index, "".join(texts), reason, self.answers[index].likely()))
        return [piece for piece in pieces if piece.text or piece.finish_reason]

    def _hear(self, index: int, news: News) -> None:
        answer = self.answers[index]
        if answer.finish_reason is not None or self._error is not None:
            return
        if news is None or isinstance(news, BaseException):
            self._fail(news or ClusterError("the answer was ended before it was whole. Ask again."))
            return
        self.first_token_s = self.first_token_s or time.monotonic()
        try:
            self._pieces.setdefault(index, []).append(answer.take(news))
        except Exception as error:  # whatever a tokenizer raises: who asked hears of it, and the others read on
            self._fail(error)
            return
        if answer.finish_reason is not None:
            self._end(index)
        self._changed.set()

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self.end()
        self._changed.set()

    def _end(self, index: int) -> None:
        conversation = self._conversations.pop(index, None)
        if conversation is not None:
            self._close(conversation.cancel)
