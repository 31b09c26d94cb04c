"""Keeps what is announced of a cluster in the local network as it is: which codes are open, and where it is dialled."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from pathlib import Path

from shardnet.discovery.announcing import Announcer
from shardnet.discovery.datagrams import Announced
from shardnet.errors import ShardnetError
from shardnet.source.trust import ask_gate
from shardnet.trust.addresses import parse_address

LOOK_EVERY_S = 1.0
_log = logging.getLogger(__name__)


class Announcing:
    """Asks the gate, and tells, on a thread of its own. A context manager: leaving it ends the announcement.

    Args:
        folder: the state folder of the cluster.
    """

    def __init__(self, folder: Path, announcer: Announcer) -> None:
        self._folder = folder
        self._announcer = announcer
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shardnet-announcing", daemon=True)
        self._thread.start()

    def __enter__(self) -> Announcing:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                with suppress(ShardnetError, OSError):  # the gate is busy, or a network is gone
                    self._announcer.tell(_announced(self._folder))
                if self._over.wait(LOOK_EVERY_S):
                    return
        except Exception as error:  # whatever it is, the cluster is found by its address
            _log.info("Nothing is announced in the local network: %s: %s", type(error).__name__, error)
        finally:
            self._announcer.close()


def _announced(folder: Path) -> Announced:
    """
    Raises:
        ShardnetError: the gate does not answer.
    """
    told = ask_gate(folder, "announced")
    return Announced(told["cluster"], frozenset(told["slots"]), tuple(map(parse_address, told["addresses"])))
