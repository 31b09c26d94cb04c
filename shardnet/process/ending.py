"""How every command ends: what it releases, what it says, and with which exit code.

0 done · 1 a device or the way to it failed, or a mistake of ours · 2 cannot be done as asked · 3 does not fit
128 + n ended by signal n (130: Ctrl-C; 141: nobody reads the output any more)
"""

from __future__ import annotations

import json
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from shardnet.errors import ShardnetError
from shardnet.foreign.quoting import shortened
from shardnet.process.signals import raised
from shardnet.process.standard_streams import flush_stdout, say
from shardnet.process.surroundings import what_is_lacking

UNWANTED = 128 + signal.SIGPIPE
MOST_OF_A_WORD = 400
MOST_OF_A_SENTENCE = 2000
"""Some sentences are others' (typer's, the system's), and quote arguments whole, whatever their size."""


@contextmanager
def orderly_exit(debug: bool, *, wants_json: bool = False) -> Iterator[None]:
    """Turn every way in which a command can fail into one sentence on stderr and an exit code.

    Signals become exceptions, so that `with` blocks end what they started. With `debug` errors pass as they are,
    traceback and all. With `wants_json` a program reads standard output: an error is an object there, too. What is
    logged meanwhile is said like an error.
    """
    with _log_said(debug), raised() as arrived:
        try:
            with _written_out():
                yield
        except KeyboardInterrupt:
            _leave(128 + signal.SIGINT)
        except SystemExit as end:
            if isinstance(end.__context__, BrokenPipeError):  # rich makes this of it
                _leave(UNWANTED)
            raise
        except BrokenPipeError:
            _leave(UNWANTED)
        except Exception as error:
            if arrived:  # whatever went wrong since then comes from it
                _leave(128 + arrived[0])
            if debug:
                raise
            sentence, exit_code = _verdict(error)
            _say(sentence, exit_code, wants_json)
            _leave(exit_code)


@contextmanager
def _log_said(debug: bool) -> Iterator[None]:
    said = _Said()
    if debug:
        said.setFormatter(logging.Formatter("%(message)s"))  # with tracebacks
    log = logging.getLogger("shardnet")
    log.addHandler(said)
    try:
        yield
    finally:
        log.removeHandler(said)


class _Said(logging.Handler):
    """Says what is logged, in one line unless it has a formatter."""

    def emit(self, record: logging.LogRecord) -> None:
        say(f"shardnet: {one_line(record.getMessage()) if self.formatter is None else self.format(record)}")


@contextmanager
def _written_out() -> Iterator[None]:
    """After the block, write out what it has printed. Where that fails, its success is none.

    Raises:
        OSError
    """
    try:
        yield
    except SystemExit as end:
        lost = flush_stdout()
        if lost is not None and not end.code:
            raise lost from None
        raise
    lost = flush_stdout()
    if lost is not None:
        raise lost


def _verdict(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, ShardnetError):
        return str(error), error.exit_code
    lacking = what_is_lacking(error)
    if lacking is not None:
        return lacking, 2
    what = f"{type(error).__name__}: {error}".rstrip(": ")
    return f"This is a mistake in shardnet ({what}). Run the command again with --debug and report it.", 1


def _say(sentence: str, exit_code: int, wants_json: bool) -> None:
    say(f"shardnet: {one_line(sentence)}")
    has_result = getattr(sys.stdout, "was_written", False)  # of a simulated run that failed, say
    if wants_json and not has_result:
        print(json.dumps({"error": one_line(sentence), "exit_code": exit_code}))


def one_line(sentence: str) -> str:
    """The same without line breaks, without characters that would steer a terminal, and no longer than can be read."""
    words = (shortened(word, MOST_OF_A_WORD) for word in sentence.split())
    return shortened(" ".join(words), MOST_OF_A_SENTENCE)


def _leave(exit_code: int) -> None:
    flush_stdout()
    sys.exit(exit_code)
