"""The gate of the coordinator's host, put together: it lets in who was invited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from shardnet.gate.arrivals import Arrivals
from shardnet.gate.begun import Begun
from shardnet.gate.calling import Caller
from shardnet.gate.desk import MOST_QUESTION_BYTES, TrustDesk
from shardnet.gate.hub import Hub
from shardnet.gate.listening import addresses_of, listen
from shardnet.gate.log import log
from shardnet.gate.network import Network
from shardnet.gate.newcomers import Newcomers
from shardnet.gate.own_context import OwnContext
from shardnet.process.lasting import TRUST
from shardnet.process.state_folder import StateFolder
from shardnet.transport.door.listening import listen_in
from shardnet.trust.admission import admission_in
from shardnet.trust.answering import Desk
from shardnet.trust.invitations import Invitations
from shardnet.trust.keys import fingerprint_of


async def begin(folder: Path, endpoints: Sequence[str], or_next: bool, ends: ExitStack) -> Begun:
    """Let other hosts come in.

    Args:
        endpoints: "HOST:PORT" each.
        or_next: where a port is taken, the next free one does, too.
        ends: what is to be ended.

    Raises:
        UsageError: it cannot listen there, or something in the folder is damaged.
    """
    state = StateFolder(folder / TRUST)
    ends.callback(state.close)
    listeners = listen(list(endpoints), or_next=or_next)
    gates = partial(addresses_of, listeners)
    admission = admission_in(state, time.time())
    context = OwnContext(state, admission, gates(), log)
    hub = Hub(folder, admission.revoked, gates, log)
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
    return Begun(hub.follow_door(), {"addresses": [str(gate) for gate in gates()]})


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
