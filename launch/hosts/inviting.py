"""How devices on other machines are let in: what to type there, a QR code of it, and who has been."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from shardnet.errors import ShardnetError
from shardnet.source.trust import ask_gate

LOOK_EVERY_S = 1.0
LOOPBACK = ("127.", "[::1]")
"""How the only address of a machine begins that is in no network, or that listens on its loopback."""
_MINUTE_S = 60


def lines_of(invitation: dict[str, Any], *, with_qr: bool) -> list[str]:
    """What a person reads who holds the other device."""
    address = next(iter(invitation["addresses"]), "HOST:PORT")
    where = "From this machine only" if address.startswith(LOOPBACK) else "On another machine"
    lines = []
    if invitation["code"] is not None:
        minutes = max(1, round((invitation["code_until_s"] - time.time()) / _MINUTE_S))
        lines.append(
            f"{where}, within {minutes} min:  shardnet join {invitation['code']} --address {address}   (in the same "
            "network, the address may be left out)"
        )
    if with_qr:
        from shardnet.trust.qr import drawn

        lines += ["Or scan this, and paste it behind shardnet join:", *drawn(invitation["qr"], in_colours=True)]
    elif invitation["code"] is None:
        lines.append(f"{where}:  shardnet join {invitation['qr']}")
    return lines


def show(invitation: dict[str, Any]) -> None:
    """Print an invitation for a person."""
    for line in lines_of(invitation, with_qr=sys.stdout.isatty()):
        print(line, flush=True)


class Inviting:
    """Keeps one invitation open, and tells of each new one: a code that somebody has guessed at is replaced, and so is
    an invitation that was used. One that has expired is not. One that a coordinator has left open that was killed is
    shown by the next one.

    Args:
        tell: given each, on a thread of its own.
    """

    def __init__(self, folder: Path, tell: Callable[[dict[str, Any]], object]) -> None:
        self._folder = folder
        self._tell = tell
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shardnet-inviting", daemon=True)

    def begin(self) -> dict[str, Any]:
        """The first invitation.

        Raises:
            ShardnetError: the gate does not answer.
        """
        self._shown: dict[str, Any] = ask_gate(self._folder, "screen")
        self._thread.start()
        return self._shown

    def close(self) -> None:
        """Look no more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_EVERY_S):
            with suppress(ShardnetError, OSError):  # the gate is busy, or ends
                self._look()

    def _look(self) -> None:
        there = {each["number"]: each for each in ask_gate(self._folder, "open")}
        now = there.get(self._shown["number"])
        if now is None:
            if time.time() >= self._shown["qr_until_s"]:
                return
            now = ask_gate(self._folder, "screen")
        is_new = now["number"] != self._shown["number"] or now["code"] not in (self._shown["code"], None)
        self._shown = now
        if is_new:
            self._tell(now)
