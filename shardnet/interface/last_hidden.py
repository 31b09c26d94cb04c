"""The hidden states of a model in a ring, of which there are only the last ones here: those of blocks stay there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from shardnet.errors import UnsupportedModel


class LastHidden(tuple[Any, ...]):
    """As transformers has them, those of the embedding and behind each block: only the last place is filled.

    Args:
        rows: [B, T, H].

    Raises:
        UnsupportedModel: others are asked for.
    """

    def __new__(cls, rows: Tensor, num_blocks: int) -> LastHidden:
        return super().__new__(cls, [None] * num_blocks + [rows])

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if not isinstance(found, Tensor):
            raise _others()
        return found

    def __iter__(self) -> Iterator[Any]:
        raise _others()


def _others() -> UnsupportedModel:
    return UnsupportedModel("of a model in a ring only the last hidden states are read: hidden_states[-1].")
