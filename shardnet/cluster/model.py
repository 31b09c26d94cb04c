"""A loaded model: text in, text out, and what its run looked like. Made by `Cluster.load`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from shardnet.checks import whole_number
from shardnet.cluster.deployed import Deployed
from shardnet.draft.drafts import Draft, Drafts, Wanted
from shardnet.draft.offering import FirstStage
from shardnet.errors import BadRequest, ClusterError
from shardnet.foreign.quoting import quoted
from shardnet.loader.generation import Authored
from shardnet.options import takes
from shardnet.plan import ModelProfile, Plan
from shardnet.process.forks import Birthplace
from shardnet.session.async_stream import AsyncStream, run_beside
from shardnet.session.classes import Classes, classes_of, function_for, pooled
from shardnet.session.continuations import Continuation, Text, continued, score_all, several
from shardnet.session.conversation import Conversation, Handing
from shardnet.session.likelihoods import Likelihoods, likely
from shardnet.session.options import MOST_LOGPROBS, GenerationOptions
from shardnet.session.prompts import Chat, encode, prompts_of
from shardnet.session.reading import Fold, mean, read_all, whole
from shardnet.session.request import (
    ALL,
    LAST,
    check_length,
    check_sampling,
    check_text_length,
    check_to_read,
    require_classifier,
    require_writer,
    rows_at,
    sampling_of,
)
from shardnet.session.scores import Scores, Told, scores_of
from shardnet.session.stream import Generation, Stream
from shardnet.session.text import TextStream
from shardnet.session.turns import Batch, Turns
from shardnet.speculation.guesser import DRAFT
from shardnet.timeline.events import Event
from shardnet.timeline.stage_report import StageReport
from shardnet.transport.rows_messages import RowsAsked

NUM_LAPS_KEPT = 32
MEAN = "mean"
"""Of all rows of a text."""


class Model:
    """A model over the devices of a cluster. Safe to use from several threads. Made by `Cluster.load`.

    `profile` holds the sizes of the units.
    """

    def __init__(
        self,
        deployment: Deployed,
        profile: ModelProfile,
        tokenizer: Any,
        *,
        checkpoint: str,
        eos_ids: tuple[int, ...],
        context_tokens: int,
        authored: Authored,
    ) -> None:
        self.profile = profile
        self.tokenizer = tokenizer
        self.checkpoint = checkpoint
        """Its name by content, by which every device finds its own copy."""
        self.eos_ids = eos_ids
        """The token ids that end an answer."""
        self.context_tokens = context_tokens
        """Tokens of prompt and answer together that a session may have."""
        self.authored = authored
        """What its config.json and its generation_config.json say."""
        self.proposed_sampling: Mapping[str, Any] = authored.sampling
        """As transformers reads the latter: for the server and `shardnet chat`; `stream` is greedy."""
        self._deployment = deployment
        self._laps_s: deque[float] = deque(maxlen=NUM_LAPS_KEPT)
        self._latest: Generation | None = None
        self._turns = Turns()
        self._drafts = Drafts(profile, tokenizer, FirstStage(deployment.transport, self._first_device))
        self._birthplace = Birthplace("this model")

    @property
    def deployment(self) -> Deployed:
        """The model on its devices, without its text."""
        return self._deployment

    @property
    def plan(self) -> Plan:
        """Who holds what, what was predicted, and after a run what was measured. Prints as a table."""
        measured_lap_s = median(self._laps_s) if self._laps_s else None
        return replace(self._deployment.plan, measured_lap_s=measured_lap_s)

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened since it was loaded: devices that were lost, and who took over from them."""
        return self._deployment.events

    @takes(GenerationOptions)
    def stream(self, prompt: str | Sequence[int] | Chat, **options: Any) -> Stream:
        """Generate, piece by piece. Without options: greedy, whatever the model's generation_config.json proposes.

        It goes on until the stream has been read or closed, or nobody holds the stream any more.

        Args:
            prompt: text, token ids, or chat messages.

        Raises:
            BadRequest: a value is impossible, prompt and answer are longer than the context, or the draft has another
                tokenizer.
            UnsupportedModel: the model is a classifier.
            ModelNotFound, UnsupportedModel, DamagedCheckpoint: of the draft.
            KVMemorySpent: the devices cannot hold the session's KV cache now.
            DeviceLost: from the iteration: a device was lost; names it and its stage.
            UsageError: this process was forked from the one that loaded the model.
        """
        self._birthplace.check()
        require_writer(self.profile)
        asked = GenerationOptions(**options)
        return self._start(self.encode(prompt, chat=asked.chat), asked, self.draft_for(asked))

    @takes(GenerationOptions)
    def generate(self, prompts: Sequence[str | Sequence[int] | Chat], **options: Any) -> list[Generation]:
        """Answer several prompts at once; the options are those of `stream`. In the prompts' order.

        Prompts that do not fit into the KV memory beside the others wait for their turn. An error, and also Ctrl-C,
        ends all of them; a prompt that cannot be answered is refused before the first is begun.
        """
        return self._answer_all(prompts, Batch(), options)

    @takes(GenerationOptions)
    def astream(self, prompt: str | Sequence[int] | Chat, **options: Any) -> AsyncStream:
        """`stream` for an event loop, which is not held up: `async for piece in model.astream(...)`.

        The options and errors are those of `stream`; every error comes from the iteration. A task that is cancelled
        while it waits for a piece ends the answer and frees its memory.
        """
        return AsyncStream(lambda: self.stream(prompt, **options))

    @takes(GenerationOptions)
    async def agenerate(self, prompts: Sequence[str | Sequence[int] | Chat], **options: Any) -> list[Generation]:
        """`generate` for an event loop: `await model.agenerate(...)`. A task that is cancelled ends all its answers."""
        batch = Batch()
        thread = ThreadPoolExecutor(1, "shardnet-generate")
        try:
            return await run_beside(thread, lambda: self._answer_all(prompts, batch, options), batch.stop)
        finally:
            thread.shutdown(wait=False)

    def score(self, text: Text, *, logprobs: int = 0, on_progress: Told = None) -> Scores:
        """How likely a text is, token by token. It goes through the ring once, and shares it with other sessions.

        Args:
            text: text, or token ids; at least two tokens, and no more than the context holds.
            logprobs: so many of the likeliest tokens in each place are told, too.
            on_progress: called now and then with how many of how many tokens are scored.

        Raises:
            UnsupportedModel: the model is a classifier.
            BadRequest: the text is too short or too long, or the model's scores are no finite numbers.
            KVMemorySpent: the devices cannot hold its KV cache now.
            DeviceLost: a device was lost, and the others cannot go on; names it and its stage.
            UsageError: this process was forked from the one that loaded the model.
        """
        self._birthplace.check()
        require_writer(self.profile)
        ids = self.encode(text)
        check_text_length(len(ids), self.context_tokens)
        num_alternatives = whole_number("logprobs", logprobs, least=0, most=MOST_LOGPROBS)
        return scores_of(ids, self._deployment.sessions.score(ids, num_alternatives), on_progress)

    def score_continuations(self, prompt: Text, continuations: Sequence[Text]) -> list[Continuation]:
        """How likely each of several texts is behind a prompt. They go through the ring together, the prompt once.

        Encoded as lm-eval-harness does it: prompt and continuation as one text, cut behind as many ids as the prompt
        has by itself; white space at its end belongs to the continuation. Or all are token ids.

        Raises:
            UnsupportedModel: the model is a classifier.
            BadRequest: one is empty, or longer with the prompt than the context. And what `logits` raises.
        """
        return self.score_pairs([(prompt, each) for each in several(continuations)])

    def score_pairs(self, pairs: Sequence[tuple[Text, Text]], on_progress: Told = None) -> list[Continuation]:
        """The same for pairs of a prompt and a continuation, in their order."""
        self._birthplace.check()
        require_writer(self.profile)
        texts = [continued(*each, self.encode, self.context_tokens) for each in pairs]
        return score_all(texts, self._deployment.sessions.read, on_progress)

    def logits(self, text: str | Sequence[int], *, positions: str = ALL) -> Tensor:
        """The scores of what comes next, [T, V] float32, behind each token of a text or behind its last one.

        Of a classifier: those of its labels. They come some at a time, so that no device keeps them.

        Args:
            text: text, or token ids; no more than the context holds.
            positions: "all", or "last".

        Raises:
            BadRequest: the text is empty or too long, or the model's scores are no finite numbers.
            KVMemorySpent: the devices cannot hold it now.
            DeviceLost: a device was lost, and the others cannot go on; names it and its stage.
            UsageError: this process was forked from the one that loaded the model.
        """
        return self._rows([text], positions, are_logits=True)[0]

    def hidden_states(self, text: str | Sequence[int], *, positions: str = ALL) -> Tensor:
        """The same of the last hidden states [T, H], behind the last norm: transformers' `last_hidden_state`."""
        return self._rows([text], positions, are_logits=False)[0]

    def embed(self, texts: Sequence[str | Sequence[int]], *, pooling: str = LAST) -> Tensor:
        """A row for each text, [n, H] float32. Texts go through the ring together.

        Args:
            pooling: the hidden state of the "last" token, or the "mean" of all.

        Raises: what `logits` raises.
        """
        if pooling not in (LAST, MEAN):
            raise BadRequest(f"pooling must be {LAST} or {MEAN}, but is {quoted(pooling)}.")
        if pooling == LAST:
            return torch.cat(self._rows(texts, LAST, are_logits=False))
        return torch.cat(self._rows(texts, ALL, are_logits=False, fold=mean))

    def classify(self, texts: Sequence[str | Sequence[int]], *, function_to_apply: str | None = None) -> list[Classes]:
        """What a classifier finds in each text. Texts go through the ring together.

        Args:
            function_to_apply: what makes scores of its logits: "softmax", "sigmoid" or "none"; None: what its
                configuration wants, as transformers' pipeline does.

        Raises:
            UnsupportedModel: the model is no classifier.
            BadRequest: there is no such function. And what `logits` raises.
        """
        classifier = require_classifier(self.profile)
        function = function_for(classifier, function_to_apply)
        ids = [self.encode(each) for each in prompts_of(texts)]
        rows = self._rows([pooled(each, classifier.pad_id) for each in ids], LAST, are_logits=True)
        return [
            classes_of(classifier, row[0].tolist(), function, len(each), self.profile.name)
            for each, row in zip(ids, rows, strict=True)
        ]

    def _rows(self, texts: Sequence[Text], positions: str, *, are_logits: bool, fold: Fold = whole) -> list[Tensor]:
        """Of each text what `fold` makes of its rows."""
        asked = [self.encode(each) for each in prompts_of(texts)]
        return self.read([(ids, rows_at(positions, len(ids), are_logits=are_logits)) for ids in asked], fold)

    def read(self, texts: Sequence[tuple[Sequence[int], RowsAsked]], fold: Fold = whole) -> list[Tensor]:
        """Of the ids of each text what `fold` makes of the rows that are asked for. Raises what `logits` raises."""
        self._birthplace.check()
        for ids, _ in texts:
            check_to_read(len(ids), self.context_tokens)
        return list(read_all(self._deployment.sessions.read, texts, fold))

    def _answer_all(self, prompts: Any, batch: Batch, options: dict[str, Any]) -> list[Generation]:
        self._birthplace.check()
        require_writer(self.profile)
        asked = GenerationOptions(**options)
        check_sampling(sampling_of(asked), self.profile, self.eos_ids)
        ids = [self.encode(prompt, chat=asked.chat) for prompt in prompts_of(prompts)]
        for each in ids:
            check_length(len(each), asked.max_new_tokens, self.context_tokens)
        draft = self.draft_for(asked)
        return self._turns.answer_all(ids, lambda prompt: self._start(prompt, asked, draft), batch)

    def draft_for(self, asked: GenerationOptions) -> Draft | None:
        """The small model that these options name, which is opened at its first use; None where they name none.

        Raises: what `stream` raises of a draft.
        """
        if asked.draft is not None:
            self._deployment.sessions.raise_if_ended()
            return self._drafts.get(Wanted(asked.draft, asked.draft_weights, asked.draft_threads))
        if asked.speculate == DRAFT:
            raise BadRequest("speculate draft needs a draft: name a small model with the same tokenizer (draft).")
        return None

    def _first_device(self) -> str:
        """Where its answers begin now."""
        return self._deployment.plan.stages[0].device

    def converse(self, ids: Sequence[int], asked: GenerationOptions) -> Handing:
        """Open a session for a prompt's ids, for who reads its tokens by `Conversation.hand_to` and makes text of them.
        Whoever has it cancels it. Raises what `stream` raises before its iteration.
        """
        self._birthplace.check()
        require_writer(self.profile)
        session = self._open(list(ids), asked, self.draft_for(asked))
        return likely(session, ids, asked.logprobs, self._deployment.sessions.score)

    def _start(self, ids: list[int], asked: GenerationOptions, draft: Draft | None) -> Stream:
        session, likelihoods = self._open(ids, asked, draft), None
        if asked.logprobs >= 0:
            likelihoods = Likelihoods(session, ids, self._deployment.sessions.score)
        return Stream(session, TextStream(self.tokenizer, asked.stop), self._keep, likelihoods=likelihoods)

    def _open(self, ids: list[int], asked: GenerationOptions, draft: Draft | None) -> Conversation:
        check_length(len(ids), asked.max_new_tokens, self.context_tokens)
        sampling = sampling_of(asked)
        check_sampling(sampling, self.profile, self.eos_ids)
        session = self._deployment.sessions.start(
            ids,
            max_new_tokens=asked.max_new_tokens,
            eos_ids=self.eos_ids,
            sampling=sampling,
            stop=tuple(asked.stop),
        )
        if draft is not None:
            draft.go_ahead(session, ids)
        return session

    def encode(self, prompt: str | Sequence[int] | Chat, *, chat: bool = False) -> list[int]:
        """The token ids of a prompt.

        Raises:
            BadRequest: the prompt is empty or none, or the model has no chat template.
        """
        profile = self.profile
        return encode(prompt, self.tokenizer, chat=chat, vocabulary=profile.vocabulary, model=profile.name)

    def report(self) -> list[StageReport]:
        """What each stage did since the model was loaded or `reset_report` was called.

        Raises:
            BadRequest: the model was closed.
            DeviceLost: a device was lost; names it and its stage.
        """
        with self._asking_stages():
            return self._deployment.reports()

    def reset_report(self) -> None:
        """Begin the account of `report`, and the timeline of `write_profile`, anew. Raises what `report` raises."""
        with self._asking_stages():
            self._deployment.reset()

    def write_profile(self, folder: str | Path) -> None:
        """Write the timeline since the last `reset_report` as a Chrome trace and TensorBoard files.

        The model must have been loaded with `record_spans=True`.

        Raises:
            UsageError: the folder cannot be written, or the model was closed.
        """
        from shardnet.timeline.report import write_profile

        summary: dict[str, Any] = {"model": self.profile.name, "dtype": self.profile.dtype}
        if self._latest is not None:
            summary["tokens_per_s"] = self._latest.tokens_per_s
            summary["time_to_first_token_s"] = self._latest.time_to_first_token_s
        summary["stages"] = [asdict(report) for report in self.report()]
        with self._asking_stages():
            timeline = self._deployment.timeline()
        write_profile(folder, timeline, self.plan, self.profile, summary)

    def close(self) -> None:
        """Unload from every device. Safe to call twice; happens when the cluster closes, too."""
        if self._birthplace.is_here:
            self._drafts.close()
            self._deployment.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _asking_stages(self) -> Iterator[None]:
        """In this block, what has ended the model takes the place of an error about a stage that is no more."""
        self._birthplace.check()
        try:
            yield
        except ClusterError:
            self._deployment.sessions.raise_if_ended()
            raise

    def _keep(self, result: Generation) -> None:
        self._latest = result
        if result.tokens_per_s is not None:
            self._laps_s.append(1 / result.tokens_per_s)
