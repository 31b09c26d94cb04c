"""How many tokens a block may look back.

In `transformers` the attention *mask* alone decides that, and every model makes its masks in its `forward`: some by
`config.layer_types`, some one for all blocks. What an attention module says of a window is no guide: some that are
masked say nothing (Phi-MoE, Qwen2-MoE), some that say one are not masked (OLMoE). Blocks run here without the model
around them, so each family's entry names the rule that its model follows, and attention asks nobody else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from shardnet.errors import UnsupportedModel

Window = Callable[[Any, int], int | None]
"""(configuration, layer) -> tokens that its queries see, their own included; None where they see all before them."""


def no_window(config: Any, layer: int) -> None:
    """Every block sees everything, whatever else the configuration may say."""


def same_window(config: Any, layer: int) -> int | None:
    """All blocks have the configuration's window."""
    return config.sliding_window


def window_by_layer_type(config: Any, layer: int) -> int | None:
    """The configuration says of each block whether it has the window."""
    kind = config.layer_types[layer]
    if kind == "full_attention":
        return None
    if kind != "sliding_attention":
        raise UnsupportedModel(
            f"Block {layer} of this {config.model_type} model is of the kind {kind!r}. "
            "Only full_attention and sliding_attention can be cut."
        )
    return config.sliding_window or 0


def windows_of(rule: Window, config: Any, layers: Sequence[int]) -> dict[int, int | None]:
    """The window of each of these layers.

    Raises:
        UnsupportedModel: one of them would see nothing, or attends in a way that is not known here.
    """
    windows = {layer: rule(config, layer) for layer in layers}
    for layer, window in windows.items():
        if window is not None and window < 1:
            raise UnsupportedModel(
                f"Block {layer} of this {config.model_type} model has a sliding window, but sliding_window is "
                f"{config.sliding_window}. Say in config.json how many tokens it sees."
            )
    return windows
