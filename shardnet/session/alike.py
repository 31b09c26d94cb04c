"""With which session another one begins: one that was closed, one under way, or one whose prompt is being computed.

Prompts that come at the same moment and begin alike would all be computed. So whoever comes later waits for the first
token of the one before, where most of that one's prompt is its own, too: prompts are computed in the order in which
they come, and that one's is in its way in any case.
"""

from __future__ import annotations

from collections.abc import Sequence

from shardnet.session.beginnings import Beginnings, worth_waiting_for
from shardnet.session.session import Session
from shardnet.transport.sharing_messages import Shares

WAIT_S = 30.0
"""For a prompt, at most."""


def choice(ids: tuple[int, ...], others: Sequence[Session], known: Beginnings) -> tuple[Shares | None, Session | None]:
    """What a session of these ids shares, and whose prompt is to be waited for before it is opened.

    Args:
        others: those that are open, and have begun or were started before it: so that no two wait for each other.
        known: those that were closed.
    """
    read = [(each.spec.session, each.history[: each.num_shared]) for each in others if each.spec.rows is not None]
    others = [each for each in others if each.spec.rows is None]
    ready = [(each.spec.session, each.history) for each in others if each.has_prompt.is_set()]
    ready += [each for each in read if each[1]]  # these hear of no token: what they began with is there
    begun = [(each.spec.session, each.history) for each in others if not each.has_prompt.is_set()]
    at_once = known.best(ids, ready)
    waited = worth_waiting_for(ids, 0 if at_once is None else at_once.most_tokens, begun)
    if waited is None:
        return known.best(ids, [*begun, *ready]), None
    return waited, next(each for each in others if each.spec.session == waited.session)


def sharable(session: Session) -> tuple[int, ...]:
    """Its ids up to the first one that it must compute itself: of a text that is read, the first row that is wanted."""
    rows = session.spec.rows
    return session.history if rows is None else session.history[: rows.first + 1]


def wait_for(session: Session | None) -> None:
    """Until its prompt is computed, or it is over."""
    if session is not None:
        session.has_prompt.wait(WAIT_S)
