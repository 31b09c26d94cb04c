"""What an error says about the machine that a command runs on: a full disk is no mistake of ours."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Iterator

from shardnet.errors import UsageError

LEAST_ADDRESS_SPACE_BYTES = 2 * 2**30
_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MEMORY = (errno.ENOMEM,)
_FILES = (errno.EMFILE, errno.ENFILE)
_NETWORK = (errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.ENETUNREACH, errno.EAFNOSUPPORT)
_IN_WORDS = (
    ("No space left on device", _ROOM),
    ("Disk quota exceeded", _ROOM),
    ("File too large", _ROOM),
    ("Cannot allocate memory", _MEMORY),
    ("can't allocate memory", _MEMORY),
    ("failed to map segment", _MEMORY),
    ("can't start new thread", _MEMORY),
    ("Too many open files", _FILES),
    ("Cannot assign requested address", _NETWORK),
    ("Network is unreachable", _NETWORK),
)
"""How libraries that are not written in Python say it, in exceptions of their own."""


def require_folder() -> None:
    """Raise where the current folder was deleted: torch's libraries end the process then, in words of their own.

    Raises:
        UsageError
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError("The current folder does not exist any more. Change to another one: cd.") from error


def require_address_space() -> None:
    """Raise where `ulimit -v` leaves too little: torch's pool of threads would wait for ever for those it cannot start.

    Raises:
        UsageError
    """
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_bytes != resource.RLIM_INFINITY and limit_bytes < LEAST_ADDRESS_SPACE_BYTES:
        raise UsageError(
            f"This process may have {limit_bytes / 2**30:.2f} GiB of addresses (ulimit -v), and torch alone takes "
            f"{LEAST_ADDRESS_SPACE_BYTES / 2**30:.0f} GiB. Raise the limit, or lift it: ulimit -v unlimited."
        )


def require_docstrings() -> None:
    """Raise where Python has dropped them: transformers builds some of its classes from them, and prints on stdout.

    Raises:
        UsageError
    """
    if sys.flags.optimize > 1:
        raise UsageError(
            "Python leaves docstrings out (-OO, or PYTHONOPTIMIZE=2), and transformers cannot work without them. "
            "Run the command without that."
        )


def what_is_lacking(error: BaseException) -> str | None:
    """One sentence on what is lacking and what to do; None where the surroundings are not at fault."""
    for each in _chain(error):
        sentence = _sentence(each)
        if sentence is not None:
            return sentence
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _sentence(error: BaseException) -> str | None:
    kind = _kind(error)
    if kind is _ROOM:
        return f"The output cannot be written: {_reason(error)}. Make room, and run the command again."
    if kind is _MEMORY:
        return f"There is too little memory ({_reason(error)}). End other programs, or raise the limits of ulimit."
    if kind is _FILES:
        return f"{_reason(error)}: shardnet needs more of them. Raise the limit, such as by ulimit -n 1024."
    if kind is _NETWORK:
        return f"This machine has no loopback network ({_reason(error)}). Bring it up: ip link set lo up."
    if isinstance(error, OSError) and error.errno is not None:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno == errno.ENAMETOOLONG:
            return f"This name is too long for the system{where}. Give a shorter path."
        return f"The system refused what shardnet needs: {_reason(error)}{where}. Run it with --debug to see where."
    return None


def _kind(error: BaseException) -> tuple[int, ...] | None:
    if isinstance(error, MemoryError):
        return _MEMORY
    if isinstance(error, OSError) and error.errno is not None:
        return next((kind for kind in (_ROOM, _MEMORY, _FILES, _NETWORK) if error.errno in kind), None)
    text = str(error)
    return next((kind for words, kind in _IN_WORDS if words in text), None)


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or "out of memory"
    return str(text).strip().splitlines()[0].rstrip(".")
