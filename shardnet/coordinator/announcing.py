"""Keeps what is announced of a cluster in the local network as it is: which codes are open, and where it is dialled."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from shardnet.discovery.announcing import Announcer
from shardnet.discovery.datagrams import Announced
from shardnet.errors import ShardnetError
from shardnet.source.trust import ask_gate
from shardnet.trust.addresses import parse_address

LOOK_EVERY_S = 1.0
AGAIN_S = 30.0
"""When it is tried again after something went wrong that nobody had expected."""
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
            while not self._over.wait(self._tell()):
                pass
        except ImportError:
            _log.info("Nothing is announced in the local network: the library zeroconf is not installed.")
        finally:
            self._announcer.close()

    def _tell(self) -> float:
        """Tell how it is now, and return after how many seconds to do so again.

        Raises:
            ImportError: there is nothing to tell it with.
        """
        try:
            self._announcer.tell(_announced(self._folder))
        except (ShardnetError, OSError):  # the gate is busy, or a network is gone
            pass
        except ImportError:
            raise
        except Exception as error:  # a machine under load, say; meanwhile the cluster is found by its address
            _log.info("Nothing is announced in the local network: %s: %s", type(error).__name__, error)
            self._announcer.close()
            return AGAIN_S
        return LOOK_EVERY_S


def _announced(folder: Path) -> Announced:
    """
    Raises:
        ShardnetError: the gate does not answer.
    """
    told = ask_gate(folder, "announced")
    return Announced(told["cluster"], frozenset(told["slots"]), tuple(map(parse_address, told["addresses"])))
