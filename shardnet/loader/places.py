"""Where one tensor lies on this machine. Never travels: paths mean nothing elsewhere (see `copies`)."""

from __future__ import annotations

from typing import NamedTuple


class TensorPlace(NamedTuple):
    """Where one tensor lies in a checkpoint."""

    file: str
    offset: int
    num_bytes: int
    dtype: str
    shape: tuple[int, ...]
    root: str = ""
    """What the tensor is called on every device (see `parts`); '' before the checkpoint was looked at as a whole."""
