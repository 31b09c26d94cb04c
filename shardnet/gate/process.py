"""The gate of one host: carries between it and the other hosts of a cluster, through TLS.

    python -m shardnet.gate.process --folder DIR [--hub] [--listen HOST:PORT ... [--or-next]] [--ready-fd FD]
        [--end-with FD]

With `--hub` it is that of the coordinator's host, and DIR is the state folder of `shardnet up`: it lets in who was
invited. Without, DIR is where `shardnet join` has written down what this host was given, and the gate offers there the
sockets that the coordinator's folder has. Neither imports torch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from shardnet.errors import UsageError
from shardnet.gate.arrivals import Arrivals
from shardnet.gate.calling import Caller
from shardnet.gate.desk import MOST_QUESTION_BYTES, TrustDesk
from shardnet.gate.hub import Hub
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.log import log
from shardnet.gate.network import Network
from shardnet.gate.newcomers import Newcomers
from shardnet.gate.outpost import Outpost
from shardnet.gate.renewing import OwnContext, stay_renewed
from shardnet.process.ending import orderly_exit
from shardnet.process.lasting import DOOR, STATUS, TRUST, mark
from shardnet.process.standard_streams import open_closed
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door.listening import listen_in
from shardnet.trust.addresses import Address
from shardnet.trust.admission import admission_in
from shardnet.trust.answering import Desk
from shardnet.trust.identity import identity_in, keep_gates
from shardnet.trust.invitations import Invitations
from shardnet.trust.keys import fingerprint_of
from shardnet.versions import OWN

MOST_FILES = 2**16


def main() -> int:
    """Carry until SIGTERM; the exit code is 0 then."""
    open_closed()
    parser = argparse.ArgumentParser(prog="shardnet-gate", description="Carry between this host and others.")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="the state folder here")
    parser.add_argument("--listen", action="append", default=[], metavar="HOST:PORT", help="where other hosts come in")
    parser.add_argument("--or-next", action="store_true", help="where a port is taken, the next free one does, too")
    parser.add_argument("--hub", action="store_true", help="this is the coordinator's host: let in who was invited")
    parser.add_argument("--ready-fd", type=int, metavar="FD", help="an inherited pipe, told when it carries")
    parser.add_argument("--end-with", type=int, metavar="FD", help="end when this inherited pipe is closed")
    arguments = parser.parse_args()
    _let_open_files()
    try:
        with orderly_exit(debug=False):
            asyncio.run(_carry(arguments))
    except SystemExit as end:
        assert isinstance(end.code, int), end.code
        return end.code
    return 0


def _let_open_files() -> None:
    """As many as the system lets a process have: each connection of a member takes some, on this host and on others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


async def _carry(arguments: argparse.Namespace) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    if arguments.end_with is not None:
        loop.add_reader(arguments.end_with, over.set)
    with ExitStack() as ends:
        if arguments.hub:
            carrying = await _as_hub(arguments, ends)
        else:
            carrying = await _as_outpost(arguments, ends)
        until: list[asyncio.Future[Any]] = [carrying, asyncio.ensure_future(over.wait())]
        await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
        if carrying.done():
            carrying.result()


async def _as_hub(arguments: argparse.Namespace, ends: ExitStack) -> asyncio.Future[None]:
    state = StateFolder(arguments.folder / TRUST)
    ends.callback(state.close)
    listeners = listen(arguments.listen, or_next=arguments.or_next)
    gates = partial(addresses_of, listeners)
    admission = admission_in(state, time.time())
    context = OwnContext(state, admission, gates(), log)
    hub = Hub(arguments.folder, admission.revoked, gates, log)
    ends.callback(hub.close, "the cluster has ended")
    invitations = Invitations()
    desk = Desk(admission, invitations, fingerprint_of(context.identity.key.public_key()), gates)
    newcomers = Newcomers(desk, lambda name: None, log)
    arrivals = Arrivals(listeners, context, admission.counts, hub.let_in, newcomers.take, log)
    ends.callback(arrivals.close)
    trust_desk = TrustDesk(admission, invitations, gates, lambda name: hub.end_links(name, "shut out"), hub.hosts)
    questions = listen_in(state, TRUST)
    ends.callback(questions.remove)
    await asyncio.start_unix_server(trust_desk.serve, sock=questions.socket, limit=MOST_QUESTION_BYTES)
    _follow_network(hub, Caller(lambda: context.identity, gates, hub.out_of_reach, admission.counts), ends)
    _be_ready(arguments.ready_fd, {"addresses": [str(gate) for gate in gates()]})
    return asyncio.ensure_future(hub.follow_door())


def _follow_network(hub: Hub, caller: Caller, ends: ExitStack) -> None:
    """When this host has other addresses, the others are told so: they may not find it any more."""
    network = Network()
    ends.callback(network.close)
    ends.callback(caller.close)

    def follow() -> None:
        hub.network_changed(network.addresses)
        if network.is_cut_off:
            caller.close()
        else:
            hub.tell_hosts()
            caller.begin()

    network.on_change.append(follow)


async def _as_outpost(arguments: argparse.Namespace, ends: ExitStack) -> asyncio.Future[None]:
    state = StateFolder(arguments.folder)
    ends.callback(state.close)
    identity = identity_in(state.path)
    if identity is None:
        raise UsageError(f"This host has not joined a cluster in {state.path}. Join with a code: shardnet join CODE")
    listeners = listen(arguments.listen)
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
    _be_ready(arguments.ready_fd, {"name": identity.name})
    return asyncio.ensure_future(outpost.stay_linked())


def _keep_gates(state: StateFolder, gates: Sequence[Address]) -> None:
    """So that this host finds the coordinator's also when it is started again."""
    try:
        keep_gates(state, gates)
    except UsageError as error:
        log(f"where the coordinator's host is now could not be written down: {error}")


def _be_ready(pipe: int | None, what: dict[str, Any]) -> None:
    if pipe is not None:
        said = {"wire": OWN.wire, "release": OWN.release, **what}
        with suppress(OSError):
            os.write(pipe, json.dumps(said).encode() + b"\n")
            os.close(pipe)


if __name__ == "__main__":
    sys.exit(main())
