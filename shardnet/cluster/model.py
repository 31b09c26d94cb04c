"""A loaded model: text in, text out, and what its run looked like. Made by `Cluster.load`."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

from shardnet.cluster.remote_stage import RemoteStage, StageReport, collect_timeline
from shardnet.errors import BadRequest, KVMemorySpent
from shardnet.pipeline import Pipeline, Session
from shardnet.plan import ModelProfile, Plan
from shardnet.sampling import check_sampling
from shardnet.text import TextStream
from shardnet.transport.messages import SamplingOptions

Chat = Sequence[dict[str, str]]
"""Messages as chat templates take them: {"role": "user", "content": "..."}."""

NUM_LAPS_KEPT = 32
LEAST_TOKENS_OF_A_LAP = 8
"""Shorter answers say little about the speed of decoding."""
MAX_SESSIONS_AT_ONCE = 32
"""Of one `generate` call; more prompts wait for their turn."""


@dataclass(frozen=True)
class Generation:
    """One finished answer."""

    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: str
    """'eos', 'length', 'stop' (a stop string), or 'cancelled'."""
    tokens_per_s: float
    """Of decoding: tokens after the first, per second after the first."""
    time_to_first_token_s: float


@dataclass
class Stream:
    """An answer as it comes: iterate for pieces of text. `result` is there when the iteration has ended."""

    _session: Session
    _text: TextStream
    _pieces: list[str] = field(default_factory=list)
    _ids: list[int] = field(default_factory=list)
    _finish_reason: str = "cancelled"
    is_finished: bool = False
    on_finished: Callable[[Generation], None] = lambda result: None

    def __iter__(self) -> Iterator[str]:
        try:
            for token in self._session:
                self._ids.append(token.token_id)
                is_eos = token.finish_reason == "eos"
                yield from self._tell("" if is_eos else self._text.push(token.token_id))
                if self._text.is_stopped:
                    self._finish_reason = "stop"
                    return
                self._finish_reason = token.finish_reason or self._finish_reason
            yield from self._tell(self._text.finish())
            if self._text.is_stopped:
                self._finish_reason = "stop"
        finally:
            self.close()

    def close(self) -> None:
        """Stop generating. Safe to call twice, and after the end."""
        self._session.cancel()
        if not self.is_finished:
            self.is_finished = True
            self.on_finished(self.result)

    @property
    def result(self) -> Generation:
        """What was generated; after an early `close`, what came until then."""
        session = self._session
        first_s = session.first_token_s or session.started_s
        decode_s = (session.last_token_s or first_s) - first_s
        return Generation(
            text="".join(self._pieces),
            token_ids=list(self._ids),
            prompt_tokens=session.spec.prompt_tokens,
            finish_reason=self._finish_reason,
            tokens_per_s=(len(self._ids) - 1) / decode_s if decode_s > 0 else 0.0,
            time_to_first_token_s=first_s - session.started_s,
        )

    def _tell(self, piece: str) -> Iterator[str]:
        if piece:
            self._pieces.append(piece)
            yield piece


class Model:
    """A model over the devices of a cluster. Safe to use from several threads. Made by `Cluster.load`.

    `profile` holds the sizes of the units.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        stages: Sequence[RemoteStage],
        plan: Plan,
        profile: ModelProfile,
        tokenizer: Any,
        *,
        eos_ids: tuple[int, ...],
        context_tokens: int,
        unload: Callable[[], None],
    ) -> None:
        self.profile = profile
        self.tokenizer = tokenizer
        self.context_tokens = context_tokens
        """Tokens of prompt and answer together that a session may have."""
        self._pipeline = pipeline
        self._stages = tuple(stages)
        self._eos_ids = eos_ids
        self._plan = plan
        self._laps_s: deque[float] = deque(maxlen=NUM_LAPS_KEPT)
        self._latest: Generation | None = None
        self._unload = unload

    @property
    def plan(self) -> Plan:
        """Who holds what, what was predicted, and after a run what was measured. Prints as a table."""
        return replace(self._plan, measured_lap_s=median(self._laps_s) if self._laps_s else None)

    def stream(
        self,
        prompt: str | Sequence[int] | Chat,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        chat: bool = False,
    ) -> Stream:
        """Generate, piece by piece.

        Args:
            prompt: text, token ids, or chat messages.
            temperature: 0 is greedy; the others mean what they mean in `transformers.GenerationConfig`.
            stop: strings that end the answer; the answer does not include them.
            chat: put a text prompt into the model's chat template, as the user's message.

        Raises:
            BadRequest: a value is impossible, or prompt and answer are longer than the context.
            KVMemorySpent: the devices cannot hold the session's KV cache now.
            DeviceLost: from the iteration: a device was lost; names it and its stage.
        """
        sampling = SamplingOptions(temperature, top_k, top_p, min_p, repetition_penalty, seed)
        if (problem := check_sampling(sampling)) is not None:
            raise BadRequest(problem)
        if max_new_tokens < 1:
            raise BadRequest(f"max-new-tokens must be at least 1, but is {max_new_tokens}.")
        if "" in stop:
            raise BadRequest("a stop string must not be empty.")
        ids = self.encode(prompt, chat=chat)
        self._check_length(len(ids), max_new_tokens)
        session = self._pipeline.start(ids, max_new_tokens=max_new_tokens, eos_ids=self._eos_ids, sampling=sampling)
        return Stream(session, TextStream(self.tokenizer, stop), on_finished=self._keep)

    def generate(self, prompts: Sequence[str | Sequence[int] | Chat], **options: Any) -> list[Generation]:
        """Answer several prompts at once; the options are those of `stream`. In the prompts' order.

        Prompts that do not fit into the KV memory beside the others wait for their turn.
        """
        room = threading.Condition()
        num_running = 0

        def answer(prompt: str | Sequence[int] | Chat) -> Generation:
            nonlocal num_running
            with room:  # one opens at a time: two half-open sessions could keep each other out
                while True:
                    try:
                        stream = self.stream(prompt, **options)
                        break
                    except KVMemorySpent:
                        if num_running == 0:
                            raise
                        room.wait(timeout=1.0)
                num_running += 1
            try:
                for _ in stream:
                    pass
                return stream.result
            finally:
                with room:
                    num_running -= 1
                    room.notify_all()

        if not prompts:
            return []
        with ThreadPoolExecutor(min(len(prompts), MAX_SESSIONS_AT_ONCE), "shardnet-generate") as threads:
            return list(threads.map(answer, prompts))

    def encode(self, prompt: str | Sequence[int] | Chat, *, chat: bool = False) -> list[int]:
        """The token ids of a prompt.

        Raises:
            BadRequest: the prompt is empty, or the model has no chat template.
        """
        if isinstance(prompt, str) and not chat:
            ids = list(self.tokenizer(prompt)["input_ids"])
        elif isinstance(prompt, str) or (prompt and isinstance(prompt[0], dict)):
            if not getattr(self.tokenizer, "chat_template", None):
                raise BadRequest(f"{self.profile.name} has no chat template. Ask without --chat.")
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            ids = list(encoded["input_ids"])
        else:
            ids = [int(cast(int, token)) for token in prompt]
        if not ids:
            raise BadRequest("the prompt is empty. Give at least one token.")
        vocabulary = self.profile.vocabulary
        if wrong := [token for token in ids if not 0 <= token < vocabulary]:
            raise BadRequest(f"token id {wrong[0]} is not in the model's vocabulary of {vocabulary}.")
        return ids

    def report(self) -> list[StageReport]:
        """What each stage did since the model was loaded or `reset_report` was called."""
        return [stage.report() for stage in self._stages]

    def reset_report(self) -> None:
        for stage in self._stages:
            stage.reset()

    def write_profile(self, folder: str | Path) -> None:
        """Write the timeline since the last `reset_report` as a Chrome trace and TensorBoard files.

        The model must have been loaded with `record_spans=True`.

        Raises:
            UsageError: the folder cannot be written.
        """
        from shardnet.timeline.report import write_profile

        summary: dict[str, Any] = {"model": self.profile.name, "dtype": self.profile.dtype}
        if self._latest is not None:
            summary["tokens_per_s"] = self._latest.tokens_per_s
            summary["time_to_first_token_s"] = self._latest.time_to_first_token_s
        summary["stages"] = [asdict(report) for report in self.report()]
        write_profile(folder, collect_timeline(self._stages), self.plan, self.profile, summary)

    def close(self) -> None:
        """Unload from every device. Safe to call twice; happens when the cluster closes, too."""
        self._unload()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, result: Generation) -> None:
        self._latest = result
        if len(result.token_ids) >= LEAST_TOKENS_OF_A_LAP and result.tokens_per_s:
            self._laps_s.append(1 / result.tokens_per_s)

    def _check_length(self, num_prompt: int, num_new: int) -> None:
        if num_prompt + num_new > self.context_tokens:
            raise BadRequest(
                f"the prompt has {num_prompt} tokens and the answer may have {num_new}, but the context holds "
                f"{self.context_tokens}. Shorten the prompt or lower --max-new-tokens."
            )
