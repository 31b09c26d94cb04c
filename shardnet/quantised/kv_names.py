"""In what keys and values of tokens are kept: names, and the bytes of a head. Standard library only; see `kv_rows`."""

from __future__ import annotations

AUTO, INT8 = "auto", "int8"
KV_DTYPES = (AUTO, INT8)
"""auto: in the dtype that the model computes in."""
SCALE_BYTES = 2
MIDDLE_BYTES = 2


def head_bytes(kv_dtype: str, head_dim: int, item_bytes: int) -> int:
    """Of one head of one token, keys or values.

    Args:
        item_bytes: of a number of the dtype that the model computes in.
    """
    if kv_dtype == AUTO:
        return head_dim * item_bytes
    return head_dim + head_dim % 2 + SCALE_BYTES + MIDDLE_BYTES
