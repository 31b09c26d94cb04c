"""How every command ends: what it releases, what it says, and with which exit code.

0 done · 1 a device or the way to it failed, or a mistake of ours · 2 cannot be done as asked · 3 does not fit
128 + n ended by signal n (130: Ctrl-C)
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from shardnet.errors import ShardnetError


@contextmanager
def orderly_exit(debug: bool) -> Iterator[None]:
    """Turn every way in which a command can fail into one sentence on stderr and an exit code.

    SIGTERM and SIGHUP become exceptions, so that `with` blocks end what they started. With `debug` errors pass as they
    are, traceback and all.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except ShardnetError as error:
        if debug:
            raise
        sys.exit(_say(str(error), error.exit_code))
    except BrokenPipeError:
        _silence_stdout()
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            _silence_stdout()
            sys.exit(_say(f"The output cannot be written: {error.strerror}. Make room, and run the command again.", 2))
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        sys.exit(_say(f"This is a mistake in shardnet ({what}). Run the command again with --debug and report it.", 1))


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _say(sentence: str, exit_code: int) -> int:
    print(f"shardnet: {sentence}", file=sys.stderr, flush=True)
    return exit_code


def _silence_stdout() -> None:
    """Nobody takes our output any more: what is still buffered must not raise again when Python ends."""
    sys.stdout = open("/dev/null", "w")  # noqa: SIM115
