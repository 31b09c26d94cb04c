"""The gate of any other host, put together. It does without the library that reads certificates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from shardnet.errors import UsageError
from shardnet.gate.begun import Begun
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.log import log
from shardnet.gate.outpost import Outpost
from shardnet.gate.renewing import stay_renewed
from shardnet.process.aside import done_aside
from shardnet.process.lasting import DOOR, STATUS, TRUST, mark
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door.listening import listen_in
from shardnet.trust.addresses import Address
from shardnet.trust.identity import Identity, keep_gates


def identity_there(folder: Path) -> Identity:
    """Of this host. To be asked before there is an event loop: it is read aside, for what reads it takes 10 MB.

    Raises:
        UsageError: it has none, or that is damaged.
    """
    identity = done_aside(partial(_read_identity, folder))
    if identity is None:
        raise UsageError(f"This host has not joined a cluster in {folder}. Join with a code: shardnet join CODE")
    return identity


def _read_identity(folder: Path) -> Identity | None:
    from shardnet.trust.identity_files import identity_in

    return identity_in(folder)


async def begin(identity: Identity, endpoints: Sequence[str], ends: ExitStack) -> Begun:
    """Offer the coordinator's sockets here.

    Args:
        endpoints: "HOST:PORT" each, where other hosts come in.
        ends: what is to be ended.

    Raises:
        UsageError: it cannot listen there, or another gate has the folder.
    """
    state = StateFolder(identity.folder)
    ends.callback(state.close)
    listeners = listen(list(endpoints))
    outpost = Outpost(identity, listeners, log, partial(_keep_gates, state))
    ends.callback(outpost.close)
    offered = {name: listen_in(state, name) for name in (DOOR, STATUS, TRUST)}
    for each in offered.values():
        ends.callback(each.remove)
    mark(state.path)
    await outpost.serve({name: each.socket for name, each in offered.items()})
    for address in addresses_of(listeners):
        log(f"listens at {address}")
    ends.callback(asyncio.ensure_future(stay_renewed(state, lambda: outpost.identity, outpost.know, log)).cancel)
    return Begun(outpost.stay_linked(), {"name": identity.name})


def _keep_gates(state: StateFolder, gates: Sequence[Address]) -> None:
    """So that this host finds the coordinator's also when it is started again."""
    try:
        keep_gates(state, gates)
    except UsageError as error:
        log(f"where the coordinator's host is now could not be written down: {error}")
