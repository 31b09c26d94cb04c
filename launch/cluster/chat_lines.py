"""Lines that somebody types in chats: edited, pasted whole, called back, and kept from one chat to the next."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from types import TracebackType

MOST_KEPT = 1000
"""Lines, the last ones."""
PASTED_WHOLE = "set enable-bracketed-paste on"
"""What is pasted comes as one text, with its line breaks."""

_log = logging.getLogger(__name__)


class Lines:
    """Reads lines at a terminal, and keeps them in a file that only this user can read: one as JSON in each line of it.

    In its `with` block, arrow keys call back what was typed before, where Python has readline. A file that cannot be
    read or written is done without.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._typed: list[str] = []

    def __enter__(self) -> Lines:
        try:
            import readline
        except ImportError:
            return self
        if "libedit" not in (readline.__doc__ or ""):
            readline.parse_and_bind(PASTED_WHOLE)
        for line in self._kept():
            readline.add_history(line)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._typed:
            try:
                self._keep([*self._kept(), *self._typed][-MOST_KEPT:])
            except OSError as failure:
                _log.info("What was typed is not kept: %s", failure)

    def read(self, shown: str) -> str:
        """One line, or what was pasted.

        Raises:
            EOFError: nothing comes any more.
        """
        try:
            line = input(shown)
        except EOFError:
            print()  # Ctrl-D ends no line
            raise
        if line.strip():
            self._typed.append(line)
        return line

    def _kept(self) -> list[str]:
        """Of earlier chats, and of others that have ended meanwhile."""
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
            found = [json.loads(line) for line in lines[-MOST_KEPT:]]
        except (OSError, ValueError):
            return []
        return [each for each in found if isinstance(each, str)]

    def _keep(self, lines: list[str]) -> None:
        """Whole or not at all: another chat may read it just now."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        opened = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(opened, "w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in lines)
        new.replace(self._path)
