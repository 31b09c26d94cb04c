"""How the places are called where a device may compute, and how they say that they are full. What is there is known by
`profiling.compute`."""

from __future__ import annotations

import re

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted

CPU = "cpu"
METAL = "mps"
_FORM = re.compile(r"cpu|mps|cuda:(0|[1-9][0-9]?)")
"""One name for each: devices that compute at the same place share its memory (`cluster.survey`)."""
_FULL_METAL = ("MPS backend out of memory", "Invalid buffer size")
"""How what torch says of Metal begins: of all that is taken there, and of one tensor that is too large for it."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch has found no room on an accelerator. Of CUDA it has an error of its own, of Metal words."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or str(error).startswith(_FULL_METAL)


def has_own_memory(compute: str) -> bool:
    """Whether what is there takes nothing of the processor's memory. Metal shares that."""
    return compute not in (CPU, METAL)


def require_form(compute: str) -> None:
    """
    Raises:
        BadRequest: no place is called so.
    """
    if _FORM.fullmatch(compute) is None:
        raise BadRequest(f"--compute must be cpu, cuda:0 (or another number) or mps, but is {quoted(compute)}.")
