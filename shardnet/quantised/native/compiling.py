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
_TRIAL = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).shardnet_trial())"


class WhyNot(NamedTuple):
    """There is no library here."""

    reason: str
    """A sentence for `doctor`."""


class _Failed(Exception):
    """The message is the reason."""


def library(folder: Path | None) -> ctypes.CDLL | WhyNot:
    """The library for this processor.

    Args:
        folder: where it is kept, for later processes; made if need be, for this user alone. Where it cannot be
            written, or for None, the library is compiled for this process only.
    """
    try:
        compiler = _compiler()
        name = f"products-{_key(compiler)}.so"
        kept = folder and _kept(folder / name, compiler)
        return kept or _of_this_process(name, compiler)
    except (_Failed, OSError) as error:
        return WhyNot(str(error))


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


def _kept(file: Path, compiler: str) -> ctypes.CDLL | None:
    """The library from the folder, where it is put if need be; None where that cannot be done there."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours_alone(file.parent):
            return None
        if not file.exists():
            _put(file, compiler)
        if not (opened := _opened(file)):  # it is damaged
            _put(file, compiler)
            opened = _opened(file)
    except OSError:
        return None
    return opened


def _is_ours_alone(folder: Path) -> bool:
    """Whether nobody else can put there what this process would run."""
    status = folder.lstat()
    is_writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not is_writable


def _opened(file: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(file))
    except OSError:
        return None


def _put(file: Path, compiler: str) -> None:
    """Compile it beside its place and rename it there, whole: others may do the same at the same time."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=".so", dir=file.parent)
    os.close(handle)
    made = Path(name)
    try:
        _compile(made, compiler)
        with open(made, "rb") as written:
            os.fsync(written.fileno())
        made.replace(file)
    finally:
        made.unlink(missing_ok=True)


def _of_this_process(name: str, compiler: str) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(prefix="shardnet-native-", ignore_cleanup_errors=True) as folder:
        made = Path(folder, name)
        _compile(made, compiler)
        return ctypes.CDLL(str(made))


def _compile(made: Path, compiler: str) -> None:
    said = ""
    for processor in FOR_THIS_PROCESSOR:
        files = [str(HERE / name) for name in COMPILED]
        done = _run([compiler, *FLAGS, processor, *files, "-o", str(made), "-lm"], _COMPILE_S)
        said = f"{compiler} could not compile the products: {_first_line(done)}"
        if done.returncode == 0:
            # In a process that may die of it: an emulated processor, say, may lack what it tells.
            done = _run([sys.executable, "-I", "-S", "-c", _TRIAL, str(made)], _TRY_S)
            said = f"The compiled products do not run on this processor: {_first_line(done)}"
        if done.returncode == 0:
            return
    raise _Failed(said)


def _first_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]


def _run(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise _Failed(f"{command[0]} did not end within {timeout_s:.0f} s.") from None
