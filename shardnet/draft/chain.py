"""What a draft knows of one answer: its tokens, its own guesses behind them, and how many it has computed. Pure.

Tokens come while the draft computes. What they prove wrong is cut off, and what is computed meanwhile of it is of no
use: `Step` says what a step was begun with, and `computed` keeps of it what still stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shardnet.speculation.depth import Depth
from shardnet.transport.listener_messages import digest
from shardnet.transport.offer_messages import Offer
from shardnet.transport.session_messages import SessionSpec

OVERLAP = 8
"""So many tokens that are known an offer begins with: the first stage may have heard of fewer by then."""


class Step(NamedTuple):
    """Tokens that are to be computed."""

    first: int
    """The position of the first of them: so many stay in the cache, and those behind are cut off."""
    ids: tuple[int, ...]
    is_last: bool
    """Behind the last of them a token is guessed."""

    @property
    def end(self) -> int:
        return self.first + len(self.ids)


class Chain:
    """Not safe to use from several threads: see `engine`.

    Args:
        spec: of the session; says when the answer is over.
        longest: so many tokens the draft can have.
        num_ids: it has so many; of a model that has more, an answer with one of these others is not gone on with.
    """

    def __init__(self, spec: SessionSpec, prompt_ids: Sequence[int], longest: int, num_ids: int) -> None:
        self.spec = spec
        self.depth = Depth()
        self.is_over = max(prompt_ids, default=0) >= num_ids
        """Nothing more is guessed of it."""
        self.num_judged = self.num_right = 0
        """Guesses of which it is known what stands in their places, and those of them that were right."""
        self._num_ids = num_ids
        self._ids = list(prompt_ids)
        self._num_known = len(self._ids)
        self._num_computed = 0
        self._cut_at: int | None = None
        """The least position at which something was cut off since the last step began."""
        self._limit = min(spec.capacity_tokens - 1, longest)
        """As many it has at most: behind the last token of an answer none comes."""
        self._digests: list[int] = [digest(self._ids)]
        """Of all tokens before each one of the answer that is known, and of all that are."""

    @property
    def known(self) -> list[int]:
        """Prompt and answer, as far as they are known."""
        return self._ids[: self._num_known]

    @property
    def num_safe(self) -> int:
        """Tokens that are computed and known."""
        return min(self._num_computed, self._num_known)

    @property
    def capacity(self) -> int:
        """Tokens that there is to be room for in the cache."""
        return max(self._limit, self._num_known)

    def known_before(self, step: Step) -> list[int]:
        """All up to the end of a step, as they are now."""
        return self._ids[: step.end]

    @property
    def guesses(self) -> list[int]:
        """Behind what is known."""
        return self._ids[self._num_known :]

    def hear(self, token_ids: Sequence[int]) -> None:
        """These come next in the answer."""
        for token_id in token_ids:
            self._hear(token_id)

    def _hear(self, token_id: int) -> None:
        if self.is_over:
            return
        at = self._num_known
        if at < len(self._ids):
            self._judge(self._ids[at] == token_id)
            if self._ids[at] != token_id:
                del self._ids[at:]
                self._num_computed = min(self._num_computed, at)
                self._cut_at = at if self._cut_at is None else min(self._cut_at, at)
        if at == len(self._ids):
            self._ids.append(token_id)
        self._digests.append(digest((token_id,), self._digests[-1]))
        self._num_known += 1
        is_last = self.spec.finish_reason(self.num_answered - 1, token_id) != ""
        self.is_over = is_last or self._num_known >= self._limit or token_id >= self._num_ids

    def _judge(self, is_right: bool) -> None:
        self.depth.judge(is_right, self._num_known)
        self.num_judged += 1
        self.num_right += is_right

    @property
    def num_answered(self) -> int:
        """Tokens of the answer that are known."""
        return len(self._digests) - 1

    def begin(self, num_there: int) -> None:
        """So many of its tokens are in the cache already."""
        self._num_computed = num_there

    def wants_more(self) -> bool:
        """Whether there is something to compute. Nothing is before the first token is known: what the ring makes of a
        prompt is not to wait for this.
        """
        num_ahead = len(self._ids) - self._num_known
        is_short = num_ahead < self.depth.most(self._num_known) and len(self._ids) < self._limit
        return self.num_answered > 0 and is_short and not self.is_over

    def next_step(self, most: int) -> Step:
        """What is computed next, of at most so many tokens."""
        self._cut_at = None
        first = self._num_computed
        ids = tuple(self._ids[first : first + most])
        return Step(first, ids, first + len(ids) == len(self._ids))

    def computed(self, step: Step, guess: int | None) -> bool:
        """A step has been computed; whether there is one more guess.

        Args:
            guess: what comes behind its last token; None where nothing was guessed.
        """
        self._num_computed = step.end if self._cut_at is None else min(step.end, self._cut_at)
        if guess is None or self._num_computed < step.end or self.is_over:
            return False
        if step.end < len(self._ids):  # it was heard meanwhile
            self._judge(self._ids[step.end] == guess)
            return False
        self._ids.append(guess)
        return True

    def offer(self) -> Offer:
        """What may come next."""
        num_repeated = min(self.num_answered, OVERLAP)
        position = self._num_known - num_repeated
        before = self._digests[self.num_answered - num_repeated]
        return Offer(self.spec.offer_key, position, before, tuple(self._ids[position:]))
