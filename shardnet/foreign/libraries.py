"""Where code of others reads what others wrote: whatever it raises becomes one sentence that names the file.

transformers, tokenizers and gguf raise anything for a file that they cannot make sense of: an AssertionError, a
KeyError of a name that no user knows, a bare Exception, Rust's panics. None of these is a mistake in shardnet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardnet.errors import ShardnetError
from shardnet.foreign.quoting import shortened

SHOWN_CHARACTERS = 200
PANIC = "PanicException"
"""What a library written in Rust raises for a mistake of its own: no Exception, and of no importable type."""


@contextmanager
def read_by_others(refuse: Callable[[str], ShardnetError]) -> Iterator[None]:
    """In this block, an error that is not ours becomes `refuse(reason)`.

    Raises:
        ShardnetError: our own, as it is, or what `refuse` gives.
    """
    try:
        yield
    except ShardnetError:
        raise
    except Exception as cause:
        raise refuse(reason_of(cause)) from cause
    except BaseException as cause:
        if type(cause).__name__ != PANIC:
            raise
        raise refuse(reason_of(cause)) from cause


def reason_of(cause: BaseException) -> str:
    """The last line of an error's text, short enough for a sentence, without a full stop."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = lines[-1] if lines else ""
    if isinstance(cause, (KeyError, AssertionError, IndexError, RecursionError)) or not text:
        text = f"{type(cause).__name__} {text}"
    return shortened(text.strip(), SHOWN_CHARACTERS).rstrip(". ")
