"""What a shard takes of a hop: token ids where it has the embedding, else hidden states in whatever codec they came.

Shapes: T tokens, W numbers of a row, H hidden size.
"""

from __future__ import annotations

import torch

from shardnet.codecs.rows import codec_for, decoded
from shardnet.errors import BadRequest
from shardnet.models import Shard


def check_rows(shard: Shard, rows: torch.Tensor) -> None:
    """An id out of range, say, would end the whole stage and not only its session.

    Raises:
        BadRequest: these are no ids [T] of the model's, or no rows [T, W].
    """
    config = shard.config
    if shard.has_embedding:
        fits = rows.dtype == torch.int64 and rows.dim() == 1 and len(rows) > 0
        fits = fits and int(rows.min()) >= 0 and int(rows.max()) < config.vocab_size
    else:
        fits = codec_for(rows, config.hidden_size) is not None
    if not fits:
        raise BadRequest(f"Rows of {rows.dtype} and shape {tuple(rows.shape)} are not what this stage takes.")


def inputs_of(shard: Shard, rows: torch.Tensor) -> torch.Tensor:
    """Ids [T], or hidden states [T, H] in the shard's dtype."""
    return rows if shard.has_embedding else decoded(rows, shard.config.hidden_size, shard.dtype)
