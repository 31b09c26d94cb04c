"""The plans of a run on paper, one after the other: what `cluster.rings` performs on devices.

After a loss a round begins: `policy.succession` says who takes over, what that needs is loaded, and the sessions go on.
What happens meanwhile breaks the round off, and another one begins. Where nothing is lost, what another plan needs is
loaded and copied while the ring goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

from shardnet.errors import ShardnetError
from shardnet.plan import Plan, StagePlan
from shardnet.planner.problem import Problem
from shardnet.policy.absences import Absences, News
from shardnet.policy.shape import Held, missing, pieces
from shardnet.policy.standby import COPY_S, QUIET_S, reserves
from shardnet.policy.succession import DRAIN_TRIES, HOT, WARM, Away, Cut, Means, drained, succeed
from shardnet.simulator.load import Recovery
from shardnet.simulator.nearby import left_of
from shardnet.simulator.weights import Weights

ASK_AGAIN_S = 0.1
"""A device that is to load and does not answer is asked again so much later."""


class Switch(NamedTuple):
    """How a plan came into force."""

    plan: Plan
    copied: float | None
    """Share of the sessions' caches that was copied before; None after a loss, when they are computed anew."""
    hot: frozenset[tuple[str, int]] = frozenset()
    """Devices and units that had copies of the sessions, but for the last tokens."""


class Course(Protocol):
    """What a run does for its rounds."""

    def now_s(self) -> float: ...
    def after(self, seconds: float, action: Callable[[], object]) -> object: ...
    def answers(self, device: str) -> bool:
        """Whether it is there and not frozen."""

    def copy_seconds(self, before: Plan, after: Plan) -> float:
        """Until what sessions have where units move is copied."""

    def tell(self, kind: str, text: str, device: str = "") -> None: ...
    def go_on(self, switch: Switch) -> None:
        """A plan is in force: sessions go on under it."""

    def end(self, why: str) -> None: ...


class Rounds:
    """Of one run, from its first plan on.

    Args:
        absent: the devices that join later.
    """

    def __init__(
        self, course: Course, problem: Problem, plan: Plan, recovery: Recovery, absent: Collection[str]
    ) -> None:
        self.plan = plan
        self.absences = Absences(course.now_s)
        self.weights = Weights(problem, recovery.load_bytes_per_s, recovery.default_load_bytes_per_s)
        self.unknown = set(absent)
        """Devices that are not members yet."""
        self.cut_links: frozenset[Cut] = frozenset()
        """Links over which nobody can pass anything on."""
        self.is_changing = False
        """The sessions stand still until a round is whole."""
        self.is_over = False
        self._course, self._problem, self._recovery = course, problem, recovery
        self._coming: Plan | None = None
        self._has_begun = self._has_lost = False
        self._round = 0
        self._planned: object | None = None
        """What is being gone over to while the ring goes on."""
        self._known_s = 0.0
        self._quiet = 0
        """Counts the changes: what is due after one is void after the next."""
        self._problems: dict[tuple[frozenset[str], Plan], Problem | ShardnetError] = {}
        self._prepare_later(max(0.0, QUIET_S - recovery.settled_s))

    # -- what is known --------------------------------------------------------------------------------------------

    @property
    def is_planned(self) -> bool:
        """Another plan is being loaded while the ring goes on."""
        return self._planned is not None

    @property
    def waits_for(self) -> frozenset[str]:
        """Silent devices that have units."""
        return self.absences.away().silent.intersection(self.plan.devices)

    def lose(self, device: str, why: str) -> None:
        """A device is known to be lost."""
        if self.absences.lose(device, why):
            self._change()

    def suspect(self, device: str, why: str) -> None:
        """A device is silent."""
        if self.absences.suspect(device, why):
            self._change()

    def trust(self, device: str) -> None:
        """A silent device is heard again, without the units that others have taken over meanwhile."""
        if not self.absences.trust(device) or self.is_over:
            return
        if device not in self.plan.devices:
            self.weights.lose(device)
        if self.is_changing:
            self._change()
        self._tell(self.absences.is_back(device))

    def cut(self, ends: Cut, why: str, is_certain: bool) -> None:
        """Nothing that one device sends reaches another."""
        if self.absences.cut(ends, why, is_certain):
            self._change()

    def take_in(self, device: str) -> None:
        """A device has joined."""
        self.unknown.discard(device)
        self.absences.forget(device)
        self._problems.clear()

    def prospects(self) -> Problem:
        """Of placing the model anew over those that can be reckoned with.

        Raises:
            ShardnetError: nobody can.
        """
        away = self.absences.away()
        return self._without(away.lost | away.silent)

    # -- who takes over -------------------------------------------------------------------------------------------

    def _change(self) -> None:
        if self.is_over:
            return
        if not self.is_changing:
            self._known_s = self._course.now_s()
        self.is_changing = self._has_lost = True
        self._round += 1
        self._problems.clear()
        away = self.absences.away()
        verdict = succeed(self.plan, self._coming, away, self._means(away))
        if verdict.is_over:
            what_goes = {stage.device: f", and with it units {stage.units}" for stage in self.plan.stages}
            self.is_over = True
            self._course.end(str(self.absences.too_much(self.plan, verdict.why_not, what_goes)))
            return
        self._tell(self.absences.news_of(verdict, self.plan, self._coming))
        self._coming = None if verdict.plan is self.plan else verdict.plan
        if self._coming is None and not self._has_begun:
            self._settle()
            return
        self._has_begun = True
        self._quiet += 1
        parts = self._missing(verdict.plan, away)
        there_s = self.weights.load(parts, self._course.now_s())
        self._course.after(there_s - self._course.now_s(), partial(self._go_on, self._round, verdict.plan, parts))

    def _go_on(self, number: int, plan: Plan, parts: tuple[StagePlan, ...]) -> None:
        if number != self._round or self.is_over:
            return
        if not all(map(self._course.answers, plan.devices)):  # what became of it will be known soon
            self._course.after(ASK_AGAIN_S, partial(self._go_on, number, plan, parts))
            return
        was_mended = self._coming is not None and self._has_lost
        hot = self._recovery.standby == HOT
        copies = frozenset((part.device, unit) for part in parts if hot and part in self._hot for unit in _units(part))
        self._force(plan, parts)
        self._course.go_on(Switch(self.plan, None, copies))
        if was_mended:
            seconds = self._course.now_s() - self._known_s
            self._course.tell("recovered", f"plan {self.plan.version} is in force, after {seconds:.2f} s")
        self._settle()
        self._prepare_later(QUIET_S)

    def _force(self, plan: Plan, parts: Collection[StagePlan]) -> None:
        self.weights.take(parts)
        if plan is not self.plan:
            self.plan = replace(plan, version=self.plan.version + 1)
        self._coming = None
        self._problems.clear()

    def _settle(self) -> None:
        self.is_changing = self._has_begun = self._has_lost = False
        self.absences.settled()

    def _tell(self, news: Collection[News]) -> None:
        for each in news:
            self._course.tell(each.state, each.text, each.device)

    # -- where nothing is lost ------------------------------------------------------------------------------------

    def drain(self, device: str, then: Callable[[bool], object], num_tries: int = DRAIN_TRIES) -> None:
        """A device is about to leave. `then` is told whether others have taken over what it holds."""
        if self.is_over or device not in self.plan.devices or not self._course.answers(device):
            then(False)
        elif self.is_changing:
            self._course.after(ASK_AGAIN_S, partial(self.drain, device, then, num_tries))
        else:
            away = self.absences.away()
            plan = drained(device, self.plan, away, self._means(away))
            if plan is None or not num_tries:
                then(False)
            else:
                self.go_over(plan, lambda is_done: then(True) if is_done else self.drain(device, then, num_tries - 1))

    def go_over(self, plan: Plan, then: Callable[[bool], object]) -> None:
        """Load and copy what another plan needs while the ring goes on. `then` is told whether it came into force."""
        now_s, parts = self._course.now_s(), self._missing(plan, Away())
        copy_s = self._course.copy_seconds(self.plan, plan)
        seconds = self.weights.load(parts, now_s) - now_s + min(copy_s, COPY_S)
        copied = min(1.0, COPY_S / copy_s) if copy_s else 1.0
        self._planned = plan
        self._course.after(seconds, partial(self._gone_over, (self.plan, plan), self._round, parts, copied, then))

    def _gone_over(
        self,
        plans: tuple[Plan, Plan],
        number: int,
        parts: tuple[StagePlan, ...],
        copied: float,
        then: Callable[[bool], object],
    ) -> None:
        before, plan = plans
        is_void = number != self._round or self.plan is not before or self.is_changing or self.is_over
        if self._planned is plan:
            self._planned = None
        if is_void or not all(map(self._course.answers, plan.devices)):
            then(False)
            return
        self._quiet += 1
        self._force(plan, parts)
        self._course.go_on(Switch(self.plan, copied))
        self._prepare_later(QUIET_S)
        then(True)

    # -- what is kept ready ---------------------------------------------------------------------------------------

    def _prepare_later(self, seconds: float) -> None:
        self._hot: frozenset[StagePlan] = frozenset()
        if self._recovery.standby in (WARM, HOT):
            self._quiet += 1
            self._course.after(seconds, partial(self._prepare, self._quiet))

    def _prepare(self, number: int) -> None:
        if number != self._quiet or self.is_over or self.is_changing:
            return
        spare = self.weights.spare_bytes(self.plan.stages, self._recovery.standby_gib)
        away = self.absences.away()
        spare = {name: 0 if name in away.lost | away.silent | self.unknown else most for name, most in spare.items()}
        wanted = reserves(self.plan, self.plan.stages, self._means(away), self.weights.unit_bytes, spare)
        parts = [each.stage for each in wanted]
        self.weights.keep(parts, self._course.now_s())
        self._hot = frozenset(parts)

    # -- means ----------------------------------------------------------------------------------------------------

    def _means(self, away: Away) -> Means:
        """Every device keeps room for all sessions that the problem has, so that what fits has room."""

        def is_ready(stages: Collection[StagePlan]) -> bool:
            now_s = self._course.now_s()
            return all(self.weights.is_there(part, now_s) for part in self._missing(Plan(tuple(stages)), away))

        return Means(
            problem=lambda absent, tokens: self._without(frozenset(absent)),
            has_room=lambda stages, tokens: True,
            reserved_tokens=0,
            least_tokens=0,
            is_ready=is_ready,
            standby=self._recovery.standby,
        )

    def _missing(self, plan: Plan, away: Away) -> tuple[StagePlan, ...]:
        """What is to be loaded beside the stages that are left."""
        left = [Held(stage) for stage in self.plan.stages if stage.device not in away.lost | away.silent]
        return missing(pieces(left, plan))

    def _without(self, absent: frozenset[str]) -> Problem:
        key = absent, self.plan
        if key not in self._problems:
            try:
                self._problems[key] = self._left(absent)
            except ShardnetError as error:
                self._problems[key] = error
        found = self._problems[key]
        if isinstance(found, ShardnetError):
            raise found
        return found

    def _left(self, absent: frozenset[str]) -> Problem:
        is_apart = self._recovery.is_source_apart
        in_use = {*self.plan.devices, *(() if self._coming is None else self._coming.devices)}
        return left_of(self._problem, absent | self.unknown, self.cut_links, in_use, is_apart)


def _units(stage: StagePlan) -> range:
    return range(stage.first_unit, stage.last_unit + 1)
