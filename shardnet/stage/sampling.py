"""Chooses the next token of a session from its logits. Runs where the head is, so that only ids travel.

First comes what is added to scores (`logit_bias`), then what tokens lose that are there already, by the repetition
penalty and then by those of the answer; then what would end the answer too early is impossible, or what its grammar
does not allow (`constraint`); and at last scores are warped as `transformers` does it (`warpers`).

The random numbers of a session are its own: with a seed they are those of `torch.manual_seed(seed);
model.generate(...)`, whatever the split and whichever other sessions share the step. The logits agree with the whole
model's to rounding: how a product is rounded depends on how many tokens share its step, and on the way taken. In
float32 that is in the sixth digit and hardly ever changes a choice; in bfloat16 and float16 it is in the third, and
where two tokens are nearly even, the choice may differ.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.errors import BadRequest
from shardnet.grammars.texts import bounded
from shardnet.models import Shard
from shardnet.stage.constraint import Constraint, Matchers
from shardnet.stage.scoring import check_targets, likelihood_of
from shardnet.stage.warpers import add_bias, forbid, penalise, penalise_answer, warpers_of
from shardnet.transport.session_messages import SampledToken, SessionSpec


class Moment(NamedTuple):
    """Where the random numbers of a session stand."""

    num_drawn: int
    numbers: Tensor


class Sampler:
    """The sampler of one session.

    Args:
        dtype: what the model computes in, for the advice in errors.
        codec: what hidden states travel in, for the same; `dtype` where None.
        constraint: the grammar that the answer follows.
    """

    def __init__(
        self,
        spec: SessionSpec,
        dtype: torch.dtype,
        codec: str | None = None,
        constraint: Constraint | None = None,
    ) -> None:
        options = spec.sampling
        self.is_greedy = options.temperature == 0.0
        self._warpers = warpers_of(options)
        self._generator = torch.Generator().manual_seed(options.seed)
        self._options = options
        self._dtype = str(dtype).removeprefix("torch.")
        self._codec = codec or self._dtype
        self._num_prompt = spec.prompt_tokens
        self._num_answered = spec.sample_from - spec.prompt_tokens
        """Tokens of the answer before the next one."""
        self._ending_ids = spec.ending_ids if options.min_tokens else ()
        self._ids = list(spec.prompt_ids) if options.repetition_penalty != 1.0 else None
        """Of prompt and answer, where a penalty is for them."""
        self._counts = Counter(spec.prompt_ids[spec.prompt_tokens :]) if options.counts_answer else None
        """Of the answer's, where one is for these."""
        self.constraint = constraint
        self.num_alternatives = options.logprobs
        """As `SamplingOptions.logprobs`."""
        self.num_drawn = 0
        """So many tokens of the answer were drawn, here or elsewhere."""
        self.num_scores = 0
        """Of one token; 0 as long as none was drawn."""

    @property
    def is_argmax(self) -> bool:
        """True where the choice is the plain argmax, which a step does for all such sessions at once."""
        depends = self._ids is not None or self._counts is not None or self.constraint is not None
        return self.is_greedy and not (depends or self._options.logit_bias or self._may_not_end)

    @property
    def _may_not_end(self) -> bool:
        """Whether the next token must not be one that ends the answer."""
        return bool(self._ending_ids) and self._num_answered < self._options.min_tokens

    def sample(self, logits_V: torch.Tensor) -> int:
        """Choose from `logits_V` [vocabulary], fp32.

        Raises:
            BadRequest: the scores are no finite numbers: the model's own, or what the options make of them. Or the
                answer cannot go on as its grammar wants it.
        """
        scores = self._adjusted(logits_V[None])
        for warp in self._warpers:
            scores = warp(scores)
        if self.is_greedy:
            token = int(scores.argmax(dim=-1))
            if not math.isfinite(scores[0, token]):
                raise self.not_finite(logits_V)
        else:
            probabilities = torch.softmax(scores, dim=-1)
            if not bool(probabilities.isfinite().all()):
                raise self.not_finite(logits_V)
            token = int(torch.multinomial(probabilities, num_samples=1, generator=self._generator))
            self.num_drawn += 1
        self.note(token)
        return token

    def _adjusted(self, scores: Tensor) -> Tensor:
        """Scores [1, V] by what was there before, and by what was asked of single tokens."""
        options = self._options
        if options.logit_bias:
            scores = add_bias(scores, options.logit_bias)
        if self._ids is not None:
            scores = penalise(scores, torch.tensor([self._ids], dtype=torch.long), options.repetition_penalty)
        if self._counts:
            scores = penalise_answer(scores, self._counts, options.presence_penalty, options.frequency_penalty)
        if self.constraint is not None:
            return self.constraint.forbid(scores)
        return forbid(scores, self._ending_ids) if self._may_not_end else scores

    def note(self, token_id: int) -> None:
        """This one comes next in the answer."""
        self._num_answered += 1
        if self.constraint is not None:
            self.constraint.note(token_id)
        if self._ids is not None:
            self._ids.append(token_id)
        if self._counts is not None:
            self._counts[token_id] += 1

    def go_on_from(self, other: Sampler) -> None:
        """Take over the random numbers of another sampler of the session, which is of no use any more."""
        self._generator, self.num_drawn = other._generator, other.num_drawn

    def moment(self) -> Moment:
        """Now, to go back to it."""
        return Moment(self.num_drawn, self._generator.get_state())

    def go_back(self, moment: Moment) -> None:
        """Draw from there on again."""
        self.num_drawn = moment.num_drawn
        self._generator.set_state(moment.numbers)

    def have_seen(self, ids: Sequence[int]) -> None:
        """These are the tokens so far, prompt and answer, whatever was drawn before."""
        self._num_answered = len(ids) - self._num_prompt
        if self._ids is not None:
            self._ids = list(ids)
        if self._counts is not None:
            self._counts = Counter(ids[self._num_prompt :])

    def wind(self, num_drawn: int, num_scores: int) -> None:
        """Have the generator where it stands when so many tokens of the answer were drawn, which others have drawn.

        Args:
            num_scores: of one token: so many random numbers each draw takes.
        """
        if self.is_greedy:
            return
        self.num_scores = num_scores
        numbers = torch.empty(num_scores)
        while self.num_drawn < num_drawn:
            numbers.exponential_(generator=self._generator)  # as torch.multinomial takes them
            self.num_drawn += 1

    def not_finite(self, logits_V: torch.Tensor) -> BadRequest:
        """The error for scores among which nothing can be chosen, and whose fault it is."""
        if math.isfinite(logits_V.max()):
            options = self._options
            return BadRequest(
                f"with temperature {options.temperature:g} and repetition-penalty {options.repetition_penalty:g} the "
                "scores of the next token are no finite numbers. Choose values nearer to 1."
            )
        advice = "Its weights hold values that are no finite numbers, or the checkpoint is damaged. Get the model anew."
        if self._dtype == "float16":
            advice = "float16 ends at 65504: load it as bfloat16 or float32."
        elif self._codec == "float16":
            advice = "What travels as float16 ends at 65504: let it travel as bfloat16 or float32 (wire)."
        return BadRequest(f"the model's scores of the next token, in {self._dtype}, are no finite numbers. {advice}")


def sampler_of(spec: SessionSpec, shard: Shard, codec: str, matchers: Matchers) -> Sampler | None:
    """The sampler of a session at a stage; None where another one has the head.

    Args:
        matchers: begin to read a grammar.

    Raises:
        BadRequest: a penalty is to see an id that no token has, or one is to be scored or made likelier: that would
            end the whole stage.
    """
    if not shard.has_head:
        return None
    num_ids = shard.config.vocab_size
    if not all(0 <= token_id < num_ids for token_id in spec.prompt_ids):
        raise BadRequest(f"Session {spec.session} is to begin with an id that is none of 0 to {num_ids - 1}.")
    if not all(0 <= token_id < num_ids for token_id, _ in spec.sampling.logit_bias):
        raise BadRequest(f"Session {spec.session} has a bias for an id that is none of 0 to {num_ids - 1}.")
    check_targets(spec, num_ids)
    return Sampler(spec, shard.dtype, codec, _constraint_of(spec, matchers))


def _constraint_of(spec: SessionSpec, matchers: Matchers) -> Constraint | None:
    grammar = bounded(spec.sampling.grammar)
    if not grammar:
        return None
    return Constraint(matchers(grammar), spec.prompt_ids[spec.prompt_tokens :], spec.ending_ids)


class Scores:
    """Of all tokens of a step behind which one may be sampled.

    Args:
        samplers: of each row, whose it is.
        logits_SV: fp32.
    """

    def __init__(self, samplers: Sequence[Sampler], logits_SV: torch.Tensor) -> None:
        self._samplers = samplers
        self._logits = logits_SV
        self._best: list[tuple[int, float]] | None = None
        """Of each row its best token and that one's score, where nothing else is asked of any."""
        if len(samplers) and all(sampler.is_argmax for sampler in samplers):
            tokens_S1 = logits_SV.argmax(dim=-1, keepdim=True)
            best_S1 = logits_SV.gather(1, tokens_S1)
            self._best = list(zip(tokens_S1[:, 0].tolist(), best_S1[:, 0].tolist(), strict=True))

    def draw(self, row: int) -> int | BadRequest:
        """Choose the token that comes next; those of a session in their order, each once.

        A session that cannot go on has its error in the place of a token: the others do go on. Some scores may be
        -inf, the best may not be; where one is no number, argmax finds that one.
        """
        sampler, logits_V = self._samplers[row], self._logits[row]
        if self._best is not None:
            token, score = self._best[row]
            if not math.isfinite(score):
                return sampler.not_finite(logits_V)
            sampler.note(token)
            return token
        try:
            return sampler.sample(logits_V)
        except BadRequest as error:
            return error

    def told(self, row: int, token: SampledToken) -> SampledToken:
        """What the source is told of a token that was drawn there: how likely it was, where that is asked for."""
        num_alternatives = self._samplers[row].num_alternatives
        return token if num_alternatives < 0 else likelihood_of(token, self._logits[row], num_alternatives)
