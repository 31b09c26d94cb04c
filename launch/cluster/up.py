"""What `shardnet up` does: opens a door in the state folder, starts the device of this machine, loads, tells."""

from __future__ import annotations

import json
import queue
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shardnet.cluster.comings import HAS_ENDED
from shardnet.cluster.load_options import LoadOptions
from shardnet.coordinator import own_gate
from shardnet.coordinator.announcing import Announcing
from shardnet.coordinator.coordinator import Coordinator
from shardnet.coordinator.events import ClusterEvent
from shardnet.coordinator.kept_gate import KeptGate
from shardnet.coordinator.notebook import Notebook
from shardnet.coordinator.own_device import OwnDevice, Wanted, start_or_find
from shardnet.coordinator.own_gate import Listening
from shardnet.coordinator.status import as_object
from shardnet.coordinator.status_socket import StatusSocket
from shardnet.discovery.announcing import Announcer
from shardnet.errors import JoinFailed, UsageError
from shardnet.foreign.plain_files import named_anywhere
from shardnet.foreign.quoting import shortened
from shardnet.launch.cluster.hints import Hints
from shardnet.launch.cluster.options import OwnDeviceOptions
from shardnet.launch.cluster.serving import ServingChild
from shardnet.launch.cluster.telling import tell
from shardnet.launch.hosts.inviting import Inviting, show
from shardnet.launch.values import machine_name
from shardnet.process.lasting import as_option, mark
from shardnet.process.signals import until_signalled
from shardnet.process.state_folder import StateFolder
from shardnet.profiling.cores import max_threads
from shardnet.progress import progress_bars
from shardnet.transport import serve_door
from shardnet.transport.door.door import Door

JOIN_S = 60.0
LOOK_EVERY_S = 0.1
ROOM, ROOM_BYTES = "room", 2**17
"""What a cluster writes down before it holds a model fits into so much."""


def run(
    model: str,
    folder: Path,
    device: OwnDeviceOptions | None,
    options: LoadOptions,
    *,
    listening: Listening | None,
    serving_with: Sequence[str] | None,
    as_json: bool,
) -> None:
    """Coordinate a cluster until a signal ends it.

    Args:
        device: None where this machine holds no layers.
        listening: where other machines come in; None lets in none.
        serving_with: options of a server beside it; None where there is none.

    Raises:
        UsageError: the folder cannot be used, or the model cannot be loaded as asked.
        JoinFailed: the device of this machine could not be started.
    """
    told = _Told(as_json=as_json)
    with ExitStack() as resources:
        door = resources.enter_context(serve_door(folder=folder))
        mark(folder)
        assert door.folder is not None, "it was opened in one"
        _require_room(door.folder)
        notebook = Notebook(door.folder)
        invitation = _open_to_others(door, listening, told, resources)  # before what tells other machines of its end
        own = None if device is None else resources.enter_context(_own_device(door, device))
        how_it_ended = (lambda name: HAS_ENDED) if own is None else own.how_it_ended
        coordinator = resources.enter_context(Coordinator.join(door.endpoint, told.events.put, how_it_ended, notebook))
        resources.enter_context(StatusSocket(door.folder, lambda: as_object(coordinator.status())))
        told.begin(folder, door.endpoint, invitation)
        if own is not None:
            _wait_for(own, coordinator, told)
        told.hints = Hints(coordinator, told.events.put)
        with progress_bars(enabled=None if told.is_on_terminal else False) as progress:
            _load(coordinator, model, replace(options, progress=progress), told)
        serving = None
        if serving_with is not None:
            serving = resources.enter_context(ServingChild(folder, serving_with, as_json=as_json))
        with until_signalled():
            while True:
                told.next()
                if serving is not None:
                    serving.check()
    told.end()


class _Told:
    """What happens, told in order on standard output by the thread that asks for it."""

    def __init__(self, *, as_json: bool) -> None:
        self.events: queue.SimpleQueue[ClusterEvent] = queue.SimpleQueue()
        self.hints: Hints | None = None
        """Who is told of events, too."""
        self._as_json = as_json

    @property
    def is_on_terminal(self) -> bool:
        """Whether a person looks, and bars beside the sentences disturb nobody."""
        return sys.stdout.isatty() and not self._as_json

    def begin(self, folder: Path, endpoint: str, invitation: dict[str, Any] | None) -> None:
        """It can be joined."""
        if self._as_json:
            invited = {} if invitation is None else _as_event(invitation)
            print(json.dumps({"address": endpoint, "state": str(folder), **invited}), flush=True)
            return
        print(f"The cluster is open in {shortened(str(folder))}; Ctrl-C ends it.")
        where = as_option(folder)
        print(f"To ask it:  shardnet chat{where}, or shardnet generate{where} --prompt TEXT")
        print(f"One more device, on this machine:  shardnet join{where}", flush=True)
        if invitation is not None:
            print("To make a phone or a board ready for that:  shardnet wheel --serve", flush=True)
            show(invitation)

    def invited(self, invitation: dict[str, Any]) -> None:
        """There is another invitation. On any thread."""
        if self._as_json:
            print(json.dumps({"event": "invited", **_as_event(invitation)}), flush=True)
        else:
            show(invitation)

    def next(self) -> None:
        """Tell the next event, or after a while nothing."""
        with suppress(queue.Empty):
            event = self.events.get(timeout=LOOK_EVERY_S)
            tell(event.as_dict(), as_json=self._as_json)
            if self.hints is not None:
                self.hints.hear(event)

    def end(self) -> None:
        """What was not told yet, and that it is over."""
        while not self.events.empty():
            self.next()
        if not self._as_json:
            print("The cluster has ended.", flush=True)


def _require_room(state: StateFolder) -> None:
    """
    Raises:
        UsageError: its disk is full.
    """
    try:
        state.write(ROOM, bytes(ROOM_BYTES))
        state.remove(ROOM)
    except OSError as cause:
        raise UsageError(
            f"{shortened(str(state.path))} cannot be written: {cause.strerror}. Make room there, or name another "
            "folder with --state DIR."
        ) from cause


def _open_to_others(
    door: Door, listening: Listening | None, told: _Told, resources: ExitStack
) -> dict[str, Any] | None:
    """Have the gate of this machine listen, and return the first invitation."""
    assert door.folder is not None, "it was opened in one"
    if listening is None:
        own_gate.end_left(door.folder)
        return None
    resources.enter_context(KeptGate(partial(own_gate.start_or_find, door.folder, listening)))
    resources.enter_context(Announcing(door.folder.path, Announcer()))
    inviting = Inviting(door.folder.path, told.invited)
    resources.callback(inviting.close)
    return inviting.begin()


def _as_event(invitation: dict[str, Any]) -> dict[str, Any]:
    return {key: invitation[key] for key in ("code", "qr", "addresses", "code_until_s", "qr_until_s")}


def _own_device(door: Door, asked: OwnDeviceOptions) -> OwnDevice:
    assert door.folder is not None, "it was opened in one"
    name, threads = asked.name or machine_name(), asked.threads or max_threads()
    wanted = Wanted(name, threads, asked.most_memory_bytes, asked.compute)
    return start_or_find(door.folder, door.endpoint, wanted)


def _wait_for(own: OwnDevice, coordinator: Coordinator, told: _Told) -> None:
    """
    Raises:
        JoinFailed: the device ended before it had joined, or takes too long.
    """
    deadline_s = time.monotonic() + JOIN_S
    while own.name not in coordinator.devices:
        told.next()
        if own.has_ended:
            raise JoinFailed(f"{own.name} could not join: {own.how_it_ended(own.name)}.")
        if time.monotonic() > deadline_s:
            raise JoinFailed(f"{own.name} did not join within {JOIN_S:.0f} s. Is this machine overloaded?")


def _load(coordinator: Coordinator, model: str, options: LoadOptions, told: _Told) -> None:
    """
    Raises:
        UsageError: it cannot be loaded as asked. What only finds no room stays wanted, until devices have joined.
    """
    load = coordinator.begin(named_anywhere(model), {**options})
    while not load.done.done():
        told.next()
    if isinstance(load.done.exception(), UsageError):
        load.done.result()
