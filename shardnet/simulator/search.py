"""Whether another plan is worth it, asked now and then: `policy.rebalance`, and what it needs searched for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from shardnet.errors import BadConfiguration, ShardnetError
from shardnet.plan import Plan
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import Change, Decision, Observed, Past, revise
from shardnet.simulator.load import Recovery


class Search:
    """Of one run."""

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery
        self._found: tuple[object, Plan | ShardnetError] | None = None
        """The best plan of the last search, or why there was none, and for which cluster."""
        self._next_s = 0.0
        self._past = Past()

    def changed(self, change: Change) -> None:
        """The ring went over to a better plan."""
        self._past = self._past.after(change)

    def is_of_use(self, now_s: float) -> bool:
        """Whether something may come of `better` now."""
        may_search = self._recovery.replan is not None and self._recovery.rebalance
        return may_search and (now_s >= self._next_s or self._past.better_since_s is not None)

    def better(self, plan: Plan, observed: Observed) -> Decision:
        """Whether to change to another plan."""
        is_due = observed.now_s >= self._next_s
        if is_due:
            self._next_s = observed.now_s + self._recovery.search_every_s
        observed = replace(observed, past=self._past)
        decision = revise(plan, observed, self._recovery.policy, partial(self._best, observed, is_due))
        self._past = replace(self._past, better_since_s=decision.better_since_s)
        return decision

    def _best(self, observed: Observed, is_due: bool, problem: Problem) -> Plan:
        """The best plan now; the last one again where nothing was seen to change since, or it is too soon to search."""
        assert self._recovery.replan
        seen = (observed.problem.index.keys(), dict(observed.device_slowdown), dict(observed.link_slowdown))
        if self._found is None or (is_due and self._found[0] != seen):
            try:
                self._found = seen, self._recovery.replan(problem)
            except ShardnetError as error:
                self._found = seen, error
        found = self._found[1]
        if isinstance(found, ShardnetError):
            raise found
        if not problem.index.keys() >= set(found.devices):
            raise BadConfiguration("a device of the best plan is gone.")
        return found
