"""A code from standard input: in the arguments of a command, all users of a machine can read it."""

from __future__ import annotations

import os
import sys

from shardnet.errors import BadRequest
from shardnet.process.standard_streams import STDIN

FROM_INPUT = "-"
"""What stands for it in place of a code."""
MOST_BYTES = 2**12


def typed_code() -> str:
    """The first line, which is asked for where somebody can type it.

    Raises:
        BadRequest: there is none.
    """
    if os.isatty(STDIN):
        print("Code: ", end="", file=sys.stderr, flush=True)
    with open(STDIN, "rb", closefd=False) as typed:
        code = typed.readline(MOST_BYTES).decode(errors="replace").strip()
    if not code:
        raise BadRequest("Standard input has no code. Type what the other machine shows, or pipe it in.")
    return code
