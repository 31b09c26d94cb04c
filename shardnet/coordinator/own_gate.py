"""The gate of a host as a process: started, and found again where an earlier coordinator has left it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from shardnet.errors import BadConfiguration, ClusterError, ShardnetError, UsageError
from shardnet.foreign.plain_files import read_json
from shardnet.process.identity import process_of
from shardnet.process.kept_log import begun_log
from shardnet.process.serving_process import ServingProcess
from shardnet.process.state_folder import StateFolder
from shardnet.source.trust import ask_gate
from shardnet.trust.names import COORDINATOR
from shardnet.versions import OWN

GATE_COMMAND = (sys.executable, "-m", "shardnet.gate.process")
NOTE, LOG = "own_gate.json", "gate.log"
MOST_NOTE_BYTES = 10_000
READY_S = 30.0
"""How long a gate may take until it listens."""


class Listening(NamedTuple):
    """Where other hosts come in."""

    endpoints: tuple[str, ...]
    """"HOST:PORT" each."""
    or_next: bool = False
    """Where a port is taken, the next free one does, too; best the one of last time, at which others look."""


class Gate(ServingProcess):
    """A gate process.

    Args:
        told: what it has said when it was ready.
    """

    def __init__(
        self,
        log: Path,
        process: str,
        child: subprocess.Popen[bytes] | None,
        told: dict[str, Any],
        *,
        begins_at: int = 0,
    ) -> None:
        super().__init__(log, process, child, begins_at=begins_at)
        self.told = told
        self.held: int | None = None
        """The end of a pipe that is open as long as this process lives, where the gate ends with it."""


def start_or_find(state: StateFolder, listening: Listening) -> Gate:
    """The gate of a coordinator's host. It outlives a coordinator that is killed: what members of different hosts say
    to each other goes on. One of another release takes its place where that harms nobody, or must be.

    Raises:
        UsageError: it cannot be started, or cannot listen there.
    """
    noted = _noted(state)
    if noted is not None:
        left, process, told = noted
        found = Gate(state.path / LOG, process, None, told)
        if not found.has_ended and left == listening and _is_of_use(state.path, told):
            return found
        found.close()
        endpoints = _as_last_time(listening, left, told)
    else:
        endpoints = listening.endpoints
    gate = start(state.path, ["--hub", *_options(endpoints, listening.or_next)])
    note = {"listening": listening._asdict(), "process": gate.process, "told": gate.told}
    try:
        state.write(NOTE, json.dumps(note).encode())
    except OSError as cause:
        gate.close()
        raise UsageError(f"{state.path} cannot be written: {cause.strerror}. Make room there.") from cause
    return gate


def end_left(state: StateFolder) -> None:
    """End the gate that an earlier coordinator has left: nobody of another machine is to come in any more."""
    noted = _noted(state)
    if noted is not None:
        _, process, told = noted
        Gate(state.path / LOG, process, None, told).close()
        state.remove(NOTE)


def start(folder: Path, options: Sequence[str] = (), *, ends_with_this: bool = False) -> Gate:
    """Start a gate, and wait until it listens.

    Args:
        ends_with_this: end it when this process has ended, in whatever way.

    Raises:
        UsageError: it cannot.
        ClusterError: it takes too long.
    """
    reading, writing = os.pipe()
    watched, held = os.pipe() if ends_with_this else (None, None)
    handed = [writing] if watched is None else [writing, watched]
    until = [] if watched is None else ["--end-with", str(watched)]
    log = folder / LOG
    try:
        with begun_log(log, "gate") as output:
            begins_at = os.fstat(output.fileno()).st_size
            child = subprocess.Popen(
                [*GATE_COMMAND, "--folder", str(folder), "--ready-fd", str(writing), *until, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=handed,
                start_new_session=True,
            )
    except OSError as cause:
        os.close(reading)
        raise UsageError(f"The gate of this host cannot be started: {cause}.") from cause
    finally:
        for each in handed:
            os.close(each)
    gate = Gate(log, process_of(child.pid), child, {}, begins_at=begins_at)
    gate.held = held
    try:
        gate.told = _told(reading, gate)
    except BaseException:
        gate.close()
        raise
    finally:
        os.close(reading)
    return gate


def _is_of_use(folder: Path, told: dict[str, Any]) -> bool:
    """Whether a gate that was left there stays. One of another release does as long as hosts are linked through it, who
    would lose what they say to each other, if it speaks as this release does."""
    if told.get("release") == OWN.release:
        return True
    return bool(told.get("wire") == OWN.wire) and _links_hosts(folder)


def _links_hosts(folder: Path) -> bool:
    try:
        return any(host["is_linked"] for host in ask_gate(folder, "trusted") if host["name"] != COORDINATOR)
    except ShardnetError:
        return False


def _told(pipe: int, gate: Gate) -> dict[str, Any]:
    deadline_s = time.monotonic() + READY_S
    said = b""
    while not said.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline_s - time.monotonic()))
        if not ready:
            raise ClusterError(f"The gate of this host takes longer than {READY_S:g} s to start. Is it overloaded?")
        part = os.read(pipe, MOST_NOTE_BYTES)
        if not part:
            with suppress(subprocess.TimeoutExpired):
                assert gate.child is not None
                gate.child.wait(1.0)
            raise UsageError(gate.last_line or "The gate of this host has ended.")
        said += part
    told: dict[str, Any] = json.loads(said)
    return told


def _options(endpoints: Sequence[str], or_next: bool) -> list[str]:
    options = [option for each in endpoints for option in ("--listen", each)]
    return [*options, "--or-next"] if or_next else options


def _as_last_time(listening: Listening, left: Listening, told: dict[str, Any]) -> tuple[str, ...]:
    """With the port that was found then, where any did: machines that have joined dial it."""
    ports = {str(address).rpartition(":")[2] for address in told.get("addresses", ())}
    if not listening.or_next or listening != left or len(listening.endpoints) != 1 or len(ports) != 1:
        return listening.endpoints
    host, _, _ = listening.endpoints[0].rpartition(":")
    return (f"{host}:{ports.pop()}",)


def _noted(state: StateFolder) -> tuple[Listening, str, dict[str, Any]] | None:
    """The gate that an earlier coordinator has started; None where there is no note, or none that can be read."""
    try:
        note: Any = read_json(state.path / NOTE, MOST_NOTE_BYTES, "the note")
        asked = note["listening"]
        listening = Listening(tuple(map(str, asked["endpoints"])), bool(asked["or_next"]))
        return listening, str(note["process"]), dict(note["told"])
    except (BadConfiguration, KeyError, TypeError, ValueError):
        return None
