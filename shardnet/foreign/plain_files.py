"""Small files that others wrote, read with limits: only regular files, sizes first, and JSON that means one thing.

A named pipe would block, `/dev/zero` would never end, and of two equal keys one would vanish in silence.
Whoever reads a file of a user's goes through here, and says by `what` how messages call it ("the problem file").
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from shardnet.errors import BadConfiguration, ShardnetError
from shardnet.foreign.quoting import quoted, shortened

MOST_DEPTH = 100
MOST_DIGITS = 100
"""Of a number in JSON; no count and no size has more."""
MANY_VALUES = 1_000_000
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def user_path(name: str | Path) -> Path:
    """The path that a user typed; `~` is the user's folder where there is one."""
    return Path(os.path.expanduser(name))  # Path.expanduser raises for ~nobody


def is_there(path: str | Path) -> bool:
    """Whether something lies there. False, where `Path.exists` raises: a name that is too long, a closed folder."""
    return os.path.exists(path)


def named_anywhere(name: str | Path) -> str:
    """What a user typed, fit for a process in another folder: the whole path where something lies there."""
    path = user_path(name)
    return str(path.absolute()) if is_there(path) else str(name)


def is_folder(path: str | Path) -> bool:
    """Whether it is a folder; never raises."""
    return os.path.isdir(path)


def open_plain(path: str | Path, what: str, error: type[ShardnetError] = BadConfiguration) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        error: it is something else, or cannot be read.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind != stat.S_IFREG:
            _refuse(path, what, f"it is {_KINDS.get(kind, 'something else')}, not a file", error)
        # Without blocking: what was a file a moment ago may be a pipe by now.
        return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    except (OSError, ValueError) as cause:  # ValueError: a null byte in the path
        raise _unreadable(path, what, getattr(cause, "strerror", None) or str(cause), error) from cause


def read_bytes(path: str | Path, most_bytes: int, what: str, error: type[ShardnetError] = BadConfiguration) -> bytes:
    """The content of a regular file of at most `most_bytes`.

    Raises:
        error: it is something else, too large, or cannot be read.
    """
    with open_plain(path, what, error) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            _refuse(path, what, f"it has {size} bytes, more than the {most_bytes} that such a file may have", error)
        try:
            content = file.read(most_bytes + 1)
        except OSError as cause:
            raise _unreadable(path, what, cause.strerror or str(cause), error) from cause
    if len(content) > most_bytes:  # it grew, or the system makes it up as it is read
        _refuse(path, what, f"it has more than the {most_bytes} bytes that such a file may have", error)
    return content


def read_text(path: str | Path, most_bytes: int, what: str, error: type[ShardnetError] = BadConfiguration) -> str:
    """The same as text: UTF-8, with or without a byte order mark.

    Raises:
        error: as for `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path, most_bytes, what, error).decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise _unreadable(path, what, f"it is not UTF-8 text (byte {cause.start})", error) from cause


def read_json(path: str | Path, most_bytes: int, what: str, error: type[ShardnetError] = BadConfiguration) -> Any:
    """The value in a JSON file.

    Raises:
        error: as for `read_text`, or what `parse_json` refuses.
    """
    return parse_json(read_text(path, most_bytes, what, error), f"{what} {shortened(str(path))}", error)


def parse_json(text: str, shown: str, error: type[ShardnetError] = BadConfiguration) -> Any:
    """The value of a JSON text.

    Args:
        shown: what messages call the text.

    Raises:
        error: no JSON, a key that is there twice, NaN or Infinity, a number that cannot be meant, half a character, or
            more than `MOST_DEPTH` levels.
    """

    strict = _Strict(shown, error)
    if not text.strip():
        strict.refuse("is empty")
    try:
        value = json.loads(
            text,
            object_pairs_hook=strict.unique,
            parse_int=strict.whole,
            parse_float=strict.fraction,
            parse_constant=strict.constant,
        )
    except json.JSONDecodeError as cause:
        raise error(f"{strict.shown} is not JSON: {cause}.") from cause
    except RecursionError:
        strict.refuse(f"is nested deeper than {MOST_DEPTH} levels")
    fault = too_deep(value, len(text)) or _half_characters(text, value)
    return strict.refuse(fault) if fault else value


def too_deep(value: Any, text_length: int) -> str | None:
    """How a value read from a text is nested too deeply, or repeats itself without end (YAML can); None where not."""
    level, count = [value], 1
    for _ in range(MOST_DEPTH):
        level = [inner for each in level for inner in _inside(each)]
        count += len(level)
        if not level:
            return None
        if count > max(MANY_VALUES, text_length):
            return "repeats its own parts too often"
    return f"is nested deeper than {MOST_DEPTH} levels"


class _Strict:
    """What the parser asks about objects and numbers, and how it refuses them."""

    def __init__(self, shown: str, error: type[ShardnetError]) -> None:
        self.shown = f"{shown[:1].upper()}{shown[1:]}"
        self._error = error

    def refuse(self, reason: str) -> NoReturn:
        raise self._error(f"{self.shown} {reason}.")

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            times = Counter(key for key, _ in pairs)
            self.refuse(f"has the key {quoted(times.most_common(1)[0][0])} twice in one object; keep one of them")
        return found

    def whole(self, digits: str) -> int:
        if len(digits) > MOST_DIGITS:
            self.refuse(f"has a number of {len(digits)} digits ({digits[:10]}...), which cannot be meant")
        return int(digits)

    def fraction(self, digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            self.refuse(f"has the number {shortened(digits, 40)}, which is beyond what can be meant")
        return value

    def constant(self, name: str) -> NoReturn:
        self.refuse(f"has {name}, which is no number of JSON; write a finite one")


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _half_characters(text: str, value: Any) -> str | None:
    """JSON can escape half of a character, which no file, screen or message takes."""
    if "\\ud" not in text.lower():
        return None
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as cause:
        half = cause.object[cause.start : cause.start + 1]
        return f"holds half a character ({quoted(half)}), which is no text"
    return None


def _unreadable(path: str | Path, what: str, reason: str, error: type[ShardnetError]) -> ShardnetError:
    return error(f"Cannot read {what} {shortened(str(path))}: {reason}.")


def _refuse(path: str | Path, what: str, reason: str, error: type[ShardnetError]) -> NoReturn:
    raise _unreadable(path, what, reason, error)
