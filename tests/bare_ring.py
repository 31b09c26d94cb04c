"""A ring of real stages of which any can be lost at any moment; the test is its coordinator, and fills their places.

It asks of stages what they are made for, and no more: who they are, what they know, and what is to be sent again.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch

from shardnet.device.stage_host import StageHost
from shardnet.device.worker import Worker
from shardnet.transport import InProcessNetwork
from shardnet.transport.base import RemoteObject
from shardnet.transport.delivery import answer_of
from shardnet.transport.messages import (
    Hop,
    Part,
    RingId,
    SamplingOptions,
    SessionSpec,
    SessionStanding,
    StageSpec,
    Tokens,
    Wanted,
)

TESTER = "tester"
ASK_S = 2.0
"""Of the network's seconds: what is not answered is asked again."""


class Request(NamedTuple):
    """What a session was started with."""

    prompt: list[int]
    max_new_tokens: int
    sampling: SamplingOptions = SamplingOptions()


class BareRing:
    """Stages by `specs`, each on a device of its own. A context manager."""

    def __init__(self, network: InProcessNetwork, specs: Sequence[StageSpec]) -> None:
        self.network = network
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
        self.devices: list[str] = [self._new_device() for _ in specs]
        self._transport = self._resources.enter_context(network.join(TESTER))
        for endpoint, handler in (
            ("tokens", self._tell),
            ("holds", lambda _: True),
            ("load_progress", lambda *_: None),
            ("session_failed", lambda *_: None),
            ("stage_failed", lambda *_: None),
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
        standings = self.standings()
        histories = self._histories(standings)
        lengths = [{session: _length(stage, session) for session in histories} for stage in standings]
        yield "standings"
        for index in reversed(range(len(self._hosts))):
            onward = ([*lengths[1:], {}])[index]
            for session in histories.keys() - standings[index].keys():
                self._open(index, session, histories[session], onward.get(session, 0))
            yield f"opened at {index}"
        for session, history in histories.items():
            known = standings[0].get(session)
            self._feed(session, 0 if known is None else len(known.ids), history)
        yield "fed"
        lengths[0] = {session: len(history) for session, history in histories.items()}
        for index in range(len(self._hosts)):
            self.resend(index, lengths[(index + 1) % len(lengths)])
            yield f"sent again by {index}"

    def _load_new(self) -> None:
        for index, host in enumerate(self._hosts):
            if host is None:
                new = self._transport.remote(self.devices[index], "open_stage", self._specs[index])
                new.call("load", timeout_s=1000.0).result(20)
                self._hosts[index] = new

    def standings(self) -> list[dict[int, SessionStanding]]:
        """Of each stage, by session."""
        return [
            {standing.session: standing for standing in self._call(index, "standings")}
            for index in range(len(self._hosts))
        ]

    def resend(self, index: int, lengths: dict[int, int]) -> None:
        """Have a stage send again what the next one, which has so many tokens of each session, lacks."""
        wanted = tuple(Wanted(session, length) for session, length in lengths.items())
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
            stop._replace(device=device) for stop, device in zip(self._specs[0].ring, self.devices, strict=True)
        )
        self._specs = [spec._replace(ring_id=ring_id, ring=stops, source=TESTER) for spec in self._specs]

    def _histories(self, standings: list[dict[int, SessionStanding]]) -> dict[int, list[int]]:
        """Of each session that is not over the longest that anybody knows."""
        histories = {}
        for session, request in self.requests.items():
            told = self.told[session]
            known = [*request.prompt, *(told[index] for index in itertools.takewhile(told.__contains__, range(9999)))]
            for standing in (standings[0].get(session), standings[-1].get(session)):
                if standing is not None and standing.ids_from + len(standing.ids) > len(known):
                    known = [*known[: standing.ids_from], *standing.ids]
            for index, token_id in enumerate(known[len(request.prompt) :]):
                self._told(session, index, token_id)
            if len(known) < len(request.prompt) + request.max_new_tokens:
                histories[session] = known
        return histories

    def _open(self, index: int, session: int, history: list[int], send_from: int) -> None:
        prompt, max_new_tokens, sampling = self.requests[session]
        capacity = len(prompt) + max_new_tokens
        spec = SessionSpec(session, capacity, len(prompt), len(history), max_new_tokens, (), sampling)
        if sampling.repetition_penalty != 1.0 and index == len(self._hosts) - 1:
            spec = spec._replace(prompt_ids=tuple(history))
        self._ask(index, "open_session", spec._replace(send_from=send_from))

    def _feed(self, session: int, position: int, history: list[int]) -> None:
        """What the first stage has not got. Without waiting: it is taken when its turn comes."""
        ids = history[position:]
        if not ids:
            return
        spec, device = self._specs[0], self.devices[0]
        hop = Hop(spec.ring_id, 0, (Part(session, position, len(ids)),), torch.tensor(ids), TESTER, 0, 0)

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


def _length(standings: dict[int, SessionStanding], session: int) -> int:
    return standings[session].length if session in standings else 0
