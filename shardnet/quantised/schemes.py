"""In how many bits weights are held: what can be asked for, and what that makes of a matrix. Pure.

Embedding and head stay at 8 bits where blocks have 4: they are a small part of a model, and decide its words.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from shardnet.plan import DTYPES

AUTO, INT4, INT8, W8A8 = "auto", "int4", "int8", "w8a8"
INT4_G64, INT4_G128, INT4_SYM = "int4-g64", "int4-g128", "int4-sym"
FOUR_BITS = (INT4, INT4_G64, INT4_G128, INT4_SYM)
SCHEMES = (AUTO, *FOUR_BITS, INT8, W8A8, *DTYPES)
"""auto: as they are stored, where that is in few bits and kernels for these are fast, else in the dtype that the model
computes in."""
BY_BITS = {4: INT4, 8: INT8}
"""The scheme of so many bits that is made of any weights, and most like others of these."""
FAST_DTYPE = "bfloat16"
"""What kernels for few bits multiply by."""
WHOLE_ROW = 0
LEAST_GROUP = 32


class Form(NamedTuple):
    """How a matrix of few bits is held."""

    bits: int
    group: int
    """Inputs that share a scale and a minimum, or `WHOLE_ROW`."""
    rounds_activations: bool = False
    """What it multiplies is rounded to 8 bits, too, row by row."""
    is_symmetric: bool = False
    """Of 4 bits: the middle code stands for 0."""

    @property
    def layout(self) -> tuple[int, int, bool]:
        """What makes a difference to kernels."""
        return self.bits, self.group, self.rounds_activations

    def for_rows_of(self, num_inputs: int) -> Form:
        """The same with smaller groups, where a row of so many is no whole number of them."""
        group = self.group
        while group > LEAST_GROUP and num_inputs % group:
            group //= 2
        return self._replace(group=group)

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
NIBBLES = Form(4, LEAST_GROUP)
_NIBBLES = {
    INT4: NIBBLES,
    INT4_G64: Form(4, 64),
    INT4_G128: Form(4, 128),
    INT4_SYM: Form(4, LEAST_GROUP, is_symmetric=True),
}

_STORED = {
    **dict.fromkeys(("Q4_0", "Q4_1", "Q4_K", "N4_32"), NIBBLES),
    "N4_64": Form(4, 64),
    "N4_128": Form(4, 128),
    "S4_32": Form(4, LEAST_GROUP, is_symmetric=True),
    **dict.fromkeys(("Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"), BYTES),
}
"""What each format of a file becomes: the form with the same groups where there is one, else the nearest."""


def joint_format(formats: Collection[str]) -> str:
    """That of a tensor which is stored in parts: as whose formats it is treated. Of those that become few bits the one
    with the most; '' where parts are floats as well, or there are none."""
    if len(formats) == 1:
        return next(iter(formats))
    forms = {name: form for name in sorted(formats) if (form := form_of(AUTO, name, 0, is_table=False)) is not None}
    return max(forms, key=lambda name: forms[name].bits) if forms and len(forms) == len(formats) else ""


def settled(scheme: str, dtype: str, made_as: str = "") -> str:
    """What `auto` means for a model that computes in `dtype`; other schemes as they are.

    Args:
        made_as: the scheme that a checkpoint was made in by `shardnet quantise`; empty where it was not.
    """
    if scheme != AUTO:
        return scheme
    return dtype if dtype != FAST_DTYPE else made_as or AUTO


def form_of(scheme: str, stored: str, num_inputs: int, *, is_table: bool) -> Form | None:
    """How a matrix is held; None: as floats.

    Args:
        stored: its format in the file.
        is_table: it is an embedding, or a head.
    """
    if scheme == AUTO:
        return _STORED.get(stored.partition("/")[0])
    if scheme in _NIBBLES:
        return BYTES if is_table else _NIBBLES[scheme].for_rows_of(num_inputs)
    if scheme == W8A8:
        return BYTES if is_table else BYTES_BY_BYTES
    return BYTES if scheme == INT8 else None


def bits_of(scheme: str) -> int | None:
    """Of most weights; None where they are floats, or as they are stored."""
    return 4 if scheme in _NIBBLES else {INT8: 8, W8A8: 8}.get(scheme)
