"""How the places are called where a device may compute. What is there is known by `profiling.compute`."""

from __future__ import annotations

import re

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted

CPU = "cpu"
_FORM = re.compile(r"cpu|mps|cuda:(0|[1-9][0-9]?)")
"""One name for each: devices that compute at the same place share its memory (`cluster.survey`)."""


def require_form(compute: str) -> None:
    """
    Raises:
        BadRequest: no place is called so.
    """
    if _FORM.fullmatch(compute) is None:
        raise BadRequest(f"--compute must be cpu, cuda:0 (or another number) or mps, but is {quoted(compute)}.")
