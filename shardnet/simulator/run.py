"""A run on paper: what happens to devices and links, and what `policy/` decides about it, performed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from shardnet.described.schema import require
from shardnet.errors import BadConfiguration
from shardnet.foreign.quoting import counted
from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.policy import recovery as policy
from shardnet.policy.rebalance import Observed, without_devices
from shardnet.simulator.conversations import Conversations
from shardnet.simulator.engine import Engine, Resource
from shardnet.simulator.events import Event, absent_at_start, check_events, in_order
from shardnet.simulator.load import MAX_LEGS, Load, Recovery
from shardnet.simulator.result import Happening, Result
from shardnet.simulator.ring import decode_legs, load_seconds
from shardnet.simulator.way import Way

STEP = 1.05
"""Slowdowns are seen in steps of 5%, so that noise alone asks for no new plan."""
CUT = 1e6
"""So many times as long as usual a link is taken to need that is known to be cut."""
PATIENCE = 100
"""After so many looks in a row at which nothing had happened since the last one, each waits twice as long."""


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
    run.schedule(in_order(events))
    return run.finish()


class _Run:
    def __init__(self, problem: Problem, plan: Plan, load: Load, recovery: Recovery) -> None:
        self._problem, self._load, self._recovery = problem, load, recovery
        self._engine = Engine(load.jitter, load.seed)
        self._way = Way(problem, plan)
        source = "" if recovery.is_source_apart else problem.source
        self._rules = policy.Rules(source, recovery.replan, recovery.policy)
        self._course = policy.Course(plan, frozenset(device.name for device in problem.devices))
        self._conversations = Conversations(self._engine, self._way, load, self._absent)
        self._happenings: list[Happening] = []
        self._failed: str | None = None
        self._suspected: set[str] = set()
        """Frozen for so long that they are taken for lost."""
        self._cut: set[tuple[str, str]] = set()
        """Links that are known to be cut."""
        self._coming: list[Event] = []
        """Events that have not happened yet."""
        self._idle_looks = self._happened = 0
        self._last_replan: tuple[object, Plan] | None = None
        self._after_switch = "rebalanced"
        """What it is called when the plan that is being loaded is in force."""

    def schedule(self, events: Sequence[Event]) -> None:
        for event in events:
            happen = partial(self._happen, event)
            if event.at_s is not None:
                self._engine.at(event.at_s, happen)
            elif event.token is not None:
                self._conversations.at_token(event.token, happen)
        self._coming = list(events)
        late = set(absent_at_start(events))
        absent = [device for device in self._way.plan.devices if device in late]
        if absent:
            raise BadConfiguration(f"the plan uses {absent[0]!r}, which joins later; plan without it.")
        self._course = replace(self._course, members=self._course.members - late)
        self._conversations.begin()
        if self._recovery.replan and self._recovery.rebalance and events:
            self._engine.at(self._recovery.look_every_s, self._look)

    def finish(self) -> Result:
        engine, conversations = self._engine, self._conversations
        engine.run()
        if self._failed is None and conversations.are_going_on:
            self._failed = "a device or a link of the ring is gone or stands still, and nothing replaces it"
        last_s = max([span.end_s for span in engine.spans], default=0.0)
        return Result(
            plans=tuple(self._way.plans),
            duration_s=engine.now_s if self._failed else last_s,
            num_tokens=conversations.num_tokens,
            laps=tuple(conversations.laps),
            requests=tuple(conversations.requests),
            busy_s={resource: server.busy_s for resource, server in engine.servers.items() if server.busy_s},
            spans=tuple(engine.spans),
            happenings=tuple(self._happenings),
            failed=self._failed,
        )

    # -- what happens -----------------------------------------------------------------------------------------------

    def _note(self, what: str, why: str = "", kind: str = "event") -> None:
        self._happenings.append(Happening(self._engine.now_s, what, why, kind))

    def _happen(self, event: Event) -> None:
        self._note(str(event))
        self._coming.remove(event)
        resources: Sequence[Resource] = event.ways or [(event.device,)]
        if event.kind == "slow":
            for resource in resources:
                self._engine.server(resource).slowdown = event.factor
        elif event.kind == "join":
            self._join(event.device)
        elif event.kind in ("kill", "leave"):
            self._go(event.device, self._recovery.detect_s if event.kind == "kill" else 0.0)
            self._suspected.discard(event.device)
            self._engine.thaw((event.device,))  # it comes back as another process
        elif event.kind in ("freeze", "cut"):
            self._stop(event, resources)
        else:
            self._go_on(event, resources)

    def _stop(self, event: Event, resources: Sequence[Resource]) -> None:
        """A device freezes, or links are cut."""
        for resource in resources:
            self._engine.freeze(resource)
        if event.kind == "freeze":
            self._after(self._recovery.suspect_s, partial(self._suspect, event.device, self._stopped(event.device)))
        else:
            for way in event.ways:
                self._after(self._recovery.detect_s, partial(self._miss, way, self._stopped(*way)))

    def _go_on(self, event: Event, resources: Sequence[Resource]) -> None:
        """A device thaws, or links are mended."""
        for resource in resources:
            self._engine.thaw(resource)
        for way in event.ways:
            self._cut.discard(way)
            self._engine.server(way).seen_slowdown = 1.0
        if event.ways and self._recovery.replan:
            self._reroute("a link is mended")
        if event.device in self._suspected:
            self._suspected.discard(event.device)
            self._note(f"{event.device} is heard again", kind="back")
            self._join(event.device)

    def _stopped(self, *resource: str) -> float | None:
        """Since when a device or link stands still."""
        return self._engine.server(resource).frozen_since_s

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._engine.at(self._engine.now_s + seconds, action)

    def _suspect(self, device: str, since_s: float | None) -> None:
        if self._stopped(device) == since_s and device in self._course.members:
            self._suspected.add(device)
            self._go(device, 0.0)

    def _miss(self, way: tuple[str, str], since_s: float | None) -> None:
        """It is known that a link is cut: go round it at once where there is a way; else it is a slow link."""
        if self._stopped(*way) != since_s:
            return
        self._cut.add(way)
        self._engine.server(way).seen_slowdown = CUT
        if self._recovery.replan and self._reroute(f"the link from {way[0]} to {way[1]} is cut"):
            self._conversations.start_again()

    def _join(self, device: str) -> None:
        self._decide(policy.Joined(device))
        for resource in list(self._engine.servers):
            if device in resource and self._course.members.issuperset(resource):
                self._engine.revive(resource)
        for way in self._cut:
            self._engine.server(way).seen_slowdown = CUT

    def _go(self, device: str, after_s: float) -> None:
        """A device is gone, which is known after so long."""
        if device not in self._course.members:
            return
        self._decide(policy.Left(device, self._way.needed()))
        self._engine.kill((device,))
        for resource in list(self._engine.servers):
            if len(resource) == 2 and device in resource:
                self._engine.kill(resource)
        self._after(after_s, partial(self._notice, device))

    def _notice(self, device: str) -> None:
        self._decide(policy.Noticed(device, self._observed(), self._absent()))

    def _look(self) -> None:
        if not self._conversations.are_going_on or self._failed:
            return
        if self._cut and not self._coming and self._idle_looks > PATIENCE:
            self._end("a link is cut, and no other plan goes round it")
            return
        self._look_again()
        if self._course.coming is not None or self._course.broken:
            return
        observed = self._observed()
        self._reroute("a link became slow")
        rules = replace(self._rules, replan=lambda problem: self._replanned(problem, observed))
        self._decide(policy.Looked(observed, self._absent()), rules)

    def _reroute(self, why: str) -> bool:
        is_new = self._way.reroute(self._observed())
        if is_new:
            self._note("send over relays", why, "rerouted")
        return is_new

    def _look_again(self) -> None:
        """A step can take years where a device is slow enough; there is nothing to be seen meanwhile."""
        happened = len(self._engine.spans) + len(self._happenings)
        self._idle_looks = self._idle_looks + 1 if happened == self._happened else 0
        self._happened = happened
        wait_s = self._recovery.look_every_s * 2.0 ** max(0, self._idle_looks - PATIENCE)
        self._after(wait_s, self._look)

    def _replanned(self, problem: Problem, observed: Observed) -> Plan:
        """The best plan now; the last one again where nothing was seen to change since."""
        assert self._recovery.replan
        seen = (dict(observed.device_slowdown), dict(observed.link_slowdown), self._course.members)
        if self._last_replan is None or self._last_replan[0] != seen:
            self._last_replan = (seen, self._recovery.replan(problem))
        return self._last_replan[1]

    # -- what is done about it --------------------------------------------------------------------------------------

    def _decide(self, event: policy.Event, rules: policy.Rules | None = None) -> None:
        self._course, actions = policy.handle(self._engine.now_s, self._course, event, rules or self._rules)
        for action in actions:
            self._perform(action)

    def _perform(self, action: policy.Action) -> None:
        if isinstance(action, policy.Load):
            self._begin_loading(action)
        elif isinstance(action, policy.Switch):
            self._way.switch(action.plan, self._observed())
            self._note(f"switch to plan {action.plan.version}", kind=self._after_switch)
            if action.starts_again or self._cut:
                self._conversations.start_again()
        elif isinstance(action, policy.GiveUp):
            self._note(f"give up plan {action.plan.version}", action.why, "given up")
        elif isinstance(action, policy.Defer):
            self._after(self._recovery.look_every_s, partial(self._join, action.device))
        else:
            self._end(action.why)

    def _end(self, why: str) -> None:
        self._failed = why
        self._note("end", why, "failed")
        self._engine.stop()

    def _begin_loading(self, action: policy.Load) -> None:
        plan, storage = action.plan, self._recovery
        kind, self._after_switch = "rebalancing", "rebalanced"
        if self._course.noticed:
            kind = "suspected" if self._course.noticed <= self._suspected else "lost"
            self._after_switch = "recovered"
        self._note(f"load {counted(len(action.moves), 'units')} for plan {plan.version}", action.why, kind)
        seconds = load_seconds(self._problem, action.moves, storage.load_bytes_per_s, storage.default_load_bytes_per_s)
        self._after(seconds, lambda: self._decide(policy.Loaded(plan)))

    # -- what is known ----------------------------------------------------------------------------------------------

    def _absent(self) -> set[str]:
        return {device.name for device in self._problem.devices} - self._course.members

    def _observed(self) -> Observed:
        seen = {resource: _stepped(server.seen_slowdown) for resource, server in self._engine.servers.items()}
        observed = Observed(
            now_s=self._engine.now_s,
            problem=self._problem,
            device_slowdown={key[0]: value for key, value in seen.items() if len(key) == 1},
            link_slowdown={(key[0], key[1]): value for key, value in seen.items() if len(key) == 2},
            in_flight=self._load.in_flight,
            past=self._course.past,
        )
        absent, problem = self._absent(), observed.problem
        if problem.source in absent and self._recovery.is_source_apart:
            left = [device.name for device in problem.devices if device.name not in absent]
            problem = replace(problem, source=left[0] if left else problem.source)
        if not absent or problem.source in absent:
            return observed
        return replace(observed, problem=without_devices(problem, absent))


def _stepped(slowdown: float) -> float:
    return STEP ** round(math.log(slowdown, STEP)) if slowdown > 0 else 1.0
