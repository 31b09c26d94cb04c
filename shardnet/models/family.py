"""How a model family is called: what `families.py` writes down for each, and the usual ways to do each part.

Shapes: T new tokens of all sessions, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardnet.models.facts import LIKE_LLAMA, Facts

if TYPE_CHECKING:  # the table of families is looked at before torch is imported, see `loader.glance`
    from torch import Tensor, nn

    from shardnet.models.rotary import RotaryTables

    Modules = Sequence[nn.Module]


def embed_tokens(modules: Modules, config: Any, ids: Tensor, positions: Tensor) -> Tensor:
    """Token ids [1, T] -> hidden [1, T, H]. Scaling by the module itself (Gemma) is included."""
    return modules[0](ids)


def turned_alike(config: Any, layer: int) -> None:
    """One rotary table for all blocks."""


def turned_by_layer_type(config: Any, layer: int) -> str:
    """A table for each kind of block: sliding-window blocks have another base frequency than full ones (Gemma 3)."""
    kind: str = config.layer_types[layer]
    return kind


def leave_logits(config: Any, logits: Tensor) -> Tensor:
    return logits


def kv_of_config(config: Any) -> tuple[int, int, int]:
    """(key-value heads, key dimension, value dimension) of what every block caches."""
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return getattr(config, "num_key_value_heads", None) or heads, head_dim, head_dim


@dataclass(frozen=True, slots=True)
class Family:
    """How the parts of a family are called. The defaults are Llama's."""

    facts: Facts = LIKE_LLAMA
    embed: Callable[[Modules, Any, Tensor, Tensor], Tensor] = embed_tokens
    turned: Callable[[Any, int], str | None] = turned_alike
    """For which kind of block the rotary module is asked: from (config, layer)."""
    finish: Callable[[Any, Tensor], Tensor] = leave_logits
    """What is done to the logits [S, V]: capping, scaling."""
    kv: Callable[[Any], tuple[int, int, int]] = kv_of_config
    cache_argument: str = "past_key_values"
    alone: Callable[[RotaryTables | None, Any, Tensor, Tensor], dict[str, Any]] | None = None
    """Set where the family has attention code of its own: its sessions then run one after the other. Gives the
    arguments that the blocks want beside the cache, from (rotary, config, hidden [1, t, H], positions [1, t])."""
    attention: str = "shardnet"
    """The attention implementation that the blocks are built with."""


def causal_mask(hidden: Tensor, positions: Tensor) -> Tensor | None:
    """Additive mask [1, 1, t, n] for t new tokens behind n - t cached ones; None where there is nothing to hide."""
    num_tokens = hidden.shape[1]
    if num_tokens == 1:
        return None
    import torch

    keys = torch.arange(int(positions[0, -1]) + 1, device=hidden.device)
    ahead = keys[None, :] > positions[0][:, None]
    mask = torch.zeros(ahead.shape, dtype=hidden.dtype, device=hidden.device)
    return mask.masked_fill_(ahead, torch.finfo(hidden.dtype).min)[None, None]
