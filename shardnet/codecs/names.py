"""What hidden states may travel in between devices: names, and bytes of a token. Standard library only; see `rows`."""

from __future__ import annotations

from dataclasses import replace

from shardnet.plan import DTYPE_BYTES, DTYPES, ModelProfile

INT8 = "int8"
"""8-bit numbers in groups of `GROUP`, each group with a scale."""
FP8 = "fp8"
"""8-bit floats (e4m3), each token with a scale."""
CODECS = (*DTYPES, INT8, FP8)
AUTO = "auto"
"""Each link has a codec of its own: see `planner.codecs`."""
GROUP = 32
GROUP_SCALE_BYTES = 2
TOKEN_SCALE_BYTES = 4


def row_bytes(codec: str, hidden_size: int) -> int:
    """Bytes of one token's hidden state as it travels in one of `CODECS`."""
    if codec == INT8:
        return hidden_size + num_groups(hidden_size) * GROUP_SCALE_BYTES
    if codec == FP8:
        return hidden_size + TOKEN_SCALE_BYTES
    return hidden_size * DTYPE_BYTES[codec]


def sent_as(profile: ModelProfile, codec: str) -> ModelProfile:
    """A model, with what leaves its units where hidden states travel in that codec, and not in the model's dtype."""
    *before, head = profile.units
    resized = [replace(unit, output_bytes=row_bytes(codec, hidden_size_of(profile))) for unit in before]
    return replace(profile, units=(*resized, head))


def hidden_size_of(profile: ModelProfile) -> int:
    """Of a model whose hidden states travel in its own dtype."""
    return profile.units[0].output_bytes // DTYPE_BYTES[profile.dtype]


def num_groups(hidden_size: int) -> int:
    """The last one may be smaller than the others."""
    return -(-hidden_size // GROUP)
