"""A ring of real stages of which any can be lost at any moment; the test is its coordinator, and fills their places.

It asks of stages what they are made for, and no more: who they are, what they know, and what is to be sent again.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch

from shardnet.device.stage_host import StageHost
from shardnet.device.worker import Worker
from shardnet.policy.mending import catch_up
from shardnet.session.route import parts_of
from shardnet.speculation.guesser import DRAFT
from shardnet.transport import InProcessNetwork
from shardnet.transport.base import RemoteObject
from shardnet.transport.delivery import answer_of
from shardnet.transport.messages import Hop, Owner, RingId, RingStop, SessionStanding, StageSpec, Tokens, Wanted
from shardnet.transport.session_messages import SamplingOptions, SessionSpec

TESTER = "tester"
ASK_S = 2.0
"""Of the network's seconds: what is not answered is asked again."""
PATIENT_S = 10_000.0
"""The same, of which two hundred may pass in one: a machine may be busy with other things."""


def key_for_offers(session: int) -> int:
    """What a session's offers bear: there is no source that could draw one."""
    return session + 1000


class Request(NamedTuple):
    """What a session was started with."""

    prompt: list[int]
    max_new_tokens: int
    sampling: SamplingOptions = SamplingOptions()


class Prepared(NamedTuple):
    """A stage that may take the place of others."""

    first: int
    last: int
    device: str
    spec: StageSpec
    host: RemoteObject


class BareRing:
    """Stages by `specs`, each on a device of its own. A context manager."""

    def __init__(self, network: InProcessNetwork, specs: Sequence[StageSpec]) -> None:
        self.network = network
        self.cut: Callable[[int], Sequence[int]] = lambda num_tokens: [num_tokens]
        """In chunks of what sizes so many ids come to the first stage."""
        self.requests: dict[int, Request] = {}
        self.told: dict[int, dict[int, int]] = {}
        """Of each session: index and id of the tokens that were told."""
        self._news = threading.Condition()
        self._numbers = itertools.count(1)
        self._resources = ExitStack()
        self._workers: dict[str, Worker] = {}
        self._device_numbers = itertools.count()
        self._specs = list(specs)
        self._hosts: list[RemoteObject | None] = [None] * len(specs)
        self._owners_of: dict[int, tuple[Owner, ...]] = {}
        """Of stages that were prepared and take part now: whom they pull from."""
        self._replaced: list[RemoteObject] = []
        self._num_known: dict[int, int] = {}
        self._failures: list[Any] = []
        self.devices: list[str] = [self._new_device() for _ in specs]
        self._transport = self._resources.enter_context(network.join(TESTER))
        for endpoint, handler in (
            ("tokens", self._tell),
            ("holds", lambda _: True),
            ("load_progress", lambda *_: None),
            ("session_failed", lambda *_: None),
            ("stage_failed", lambda *news: self._failures.append(news)),
        ):
            self._transport.expose(endpoint, handler)
        self.recover()

    # ---- sessions ----

    def start(self, request: Request) -> int:
        """Begin a session; returns its number."""
        session = next(self._numbers)
        self.requests[session], self.told[session] = request, {}
        for index in range(len(self._hosts)):
            self._open(index, session, request.prompt, 0)
        self._feed(session, 0, request.prompt)
        return session

    def wait_for(self, num_tokens: int) -> None:
        """Until so many tokens were told of all sessions together, or all are."""
        with self._news:
            assert self._news.wait_for(lambda: self.num_told() >= min(num_tokens, self.num_wanted()), timeout=20), (
                self._failures,
                self.told,
                self.standings(),
            )

    def num_told(self) -> int:
        return sum(map(len, self.told.values()))

    def num_wanted(self) -> int:
        return sum(request.max_new_tokens for request in self.requests.values())

    def answers(self) -> dict[int, list[int]]:
        """When all is told: the ids of each session."""
        self.wait_for(self.num_wanted())
        return {session: [told[index] for index in range(len(told))] for session, told in self.told.items()}

    def end_sessions(self) -> None:
        """Close them, and forget them."""
        numbers = tuple(self.requests)
        for index in range(len(self._hosts)):
            self._ask(index, "close_sessions", numbers)
        self.requests.clear()
        self.told.clear()

    def forget(self, session: int) -> None:
        """It goes on no more."""
        del self.requests[session], self.told[session]

    def forget_told(self) -> None:
        """The source is another one now: it knows the prompts, and nothing of the answers."""
        with self._news:
            for told in self.told.values():
                told.clear()

    # ---- what is lost, and found ----

    def lose(self, index: int) -> None:
        """A device dies, and with it its stage."""
        lost = self.devices[index]
        self.network.kill(lost)
        self._workers.pop(lost).close()
        self._hosts[index] = None
        self.devices[index] = self._new_device()

    def recover(self) -> None:
        for _ in self.recovery():
            pass

    def recovery(self) -> Iterator[str]:
        """One round, step by step: it may be given up after each of them, and another one begun."""
        self._name_ring()
        self._load_new()
        yield "loaded"
        for method in ("adopt", "switch", "retire"):
            for index, spec in enumerate(self._specs):
                self._call(index, method, spec._replace(tensors={}) if method == "adopt" else spec.ring_id)
            yield method
        for index, owners in self._owners_of.items():
            self._call(index, "pull", self._specs[index].ring_id, owners)
            yield f"pulled by {index}"
        needed = catch_up(self._known(), self.standings())
        self._num_known = dict(needed.num_known)
        histories = self._going_on(needed.histories)
        yield "standings"
        for opening in needed.openings:
            if opening.session in histories:
                self._open(opening.stage, opening.session, histories[opening.session], opening.send_from)
                yield f"opened at {opening.stage}"
        for feeding in needed.feedings:
            if feeding.session in histories:
                self._feed(feeding.session, feeding.position, histories[feeding.session])
        yield "fed"
        wanted = [
            resending for resending in needed.resendings if resending.session in histories
        ]  # of others nothing is
        for index in range(len(self._hosts)):
            self.resend(index, {each.session: each.position for each in wanted if each.stage == index})
            yield f"sent again by {index}"
        self._owners_of.clear()
        while self._replaced:
            self._replaced.pop().call("close", timeout_s=PATIENT_S)

    # ---- what is prepared, and takes over ----

    def prepare(self, first: int, last: int, device: str | None = None, room_bytes: int | None = None) -> Prepared:
        """A stage of the units of some stages, one behind the other, in no ring. On a new device, or a given one.

        Args:
            room_bytes: for its sessions; None for as much as the others have.
        """
        device = device or self._new_device()
        ring_id = RingId(b"t" * 16, self._transport.draw("plan_version"))
        replaced = self._specs[first : last + 1]
        new = RingStop(device, replaced[0].ring[first].first_unit, *replaced[-1].ring[last][2:])
        tensors = {name: root for spec in replaced for name, root in spec.tensors.items()}
        stops = (*replaced[0].ring[:first], new)
        room = dict(zip(self.devices, self._specs, strict=True)).get(device, replaced[0]).kv_budget_bytes
        room = room if room_bytes is None else room_bytes
        spec = replaced[0]._replace(ring_id=ring_id, ring=stops, tensors=tensors, source=TESTER, kv_budget_bytes=room)
        host = self._transport.remote(device, "open_stage", spec, timeout_s=PATIENT_S)
        host.call("load", timeout_s=PATIENT_S).result(20)
        return Prepared(first, last, device, spec, host)

    def follow(self, prepared: Prepared, owners: tuple[Owner, ...]) -> Future[Any]:
        """Have it follow the stages that it may come to replace."""

        def send(wait_s: float) -> Future[Any]:
            return prepared.host.call("follow", prepared.spec.ring_id, owners, timeout_s=wait_s)

        return answer_of(send, first_s=ASK_S)

    def take_over(self, prepared: Prepared, owners: tuple[Owner, ...]) -> None:
        """Put it in the place of these stages: the next recovery makes it part of the ring.

        Args:
            owners: those of them that are there, from which it pulls.
        """
        first, end = prepared.first, prepared.last + 1
        self._owners_of = {first: owners} if owners else {}
        self._replaced += [host for host in self._hosts[first:end] if host is not None]
        self._specs[first:end] = [prepared.spec]
        self._hosts[first:end] = [prepared.host]
        self.devices[first:end] = [prepared.device]

    def copied_host(self, prepared: Prepared) -> StageHost:
        """The stage itself."""
        hosts = self._workers[prepared.device]._stages.hosts()
        return next(host for host in hosts if host.stop[1:3] == prepared.spec.ring[-1][1:3])

    def owners(self, prepared: Prepared) -> tuple[Owner, ...]:
        return tuple(
            Owner(self.devices[index], (spec.ring_id, index), *spec.ring[index][1:3])
            for index, spec in enumerate(self._specs)
            if prepared.first <= index <= prepared.last
        )

    def _load_new(self) -> None:
        for index, host in enumerate(self._hosts):
            if host is None:
                spec = self._specs[index]
                new = self._transport.remote(self.devices[index], "open_stage", spec, timeout_s=PATIENT_S)
                new.call("load", timeout_s=PATIENT_S).result(20)
                self._hosts[index] = new

    def standings(self) -> list[dict[int, SessionStanding]]:
        """Of each stage, by session."""
        return [
            {standing.session: standing for standing in self._call(index, "standings")}
            for index in range(len(self._hosts))
        ]

    def resend(self, index: int, lengths: dict[int, int]) -> None:
        """Have a stage send again what the next one, which has so many tokens of each session, lacks."""
        known = self._num_known
        wanted = tuple(Wanted(session, length, known.get(session, 0)) for session, length in lengths.items())
        self._call(index, "resend", self._specs[index].ring_id, wanted)

    def has_applied(self, index: int, num_tokens: int) -> bool:
        """Whether a stage has come so far with all sessions together, or all is told."""
        stage = self.host(index).stage
        assert stage is not None
        num_applied = sum(cache.length for cache in list(stage.kv._sessions.values()))
        return num_applied >= num_tokens or self.num_told() == self.num_wanted()

    def host(self, index: int) -> StageHost:
        """A stage itself."""
        worker = self._workers[self.devices[index]]
        [host] = worker._stages.hosts()
        return host

    def _name_ring(self) -> None:
        """All stages' places under a plan version that was never used."""
        ring_id = RingId(b"t" * 16, self._transport.draw("plan_version"))
        stops = tuple(
            spec.ring[spec.stage]._replace(device=device)
            for spec, device in zip(self._specs, self.devices, strict=True)
        )
        self._specs = [
            spec._replace(ring_id=ring_id, stage=index, ring=stops, source=TESTER)
            for index, spec in enumerate(self._specs)
        ]

    def _known(self) -> dict[int, tuple[int, ...]]:
        """The ids of each session that were told without a gap."""
        known = {}
        for session, request in self.requests.items():
            told = self.told[session]
            ids = (told[index] for index in itertools.takewhile(told.__contains__, range(9999)))
            known[session] = (*request.prompt, *ids)
        return known

    def _going_on(self, histories: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
        """Those of sessions that are not over. What had not been told is."""
        going_on = {}
        for session, ids in histories.items():
            request = self.requests[session]
            for index, token_id in enumerate(ids[len(request.prompt) :]):
                self._told(session, index, token_id)
            if len(ids) < len(request.prompt) + request.max_new_tokens:
                going_on[session] = list(ids)
        return going_on

    def _open(self, index: int, session: int, history: list[int], send_from: int) -> None:
        prompt, max_new_tokens, sampling = self.requests[session]
        capacity = len(prompt) + max_new_tokens
        spec = SessionSpec(session, capacity, len(prompt), len(history), max_new_tokens, (), sampling)
        if sampling.needs_ids and index == len(self._hosts) - 1:
            spec = spec._replace(prompt_ids=tuple(history))
        if sampling.speculate != "off" and index in (0, len(self._hosts) - 1):
            spec = spec._replace(guess_key=b"k" * 16, guess_from=self._num_known.get(session, 0))
        if sampling.speculate == DRAFT and index == 0:
            spec = spec._replace(offer_key=key_for_offers(session))
        self._ask(index, "open_session", spec._replace(send_from=send_from))

    def _feed(self, session: int, position: int, history: list[int]) -> None:
        """What the first stage has not got. Without waiting: it is taken when its turn comes."""
        ids = history[position:]
        if not ids:
            return
        spec, device = self._specs[0], self.devices[0]
        parts = parts_of(session, position, self.cut(len(ids)))
        hop = Hop(spec.ring_id, 0, parts, torch.tensor(ids), TESTER, 0, 0)

        def send(wait_s: float) -> Future[Any]:
            return self._transport.call(device, "bulk_hop", hop, timeout_s=wait_s)

        answer_of(send, first_s=15.0, is_over=lambda: self._specs[0] is not spec)

    def _ask(self, index: int, endpoint: str, what: Any) -> None:
        spec, device = self._specs[index], self.devices[index]

        def send(wait_s: float) -> Future[Any]:
            return self._transport.post(device, endpoint, spec.ring_id, index, what, timeout_s=wait_s)

        answer_of(send, first_s=ASK_S).result(20)

    def _call(self, index: int, method: str, *args: Any) -> Any:
        host = self._hosts[index]
        assert host is not None

        def send(wait_s: float) -> Future[Any]:
            return host.call(method, *args, timeout_s=wait_s)

        return answer_of(send, first_s=ASK_S).result(20)

    def _new_device(self) -> str:
        name = f"device-{next(self._device_numbers)}"
        worker = self._workers[name] = Worker(num_threads=1)
        worker.attach(self.network.join(name))
        return name

    def _tell(self, tokens: Tokens) -> None:
        for token in tokens.tokens:
            request = self.requests.get(token.session)
            asked = -1 if request is None else request.sampling.logprobs
            is_right = (token.log_likelihood is None) == (asked < 0) and len(token.alternatives) == max(asked, 0)
            assert is_right or request is None, "it was asked how likely tokens are, or was not"
            self._told(token.session, token.index, token.token_id)

    def _told(self, session: int, index: int, token_id: int) -> None:
        with self._news:
            told = self.told.get(session)
            if told is not None:
                assert told.setdefault(index, token_id) == token_id, "a token was told twice, and not as the same one"
                self._news.notify_all()

    def __enter__(self) -> BareRing:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()
        self._resources.close()
