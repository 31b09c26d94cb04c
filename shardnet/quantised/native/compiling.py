"""The C source of the products as a library of this processor: compiled once, and kept in a folder of this user.

Whatever goes wrong is a reason, and no exception: a device computes with other products then.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
COMPILED = ("products.c", "packing.c", "look.c", "attention.c", "block.c", "trial.c", "trial_attention.c")
SOURCES = ("products.h", "inside.h", "lanes.h", "look.h", "blocks.h", *COMPILED)
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
FOR_THIS_PROCESSOR = ("-march=native", "-mcpu=native", "-O3")
"""Tried one after the other: some compilers for Arm know the second only, and the last asks for nothing."""
_COMPILE_S = 120
_TRY_S = 60
_TRIAL = """
import ctypes, sys
try:
    made = ctypes.CDLL(sys.argv[1])
except OSError as error:
    sys.exit(str(error))
sys.exit(made.shardnet_trial())
"""


class WhyNot(NamedTuple):
    """There is no library here."""

    reason: str
    """A sentence for `doctor`."""


class Library(NamedTuple):
    """It is here."""

    loaded: ctypes.CDLL
    why_not_kept: str
    """By which each process compiles it anew; empty where it is kept."""


class _Failed(Exception):
    """The message is the reason."""


class _NotThere(_Failed):
    """It could not be written, or loaded, where it was to lie: another folder may do."""


def library(folder: Path | None) -> Library | WhyNot:
    """The library for this processor.

    Args:
        folder: where it is kept, for later processes; made if need be, for this user alone. Where that cannot be done,
            or for None, the library is compiled for this process only.
    """
    try:
        compiler = _compiler()
        key = _key(compiler)
        kept = None if folder is None else _kept(folder, key)
        return _made(folder, key, compiler) if kept is None else Library(kept, "")
    except (_Failed, OSError) as error:
        return WhyNot(_said(error))


def _said(error: Exception) -> str:
    """What went wrong, without the number of it."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _compiler() -> str:
    for name in COMPILERS:
        if found := shutil.which(name):
            return os.path.realpath(found)
    raise _Failed(f"There is no C compiler: none of {', '.join(COMPILERS)} is in PATH.")


def _key(compiler: str) -> str:
    """By which a kept library is known: what it was made of, by what, and for which processor."""
    of_compiler = os.stat(compiler)
    digest = hashlib.sha256()
    for part in (compiler, of_compiler.st_size, of_compiler.st_mtime_ns, FLAGS, platform.machine(), _processor()):
        digest.update(f"{part}\n".encode())
    for name in SOURCES:
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()[:32]


def _processor() -> list[str]:
    """What the system says of it that decides which instructions it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [platform.processor()]
    telling = ("flags", "features", "model name", "cpu family", "cpu implementer", "cpu part")
    return sorted({line for line in lines if line.lower().startswith(telling)})


def _kept(folder: Path, key: str) -> ctypes.CDLL | None:
    """The library from the folder; None where there is none, or it cannot be loaded there."""
    try:
        _make_own(folder)
        for file in folder.glob(f"products-{key}-*.so"):
            if not _is_ours_alone(file.lstat(), stat.S_ISREG) or file.name != _name(key, file.read_bytes()):
                file.unlink()  # damaged: to load a part of one may end the process
                continue
            with suppress(OSError):
                return ctypes.CDLL(str(file))
    except OSError:
        pass
    return None


def _name(key: str, content: bytes) -> str:
    """Of a kept library: it says what has to be in it."""
    return f"products-{key}-{hashlib.sha256(content).hexdigest()[:16]}.so"


def _make_own(folder: Path) -> None:
    """Make a folder if need be.

    Raises:
        OSError: that cannot be done, or others could put there what this process would run.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours_alone(folder.lstat(), stat.S_ISDIR):
        raise PermissionError(f"{folder} is not a folder of this user that nobody else can write")


def _is_ours_alone(status: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    is_writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return is_kind(status.st_mode) and status.st_uid == os.geteuid() and not is_writable


def _made(folder: Path | None, key: str, compiler: str) -> Library:
    """Compiled among temporary files; in the folder, where these have no room, or may not be run."""
    try:
        return _made_in(None, folder, key, compiler)
    except (_NotThere, OSError):
        if folder is None:
            raise
        with suppress(_Failed, OSError):
            _make_own(folder)
            return _made_in(folder, folder, key, compiler)
        raise


def _made_in(place: Path | None, folder: Path | None, key: str, compiler: str) -> Library:
    with tempfile.TemporaryDirectory(prefix="shardnet-native-", dir=place, ignore_cleanup_errors=True) as private:
        made = Path(private, "products.so")
        _compile(made, compiler)
        if folder is None:
            return Library(ctypes.CDLL(str(made)), "there is no cache folder")
        try:
            return Library(_keep(made, folder, key), "")
        except OSError as error:
            return Library(ctypes.CDLL(str(made)), _said(error))


def _keep(made: Path, folder: Path, key: str) -> ctypes.CDLL:
    """Copy it into the folder, and load it there. It comes there whole: others may do the same at the same time.

    Raises:
        OSError
    """
    _make_own(folder)
    content = made.read_bytes()
    handle, name = tempfile.mkstemp(prefix=".", suffix=".so", dir=folder)
    copy, file = Path(name), folder / _name(key, content)
    try:
        with open(handle, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        copy.replace(file)
    finally:
        copy.unlink(missing_ok=True)
    return ctypes.CDLL(str(file))


def _compile(made: Path, compiler: str) -> None:
    """
    Raises:
        _NotThere: it cannot be written, or loaded, there.
        _Failed: it comes out wrong, or took too long.
    """
    failure = _Failed()
    for processor in FOR_THIS_PROCESSOR:
        files = [str(HERE / name) for name in COMPILED]
        done = _run([compiler, *FLAGS, processor, *files, "-o", str(made), "-lm"], _COMPILE_S, made.parent)
        if done.returncode:
            failure = _NotThere(f"{compiler} could not compile the products: {_first_line(done)}")
            continue
        # In a process that may die of it: an emulated processor, say, may lack what it tells.
        done = _run([sys.executable, "-I", "-S", "-c", _TRIAL, str(made)], _TRY_S, made.parent)
        if done.returncode == 0:
            return
        if done.stderr:
            raise _NotThere(f"The compiled products cannot be loaded: {_first_line(done)}")
        failure = _Failed(f"The compiled products do not run on this processor: {_first_line(done)}")
    raise failure


def _first_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]


def _run(command: list[str], timeout_s: float, temporary: Path) -> subprocess.CompletedProcess[str]:
    """With what a compiler writes beside the library there, too."""
    try:
        return subprocess.run(
            command,
            env=os.environ | {"TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise _Failed(f"{command[0]} did not end within {timeout_s:.0f} s.") from None
