"""Answers requests with a model: prompts are encoded and sessions opened beside the event loop, and read in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TypeVar

from shardnet.cluster.model import Model
from shardnet.errors import ShardnetError
from shardnet.process.threads import Errands
from shardnet.serve.answer import Answer
from shardnet.serve.asked import Asked
from shardnet.serve.bodies import MOST_CHOICES
from shardnet.serve.bridge import Bridge
from shardnet.serve.errors import ApiError, refused
from shardnet.serve.line import Line
from shardnet.serve.metrics import Metrics
from shardnet.serve.prompting import ids_of_chat
from shardnet.serve.provider import Provider
from shardnet.serve.reply import Reply
from shardnet.serve.settings import Settings
from shardnet.session.conversation import Handing
from shardnet.session.request import check_length
from shardnet.session.text import TextStream

OPENING_THREADS, LOOKING_THREADS, READING_THREADS = 32, 4, 8
Result = TypeVar("Result")
Encode = Callable[[Model], list[list[int]]]
"""The ids of the prompts of a request."""


class Service:
    """Lives in one event loop, from `begin` on. A context manager: leaving it ends what is under way."""

    def __init__(self, provider: Provider, settings: Settings) -> None:
        self.provider = provider
        self.settings = settings
        self.started = int(time.time())
        self.line = Line(settings.limits.waiting, settings.limits.wait_s)
        self.metrics = Metrics(lambda: self.line.num_waiting)
        self._replies: set[Reply] = set()
        self._opening = ThreadPoolExecutor(OPENING_THREADS, "shardnet-open")
        self._looking = ThreadPoolExecutor(LOOKING_THREADS, "shardnet-look")
        self._reading = ThreadPoolExecutor(READING_THREADS, "shardnet-read")
        self._closing = Errands("shardnet-close")
        self._bridge: Bridge | None = None

    def begin(self) -> None:
        """In the loop, before the first request."""
        self._bridge = Bridge(asyncio.get_running_loop())
        self._opening.submit(self._warm)

    async def look(self, work: Callable[[], Result]) -> Result:
        """Do what may wait a moment, and holds up no answers."""
        return await asyncio.get_running_loop().run_in_executor(self._looking, work)

    async def open_beside(self, work: Callable[[], Result]) -> Result:
        """Do what has a share of the ring, and may take long: answers do not wait for it."""
        return await asyncio.get_running_loop().run_in_executor(self._reading, work)

    def check_name(self, model: Model, named: str) -> None:
        """
        Raises:
            ApiError: a request names another model.
        """
        names = self.settings.names or (model.profile.name,)
        if named not in names:
            message = f"The model {named!r} does not exist here. This server has {', '.join(names)}."
            raise ApiError(404, message, param="model", code="model_not_found")

    def context_of(self, model: Model) -> int:
        """Tokens of prompt and answer together."""
        return min(model.context_tokens, self.settings.most_tokens or model.context_tokens)

    async def answer(
        self, named: str, encode: Encode, asked: Asked, client: str, keeps_special: Callable[[], bool] = lambda: False
    ) -> Reply:
        """Open the sessions of a request, in turn. Whoever has the reply ends it by `end`.

        Args:
            keeps_special: asked when its prompt is encoded: whether its text has the tokens that are none otherwise.

        Raises:
            ApiError, ShardnetError: it cannot be answered, or not now.
        """
        if len(self._replies) >= self.settings.limits.sessions:
            raise ApiError(429, "Too many answers are under way. Ask again.", code="too_many", retry_after_s=1)
        loop = asyncio.get_running_loop()
        model, prompts = await loop.run_in_executor(self._opening, partial(self._encoded, named, encode, asked))
        fitting = self._fitting(model, prompts, asked)
        conversations = await self.line.open(f"{client} {asked.client}", partial(self._opened, model, prompts, fitting))
        assert self._bridge is not None, "`begin` was called"
        reply = Reply(self._bridge, self._closing.do)
        stop, is_all = asked.options.stop, keeps_special()
        texts = [TextStream(model.tokenizer, stop, keeps_special=is_all) for _ in conversations]
        answers = [Answer(index, text) for index, text in enumerate(texts)]
        reply.begin(conversations, answers, asked.num_choices)
        self._replies.add(reply)
        self.metrics.open_answers.set(len(self._replies))
        return reply

    def end(self, reply: Reply) -> None:
        """Close what is open of it, and put down what it took. Safe to call twice."""
        reply.end()
        if reply not in self._replies:
            return
        self._replies.discard(reply)
        self.metrics.open_answers.set(len(self._replies))
        usage, first_s = reply.usage, reply.first_token_s
        seconds = None if first_s is None else first_s - reply.started_s
        self.metrics.note_answer(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens, seconds)
        self.line.note_end(time.monotonic() - reply.started_s)

    def close(self) -> None:
        """End all."""
        for reply in list(self._replies):
            reply.end()
        self._closing.settle(2.0)
        self._closing.end()
        self._opening.shutdown(wait=False, cancel_futures=True)
        self._looking.shutdown(wait=False, cancel_futures=True)
        self._reading.shutdown(wait=False, cancel_futures=True)

    def _warm(self) -> None:
        """What the first chat would wait seconds for: templates import much."""
        with suppress(ShardnetError):  # there is no model yet
            model = self.provider.model()
            with suppress(ShardnetError):
                ids_of_chat(model, [{"role": "user", "content": "hi"}], self.settings.template)

    def _encoded(self, named: str, encode: Encode, asked: Asked) -> tuple[Model, list[list[int]]]:
        model = self.provider.model()
        self.check_name(model, named)
        return model, encode(model)

    def _fitting(self, model: Model, prompts: Sequence[list[int]], asked: Asked) -> Asked:
        """With as many tokens as there is room for, where the request does not say how many.

        Raises:
            BadRequest: there is no room.
        """
        if len(prompts) * asked.num_choices > MOST_CHOICES:
            raise refused("prompt", f"and n ask for more than the {MOST_CHOICES} choices that one request may have.")
        longest, context = max(map(len, prompts)), self.context_of(model)
        tokens = asked.options.max_new_tokens
        if not asked.tokens_are_given:
            tokens = max(1, min(tokens, context - longest))
        check_length(longest, tokens, context, "max_tokens")
        fitting = asked.for_model(model.proposed_sampling, tokens)
        return replace(fitting, options=replace(fitting.options, **self.settings.guessing))

    async def _opened(self, model: Model, prompts: Sequence[list[int]], asked: Asked) -> list[Handing]:
        """One session for each choice of each prompt: all, or none."""
        work = partial(self._open_all, model, prompts, asked)
        opening = self._opening.submit(work)
        try:
            return await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_late)
            raise

    def _open_all(self, model: Model, prompts: Sequence[list[int]], asked: Asked) -> list[Handing]:
        opened: list[Handing] = []
        try:
            for prompt in prompts:
                for choice in range(asked.num_choices):
                    opened.append(model.converse(prompt, asked.option_of(choice)))  # noqa: PERF401
        except BaseException:
            for conversation in opened:
                conversation.cancel()
            raise
        return opened


def _close_late(opening: Future[list[Handing]]) -> None:
    """Who asked is gone; on the thread that has opened them."""
    if not opening.cancelled() and opening.exception() is None:
        for conversation in opening.result():
            conversation.cancel()
