"""What `shardnet join` does: this very process is a device of a cluster, until a signal or the cluster ends it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

from shardnet.cluster.local_workers import worker_environment
from shardnet.device.process import JOIN_S, LEAVE_S, import_all, serve
from shardnet.errors import NameTaken, UsageError
from shardnet.foreign.quoting import shortened
from shardnet.launch.cluster.options import JoinOptions, OwnDeviceOptions
from shardnet.launch.cluster.telling import tell
from shardnet.launch.values import machine_name
from shardnet.process.imports import importing
from shardnet.process.lasting import as_option, endpoint_in
from shardnet.process.signals import until_signalled
from shardnet.profiling.cores import max_threads
from shardnet.profiling.phone import is_phone
from shardnet.profiling.power import read_power

Told = Callable[[str, str], None]
KEEP_S = 600.0
"""How long to look for a cluster that is gone: a coordinator that was killed may be started again."""
FAR_S = 1e9
"""The same for one on another machine, also at first: networks come back, and so do laptops that went home."""
SILENT_S = 5.0
"""After which somebody who waits for a cluster on another machine is told so."""
_SENTENCES = {
    "looking": "The cluster does not answer. {name} looks for it {how_long}; where it has another address now: "
    "shardnet join --address HOST:PORT{cluster}",
    "joined": "{name} has joined the cluster in {folder}. Models use it where it helps; Ctrl-C leaves.",
    "holds": "{name} holds {what}.",
    "fetching": "{what}.",
    "fetched": "{what}.",
    "gone": "The cluster in {folder} is gone. {name} looks for it {how_long}.",
    "back": "The cluster in {folder} is back.",
    "struck off": "{name} was silent for too long, and was struck off. It joins anew.",
    "paused": "{name} pauses: {what}. It stays in the cluster, and holds nothing until that is over.",
    "handed over": "{what}.",
    "unpaused": "{name} takes work again.",
    "leaving": "{name} leaves: others take over {what} first. Ctrl-C once more ends it at once.",
    "drained": "{what}.",
    "not drained": "{name} ends all the same: {what}.",
    "cut short": "{name} ends before others have taken over {what}.",
    "left": "{name} has left.",
}


def run(folder: Path, asked: OwnDeviceOptions, how: JoinOptions, *, is_far: bool = False, as_json: bool) -> None:
    """Be a device.

    Args:
        is_far: of a cluster on another machine, which is looked for until a signal comes.

    Raises:
        NameTaken: `--name` is another device's.
        JoinFailed: the cluster does not answer.
        UsageError: `--only-charging`, and nothing says whether this machine is being charged.
    """
    if how.only_charging and is_phone():
        _require_battery()
    threads = asked.threads or max_threads()
    os.environ.update(worker_environment(os.environ, threads))
    for name in _names(asked.name):
        told = _Telling(partial(_tell, name=name, folder=folder, is_far=is_far, as_json=as_json), is_far)
        try:
            with until_signalled():
                with importing():
                    import_all()
                serve(
                    endpoint_in(folder),
                    name,
                    threads,
                    FAR_S if is_far else KEEP_S,
                    asked.most_memory_bytes,
                    told,
                    leave_s=LEAVE_S,
                    power_limits=how.power_limits,
                    fetch_limits=how.fetch_limits,
                    join_s=FAR_S if is_far else JOIN_S,
                    compute=asked.compute,
                )
                return
            if told.has_joined:
                told("left", "")
            return
        except NameTaken:
            if asked.name is not None:
                raise


class _Telling:
    """Tells the same; and of a cluster on another machine, that it does not answer, where there is nothing to tell."""

    def __init__(self, told: Told, is_far: bool) -> None:
        self.has_joined = False
        self._told = told
        self._waiting = threading.Timer(SILENT_S, told, ("looking", ""))
        self._waiting.daemon = True
        if is_far:
            self._waiting.start()

    def __call__(self, event: str, what: str) -> None:
        self._waiting.cancel()
        self.has_joined |= event == "joined"
        self._told(event, what)


def _require_battery() -> None:
    if read_power().is_charging is None:
        raise UsageError(
            "--only-charging must know whether this phone is being charged, which nothing here tells. Install the app "
            "Termux:API and, in Termux, pkg install termux-api; or leave --only-charging out."
        )


def _names(name: str | None) -> Iterator[str]:
    """The one that was asked for, or the machine's and what makes it unique."""
    base = name or machine_name()
    yield base
    if name is None:
        yield from (f"{base}-{number}" for number in count(2))


def _tell(event: str, what: str, *, name: str, folder: Path, is_far: bool, as_json: bool) -> None:
    text = _SENTENCES[event].format(
        name=name,
        what=what or "nothing any more",
        folder=shortened(str(folder)),
        cluster=as_option(folder),
        how_long="until Ctrl-C" if is_far else "for ten minutes",
    )
    tell({"event": event, "text": text, "device": name}, as_json=as_json)
