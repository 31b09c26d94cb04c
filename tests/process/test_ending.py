"""How commands end: what they say of the machine that they run on, and what becomes of signals and broken streams."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shardnet.errors import DoesNotFit, UsageError
from shardnet.launch import cli
from shardnet.process.ending import one_line, orderly_exit
from shardnet.process.standard_streams import TolerantStream, tolerant_streams
from shardnet.process.surroundings import require_address_space, require_docstrings, require_folder, what_is_lacking

Captured = pytest.CaptureFixture[str]


def ended_by(error: BaseException, **options: Any) -> int:
    with pytest.raises(SystemExit) as ended, tolerant_streams(), orderly_exit(debug=False, **options):
        raise error
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot be written: No space left on device. Make room"),
        (OSError(errno.EFBIG, "File too large"), "cannot be written: File too large. Make room"),
        (
            Exception("No space left on device (os error 28)"),
            "cannot be written: No space left on device (os error 28)",
        ),
        (MemoryError(), "There is too little memory (out of memory). End other programs"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "There is too little memory"),
        (RuntimeError("can't start new thread"), "There is too little memory (can't start new thread)"),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files: shardnet needs more of them."),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "This machine has no loopback network"),
        (
            OSError(errno.EROFS, "Read-only file system", "/x"),
            "refused what shardnet needs: Read-only file system (/x)",
        ),
    ],
)
def test_a_lacking_machine_is_no_mistake_of_ours(capsys: Captured, error: Exception, sentence: str) -> None:
    assert ended_by(error) == 2
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1
    wrapped = ValueError("something else")
    wrapped.__cause__ = error
    assert what_is_lacking(wrapped) == what_is_lacking(error)
    assert what_is_lacking(ValueError("something else")) is None


def test_a_program_reads_of_an_error_on_standard_output(capsys: Captured) -> None:
    """Once, `--json` that failed left standard output empty."""
    assert ended_by(DoesNotFit("Too\nbig."), wants_json=True) == 3
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"error": "Too big.", "exit_code": 3}
    assert printed.err == "shardnet: Too big.\n"


def test_what_is_logged_is_one_sentence_of_ours_with_a_traceback_for_who_debugs(capsys: Captured) -> None:
    for debug in (False, True):
        with orderly_exit(debug):
            try:
                raise OSError("no space left")
            except OSError as error:
                logging.getLogger("shardnet.notebook").error("it cannot be\nwritten: %s", error, exc_info=error)
    once, twice = capsys.readouterr().err.split("Traceback", 1)
    assert once.splitlines() == [
        "shardnet: it cannot be written: no space left",
        "shardnet: it cannot be",
        "written: no space left",
    ]
    assert "OSError" in twice
    logging.getLogger("shardnet.notebook").error("nobody says this any more")
    assert "shardnet:" not in capsys.readouterr().err


def test_a_result_that_was_printed_stays_the_only_object(capsys: Captured) -> None:
    with pytest.raises(SystemExit), tolerant_streams(), orderly_exit(debug=False, wants_json=True):
        print("{}")
        raise DoesNotFit("The simulated run ended early.")
    assert capsys.readouterr().out == "{}\n"


def test_a_sentence_is_one_line_that_steers_no_terminal() -> None:
    assert one_line("a\n  b\x1b[2Jc\udcff") == r"a b\x1b[2Jc\udcff"


def test_a_sentence_can_be_read_whatever_it_quotes(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command, an option, a model or a folder of 100 kB came back whole: typer and the system quote all of it."""
    long = "x" * 100_000
    for words in ([long], [f"--{long}"], ["profile", "--model", long], ["generate", "--model", long, "-p", "x"]):
        monkeypatch.setattr(sys, "argv", ["shardnet", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert 0 < len(capsys.readouterr().err) < 1000
    monkeypatch.setattr(sys, "argv", ["shardnet", "profile", "--threads", "9" * 400])
    with pytest.raises(SystemExit):
        cli.main()
    assert "but is a whole number of about 401 digits." in capsys.readouterr().err


@pytest.mark.parametrize("error", [ImportError("numpy cannot be imported"), KeyboardInterrupt()])
def test_whatever_fails_after_a_signal_comes_from_it(capsys: Captured, error: BaseException) -> None:
    """In the middle of an import, Ctrl-C comes out as anything."""
    with pytest.raises(SystemExit) as ended, orderly_exit(debug=False):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


def test_a_signal_in_a_destructor_is_not_lost(capsys: Captured) -> None:
    class Last:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended, orderly_exit(debug=False):
        Last()
        threading.Event().wait(20)
        raise AssertionError("the signal was lost")
    assert ended.value.code == 143
    assert capsys.readouterr().err == ""


def test_what_nohup_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with orderly_exit(debug=False):
        signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_nobody_reads_on(capsys: Captured) -> None:
    assert ended_by(BrokenPipeError(errno.EPIPE, "Broken pipe")) == 141
    as_rich_has_it = SystemExit(1)
    as_rich_has_it.__context__ = BrokenPipeError()
    assert ended_by(as_rich_has_it) == 141
    assert capsys.readouterr().err == ""


class Unwritable(io.StringIO):
    """A stream that takes nothing, as /dev/full or a pipe that nobody reads."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize(("number", "exit_code"), [(errno.ENOSPC, 2), (errno.EPIPE, 141)])
def test_a_success_that_cannot_be_written_out_is_none(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, number: int, exit_code: int
) -> None:
    """Commands end by SystemExit(0): what was lost in the last flush was forgotten, and Python ended with 120."""
    for end in (lambda: sys.exit(0), lambda: None):
        monkeypatch.setattr(sys, "stdout", Unwritable(number))
        with pytest.raises(SystemExit) as ended, orderly_exit(debug=False):
            end()
        assert ended.value.code == exit_code
        assert ("No space left on device" in capsys.readouterr().err) == (exit_code == 2)
    with pytest.raises(SystemExit) as ended, orderly_exit(debug=False):
        sys.exit(3)
    assert ended.value.code == 3, "a failure stays what it was"


def test_a_full_standard_error_ends_nothing() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    stream = TolerantStream(Full())
    assert stream.write("abc") == 3
    stream.flush()
    assert not stream.isatty()


def test_characters_that_cannot_be_encoded_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    with tolerant_streams():
        print("it’s \udcff", flush=True)
    assert raw.getvalue() == b"it\\u2019s \\udcff\n"


def test_a_limit_of_addresses_that_torch_cannot_live_with_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ulimit -v 800000 the command hung: torch's pool waits for threads that could not be started."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (800_000 * 1024, -1))
    with pytest.raises(UsageError, match=r"may have 0.76 GiB of addresses \(ulimit -v\), and torch alone takes 2 GiB"):
        require_address_space()


def test_a_folder_that_was_deleted_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Intel's library ends the process then, with words of its own."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="The current folder does not exist any more"):
        require_folder()


def test_python_without_docstrings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers makes classes of its docstrings: under -OO it printed on stdout, and we blamed config.json."""
    require_docstrings()
    monkeypatch.setattr(sys, "flags", SimpleNamespace(optimize=2))
    with pytest.raises(UsageError, match="Run the command without that"):
        require_docstrings()
