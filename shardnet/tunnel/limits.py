"""How long a link session waits for what, and how much it keeps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Of link sessions. Both ends of one must have the same `first_credit_bytes`: they do not tell each other."""

    limit_s: float = 60.0
    """A link session without a connection for so long is over."""
    ask_after_s: float = 1.0
    """A connection that is silent for so long is asked for a sign of life, while streams are open."""
    idle_ask_after_s: float = 15.0
    """The same without streams."""
    doubt_s: float = 0.5
    """Another one is dialled beside it where nothing comes in so long a time after it was asked."""
    answer_s: float = 2.0
    """It is given up where nothing comes in so long a time after it was asked."""
    greet_s: float = 5.0
    """How long greeting over a new connection may take."""
    kept_bytes: int = 4 * 2**20
    """Of what is sent and not acknowledged, at each end. Where it is more, bulk waits."""
    first_credit_bytes: int = 2**16
    """What may be sent on a new stream before its reader has taken anything."""
    most_credit_bytes: int = 2 * 2**20
    """To what the credit of a stream grows whose reader takes all that comes."""
    shared_credit_bytes: int = 8 * 2**20
    """What all streams of a link session together may have beyond their first credit."""
    most_streams: int = 512
    """That each end may open, at the same time."""
