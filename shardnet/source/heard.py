"""An answer as its source knows it: from its coordinator, and straight from the stage that samples. Pure.

The two ways overtake each other, and the straight one may lose tokens. Each token is taken once, in its place, and only
where it goes on from the answer that is known: after a loss a token may be sampled again, and be another one, and then
what comes behind the one is not mixed with the other. Where the coordinator knows another answer, it says so when it is
asked with the digest of this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shardnet.transport.listener_messages import StraightToken, digest
from shardnet.transport.session_messages import SampledToken, SessionSpec


class Position(NamedTuple):
    """What is known without a gap, as `follow` takes it."""

    have: int
    digest: int
    ahead: tuple[int, ...]
    """Ids of the last of these, of which the coordinator has not said that it knows them."""


class Heard:
    """
    Args:
        spec: of the session; says when an answer is over.
    """

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self.tokens: list[SampledToken] = []
        """What is known without a gap, from the first token on."""
        self._digests = [0]
        """Of none of them, of the first one, of the first two, and so on."""
        self._beyond: dict[int, StraightToken] = {}
        """By its place: what lies behind a gap."""
        self._num_told = 0
        """So many tokens the coordinator knows."""

    @property
    def is_whole(self) -> bool:
        """Whether the last token is known."""
        return bool(self.tokens) and self.tokens[-1].finish_reason != ""

    @property
    def num_ahead(self) -> int:
        """Tokens of which the coordinator has not said that it knows them."""
        return max(0, len(self.tokens) - self._num_told)

    @property
    def position(self) -> Position:
        """As it is now."""
        have = len(self.tokens)
        ahead = tuple(token.token_id for token in self.tokens[have - self.num_ahead :])
        return Position(have, self._digests[have], ahead)

    def straight(self, token: StraightToken) -> bool:
        """A token came straight. Whether more is known without a gap."""
        have = len(self.tokens)
        if self.is_whole or not have <= token.index < self._spec.max_new_tokens:
            return False
        self._beyond[token.index] = token
        self._fill()
        return len(self.tokens) > have

    def told(self, have: int, tokens: Iterable[SampledToken], num_known: int) -> bool:
        """The coordinator has told what comes behind `have` tokens. Of these it knows `num_known` by now.

        Returns:
            Whether that is this answer. Where it is not, nothing is taken, and the coordinator is to be asked why.
        """
        self._num_told = num_known
        for index, token in enumerate(tokens, start=have):
            if index == len(self.tokens):
                if self.is_whole:
                    break
                self._take(token)
            elif token.token_id != self.tokens[index].token_id:
                return False
        self._fill()
        return True

    def _fill(self) -> None:
        """Take what lies behind the gap that is closed. What goes on from another answer is dropped."""
        while not self.is_whole and (token := self._beyond.pop(len(self.tokens), None)) is not None:
            if token.before != self._digests[-1]:
                return
            likelihood, alternatives = token.log_likelihood, token.alternatives
            self._take(SampledToken(0, 0, token.token_id, "", likelihood, None, token.guesses, alternatives))

    def _take(self, token: SampledToken) -> None:
        """This one comes next, of whatever session of the coordinator's."""
        spec, index = self._spec, len(self.tokens)
        reason = spec.finish_reason(index, token.token_id)
        self.tokens.append(token._replace(session=spec.session, index=index, finish_reason=reason))
        self._digests.append(digest((token.token_id,), self._digests[-1]))
