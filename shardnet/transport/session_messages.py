"""What stages are told of a session, and what the one with the head tells of it. Part of the protocol in `messages`."""

from __future__ import annotations

from typing import NamedTuple

from shardnet.transport.listener_messages import Listener
from shardnet.transport.rows_messages import RowsAsked
from shardnet.transport.sharing_messages import Shares


class SamplingOptions(NamedTuple):
    """How the next token is chosen; semantics of `transformers.GenerationConfig`. Temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    """0: all tokens."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    speculate: str = "off"
    """How tokens are guessed: one of `guesser.WAYS`. Which are chosen does not depend on it."""
    presence_penalty: float = 0.0
    """From the score of each token that the answer has already; so is the next, for each time that it has it."""
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Ids, each once, and what is added to their scores before anything else is done to these."""
    min_tokens: int = 0
    """Nothing ends the answer, and no token is chosen that would, before it has so many."""
    ignore_eos: bool = False
    """The model's own tokens for an end end nothing."""
    stop_token_ids: tuple[int, ...] = ()
    """Further ids that end the answer."""
    logprobs: int = -1
    """Of each token how likely it was, and so many of the likeliest in its place; below 0: neither is told."""
    grammar: str = ""
    """What the answer follows, as `grammars.texts` writes it. Sent to the stage with the head alone."""

    @property
    def needs_ids(self) -> bool:
        """Whether the scores of the next token depend on which ones came before it."""
        return self.repetition_penalty != 1.0 or self.counts_answer or bool(self.grammar)

    @property
    def counts_answer(self) -> bool:
        """Whether they depend on how often the answer has each token."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0


class SessionSpec(NamedTuple):
    """What a stage must know of a session before its first step."""

    session: int
    capacity_tokens: int
    """Tokens that the KV cache must hold: prompt and answer."""
    prompt_tokens: int
    sample_from: int
    """Behind so many tokens one is sampled. What comes before is only computed: a prompt, an answer so far."""
    max_new_tokens: int
    eos_ids: tuple[int, ...]
    sampling: SamplingOptions
    prompt_ids: tuple[int, ...] = ()
    """All before `sample_from`. Sent to the sampling stage alone, and only where `SamplingOptions.needs_ids`."""
    send_from: int = 0
    """The next stage has so many tokens: what comes before is computed and kept, and not sent on."""
    listener: Listener | None = None
    """Another member than the coordinator that has asked for it. Sent to the stage with the head alone."""
    targets: tuple[int, ...] = ()
    """Of a text that is scored: the id behind each token, told with what is found of it. Sent to the head's stage."""
    shares: Shares | None = None
    """Another session with which it begins."""
    stays: bool = False
    """What a stage has of it stays when it is closed, for others that begin alike, until somebody needs the memory."""
    guess_key: bytes = b""
    """Of the tags of guesses. Sent to the first stage and to the one with the head alone; none are made without."""
    guess_from: int = 0
    """So many tokens the stages of its ring have: fewer are no ground for guesses at the first one."""
    offer_key: int = 0
    """By which the first stage knows offers, sent to it alone; see `offer_messages`."""
    rows: RowsAsked | None = None
    """Of a text that is read: which rows its source wants. Sent to the head's stage; see `rows_messages`."""

    @property
    def is_given(self) -> bool:
        """Whether all of it is known from the start, as far as this stage is told, and nothing is sampled."""
        return bool(self.targets) or self.rows is not None

    @property
    def ending_ids(self) -> tuple[int, ...]:
        """Whatever of these is chosen behind `min_tokens` ends the answer."""
        sampling = self.sampling
        return sampling.stop_token_ids if sampling.ignore_eos else self.eos_ids + sampling.stop_token_ids

    def finish_reason(self, index: int, token_id: int) -> str:
        """Why the answer ends with the token of that index, as in `SampledToken`; '' where it goes on."""
        if index >= self.sampling.min_tokens and token_id in self.ending_ids:
            return "eos" if token_id in self.eos_ids and not self.sampling.ignore_eos else "stop"
        return "length" if index + 1 >= self.max_new_tokens else ""


class SampledToken(NamedTuple):
    """One token as it left the sampler, or of a text that is scored."""

    session: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """0 for the first new token."""
    token_id: int
    finish_reason: str
    """'' while the session goes on, 'eos', 'stop' (one of `stop_token_ids`), or 'length'."""
    log_likelihood: float | None = None
    """Where it was scored, or `SamplingOptions.logprobs` asks for it: the natural logarithm of how likely the model
    holds it there, before any option changes that. None of one that is known by its id alone, after a loss."""
    likeliest: int | None = None  # there, where it was scored
    guesses: int = 0
    """So many guesses were checked on the way to it. Below 0: it was guessed, and came with the one before it."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """As many of the likeliest tokens in its place as were asked for, with their logarithms, the likeliest first."""
