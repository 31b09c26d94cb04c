"""How a tensor's bytes in a file become the model's numbers, as its dtype says. Pure; imports no torch.

    F16             numbers one behind the other
    Q4_1            blocks of ggml: here 32 numbers in 20 bytes
    Q4_1/heads=9    of each of 9 heads, the rows of its two halves lie in turns (as GGUF files have Llama's q and k)
    F32/minus=1     the model's numbers are less by 1 (as GGUF files have Gemma's norms)
    N4_64           blocks of our own (`shardnet quantise`): 64 codes of 4 bits in 36 bytes, a scale and what the middle
                    code stands for before them, both bfloat16; S4_32: symmetric, a scale alone (`own_blocks`)
    N4_64/turned    rows are the outputs, where the model has these in its second dimension (GPT-2)

The dtype is part of a tensor's root, of copies and of lists: who finds or fetches the bytes knows all that there is to
know of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from shardnet.errors import UnsupportedModel
from shardnet.foreign.quoting import shortened

FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
GGML_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
OWN_TYPES = ("N4_32", "N4_64", "N4_128", "S4_32")
SYMMETRIC_TYPES = ("Q4_0", "S4_32")
"""Of 4 bits: the middle code stands for 0."""
BLOCK_TYPES = (*GGML_TYPES, *OWN_TYPES)
BLOCKS = {
    "F64": (1, 8), "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "I64": (1, 8), "U64": (1, 8), "I32": (1, 4),
    "U32": (1, 4), "I16": (1, 2), "U16": (1, 2), "I8": (1, 1), "U8": (1, 1), "BOOL": (1, 1), "F8_E4M3": (1, 1),
    "F8_E5M2": (1, 1), "F8_E8M0": (1, 1),
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "Q4_K": (256, 144),
    "Q5_K": (256, 176), "Q6_K": (256, 210),
    "N4_32": (32, 20), "N4_64": (64, 36), "N4_128": (128, 68), "S4_32": (32, 18),
}  # fmt: skip
"""Of each kind: how many numbers a block has, and how many bytes."""
_DTYPE = re.compile(r"(?P<kind>\w+)(?:/heads=(?P<heads>[1-9]\d{0,5}))?(?P<minus>/minus=1)?(?P<turned>/turned)?")


class Stored(NamedTuple):
    """What a dtype says."""

    kind: str
    heads: int = 0
    """In how many heads rows lie in turns; 0: all rows are in order."""
    minus_one: bool = False
    is_turned: bool = False
    """Its rows are the columns of the model's."""

    @property
    def dtype(self) -> str:
        """As it is written."""
        heads = f"/heads={self.heads}" if self.heads else ""
        return self.kind + heads + ("/minus=1" if self.minus_one else "") + ("/turned" if self.is_turned else "")

    @property
    def is_plain(self) -> bool:
        """Whether its bytes are the model's numbers as they are."""
        return self.kind in FLOAT_TYPES and not self.heads and not self.minus_one and not self.is_turned

    def num_bytes(self, shape: Sequence[int]) -> int | None:
        """Of a tensor in a file; None where such a tensor cannot be stored so."""
        numbers, num_bytes = BLOCKS[self.kind]
        if self.is_turned:
            if len(shape) != 2 or self.heads or self.minus_one:
                return None
            shape = shape[::-1]
        if numbers > 1 and (not shape or shape[-1] % numbers):
            return None
        if self.heads and not self._has_rows(shape, numbers):
            return None
        return math.prod(shape) // numbers * num_bytes

    def _has_rows(self, shape: Sequence[int], numbers: int) -> bool:
        """Whether there are whole rows to put in order; those of one dimension are single numbers, within blocks."""
        if not shape or shape[0] % (2 * self.heads):
            return False
        return math.prod(shape[1:]) > 0 and (numbers == 1 or len(shape) > 1)


def stored_as(dtype: str) -> Stored | None:
    """What a dtype says; None where it is none of those that there are."""
    match = _DTYPE.fullmatch(dtype)
    if match is None or match["kind"] not in BLOCKS:
        return None
    return Stored(match["kind"], int(match["heads"] or 0), match["minus"] is not None, match["turned"] is not None)


def require_readable(name: str, dtype: str) -> Stored:
    """What a dtype says of which a device can make floats. Args: `name` of the tensor, for messages.

    Raises:
        UnsupportedModel: it cannot.
    """
    stored = stored_as(dtype)
    if stored is None or stored.kind not in (*FLOAT_TYPES, *BLOCK_TYPES):
        raise UnsupportedModel(
            f"The tensor {name} is stored as {shortened(dtype)}; only {', '.join(FLOAT_TYPES)} can be read. "
            "Use the model's version that is not quantised, or a .gguf file."
        )
    return stored


def bytes_of(dtype: str, shape: Sequence[int]) -> int | None:
    """How many bytes a tensor takes in a file; None where there can be no such tensor."""
    stored = stored_as(dtype)
    return None if stored is None else stored.num_bytes(shape)
