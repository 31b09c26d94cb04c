"""What goes on from a stage to the next one: the results of its steps, and, once more, what the next one has not got.

Of each session a stage knows how many tokens the next one has or was sent. Results go on at once where they come next;
what the next stage has already does not; and where it lacks earlier tokens, all later ones wait until these were sent
again, out of the log. That is done in chunks, between two steps, hidden states under the same back-pressure as prompts.

For the compute thread, but for `Window`.

Legend: T new tokens, W numbers of a row, V vocabulary, S tokens behind which one may be sampled in this step.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import torch

from shardnet.stage.live_session import LiveSession
from shardnet.stage.live_sessions import LiveSessions
from shardnet.stage.outlet import Outlet
from shardnet.stage.pieces import Piece, rows_of
from shardnet.stage.sampled import Sampled, sample_step
from shardnet.stage.scoring import scored_tokens
from shardnet.stage.sent_log import SentLog
from shardnet.stage.step import Step
from shardnet.timeline.clocks import clock_ns
from shardnet.transport.listener_messages import Listener, StraightToken
from shardnet.transport.messages import MAX_BULK_CHUNKS, Part, Wanted
from shardnet.transport.session_messages import SampledToken


class Window:
    """The bulk hops that the next stage has not begun. Safe to use from several threads.

    Args:
        num_tokens: as soon as so many are in them, no other one is sent.
        on_taken: called when one was begun, on whatever thread tells of it.
    """

    def __init__(self, num_tokens: int, on_taken: Callable[[], None]) -> None:
        self._num_tokens = num_tokens
        self._num_untaken = 0
        self._on_taken = on_taken
        self._lock = threading.Lock()

    @property
    def has_room(self) -> bool:
        return self._num_untaken < self._num_tokens

    def sent(self, num_tokens: int) -> Callable[[], None]:
        """One is on its way. Returns what is to be called once when it was begun."""
        with self._lock:
            self._num_untaken += num_tokens
        return partial(self._taken, num_tokens)

    def _taken(self, num_tokens: int) -> None:
        with self._lock:
            self._num_untaken -= num_tokens
        self._on_taken()


class Onward:
    """
    Args:
        lock: guards which sessions are open.
        on_taken: called on any thread when there may be room for another bulk hop.
    """

    def __init__(
        self,
        outlet: Outlet,
        sessions: LiveSessions,
        log: SentLog,
        lock: threading.Condition,
        *,
        chunk_tokens: int,
        on_taken: Callable[[], None],
    ) -> None:
        self._outlet = outlet
        self._sessions = sessions
        self._log = log
        self._lock = lock
        self._chunk_tokens = chunk_tokens
        self._on_taken = on_taken
        self._window = self._new_window()
        self._behind: dict[int, None] = {}
        """Sessions of which the next stage lacks what was sent before, in the order in which they are seen to."""

    @property
    def has_room(self) -> bool:
        """Whether another bulk hop may be sent."""
        return self._window.has_room

    @property
    def is_behind(self) -> bool:
        """Whether the next stage lacks what was sent before."""
        return bool(self._behind)

    def send_hidden(self, step: Step, hidden: torch.Tensor) -> None:
        """Decode rows first: somebody waits for each of them.

        Args:
            hidden: rows [T, W] as they travel.
        """
        due = _due(step)
        num_bulk_rows = sum(part.num_tokens for part in step.work.bulk_parts)
        first_bulk_row = len(hidden) - num_bulk_rows
        urgent = [piece for piece in due if piece.first_row < first_bulk_row]
        bulk = due[len(urgent) :]
        if urgent:
            self._outlet.hop(*_message(urgent, hidden))
        if bulk:
            self._send_bulk(*_message(bulk, hidden))

    def send_samples(self, step: Step, logits_SV: torch.Tensor) -> None:
        """Tell the ring's first stage the ids that go on, then the source what was sampled, and who listens."""
        _wind(step, logits_SV.shape[1])
        sampled = sample_step(step, logits_SV)
        step.end_ns = clock_ns()
        onward: list[Part] = []
        onward_ids: list[int] = []
        told: list[SampledToken] = []
        straight: defaultdict[str, list[StraightToken]] = defaultdict(list)
        for each in sampled:
            session = each.session
            if each.error is not None:
                self._outlet.session_failed(session.spec.session, each.error)
            told += each.tokens
            listener = session.spec.listener
            if listener is not None:
                straight[listener.member] += [
                    _straight(listener, token, before) for token, before in zip(each.tokens, each.digests, strict=True)
                ]
            ids = _going_on(session, each)
            if ids:
                onward.append(Part(session.spec.session, session.next_sent - len(ids), len(ids)))
                onward_ids += ids
        if onward:
            self._outlet.hop(tuple(onward), torch.tensor(onward_ids))
        if told:
            self._outlet.tokens(tuple(told))
        for member, tokens in straight.items():
            self._outlet.straight(member, tuple(tokens))
        for each in sampled:
            each.session.look_ahead()

    def tell_scores(self, step: Step) -> None:
        """Tell the source what was found of texts that are scored."""
        told: list[SampledToken] = []
        for index, scored in step.scored:
            session = step.sessions[index]
            tokens = scored_tokens(session.spec, step.work.parts[index], scored)
            if tokens is not None:
                told += tokens
            elif session.sampler is not None:
                error = session.sampler.not_finite(scored.log_likelihoods)
                self._outlet.session_failed(session.spec.session, error)
        if told:
            self._outlet.tokens(tuple(told))

    def send_again(self, wanted: Sequence[Wanted]) -> None:
        """So many tokens of each session the next stage has: from there on all goes out again, in its order.

        Sessions that are not open are passed over. Bulk hops that were not begun count no more: they may wait, at a
        stage that is new, for just these tokens.

        Raises:
            BadRequest: what was sent of one of them is not kept from there on. Nothing is changed then.
        """
        with self._lock:
            found = [(session, each) for each in wanted if (session := self._sessions.get(each.session))]
            for session, each in found:
                self._log.raise_if_gone(session, each.position)
        for session, each in found:
            session.next_sent = max(each.position, session.kept_from)
            session.told = each.position
            session.guess_from = each.num_known
            session.is_held = False
            self._behind[session.spec.session] = None
        self._window = self._new_window()

    def catch_up(self) -> None:
        """Send again what the next stage lacks, as long as it takes it.

        Ids go at once: were the last stage to wait for the first, all could wait for each other round the ring.
        """
        while self._behind and (self._log.is_of_ids or self._window.has_room):
            with self._lock:  # who is closed meanwhile takes its rows along
                chunk = self._next_chunk()
            if not chunk:
                continue
            parts, rows = tuple(part for part, _ in chunk), torch.cat([rows for _, rows in chunk])
            if self._log.is_of_ids:
                self._outlet.hop(parts, rows)
            else:
                self._send_bulk(parts, rows)

    def begin_anew(self) -> None:
        """The stage ends with another unit now: what was to be sent again is not to be sent, and nothing is untaken."""
        self._behind.clear()
        self._window = self._new_window()

    def _next_chunk(self) -> list[tuple[Part, torch.Tensor]]:
        """What is sent again now, of the sessions that have waited longest. The caller holds the lock."""
        chunk: list[tuple[Part, torch.Tensor]] = []
        room = self._chunk_tokens
        for number in list(self._behind):
            session = self._sessions.get(number)
            first, end = (0, 0) if session is None else (session.next_sent, self._log.end(session))
            if session is None or first >= end:
                del self._behind[number]
                continue
            end = min(end, first + room)
            part = Part(number, first, end - first) if self._log.is_of_ids else session.part(first, end)
            session.sent(part)
            chunk.append((part, self._log.rows(session, first, end)))
            room -= part.num_tokens
            if not room:
                break
        return chunk

    def _send_bulk(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        self._outlet.bulk_hop(parts, rows, self._window.sent(len(rows)))

    def _new_window(self) -> Window:
        return Window(MAX_BULK_CHUNKS * self._chunk_tokens, self._on_taken)


def _straight(listener: Listener, token: SampledToken, before: int) -> StraightToken:
    """Args: `before`, the digest of the answer before it."""
    likelihood, alternatives = token.log_likelihood, token.alternatives
    return StraightToken(listener.key, token.index, token.token_id, before, token.guesses, likelihood, alternatives)


def _due(step: Step) -> list[Piece]:
    """What of a step's results goes on now: all that comes next at the next stage."""
    due: list[Piece] = []
    first_row = 0
    for part, session in zip(step.work.parts, step.sessions, strict=True):
        num_there = session.next_sent - part.position
        if 0 <= num_there < part.num_tokens:
            piece = Piece(part, first_row)
            due.append(piece.cut(num_there)[1] if num_there else piece)
            session.sent(part)
        first_row += part.num_tokens
    return due


def _message(pieces: list[Piece], hidden: torch.Tensor) -> tuple[tuple[Part, ...], torch.Tensor]:
    """Slices are cloned: a view ships its whole storage."""
    rows = rows_of(pieces, hidden)
    return tuple(piece.part for piece in pieces), rows if rows is hidden else rows.clone()


def _wind(step: Step, num_scores: int) -> None:
    """Let each session's random numbers stand where they do behind the tokens that it has."""
    for part, session in zip(step.work.parts, step.sessions, strict=True):
        if session.sampler is not None:
            num_tokens = min(part.end, session.sample_from)
            session.sampler.wind(num_tokens - session.spec.prompt_tokens, num_scores)


def _going_on(session: LiveSession, sampled: Sampled) -> list[int]:
    """Of the ids that were sampled those that the first stage has not, as long as it has all before them."""
    ids: list[int] = []
    for token in sampled.tokens:
        position = session.spec.prompt_tokens + token.index
        if session.next_sent == position and not token.finish_reason:
            session.next_sent += 1
            ids.append(token.token_id)
    return ids
