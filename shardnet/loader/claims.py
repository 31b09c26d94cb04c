"""A model that says more than its files can hold is refused by arithmetic, before anything is built from what it says.

The smallest model that a configuration can mean is compared with the tensors in the files. What is compared holds for
every family; whether each tensor is there in its own shape is looked at later, by `pieces`.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shardnet.errors import DamagedCheckpoint
from shardnet.foreign.config_bounds import numbers_of
from shardnet.foreign.quoting import shortened
from shardnet.loader.places import TensorPlace

MOST_TABLE_POSITIONS = 1 << 15
"""GPT-J's blocks compute a table of all positions each; no file bounds that."""
_BLOCK = re.compile(r"^(?P<stack>(?:.*\.)?(?:layers|h|blk))\.(?P<block>\d{1,9})\.")


def check_folder(folder: Path, config: Mapping[str, Any], stored: Mapping[str, TensorPlace]) -> None:
    """`check_claims` for a model folder and the tensors that `index_folder` found in it."""
    shown = shortened(str(folder))
    tensors = ((name, place.shape) for name, place in stored.items())
    check_claims(config, tensors, f"{shown}/config.json", "the weight files beside it")


def check_claims(
    config: Mapping[str, Any], tensors: Iterable[tuple[str, tuple[int, ...]]], shown: str, files: str
) -> None:
    """See that the files can hold the model that the configuration describes.

    Args:
        config: a configuration that `check_config` has passed.
        tensors: the name and the shape of every tensor in the files.
        shown: what messages call the configuration.
        files: what messages call the files.

    Raises:
        DamagedCheckpoint: they cannot.
    """
    tensors = list(tensors)
    numbers = numbers_of(config)
    blocks = numbers.get("num_hidden_layers")
    _check_blocks(blocks, _blocks_by_stack(name for name, _ in tensors), shown, files)
    held = sum(math.prod(shape) for _, shape in tensors)
    for what, elements in _least_elements(numbers):
        if elements > held:
            raise DamagedCheckpoint(
                f"{shown} speaks of {what}, which takes at least {elements} weights, and {files} hold {held}. "
                "Check that they belong to each other, or download the model again."
            )
    positions = numbers.get("max_position_embeddings", 0)
    if config.get("model_type") == "gptj" and positions > MOST_TABLE_POSITIONS:
        raise DamagedCheckpoint(
            f"{shown} says that a gptj model has {positions} positions, and at most {MOST_TABLE_POSITIONS} can be had: "
            "each block keeps a table of them. Correct it, or download the file again."
        )


def _blocks_by_stack(names: Iterable[str]) -> dict[str, set[int]]:
    """The numbers of the blocks in each row of blocks: {"model.layers": {0, 1, 2}}."""
    stacks: dict[str, set[int]] = defaultdict(set)
    for name in names:
        if match := _BLOCK.match(name):
            stacks[match["stack"]].add(int(match["block"]))
    return stacks


def _check_blocks(blocks: int | None, stacks: Mapping[str, set[int]], shown: str, files: str) -> None:
    """As many blocks as the configuration says: fewer in it than in the files, and the rest would be left out."""
    held = max((len(numbers) for numbers in stacks.values()), default=0)
    if blocks is not None and (blocks > held or (blocks < held and len(stacks) == 1)):
        raise DamagedCheckpoint(
            f"{shown} speaks of {blocks} blocks, and {files} hold {held}. "
            "Check that they belong to each other, or download the model again."
        )


def _least_elements(numbers: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    """Parts of the model, and how many weights each has at least: one matrix of several."""
    hidden = numbers.get("hidden_size")
    if hidden is None:
        return
    blocks = numbers.get("num_hidden_layers", 1)
    if vocab := numbers.get("vocab_size"):
        width = numbers.get("word_embed_proj_dim", hidden)
        yield f"{vocab} tokens of the width {width}", vocab * width
    if heads := numbers.get("num_attention_heads"):
        head_dim = numbers.get("head_dim", hidden // heads)
        what = f"{blocks} blocks of the width {hidden} with {heads} heads of the size {head_dim}"
        yield what, blocks * heads * head_dim * hidden
    experts = numbers.get("num_experts", 0)
    inner = numbers.get("moe_intermediate_size" if "moe_intermediate_size" in numbers else "intermediate_size")
    if inner and experts > 1:
        yield f"{experts} experts of the width {inner}", experts * inner * hidden
    elif inner:
        yield f"{blocks} blocks of the inner width {inner}", blocks * inner * hidden
