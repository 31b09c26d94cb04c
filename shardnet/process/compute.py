"""How the places are called where a device may compute. What is there is known by `profiling.compute`."""

from __future__ import annotations

import re

from shardnet.errors import BadRequest
from shardnet.foreign.quoting import quoted

CPU = "cpu"
_FORM = re.compile(r"cpu|mps|cuda(:\d{1,2})?")


def require_form(compute: str) -> None:
    """
    Raises:
        BadRequest: no place is called so.
    """
    if _FORM.fullmatch(compute) is None:
        raise BadRequest(f"--compute must be cpu, cuda:0 (or another number) or mps, but is {quoted(compute)}.")
