"""In how many bits weights are held: what can be asked for, and what that makes of a matrix. Pure.

Embedding and head stay at 8 bits where blocks have 4: they are a small part of a model, and decide its words.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from shardnet.plan import DTYPES

AUTO, INT4, INT8, W8A8 = "auto", "int4", "int8", "w8a8"
SCHEMES = (AUTO, INT4, INT8, W8A8, *DTYPES)
"""auto: as they are stored, where that is in few bits and kernels for these are fast, else in the dtype that the model
computes in."""
FAST_DTYPE = "bfloat16"
"""What kernels for few bits multiply by."""
WHOLE_ROW = 0


class Form(NamedTuple):
    """How a matrix of few bits is held."""

    bits: int
    group: int
    """Inputs that share a scale and a minimum, or `WHOLE_ROW`."""
    rounds_activations: bool = False
    """What it multiplies is rounded to 8 bits, too, row by row."""

    def group_of(self, num_inputs: int) -> int:
        """The same for a row of so many."""
        return self.group or num_inputs

    def fits(self, num_inputs: int) -> bool:
        """Whether a row of so many can be held so."""
        return num_inputs % 2 == 0 and num_inputs % self.group_of(num_inputs) == 0

    def num_bytes(self, num_outputs: int, num_inputs: int) -> int:
        """About what a matrix takes: kernels differ a little."""
        numbers_bytes = 4 if self.bits == 4 else 2
        num_groups = num_inputs // self.group_of(num_inputs)
        return num_outputs * (num_inputs * self.bits // 8 + num_groups * numbers_bytes)


BYTES = Form(8, WHOLE_ROW)
BYTES_BY_BYTES = Form(8, WHOLE_ROW, rounds_activations=True)
NIBBLES = Form(4, 32)

_STORED = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K"), NIBBLES),
    **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"), BYTES),
}
"""What each format of a GGUF file becomes: the form with the same groups where there is one, else the nearest."""


def joint_format(formats: Collection[str]) -> str:
    """That of a tensor which is stored in parts: as whose formats it is treated. Of those that become few bits the one
    with the most; '' where parts are floats as well, or there are none."""
    if len(formats) == 1:
        return next(iter(formats))
    forms = {name: form for name in sorted(formats) if (form := form_of(AUTO, name, is_table=False)) is not None}
    return max(forms, key=lambda name: forms[name].bits) if forms and len(forms) == len(formats) else ""


def settled(scheme: str, dtype: str) -> str:
    """What `auto` means for a model that computes in `dtype`; other schemes as they are."""
    return dtype if scheme == AUTO and dtype != FAST_DTYPE else scheme


def form_of(scheme: str, stored: str, is_table: bool) -> Form | None:
    """How a matrix is held; None: as floats.

    Args:
        stored: its format in the file.
        is_table: it is an embedding, or a head.
    """
    if scheme == AUTO:
        return _STORED.get(stored.partition("/")[0])
    if scheme == INT4:
        return BYTES if is_table else NIBBLES
    if scheme == W8A8:
        return BYTES if is_table else BYTES_BY_BYTES
    return BYTES if scheme == INT8 else None


def bits_of(scheme: str) -> int | None:
    """Of most weights; None where they are floats, or as they are stored."""
    return {INT4: 4, INT8: 8, W8A8: 8}.get(scheme)
