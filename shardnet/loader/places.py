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

    def rows(self, first: int, num_rows: int) -> TensorPlace:
        """Some rows of a matrix that lies row by row."""
        row_bytes = self.num_bytes // self.shape[0]
        shape = (num_rows, *self.shape[1:])
        return self._replace(offset=self.offset + first * row_bytes, num_bytes=num_rows * row_bytes, shape=shape)
