"""A run on paper: what happens to devices and links. What is done about it is decided by `policy/`: see `rounds`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from shardnet.described.schema import require
from shardnet.errors import BadConfiguration, ShardnetError
from shardnet.foreign.quoting import counted
from shardnet.plan import Plan
from shardnet.planner.costs import evaluate
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import Change, Move, moves, observed_problem
from shardnet.policy.succession import Cut, ways_of
from shardnet.simulator.churn import Churn, Traffic
from shardnet.simulator.conversations import Conversations
from shardnet.simulator.engine import Engine, Leg, Resource
from shardnet.simulator.events import Event, absent_at_start, check_events, in_order
from shardnet.simulator.load import Load, Recovery
from shardnet.simulator.lost_time import LostTime
from shardnet.simulator.result import Happening, Result
from shardnet.simulator.ring import Roads, copy_seconds, decode_legs, prompt_chunks
from shardnet.simulator.rounds import Rounds, Switch
from shardnet.simulator.search import Search
from shardnet.simulator.senses import Senses
from shardnet.simulator.way import Way

CUT = 1e6
"""So many times as long as usual a link is taken to need that is known to be cut."""
PATIENCE = 100
"""After so many looks in a row at which nothing had happened since the last one, each waits twice as long."""
AGAIN_S = 0.5
"""What has to wait until a change is over is tried again so much later."""


def simulate(
    problem: Problem,
    plan: Plan,
    load: Load,
    events: Sequence[Event] = (),
    recovery: Recovery | None = None,
    churn: Churn | None = None,
) -> Result:
    """Predict a run of `plan`.

    Args:
        problem: with every device that is or may come to be a member.
        events: see `events`. A device whose first event is `join` is absent at the start.
        churn: how devices come and go besides, as long as the load has it; some are absent at the start.

    Raises:
        BadConfiguration: an event of an unknown device or link, or a plan with an absent device.
    """
    links = {(link.source, link.target) for link in problem.links}
    check_events(events, problem.index, links)
    rate_per_s = evaluate(problem, plan.stages).rate(load.in_flight)
    num_chunks = None
    if load.in_flight == 1:
        chunks = prompt_chunks(problem, plan.stages, load.prompt_tokens, load.prefill_chunk, load.chunk_tokens)
        num_chunks = len(chunks)
    load.check_size(len(decode_legs(problem, plan.stages)), rate_per_s, num_chunks)
    require(churn is None or load.duration_s is not None, "devices that come and go need a duration_s of the load.")
    return _Run(problem, plan, load, recovery or Recovery(), in_order(events), churn).finish()


class _Run:
    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        load: Load,
        recovery: Recovery,
        events: Sequence[Event],
        churn: Churn | None,
    ) -> None:
        late = set(absent_at_start(events)) | (set() if churn is None else churn.away_at_start(problem))
        absent = [device for device in plan.devices if device in late]
        if absent:
            raise BadConfiguration(f"the plan uses {absent[0]!r}, which joins later; plan without it.")
        self._problem, self._load, self._recovery = problem, load, recovery
        self._engine = Engine(load.jitter, load.seed, is_recorded=load.duration_s is None)
        self._way = Way(problem, plan)
        self._gone = late
        """Devices that are not there, whether that is known or not."""
        self._links: defaultdict[str, list[Resource]] = defaultdict(list)
        """Of each device, both ways."""
        for link in problem.links:
            for end in (link.source, link.target):
                self._links[end].append((link.source, link.target))
        self._rounds = Rounds(self, problem, plan, recovery, late)
        self._senses = Senses(problem, self._engine, self._way, recovery, load.in_flight, self._gone)
        self._conversations = Conversations(self._engine, self._way, load, lambda: self._gone)
        self._lost_time = LostTime(self._conversations, self._engine, self._why_still)
        self._happenings: list[Happening] = []
        self._failed: str | None = None
        self._cut: set[Cut] = set()
        """Links that are known to be cut."""
        self._watched: set[Cut] = set()
        """Links that are cut, where it will be known soon."""
        self._coming = list(events)
        """Events that have not happened yet."""
        self._idle_looks = self._happened = 0
        self._search = Search(recovery)
        self._schedule()
        if churn is not None:
            traffic = Traffic(churn, self.after, self._go_away, self._join)
            traffic.begin(problem)
            self.after(load.duration_s or 0.0, lambda: setattr(traffic, "is_over", True))

    def _schedule(self) -> None:
        for event in self._coming:
            happen = partial(self._happen, event)
            if event.at_s is not None:
                self._engine.at(event.at_s, happen)
            elif event.token is not None:
                self._conversations.at_token(event.token, happen)
        self._conversations.begin()
        if self._coming or self._load.duration_s is not None:
            self.after(self._recovery.look_every_s, self._look)

    def finish(self) -> Result:
        engine, conversations = self._engine, self._conversations
        engine.run()
        self._lost_time.look()
        if self._failed is None and conversations.are_going_on:
            self._failed = "a device or a link of the ring is gone or stands still, and nothing replaces it"
        return Result(
            plans=tuple(self._way.plans),
            duration_s=engine.now_s if self._failed else engine.last_s,
            num_tokens=conversations.num_tokens,
            laps=tuple(conversations.laps),
            requests=tuple(conversations.requests),
            busy_s={resource: server.busy_s for resource, server in engine.servers.items() if server.busy_s},
            spans=tuple(engine.spans),
            happenings=tuple(self._happenings),
            repairs=self._lost_time.repairs(),
            failed=self._failed,
        )

    # -- what rounds ask for: see `rounds.Course` ---------------------------------------------------------------------

    def now_s(self) -> float:
        return self._engine.now_s

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        def act() -> None:
            action()
            self._lost_time.look()

        self._engine.at(self._engine.now_s + seconds, act)

    def answers(self, device: str) -> bool:
        return device not in self._gone and self._stopped(device) is None

    def copy_seconds(self, before: Plan, after: Plan) -> float:
        roads = Roads(self._problem, observed_problem(self._senses.network(before, after)))
        return copy_seconds(self._problem, roads, moves(before, after), self._conversations.num_cached)

    def tell(self, kind: str, text: str, device: str = "") -> None:
        self._happenings.append(Happening(self._engine.now_s, text, kind=kind, device=device))

    def go_on(self, switch: Switch) -> None:
        self._way.switch(switch, self._senses.network(switch.plan))
        if switch.copied is None:
            self._lost_time.repaired()
            self._conversations.start_again()
        self._watch_links()

    def end(self, why: str) -> None:
        self._failed = why
        self.tell("failed", f"end: {why}")
        self._engine.stop()

    # -- what happens -------------------------------------------------------------------------------------------------

    def _happen(self, event: Event) -> None:
        self._happenings.append(Happening(self._engine.now_s, str(event), device=event.device))
        self._coming.remove(event)
        resources: Sequence[Resource] = event.ways or [(event.device,)]
        if event.kind == "slow":
            for resource in resources:
                self._engine.server(resource).slowdown = event.factor
        elif event.kind == "join":
            self._join(event.device)
        elif event.kind in ("leave", "kill"):
            self._go_away(event.device, event.kind == "leave")
        elif event.kind in ("freeze", "cut"):
            for resource in resources:
                self._engine.freeze(resource)
            self._watch_links() if event.ways else self._watch(event.device)
        else:
            for resource in resources:
                self._engine.thaw(resource)
            self._mend(event.ways) if event.ways else self._hear(event.device)
        self._lost_time.look()

    def _stopped(self, *resource: str) -> float | None:
        """Since when a device or link stands still."""
        server = self._engine.servers.get(resource)
        return None if server is None else server.frozen_since_s

    def _go_away(self, device: str, says_so: bool) -> None:
        if says_so:
            self._rounds.drain(device, partial(self._leave, device))
            return
        self._engine.thaw((device,))  # it comes back as another process
        self._go(device)
        self.after(self._recovery.detect_s, partial(self._lose, device, "it is gone without a word"))

    def _go(self, device: str) -> None:
        """A device is gone, and what it held."""
        self._gone.add(device)
        self._rounds.weights.lose(device)
        for resource in ((device,), *self._links[device]):
            self._engine.kill(resource)

    def _lose(self, device: str, why: str) -> None:
        """That a device is gone is known."""
        if device not in self._gone or device in self._rounds.unknown:
            return
        if device == self._problem.source and not self._recovery.is_source_apart:
            self.end(f"the source {device} left, and the prompt with it")
            return
        self._rounds.lose(device, why)
        self._make_good(device)
        if device in self._way.needed():
            self._go_round(f"{device} is lost")

    def _make_good(self, device: str) -> None:
        """Sessions that were being copied from a device that is gone or silent by now are computed anew elsewhere."""
        is_source = self._way.came.copied is not None and any(device in plan.devices for plan in self._way.plans[-2:])
        is_still = self._rounds.is_changing or self._failed is not None
        if is_source and not is_still and not self._conversations.are_all_under(self._way.plan.version):
            self._way.came = Switch(self._way.plan, None)
            self._conversations.start_again()

    def _leave(self, device: str, is_drained: bool) -> None:
        """A device says goodbye, when others hold what it held, where they can."""
        is_free = device not in self._way.plan.devices and self.answers(device)
        if is_free and not self._conversations.are_all_under(self._way.plan.version):
            self.after(AGAIN_S / 10, partial(self._leave, device, is_drained))  # what is on its way still goes over it
            return
        if is_drained:
            self.tell("drained", f"others hold what {device} held: it may leave", device)
        self._go(device)
        self._lose(device, "it has left")

    def _join(self, device: str) -> None:
        """Those that come back wait until their loss has been dealt with."""
        is_new = device in self._rounds.unknown
        is_dealt_with = device in self._rounds.absences.lost and device not in self._way.plan.devices
        if self._rounds.is_changing or not (is_new or is_dealt_with):
            self.after(AGAIN_S, partial(self._join, device))
            return
        self._gone.discard(device)
        self._rounds.take_in(device)
        for resource in ((device,), *self._links[device]):
            if self._gone.isdisjoint(resource):
                self._engine.revive(resource)
        for way in self._cut:
            self._engine.server(way).seen_slowdown = CUT

    # -- silence, and links that are cut ------------------------------------------------------------------------------

    def _watch(self, device: str) -> None:
        """A device froze."""
        limits, since_s = self._recovery.limits, self._stopped(device)

        def still(act: Callable[[], object]) -> None:
            if self._stopped(device) == since_s and device not in self._gone:
                act()

        silent = f"it has been silent for {limits.suspect_after_s:g} s"
        self.after(limits.suspect_after_s, lambda: still(partial(self._suspect, device, silent)))
        self.after(limits.lost_after_s, lambda: still(partial(self._strike_off, device)))

    def _suspect(self, device: str, why: str) -> None:
        self._rounds.suspect(device, why)
        self._make_good(device)

    def _strike_off(self, device: str) -> None:
        """It is lost, though it may be heard again, and joins anew then."""
        self._go(device)
        self._lose(device, f"it has not answered for {self._recovery.limits.lost_after_s:.0f} s")

    def _hear(self, device: str) -> None:
        """A device goes on."""
        if device in self._gone:
            self._join(device)
        else:
            self._rounds.trust(device)

    def _watch_links(self) -> None:
        """Of a link that is cut it is known after a while, where the ring goes over it."""
        for ends in {leg.resource for leg in self._way.lap() if len(leg.resource) == 2}:
            since_s = self._stopped(*ends)
            if since_s is not None and ends not in self._watched:
                way = (ends[0], ends[1])
                self._watched.add(way)
                self.after(self._recovery.cut_known_s, partial(self._miss, way, since_s, False))
                self.after(self._recovery.cut_sure_s, partial(self._miss, way, since_s, True))

    def _miss(self, ends: Cut, since_s: float, is_certain: bool) -> None:
        """It is known that a link is cut: devices that relay go round it at once, else units move."""
        if is_certain:
            self._watched.discard(ends)
        if self._stopped(*ends) != since_s:
            return
        why = f"what {ends[0]} sends does not reach {ends[1]}"
        if self._recovery.is_source_apart:
            if ends in ways_of(self._way.plan.stages):
                self._rounds.cut(ends, why, is_certain)
            return
        self._cut.add(ends)
        self._rounds.cut_links = frozenset(self._cut)
        self._engine.server(ends).seen_slowdown = CUT
        self._go_round(why, is_certain)

    def _go_round(self, why: str, is_certain: bool = False) -> None:
        """Send over other relays; where there are none, others must take over one end of the way."""
        if self._recovery.is_source_apart or self._rounds.is_changing or self._failed:
            return
        if self._reroute(why):
            self._conversations.start_again()
        for ends in self._way.blocked(self._is_open):
            self._rounds.cut(ends, f"there is no way from {ends[0]} to {ends[1]}: {why}", is_certain)

    def _is_open(self, leg: Leg) -> bool:
        return leg.resource not in self._cut and self._gone.isdisjoint(leg.resource)

    def _mend(self, ways: Sequence[Cut]) -> None:
        for way in ways:
            self._cut.discard(way)
            self._watched.discard(way)
            self._engine.server(way).seen_slowdown = 1.0
        self._rounds.cut_links = frozenset(self._cut)
        if not self._recovery.is_source_apart:
            self._reroute("a link is mended")

    def _reroute(self, why: str) -> bool:
        is_new = self._way.reroute(self._senses.network())
        if is_new:
            self.tell("rerouted", f"send over relays ({why})")
        return is_new

    # -- how fast devices and links are -------------------------------------------------------------------------------

    def _look(self) -> None:
        if not self._conversations.are_going_on or self._engine.is_idle:
            return
        self._look_again()
        if self._rounds.is_changing or self._rounds.is_planned:
            return
        if not (self._recovery.is_source_apart or self._way.is_routed_by(self._senses.slow_links())):
            self._reroute("a link became slow")
        if self._search.is_of_use(self._engine.now_s):
            self._revise()

    def _revise(self) -> None:
        plan = self._rounds.plan
        try:
            better = self._search.better(plan, self._senses.observed(self._rounds.prospects()))
        except ShardnetError:  # nobody is left: the next look sees
            return
        away = self._rounds.absences.away()
        if better.plan is None or not (away.cut | away.late).isdisjoint(ways_of(better.plan.stages)):
            return
        self._rounds.go_over(better.plan, partial(self._moved, moves(plan, better.plan), better.why))

    def _moved(self, moved: tuple[Move, ...], why: str, is_done: bool) -> None:
        """Where it could not be done, it counts as done and undone, as in `cluster.balancing`."""
        back = tuple(Move(move.unit, move.target, move.source or move.target) for move in moved)
        self._search.changed(Change(self._engine.now_s, moved if is_done else back))
        if is_done:
            self.tell("rebalanced", f"{counted(len(moved), 'units')} move: {why}")

    def _look_again(self) -> None:
        """A step can take years where a device is slow enough; there is nothing to be seen meanwhile."""
        happened = self._engine.num_done + len(self._happenings)
        self._idle_looks = self._idle_looks + 1 if happened == self._happened else 0
        self._happened = happened
        wait_s = self._recovery.look_every_s * 2.0 ** max(0, self._idle_looks - PATIENCE)
        self.after(wait_s, self._look)

    def _why_still(self) -> str | None:
        """What the sessions wait for, where the ring stands still: one of `lost_time.CAUSES`."""
        rounds = self._rounds
        if rounds.is_changing:
            return "load"
        is_open = all(self._stopped(*leg.resource) is None and self._is_there(leg) for leg in self._way.lap())
        if is_open:
            return None
        return "waiting" if rounds.waits_for else "detection"

    def _is_there(self, leg: Leg) -> bool:
        return self._gone.isdisjoint(leg.resource)
