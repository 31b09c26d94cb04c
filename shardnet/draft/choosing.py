"""How a draft chooses: as the ring will, by the same options and with the same random numbers.

Each token of an answer takes its own random numbers, whichever it becomes (`Sampler`): so the numbers of a token are
known before the token is, and what a draft draws with them is what the ring draws wherever both models find about the
same likely (common random numbers; torch draws as the exponential race does, and so by the Gumbel-max trick).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from shardnet.errors import BadRequest
from shardnet.speculation.depth import MOST
from shardnet.stage.sampling import Moment, Sampler
from shardnet.transport.session_messages import SessionSpec


class Choosing:
    """Of one answer.

    Args:
        vocabulary: ids that the ring's model has scores for, which may be fewer or more than the draft's.
    """

    def __init__(self, spec: SessionSpec, dtype: torch.dtype, vocabulary: int) -> None:
        self._new = partial(Sampler, spec, dtype)
        self._sampler = self._new()
        self._vocabulary = vocabulary
        self._moments: dict[int, Moment] = {}
        """Where the random numbers stood before tokens of the answer, by their indices: of the last ones drawn here."""

    def choose(self, logits_V: Tensor, index: int, ids: Sequence[int]) -> int | None:
        """The token of that index of the answer; None where the scores are no finite numbers.

        Args:
            logits_V: of the draft, fp32.
            ids: all before it, the prompt's, too.
        """
        self._stand_at(index)
        sampler = self._sampler
        sampler.have_seen(ids)
        try:
            return sampler.sample(self._fitted(logits_V))
        except BadRequest:
            return None

    def _stand_at(self, index: int) -> None:
        """Have the random numbers of that token come next; it may have been drawn before."""
        earlier = {at: moment for at, moment in self._moments.items() if at <= index}
        if self._sampler.num_drawn > index:
            if earlier:
                self._sampler.go_back(earlier[max(earlier)])
            else:
                self._sampler = self._new()
        self._sampler.wind(index, self._vocabulary)
        self._moments = dict(sorted(earlier.items())[-MOST:]) | {index: self._sampler.moment()}

    def _fitted(self, logits_V: Tensor) -> Tensor:
        """Scores of the ids that the ring's model has: checkpoints of one family are filled up to different numbers."""
        missing = self._vocabulary - len(logits_V)
        return F.pad(logits_V, (0, missing), value=-math.inf) if missing > 0 else logits_V[: self._vocabulary]
