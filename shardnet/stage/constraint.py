"""A grammar that the answer of a session follows, where it is sampled.

Reading it takes a moment, and what tokens spell may still have to come from the coordinator: that is done elsewhere
meanwhile, and waited for with the first token that is to be chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import suppress

from torch import Tensor

from shardnet.errors import BadRequest, ShardnetError
from shardnet.grammars.matching import Matcher

Matchers = Callable[[str], "Future[Matcher]"]
"""A matcher for a grammar, at the beginning of an answer: each time a new one."""
READ_S = 30.0


def read_none(_: str) -> Future[Matcher]:
    """Where nobody can say what tokens spell."""
    refused: Future[Matcher] = Future()
    refused.set_exception(BadRequest("this device cannot follow a grammar."))
    return refused


class Constraint:
    """Of one answer.

    Args:
        matcher: at its beginning.
        answered: its tokens so far.
        ending_ids: those that end it.
    """

    def __init__(self, matcher: Future[Matcher], answered: Sequence[int], ending_ids: Sequence[int]) -> None:
        self.read = matcher
        """Done when the grammar is read."""
        self._matcher: Matcher | None = None
        self._ending_ids = tuple(ending_ids)
        self._new = list(answered)
        """Tokens of the answer that the matcher was not told of."""
        self._ahead: Tensor | None = None
        """Which tokens may come next, where that is known."""
        self._num_ids = 0
        """Of the model."""

    def forbid(self, scores: Tensor) -> Tensor:
        """Scores [1, V] in which all that does not follow is impossible.

        Raises:
            BadRequest: nothing can follow, or the grammar cannot be read.
        """
        allowed, self._ahead = self._ahead, None
        if allowed is None:
            allowed = self._allowed(scores.shape[-1])
        self._num_ids = len(allowed)
        if not bool(allowed.any()):
            raise BadRequest("no token of this model goes on with the answer as its grammar wants it.")
        return scores.masked_fill(~allowed, -math.inf)

    def note(self, token_id: int) -> None:
        """This one comes next."""
        self._new.append(token_id)
        self._ahead = None

    def look_ahead(self) -> None:
        """Find out now what may come next: the token that was chosen is on its way, and nothing waits for this."""
        if self._matcher is not None:
            with suppress(BadRequest):  # it is raised where the next token is chosen
                self._ahead = self._allowed(self._num_ids)

    def _allowed(self, num_ids: int) -> Tensor:
        if self._matcher is None:
            self._matcher = self._begun()
        new, self._new = self._new, []
        self._matcher.take(new)
        return self._matcher.allowed(num_ids, self._ending_ids)

    def _begun(self) -> Matcher:
        try:
            return self.read.result(READ_S)
        except NotYet as error:
            raise BadRequest("the grammar of this answer could not be read in time. Ask again.") from error
        except ShardnetError as error:
            raise BadRequest(str(error)) from error
