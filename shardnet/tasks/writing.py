"""Tasks whose result is text: text-generation, summarization, translation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from secrets import randbelow
from typing import Any, NamedTuple

from shardnet.cluster.model import Model
from shardnet.errors import BadRequest
from shardnet.loader.generation import SAMPLED
from shardnet.session.options import GenerationOptions
from shardnet.session.request import require_writer
from shardnet.session.stream import Generation
from shardnet.tasks.asking import prompt_for, put
from shardnet.tasks.names import GENERATION
from shardnet.tasks.options import TaskOptions
from shardnet.tasks.parts import parts_of, trimmed

MAX_NEW_TOKENS = 256
"""As transformers' pipelines have it."""
DRAWN_BY = ("temperature", "top_k", "top_p", "min_p", "seed")
PASSED_ON = ("repetition_penalty", "stop")
ANSWER_SHARE = 4
"""Of a context, an answer gets a fourth where nobody says how much."""


def generation_options(model: Model, asked: TaskOptions) -> GenerationOptions:
    """How answers are made. Tokens that are drawn are so as the model's generation_config.json proposes.

    Raises:
        BadRequest: something is for drawn tokens, and none are.
    """
    given = asked.given
    if not asked.do_sample:
        for name in (*DRAWN_BY, "num_return_sequences"):
            if given.get(name, 1) != 1 or (name in DRAWN_BY and name in given):
                raise BadRequest(f"{name} is for tokens that are drawn: say do_sample, too.", option=name)
    values = {"seed": randbelow(2**31), **_drawn(model.proposed_sampling)} if asked.do_sample else {}
    values |= {name: given[name] for name in (*DRAWN_BY, *PASSED_ON) if name in given}
    most = asked.max_new_tokens or min(MAX_NEW_TOKENS, max(1, model.context_tokens // ANSWER_SHARE))
    return GenerationOptions(max_new_tokens=most, **values)


def _drawn(proposed: Mapping[str, Any]) -> dict[str, Any]:
    """How tokens are drawn where authors propose to choose them greedily, but for what they say of drawn ones."""
    is_greedy = proposed.get("temperature") == 0
    return {**SAMPLED, **{name: value for name, value in proposed.items() if not (is_greedy and name == "temperature")}}


class Generating:
    """text-generation."""

    def __init__(self, model: Model, asked: TaskOptions) -> None:
        require_writer(model.profile)
        self._model, self._asked = model, asked
        self._options = generation_options(model, asked)

    def run(self, texts: Sequence[Any]) -> Iterator[Any]:
        """Of each text or chat its answers."""
        number = self._asked.num_return_sequences or 1
        drawn: list[list[Generation]] = [[] for _ in texts]
        for index in range(number):
            options = replace(self._options, seed=(self._options.seed + index) % 2**63)
            for answers, answer in zip(drawn, self._model.generate(list(texts), **options), strict=True):
                answers.append(answer)
        for text, answers in zip(texts, drawn, strict=True):
            yield [{"generated_text": self._shown(text, answer)} for answer in answers]

    def _shown(self, prompt: Any, answer: Generation) -> Any:
        if self._asked.return_full_text is False:
            return answer.text
        if isinstance(prompt, str):
            return prompt + answer.text
        return [*prompt, {"role": "assistant", "content": answer.text}]


class _Said(NamedTuple):
    """An answer."""

    text: str
    is_cut_off: bool
    """It ends with the last token that it may have."""


def _result(name: str, text: str, *, is_cut_off: bool) -> dict[str, Any]:
    return {name: text, "is_cut_off": True} if is_cut_off else {name: text}


class Rewriting:
    """summarization and translation: each text is asked for, in parts where it is long.

    Raises:
        BadRequest: no language is named to translate to; the prompt leaves no room for a text.
    """

    def __init__(self, model: Model, task: str, asked: TaskOptions) -> None:
        require_writer(model.profile)
        self._model, self._task = model, task
        self._prompt = prompt_for(task, asked)
        self._options = generation_options(model, asked)
        self._knows_chat = bool(getattr(model.tokenizer, "chat_template", None))
        self._room = model.context_tokens - self._options.max_new_tokens
        if self._num_tokens("x") > self._room:
            raise BadRequest(
                f"the prompt and {self._options.max_new_tokens} tokens of an answer leave no room for a text in the "
                f"context of {model.context_tokens}. Lower max_new_tokens, or shorten prompt."
            )

    def answers(self, texts: Sequence[str]) -> list[_Said]:
        """What the model says to each."""
        asked = [self._put(text) for text in texts]
        found = self._model.generate(asked, **self._options)
        return [_Said(answer.text.strip(), answer.finish_reason == "length") for answer in found]

    def parts(self, text: str) -> list[str]:
        """A text in parts for which there is room."""
        return parts_of(text, lambda part: self._num_tokens(part) <= self._room)

    def _put(self, text: str) -> Any:
        return put(self._task, self._prompt, text, knows_chat=self._knows_chat)

    def _num_tokens(self, text: str) -> int:
        return len(self._model.encode(self._put(text)))


class Summarizing(Rewriting):
    """Of a long text its parts are summarized, and then these summaries."""

    def run(self, texts: Sequence[str]) -> Iterator[Any]:
        """The summaries."""
        left = {index: self.parts(text) for index, text in enumerate(texts)}
        while long := {index: parts for index, parts in left.items() if len(parts) > 1}:
            left.update(self._shorter(long))
        for summary in self.answers([text for [text] in left.values()]):
            yield _result("summary_text", summary.text, is_cut_off=summary.is_cut_off)

    def _shorter(self, long: dict[int, list[str]]) -> dict[int, list[str]]:
        """Of each text the summaries of its parts, again in parts.

        Raises:
            BadRequest: there are as many.
        """
        said = iter(self.answers([part for parts in long.values() for part in parts]))
        joined = {index: "\n".join(next(said).text for _ in parts) for index, parts in long.items()}
        shorter = {index: self.parts(text) for index, text in joined.items()}
        if any(len(shorter[index]) >= len(parts) for index, parts in long.items()):
            raise BadRequest(
                "the summaries of a text's parts are no shorter than these. Lower max_new_tokens, or use a model that "
                "follows instructions."
            )
        return shorter


class Translating(Rewriting):
    """By paragraphs, and where these are too long by sentences. What is between them stays as it is."""

    def run(self, texts: Sequence[str]) -> Iterator[Any]:
        """The translations."""
        cut = [self._cut(text) for text in texts]
        said = iter(self.answers([within for parts in cut for _, within, _ in parts if within]))
        for parts in cut:
            yield self._whole(parts, said)

    def _cut(self, text: str) -> list[tuple[str, str, str]]:
        parts = [part for line in text.splitlines(keepends=True) for part in self.parts(line)]
        return [trimmed(part) for part in parts]

    def _whole(self, parts: Sequence[tuple[str, str, str]], said: Iterator[_Said]) -> dict[str, Any]:
        text, is_cut_off = "", False
        for before, within, behind in parts:
            part = next(said) if within else _Said("", is_cut_off=False)
            text += f"{before}{part.text}{behind}"
            is_cut_off = is_cut_off or part.is_cut_off
        return _result("translation_text", text, is_cut_off=is_cut_off)

    def parts(self, text: str) -> list[str]:
        """An answer is about as long as its text: neither may have more than half of the room, or be cut off."""
        most = min(self._room, self._num_tokens("") + self._options.max_new_tokens // 2)
        return parts_of(text, lambda part: self._num_tokens(part) <= max(most, self._num_tokens("x")))


def writing(model: Model, task: str, asked: TaskOptions) -> Generating | Summarizing | Translating:
    """What performs one of these tasks."""
    if task == GENERATION:
        return Generating(model, asked)
    return Summarizing(model, task, asked) if task == "summarization" else Translating(model, task, asked)
