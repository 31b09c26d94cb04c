"""What a call of a transformers model asks, as texts whose rows are read: each row of a batch is one text. Pure.

Shapes: B rows of the batch, P tokens that were given before, T new ones, K whose logits are wanted, W numbers of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from shardnet.errors import BadRequest


class Wanted(NamedTuple):
    """Of one row of a batch: its text as far as it is known, and what of it is read."""

    row: int
    ids: tuple[int, ...]
    first: int
    """The position in the text of the first token whose row is wanted."""
    column: int
    """Where that one stands, from the first that is wanted on."""

    @property
    def text(self) -> tuple[tuple[int, ...], int]:
        """What is the same for rows that are read once."""
        return self.ids, self.first


def mask_of(attention_mask: Tensor | None, before_BP: Tensor, ids_BT: Tensor) -> Tensor:
    """Which of all tokens, P + T, are there and which only fill a row up: bool.

    Args:
        before_BP: the same of those that were given before.

    Raises:
        BadRequest: it is no mask of such a batch, or has holes.
    """
    shape = len(ids_BT), before_BP.shape[1] + ids_BT.shape[1]
    if attention_mask is None:
        return torch.cat([before_BP, torch.ones_like(ids_BT, dtype=torch.bool)], dim=1)
    if tuple(attention_mask.shape) != shape:
        raise BadRequest(
            f"attention_mask must have the shape {shape}, a number for each token given before and now, but has "
            f"{tuple(attention_mask.shape)}. Other masks are not for models in a ring."
        )
    mask = attention_mask.cpu() != 0
    if bool((mask[:, 1:].int() - mask[:, :-1].int() > 0).sum(dim=1).gt(1 - mask[:, 0].int()).any()):
        raise BadRequest(
            "attention_mask has a hole: tokens that count for nothing can stand before a text or behind it, but not "
            "in its midst. Fill up at the left (padding_side='left') what is to go on."
        )
    return mask


def check_positions(position_ids: Tensor | None, mask: Tensor, num_new: int) -> None:
    """See that positions are those of the tokens in their texts.

    Raises:
        BadRequest: they are others.
    """
    if position_ids is None:
        return
    new = mask[:, -num_new:]
    positions = (mask.cumsum(dim=1) - 1)[:, -num_new:]
    if position_ids.shape[-1] != num_new or bool(((position_ids.cpu() != positions) & new).any()):
        raise BadRequest(
            "position_ids must count the tokens of each row that attention_mask has, from 0 on: a ring counts them "
            "so itself. Leave position_ids out."
        )


def kept_columns(logits_to_keep: int | Tensor, num_before: int, num_new: int) -> Tensor:
    """Of which of the T new tokens behind P others logits are wanted: their columns among all, [K].

    Raises:
        BadRequest: there are no such tokens.
    """
    columns = torch.arange(num_new)
    if isinstance(logits_to_keep, int):
        kept = columns[-logits_to_keep:] if logits_to_keep >= 0 else columns[:0]
    elif logits_to_keep.dim() == 1 and bool(((logits_to_keep >= -num_new) & (logits_to_keep < num_new)).all()):
        kept = columns[logits_to_keep.cpu()]
    else:
        kept = columns[:0]
    if not len(kept):
        raise BadRequest(
            "logits_to_keep must be 0 for all tokens, how many of the last ones, or a tensor of their columns, which "
            f"the {num_new} new ones have."
        )
    return kept + num_before


def wanted_of(ids: Tensor, mask: Tensor, first_column: int) -> list[Wanted]:
    """What is read of each row, from a column on; nothing of those that only have padding there.

    Args:
        ids, mask: of all tokens, [B, P + T].
    """
    wanted = []
    for row, (row_ids, row_mask) in enumerate(zip(ids, mask, strict=True)):
        columns = row_mask.nonzero()[:, 0]
        later = columns[columns >= first_column]
        if len(later):
            text = tuple(row_ids[columns].tolist())
            wanted.append(Wanted(row, text, len(text) - len(later), int(later[0]) - first_column))
    return wanted


def check_labels(labels_BT: Tensor, mask_BT: Tensor, ignored: int) -> None:
    """See that nothing is to be foretold from padding.

    Raises:
        BadRequest: some label is.
    """
    behind_padding = ~mask_BT[:, :-1] & (labels_BT[:, 1:].cpu() != ignored)
    if labels_BT.shape != mask_BT.shape or bool(behind_padding.any()):
        raise BadRequest(
            f"labels must have the shape {tuple(mask_BT.shape)}, and be {ignored} for padding and for the first token "
            "behind it, which nothing foretells."
        )


def ids_of(input_ids: Tensor | Sequence[Sequence[int]] | None) -> Tensor:
    """The new tokens of a batch, [B, T].

    Raises:
        BadRequest: there are none.
    """
    ids = torch.as_tensor([] if input_ids is None else input_ids)
    if ids.dim() != 2 or not ids.numel() or ids.is_floating_point():
        raise BadRequest("input_ids must be token ids of the shape (texts, tokens), at least one of each.")
    return ids.cpu()
