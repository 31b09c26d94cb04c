"""Sessions on their way round the ring, and what is done when a device slows down, leaves or joins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shardnet.described.schema import require
from shardnet.errors import BadConfiguration, DoesNotFit
from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import (
    Observed,
    moves,
    observed_problem,
    replace_lost,
    revise,
    without_devices,
)
from shardnet.simulator.engine import Engine, Leg
from shardnet.simulator.events import Event, check_events
from shardnet.simulator.load import MAX_LEGS, Load, Recovery
from shardnet.simulator.result import Happening, Lap, Request, Result
from shardnet.simulator.ring import Roads, decode_legs, load_seconds, prefill_legs, recovery_legs

STEP = 1.05
"""Slowdowns are seen in steps of 5%, so that noise alone asks for no new plan."""
PATIENCE = 100
"""After so many looks in a row at which nothing had happened since the last one, each waits twice as long."""
REROUTE = 1.3
"""By this factor a link's time must change before routes are chosen anew."""


def simulate(
    problem: Problem, plan: Plan, load: Load, events: Sequence[Event] = (), recovery: Recovery | None = None
) -> Result:
    """Predict a run of `plan`.

    Args:
        problem: with every device that is or may come to be a member.
        events: see `events`. A device whose first event is `join` is absent at the start.

    Raises:
        BadConfiguration: an event of an unknown device or link, or a plan with an absent device.
    """
    links = {(link.source, link.target) for link in problem.links}
    check_events(events, problem.index, links)
    legs = load.num_steps * len(decode_legs(problem, plan.stages))
    require(
        legs <= MAX_LEGS,
        f"The run would cross {legs} stages and links, more than the {MAX_LEGS} that are simulated; ask for fewer "
        "tokens.",
    )
    run = _Run(problem, plan, load, recovery or Recovery())
    run.schedule(sorted(events, key=lambda event: event.at_s))
    return run.finish()


@dataclass
class _Session:
    """One place for a request, and how far the request is."""

    index: int
    tokens: int = 0
    """In its KV cache."""
    left: int = 0
    began_s: float = 0.0
    lap_began_s: float = 0.0
    first_token_s: float | None = None
    is_prefilling: bool = False
    plan_version: int = 0
    epoch: int = 0
    """Work of an earlier epoch is void: the session was started again after a loss."""
    active: bool = False


class _Run:
    def __init__(self, problem: Problem, plan: Plan, load: Load, recovery: Recovery) -> None:
        self.problem, self.load, self.recovery = problem, load, recovery
        self.engine = Engine(load.jitter, load.seed)
        self.plans = [plan]
        self.members = {device.name for device in problem.devices}
        self.sessions = [_Session(index) for index in range(min(load.in_flight, load.num_requests))]
        self.waiting = load.num_requests - len(self.sessions)
        self.laps: list[Lap] = []
        self.requests: list[Request] = []
        self.happenings: list[Happening] = []
        self.failed: str | None = None
        self.changed_s = float("-inf")
        self.better_since_s: float | None = None
        self.coming: Plan | None = None
        """The plan whose units are being loaded."""
        self._idle_looks = self._happened = 0
        self.broken: set[str] = set()
        """Devices of the ring that left: what they held is gone, even when they come back."""
        self.roads = Roads(problem)
        self.routed_by: dict[tuple[str, str], float] = {}
        """The slowdowns of links by which the routes were chosen."""
        self._legs: dict[int, list[Leg]] = {}
        self._last_replan: tuple[object, Plan] | None = None

    @property
    def plan(self) -> Plan:
        return self.plans[-1]

    def schedule(self, events: Sequence[Event]) -> None:
        first_kind: dict[str, str] = {}
        for event in events:
            if event.to is None and event.kind != "slow":
                first_kind.setdefault(event.device, event.kind)
            self.engine.at(event.at_s, lambda event=event: self._happen(event))  # type: ignore[misc]
        self.members -= {device for device, kind in first_kind.items() if kind == "join"}
        absent = [device for device in self.plan.devices if device not in self.members]
        if absent:
            raise BadConfiguration(f"the plan uses {absent[0]!r}, which joins later; plan without it.")
        for session in self.sessions:
            self._start_request(session)
        if self.recovery.replan and self.recovery.rebalance and events:
            self.engine.at(self.recovery.look_every_s, self._look)

    def finish(self) -> Result:
        self.engine.run()
        if self.failed is None and any(session.active for session in self.sessions):
            self.failed = "a device of the ring is gone, and nothing replaces it"
        engine = self.engine
        return Result(
            plans=tuple(self.plans),
            duration_s=max([span.end_s for span in engine.spans], default=0.0) if not self.failed else engine.now_s,
            num_tokens=len(self.laps) + sum(request.first_token_s is not None for request in self.requests),
            laps=tuple(self.laps),
            requests=tuple(self.requests),
            busy_s={resource: server.busy_s for resource, server in engine.servers.items() if server.busy_s},
            spans=tuple(engine.spans),
            happenings=tuple(self.happenings),
            failed=self.failed,
        )

    # -- sessions -------------------------------------------------------------------------------------------------

    def _start_request(self, session: _Session) -> None:
        session.active, session.began_s, session.first_token_s = True, self.engine.now_s, None
        session.tokens, session.left = 0, self.load.new_tokens
        session.plan_version = self.plan.version
        self._enter(session)

    def _enter(self, session: _Session) -> None:
        """Start, or start again, where the session is: at its prompt or at its next token."""
        if session.tokens == 0 and self.load.prompt_tokens:
            self._prefill(session)
        else:
            session.tokens = max(session.tokens, 1)
            self._next_lap(session)

    def _prefill(self, session: _Session) -> None:
        """Chunks follow each other as soon as the first stage is free: a prompt fills the pipeline."""
        session.is_prefilling = True
        size, total = self.load.prefill_chunk, self.load.prompt_tokens
        chunks = [min(size, total - start) for start in range(0, total, size)]
        stages = self.plan.stages

        def send(number: int) -> None:
            is_last = number == len(chunks) - 1
            legs = prefill_legs(self.problem, stages, self.roads, chunks[number], is_last)
            after_first = None if is_last else lambda: send(number + 1)
            self._walk(session, legs, self._first_token if is_last else None, after_first)

        send(0)

    def _first_token(self, session: _Session) -> None:
        session.is_prefilling = False
        session.first_token_s = self.engine.now_s
        session.tokens = self.load.prompt_tokens + 1
        session.left -= 1
        self._go_on(session)

    def _next_lap(self, session: _Session) -> None:
        session.lap_began_s = self.engine.now_s
        self._walk(session, self._decode_legs(), self._end_lap)

    def _end_lap(self, session: _Session) -> None:
        self.laps.append(Lap(session.index, session.lap_began_s, self.engine.now_s))
        session.tokens += 1
        session.left -= 1
        self._go_on(session)

    def _go_on(self, session: _Session) -> None:
        if session.left > 0:
            if session.plan_version != self.plan.version:
                self._move(session, self.engine.now_s)
            else:
                self._next_lap(session)
            return
        self.requests.append(Request(session.index, session.began_s, session.first_token_s, self.engine.now_s))
        session.active = False
        if self.waiting:
            self.waiting -= 1
            self._start_request(session)
        elif not any(each.active for each in self.sessions):
            self.engine.stop()

    def _move(self, session: _Session, began_s: float) -> None:
        """Fetch or recompute what the new plan puts elsewhere, then go on with the token that began at `began_s`."""
        old = next((plan for plan in self.plans if plan.version == session.plan_version), self.plans[0])
        lost = {device.name for device in self.problem.devices} - self.members
        moved = moves(old, self.plan, lost)
        legs = recovery_legs(self.problem, self.plan.stages, self.roads, moved, session.tokens)
        session.plan_version = self.plan.version

        def go_on(session: _Session) -> None:
            self._enter(session)
            session.lap_began_s = began_s  # the wait is part of this token's lap

        if session.tokens:
            self._walk(session, legs, go_on)
        else:
            self._enter(session)

    def _walk(self, session: _Session, legs: Sequence[Leg], done, after_first=None) -> None:  # type: ignore[no-untyped-def]
        """Leg by leg; `done(session)` at the end, `after_first()` when the first leg is over."""
        epoch = session.epoch

        def step(position: int) -> None:
            if position == 1 and after_first:
                after_first()
            if position == len(legs):
                if done:
                    done(session)
                return
            self.engine.do(session.index, legs[position], lambda: session.epoch == epoch, lambda: step(position + 1))

        step(0)

    def _decode_legs(self) -> list[Leg]:
        if self.plan.version not in self._legs:
            self._legs[self.plan.version] = decode_legs(self.problem, self.plan.stages, self.roads)
        return self._legs[self.plan.version]

    # -- what happens -----------------------------------------------------------------------------------------------

    def _note(self, what: str, why: str = "") -> None:
        self.happenings.append(Happening(self.engine.now_s, what, why))

    def _happen(self, event: Event) -> None:
        self._note(str(event))
        resource = (event.device,) if event.to is None else (event.device, event.to)
        if event.kind == "slow":
            self.engine.server(resource).slowdown = event.factor
        elif event.kind == "join":
            self._join(event.device)
        elif event.device in self.members:
            self._leave(event.device)

    def _join(self, device: str) -> None:
        if device in self.broken:  # its loss is dealt with first
            self.engine.at(self.engine.now_s + self.recovery.look_every_s, lambda: self._join(device))
            return
        self.members.add(device)
        for resource in list(self.engine.servers):
            if device in resource and self.members.issuperset(resource):
                self.engine.revive(resource)

    def _leave(self, device: str) -> None:
        if device in self._needed():
            self.broken.add(device)
        if self.coming is not None and device in self.coming.devices:
            self._note(f"give up plan {self.coming.version}", f"{device} is to be part of it")
            self.coming = None
        self.members.discard(device)
        self.engine.kill((device,))
        for resource in list(self.engine.servers):
            if len(resource) == 2 and device in resource:
                self.engine.kill(resource)
        if device == self.problem.source:
            self._fail(f"the source {device} left, and the prompt with it")
            return
        self.engine.at(self.engine.now_s + self.recovery.detect_s, lambda: self._replace(device))

    def _replace(self, device: str) -> None:
        """The loss is noticed: plan without it, load what is missing, start again at the token that was lost."""
        if device not in self.broken:
            return
        if self.recovery.replan is None:
            self._fail(f"{device} left, and nothing replaces it")
            return
        try:
            plan = replace_lost(self.plan, self._observed(), self._absent(), self.recovery.replan, self.recovery.policy)
        except DoesNotFit as error:
            self._fail(str(error))
            return
        self._change(plan, f"{device} is lost")

    def _look(self) -> None:
        if not any(session.active for session in self.sessions) or self.failed:
            return
        self._look_again()
        if self.coming is not None or self.broken:
            return
        assert self.recovery.replan
        observed = self._observed()
        self._reroute(observed)
        decision = revise(self.plan, observed, self.recovery.policy, lambda problem: self._replanned(problem, observed))
        self.better_since_s = decision.better_since_s
        if decision.plan is not None:
            self._change(decision.plan, decision.why)

    def _look_again(self) -> None:
        """A step can take years where a device is slow enough; there is nothing to be seen meanwhile."""
        happened = len(self.engine.spans) + len(self.happenings)
        self._idle_looks = self._idle_looks + 1 if happened == self._happened else 0
        self._happened = happened
        wait_s = self.recovery.look_every_s * 2.0 ** max(0, self._idle_looks - PATIENCE)
        self.engine.at(self.engine.now_s + wait_s, self._look)

    def _replanned(self, problem: Problem, observed: Observed) -> Plan:
        """The best plan now; the last one again where nothing was seen to change since."""
        assert self.recovery.replan
        seen = (dict(observed.device_slowdown), dict(observed.link_slowdown), set(self.members))
        if self._last_replan is None or self._last_replan[0] != seen:
            self._last_replan = (seen, self.recovery.replan(problem))
        return self._last_replan[1]

    def _reroute(self, observed: Observed) -> None:
        """Go round a link that became slow, where that is faster: no layer moves for it."""
        seen = observed.link_slowdown
        if all(REROUTE > seen[key] / self.routed_by.get(key, 1.0) > 1 / REROUTE for key in seen):
            return
        before = [leg.resource for leg in self._decode_legs()]
        self.roads = Roads(self.problem, observed_problem(observed))
        self.routed_by = dict(seen)
        self._legs.clear()
        if [leg.resource for leg in self._decode_legs()] != before:
            self._note("send over relays", "a link became slow")

    def _change(self, plan: Plan, why: str) -> None:
        """Load first, then switch: a loss at once, else each session at its next token."""
        moved = moves(self.plan, plan, self._absent())
        seconds = load_seconds(
            self.problem, moved, self.recovery.load_bytes_per_s, self.recovery.default_load_bytes_per_s
        )
        self.coming = plan
        self._note(f"load {len(moved)} units for plan {plan.version}", why)
        self.engine.at(self.engine.now_s + seconds, lambda: self._switch(plan))

    def _switch(self, plan: Plan) -> None:
        if self.coming is not plan:
            return  # given up, or overtaken by the replacement of a lost device
        self.coming = None
        has_lost = bool(self.broken)
        self.broken.clear()
        self.plans.append(plan)
        self._legs.clear()
        self.roads = Roads(self.problem, observed_problem(self._observed()))
        self.changed_s, self.better_since_s = self.engine.now_s, None
        self._note(f"switch to plan {plan.version}")
        if not has_lost:
            return
        for session in self.sessions:
            if session.active:
                session.epoch += 1
                self._move(session, session.lap_began_s)

    def _fail(self, why: str) -> None:
        self.failed = why
        self._note("end", why)
        self.engine.stop()

    # -- what is known ------------------------------------------------------------------------------------------------

    def _needed(self) -> set[str]:
        """Devices without which the ring stands still: its stages and its relays."""
        needed = set(self.plan.devices)
        for leg in self._decode_legs():
            needed.update(leg.resource)
        return needed

    def _absent(self) -> set[str]:
        return {device.name for device in self.problem.devices} - self.members

    def _observed(self) -> Observed:
        seen = {resource: _stepped(server.seen_slowdown) for resource, server in self.engine.servers.items()}
        observed = Observed(
            now_s=self.engine.now_s,
            problem=self.problem,
            device_slowdown={key[0]: value for key, value in seen.items() if len(key) == 1},
            link_slowdown={(key[0], key[1]): value for key, value in seen.items() if len(key) == 2},
            in_flight=self.load.in_flight,
            changed_s=self.changed_s,
            better_since_s=self.better_since_s,
        )
        absent = self._absent()
        if not absent or self.problem.source in absent:
            return observed
        return replace(observed, problem=without_devices(observed.problem, absent))


def _stepped(slowdown: float) -> float:
    return STEP ** round(math.log(slowdown, STEP)) if slowdown > 0 else 1.0
