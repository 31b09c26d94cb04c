"""What stands for the keys and values of a batch: they stay in the ring, and here are the tokens that they are of.

A stage finds what it has of a text by how that begins (see `session/beginnings`), so that beams are reordered, batches
repeated and texts cut by their tokens alone, and nothing has to be freed: no session outlasts a call.

Shapes: B rows of the batch, P tokens so far.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from shardnet.errors import BadRequest, UnsupportedModel


class TokensLayer(CacheLayerMixin):
    """The tokens of a batch."""

    is_compileable = False
    is_sliding = False
    is_croppable = True

    def __init__(self) -> None:
        super().__init__()
        self.ids = torch.empty((0, 0), dtype=torch.long)
        """[B, P]; those of padding, too."""
        self.mask = torch.empty((0, 0), dtype=torch.bool)
        """[B, P]: which are none of padding."""

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        self.is_initialized = True

    def update(self, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        raise UnsupportedModel("keys and values stay in the ring. Give this cache to its own model alone.")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.ids.shape[1]

    def get_max_length(self) -> int:
        return -1

    @property
    def batch_size(self) -> int:
        """-1 where nothing was given yet."""
        return len(self.ids) if self.ids.numel() else -1

    def of(self, num_rows: int) -> tuple[Tensor, Tensor]:
        """Tokens and mask of a batch of so many rows: [B, P] each.

        Raises:
            BadRequest: it has another number of them.
        """
        if self.batch_size == -1:
            return self.ids.new_empty((num_rows, 0)), self.mask.new_empty((num_rows, 0))
        if num_rows != self.batch_size:
            raise BadRequest(f"past_key_values is of {self.batch_size} texts, and input_ids has {num_rows}.")
        return self.ids, self.mask

    def hold(self, ids: Tensor, mask: Tensor) -> None:
        """These are all tokens by now."""
        self.ids, self.mask, self.is_initialized = ids, mask, True

    def reset(self) -> None:
        self.hold(self.ids[:0, :0], self.mask[:0, :0])

    def crop(self, tokens_to_remove: int) -> None:
        """Forget so many of the last tokens; given as a negative number, or 0."""
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes how many tokens are forgotten as a negative number, not {tokens_to_remove}.")
        length = max(self.get_seq_length() + tokens_to_remove, 0)
        self.hold(self.ids[:, :length], self.mask[:, :length])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        rows = indices.cpu()
        self.hold(self.ids[rows], self.mask[rows])

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.hold(self.ids.repeat_interleave(repeats, dim=0), self.mask.repeat_interleave(repeats, dim=0))

    def offload(self) -> None:
        """Nothing of it is large."""

    def prefetch(self) -> None:
        """As `offload`."""


class RingCache(Cache):
    """The `past_key_values` of a `RingForCausalLM`."""

    def __init__(self) -> None:
        self.tokens = TokensLayer()
        super().__init__(layers=[self.tokens])

    def is_users(self) -> None:
        """It was given, and goes on behind this `generate`: transformers' own mark of that."""
        self._is_user_defined = True
