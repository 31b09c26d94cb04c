"""The rings of one loaded model, one after the other, and what takes it from one to the next.

After a loss a thread of its own goes through rounds (`cluster.handover`), until one is whole and nothing more happened
meanwhile. Who takes over what is decided by `policy.succession`. A round that is broken off leaves its ring behind: the
next one goes on from there, with what that had opened.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

from shardnet.cluster import handover
from shardnet.cluster.blueprint import Blueprint
from shardnet.cluster.held_stages import HeldStages
from shardnet.cluster.next_ring import Stock, means_of, missing_of, next_ring
from shardnet.cluster.present import Present
from shardnet.cluster.remote_stage import RemoteStage
from shardnet.cluster.ring import Ring
from shardnet.cluster.standby import Standby
from shardnet.cluster.tidying import tidy
from shardnet.cluster.waiting import UNFINISHED, BrokenOff, Refused, Waiting
from shardnet.errors import ClusterError, DoesNotFit, ShardnetError
from shardnet.plan import Plan, StagePlan
from shardnet.policy.absences import Absences, News
from shardnet.policy.succession import Away, Cut, Means, succeed
from shardnet.process.threads import on_thread
from shardnet.session.sessions import Sessions
from shardnet.transport.base import Transport
from shardnet.transport.messages import RingId

_log = logging.getLogger(__name__)

Keep = Callable[[Blueprint, Ring, Plan, Sequence[RemoteStage]], object]


class Rings:
    """Those of one deployment, from the one whose stages are loaded first.

    Args:
        draw_id: gives a ring an id that none had before.
        ended: fails when the model is closed or ends.
        end: called with what cannot be mended.
        note: told what happened: kind, words, device, seconds.
        keep: writes down a ring that is about to be in force, and what is kept ready beside it.
    """

    def __init__(
        self,
        transport: Transport,
        first: Ring,
        sessions: Sessions,
        draw_id: Callable[[], RingId],
        ended: Future[None],
        end: Callable[[ShardnetError], object],
        note: Callable[..., object],
        keep: Keep,
    ) -> None:
        self._held = HeldStages(first)
        self._transport = transport
        self._sessions = sessions
        self._draw_id = draw_id
        self._ended = ended
        self._end = end
        self._note = note
        self._keep = keep
        self.blueprint: Blueprint | None = None
        self._plan: Plan | None = None
        """The one in force."""
        self._coming: Plan | None = None
        self._copied: Sequence[StagePlan] = ()
        """The one that is being gone over to, and what is ready for it: see `Stock`."""
        self.absences = Absences(time.monotonic)
        self.standby: Standby | None = None
        """Known when the first ring is loaded."""
        self._broken_off: Future[None] = Future()
        """Of the round under way: fails when something more happens."""
        self._settled = threading.Condition(threading.RLock())
        """Guards all that is here. `_plan` and `_coming` are written by whoever changes the ring."""
        self.is_changing = False
        """One ring is about to take over from another."""
        self._has_begun = False
        """Sessions are suspended: only a whole round lets them go on."""
        self._has_lost = False
        """Something is the matter, and the present change is to mend it."""
        self._has_mended = False
        """A round of it did."""
        self._is_asked = False
        """A round is to be gone through, whatever happened."""
        self._is_over = False
        """Closed, or beyond mending: no change begins any more."""
        self._known_s = 0.0
        """When it was heard of what the present change began with."""

    @property
    def all(self) -> tuple[Ring, ...]:
        """The present one last; before it, for a moment, those from which it takes over."""
        return self._held.rings

    @property
    def current(self) -> Ring:
        """The present one; waits until no change is under way."""
        with self._settled:
            self._settled.wait_for(lambda: not self.is_changing)
            return self.all[-1]

    @property
    def plan(self) -> Plan:
        """Who holds what."""
        assert self._plan is not None, "the model is not loaded yet"
        return self._plan

    def stand(self, blueprint: Blueprint, plan: Plan) -> None:
        """The first ring is loaded: from now on losses can be mended."""
        self._keep(blueprint, self.all[-1], plan, ())  # before another ring can take over
        with self._settled:
            self.blueprint, self._sessions.cut = blueprint, blueprint.cut
            self._plan = plan
            self.standby = Standby(self._transport, self._draw_id, self._note, self._keep_present)
            self.standby.prepare(self._present())
            if self.absences.silent:  # as others loaded: nobody has seen to it yet
                self._change_soon()

    def _keep_present(self) -> None:
        """More is kept ready. While the ring changes, whoever changes it writes that down."""
        with self._settled:
            if not self.is_changing and self.blueprint is not None and self.standby is not None:
                self._keep(self.blueprint, self.all[-1], self.plan, self.standby.stages)

    def lose(self, device: str, why: str) -> bool:
        """A device is lost. Does not wait. False where no ring is loaded yet, so that others could take over."""
        with self._settled:
            if self.absences.lose(device, why):
                self._change_soon()
            self._held.release(device)  # after the round was broken off: it asks nobody any more
            if self.standby is not None:
                self.standby.lose(device)
            return self._plan is not None and not self._is_over

    def suspect(self, device: str, why: str) -> None:
        """A device is silent: others take over, where they can. It may come back. Does not wait."""
        with self._settled:
            if self.absences.suspect(device, why):
                self._change_soon()

    def trust(self, device: str) -> None:
        """A suspected device is there again, without the stages that others have taken over meanwhile."""
        with self._settled:
            if not self.absences.trust(device) or self._is_over:
                return
            if self.is_changing:
                self._change_soon()  # it may be waited for
            news = self.absences.is_back(device)
        self._tell(news)

    def cut(self, ends: Cut, why: str, is_certain: bool) -> None:
        """Nothing that one device sends reaches another, though both live. Does not wait.

        Args:
            is_certain: else it may only be slow, and the ring stays where there is no other way.
        """
        with self._settled:
            if self.absences.cut(ends, why, is_certain):
                self._change_soon()

    def _change_soon(self) -> None:
        """Something happened: break the present round off, and go through another one. The lock is held."""
        if self._plan is None or self._is_over:
            return
        self._has_lost = True
        broken_off, self._broken_off = self._broken_off, Future()
        if not self.is_changing:
            self.is_changing, self._known_s = True, time.monotonic()
            on_thread("shardnet-recovery", self._change)
        else:
            broken_off.set_exception(BrokenOff())

    def prospects(self) -> tuple[Away, Means]:
        """Of placing the model anew: who cannot be reckoned with, and what there is."""
        with self._settled:
            return self.absences.away(), self._means(self.all[-1], Away())

    def take_in(self, device: str, change: Callable[[Blueprint], Blueprint], is_there: Callable[[], bool]) -> None:
        """A device has joined, maybe under the name of one that was lost: from now on it may be given units.

        Args:
            change: puts it into the blueprint; may take its time.
            is_there: whether it is not lost again, as far as whoever tells of losses knows.

        Raises:
            ShardnetError: what `change` raises.
        """
        while self.blueprint is not None and not self._is_over and is_there():
            before = self.blueprint
            after = change(before)
            with self._settled:
                self._settled.wait_for(lambda: not self.is_changing)
                if self.blueprint is before and self.standby is not None and not self._is_over and is_there():
                    self.blueprint, self._sessions.cut = after, after.cut
                    self.absences.forget(device)
                    self.standby.forget(device)
                    self.standby.prepare(self._present())
                    return

    def go_over(self, choose: Callable[[Plan, Away, Means], Plan | None]) -> bool:
        """Go over to another plan, though nothing is lost. What it needs is loaded first, while the ring goes on. False
        where there is no other plan, another change comes first, or sessions that came meanwhile have no room then.

        Args:
            choose: gives the plan, from the one in force; None for no other.
        """
        with self._settled:
            if self._plan is None or self.standby is None or self.is_changing or self._is_over:
                return False
            before, ring, away, present = self._plan, self.all[-1], self.absences.away(), self._present()
        plan = choose(before, away, present.means)
        if plan is None or plan is before:
            return False
        copied = self.standby.load(present, missing_of(ring.members, plan))
        with self._settled:
            is_late = self.is_changing or self._is_over or self._plan is not before
            if is_late or not present.still_has_room(plan, self._means(ring, Away())):
                return False
            self._coming, self._copied, self._known_s = plan, copied, time.monotonic()
            self.is_changing, self._has_lost = True, False
        self._change()
        return self._plan is plan

    def renew(self, ring: Ring | None = None) -> None:
        """Let all go on under a new plan version, though nothing is lost. What it cannot do ends the model.

        Args:
            ring: only where this one is in force.
        """
        with self._settled:
            self._settled.wait_for(lambda: not self.is_changing)
            if ring is not None and self._has_left(ring, 0.0):
                return
            self.is_changing = self._is_asked = True
            self._has_lost = False
        self._change()

    def _has_left(self, ring: Ring, wait_s: float) -> bool:
        """Whether a ring is not in force any more, or not for long; waits so long for that."""
        with self._settled:
            return self._settled.wait_for(lambda: self.is_changing or self._is_over or self.all[-1] is not ring, wait_s)

    def close(self) -> list[RemoteStage]:
        """No change begins any more. Returns the stages that are there, each once."""
        with self._settled:
            self._is_over = True
            ready = [] if self.standby is None else self.standby.close()
            return [*self._held.of_rings(), *self._held.take_left_over(), *ready]

    def _change(self) -> None:
        try:
            while not self._is_whole():
                pass
        except BaseException as error:  # Ctrl-C, too: suspended sessions would wait for ever
            if not isinstance(error, ShardnetError):
                _log.error("a change of rings was broken off: %s: %s", type(error).__name__, error, exc_info=error)
            with self._settled:
                self._is_over = True
                ring = self.all[-1]
            self._end(error if isinstance(error, ShardnetError) else ClusterError(UNFINISHED))
            self._sessions.point_at(ring.route)  # it may be what stages answer to by now: nothing is left open there
            with self._settled:
                self.is_changing = False
                self._settled.notify_all()
            if not isinstance(error, ShardnetError):
                raise

    def _is_whole(self) -> bool:
        """Go through one round; False where something more happened in it."""
        with self._settled:
            broken_off = self._broken_off
            away = self.absences.away()
        try:
            self._go_round(away, broken_off)
        except BrokenOff:
            return False
        except Refused as refusal:
            if isinstance(refusal.error, DoesNotFit) and self.standby is not None and self.standby.give_up():
                return False  # what was kept ready may have had the memory
            if refusal.device in away.full:  # it cannot even hold what it held: nobody else can, either
                raise refusal.error from None
            with self._settled:
                self.absences.full[refusal.device] = f"{refusal.device} cannot: {refusal.error}"
            return False
        with self._settled:
            if self._broken_off is not broken_off:
                return False
            self.absences.settled()
            if self._has_mended:
                seconds = time.monotonic() - self._known_s
                version = self.all[-1].ring_id.plan_version
                self._note("recovered", f"plan {version} is in force, after {seconds:.2f} s", "", seconds)
            self._has_lost = self._has_mended = self.is_changing = False
            self._settled.notify_all()
            if self.all[-1].divided():
                on_thread("shardnet-tidy", partial(tidy, self.all[-1], self._has_left, self.renew))
            return True

    def _go_round(self, away: Away, broken_off: Future[None]) -> None:
        old = self.all[-1]
        plan = self._decide(old, away)
        if plan is None:
            return
        assert self.blueprint is not None and self.standby is not None, "no change begins before the model stands"
        self._has_begun = True
        self._sessions.suspend()
        self.standby.pause()
        waiting = Waiting(broken_off, self._ended, lambda: bool(self.absences.silent))
        old.settle(away.lost | away.silent.difference(plan.devices), waiting.for_answer)
        held = old.usable(self.absences.lost)
        stock = Stock(held, self.standby.take, not self._sessions.under_way(), self._copied)
        self._copied = ()  # in a round that follows, owners may be gone
        new = next_ring(self._transport, self.blueprint, self._draw_id(), stock, plan)
        self._enter(*self.all, new)
        self._open(new, waiting)
        handover.load(new, waiting.for_taking)
        self._keep(self.blueprint, new, plan, self.standby.stages)  # before stages answer to the old one no more
        handover.fence(new, waiting.for_answer)
        self._enter(new)
        handover.pull(new, held, away, waiting.for_answer)
        handover.shape(new, waiting.for_answer)
        handover.go_on(new, self._sessions, waiting.for_answer)
        self._settle(plan)
        self.standby.prepare(self._present())

    def _decide(self, old: Ring, away: Away) -> Plan | None:
        """Who is to hold what; None where the ring may stay as it is.

        Raises:
            DeviceLost, ClusterError: the others cannot take over.
        """
        self._raise_if_ended()
        verdict = succeed(self.plan, self._coming, away, self._means(old, away))
        with self._settled:
            if verdict.is_over:
                raise self.absences.too_much(self.plan, verdict.why_not, old.what_goes)
            news = self.absences.news_of(verdict, self.plan, self._coming)
        self._tell(news)
        self._coming = None if verdict.plan is self.plan else verdict.plan
        return verdict.plan if self._coming or self._has_begun or self._is_asked else None

    def _means(self, old: Ring, away: Away) -> Means:
        assert self.blueprint is not None and self.standby is not None, "no change begins before the model stands"
        left = old.usable(away.lost | away.silent)
        return means_of(self.blueprint, self.plan, left, self._sessions.reserved_tokens, self.standby.is_ready)

    def _present(self) -> Present:
        """What is to be kept alive."""
        ring = self.all[-1]
        assert self.blueprint is not None, "the model stands"
        return Present(self.blueprint, self.plan, ring.plan, ring.specs, self._means(ring, Away()), ring.members)

    def _enter(self, *rings: Ring) -> None:
        """Raises ShardnetError where the model was closed meanwhile."""
        with self._settled:
            self._raise_if_ended()
            self._held.enter(*rings)

    def _open(self, ring: Ring, waiting: Waiting) -> None:
        """Where it raises ShardnetError, Refused or BrokenOff, `all` is as before, and what was opened is let go of."""
        try:
            ring.open(waiting.for_taking)
            self._raise_if_ended()
        except BaseException:
            with self._settled:
                self._held.enter(*(each for each in self.all if each is not ring))
            self._drop_left_over()
            raise

    def _drop_left_over(self) -> None:
        """Nobody needs these any more."""
        with self._settled:
            living = self._held.take_left_over(self.absences.lost)
        for stage in living:
            stage.let_go()

    def _raise_if_ended(self) -> None:
        if self._ended.done():
            self._ended.result()

    def _settle(self, plan: Plan) -> None:
        """The sessions go on in the new ring."""
        self._drop_left_over()
        self._has_mended |= self._coming is not None and self._has_lost
        self._plan, self._coming = plan, None
        self._has_begun = self._is_asked = False

    def _tell(self, news: Sequence[News]) -> None:
        for each in news:
            self._note(each.state, each.text, each.device, None)
