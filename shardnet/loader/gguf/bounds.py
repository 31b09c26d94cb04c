"""What the metadata of a GGUF file may say: the bounds of `config_bounds`, under GGUF's names for the same fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from shardnet.errors import DamagedCheckpoint
from shardnet.foreign.config_bounds import fault_of
from shardnet.foreign.quoting import quoted

if TYPE_CHECKING:
    from shardnet.loader.gguf.header import GgufTensor

LEAST_ALIGNMENT, MOST_ALIGNMENT = 8, 1 << 20
GGUF_NAMES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.layer_norm_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "rope.dimension_count": "rotary_dim",
    "rope.freq_base": "rope_theta",
}
"""Without the architecture before it."""


def check_metadata(metadata: Mapping[str, Any], shown: str) -> None:
    """See that no field says something impossible.

    Args:
        metadata: the file's fields that have one value each.

    Raises:
        DamagedCheckpoint: one does.
    """
    for key, value in metadata.items():
        fault = fault_of(GGUF_NAMES.get(key.partition(".")[2], ""), value)
        if fault is not None:
            raise DamagedCheckpoint(f"{shown}: {quoted(key)} {fault}. Download the file again.")


def checked_alignment(value: Any, shown: str) -> int:
    """The alignment of the tensors in the file.

    Raises:
        DamagedCheckpoint: it is no power of two, or out of bounds.
    """
    is_power = isinstance(value, int) and value > 0 and value & (value - 1) == 0
    if not is_power or not LEAST_ALIGNMENT <= value <= MOST_ALIGNMENT:
        raise DamagedCheckpoint(
            f"{shown} says general.alignment {quoted(value)}, and it must be a power of two from {LEAST_ALIGNMENT} to "
            f"{MOST_ALIGNMENT}. Download the file again."
        )
    return value


def refuse_overlaps(tensors: Iterable[GgufTensor], shown: str) -> None:
    """Two tensors in the same bytes: one of them is wrong, and nobody could say which.

    Raises:
        DamagedCheckpoint: there are two.
    """
    ordered = sorted((tensor for tensor in tensors if tensor.num_bytes), key=lambda tensor: tensor.offset)
    for before, after in pairwise(ordered):
        end = before.offset + before.num_bytes
        if after.offset < end:
            raise DamagedCheckpoint(
                f"{shown} is damaged: the tensor {quoted(before.name)} ends at byte {end}, "
                f"and {quoted(after.name)} begins at byte {after.offset} already. Download it again."
            )
