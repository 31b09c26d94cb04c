"""How rows of a text come back to who has given it: its last hidden states, or the logits behind its tokens.

    read_rows(RingId, stage, RowsWanted) -> Rows     coordinator -> the stage with the head. Answered as soon as the
                                 first of these rows is there, with as many as there are and one answer holds. A later
                                 question for the same session ends an earlier one, which is answered with no rows.

Rows are asked for, and never told unasked: so no more of them are on their way than who reads them takes, the stage
keeps hidden states and no logits, and what is lost is asked for again. Which stage has the head may change meanwhile:
the next one computes what it lacks, and is asked for what has not come.

Shapes: T rows, H hidden size, V vocabulary, or labels where the model is a classifier.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

MOST_ROW_BYTES = 2**22
"""Of one answer; one row at least."""


class RowsAsked(NamedTuple):
    """Which rows of a session its source wants."""

    first: int
    """Of the tokens from that position on."""
    are_logits: bool = False
    """Logits [T, V]; else hidden states [T, H] behind the last norm."""
    stays: bool = False
    """It may begin with what stages have of another session, up to `first`, and what they have of it stays for others:
    a text that is read again when it has grown."""


class RowsWanted(NamedTuple):
    """A question for rows."""

    session: int
    first: int
    """The position of the first one that has not come."""


class Rows(NamedTuple):
    """Some that follow each other."""

    first: int
    rows: torch.Tensor
    """In float32; none where there was nothing to be had."""


ROWS_MESSAGES: tuple[type, ...] = (RowsAsked, RowsWanted, Rows)
"""As `messages.MESSAGE_TYPES`, behind which they are numbered."""
