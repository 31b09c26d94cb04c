"""What a stage tells the source of its sessions: sampled tokens, and sessions that cannot go on.

Everything is told until the source has confirmed it. While the source is silent, what comes meanwhile is gathered and
told in one message: who was frozen for an hour must not find thousands of them. What is refused because its ring is
over, for the stage was rewired meanwhile, is told again along the new one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from shardnet.errors import CallTimeout, DeviceLost, PlanNotInForce
from shardnet.transport.base import Transport
from shardnet.transport.delivery import Delivery
from shardnet.transport.messages import StageSpec, Tokens
from shardnet.transport.session_messages import SampledToken

CONFIRM_S = 2.0
"""After so long without an answer, what was told is told again."""


class Place:
    """Where in which ring a stage is: exchanged when it is rewired. One that became part of another has that one's."""

    def __init__(self, spec: StageSpec) -> None:
        self._spec = spec
        self._whole: Place | None = None

    @property
    def spec(self) -> StageSpec:
        """The present one."""
        return self._spec if self._whole is None else self._whole.spec

    def rewire(self, spec: StageSpec) -> None:
        self._spec = spec

    def follow(self, whole: Place) -> None:
        """From now on it is that one's, which may itself become part of a third one."""
        self._whole = whole


class SourceNews:
    """Implements the part of `stage.Outlet` that speaks to the source.

    Args:
        place: names the source and the ring.
        is_over: whether the stage has ended.
        on_refused: called with what the source, which lives, has raised instead of confirming.
    """

    def __init__(
        self,
        transport: Transport,
        place: Place,
        is_over: Callable[[], bool],
        on_refused: Callable[[BaseException], None],
    ) -> None:
        self._transport = transport
        self._place = place
        self._is_over = is_over
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._unconfirmed: list[SampledToken] = []
        """What has been told once in vain, or not at all since then."""
        self._is_telling_again = False

    @property
    def spec(self) -> StageSpec:
        """The present one."""
        return self._place.spec

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        """Tell what was sampled. The source sorts it, and knows what it has heard before."""
        with self._lock:
            if self._is_telling_again:
                self._unconfirmed += tokens
                return
        spec = self.spec
        self._post(spec, tokens, CONFIRM_S).add_done_callback(partial(self._judge, spec, tokens))

    def session_failed(self, session: int, text: str) -> None:
        """Tell that a session cannot go on."""
        spec = self.spec
        send = partial(self._post_failed, spec, session, text)
        on_answer = partial(self._failure_was_told, spec, session, text)
        Delivery(send, on_answer, first_s=CONFIRM_S, is_over=self._is_over).begin()

    def _post(self, spec: StageSpec, tokens: tuple[SampledToken, ...], wait_s: float) -> Future[Any]:
        return self._transport.post(spec.source, "tokens", Tokens(spec.ring_id, tokens), timeout_s=wait_s)

    def _post_failed(self, spec: StageSpec, session: int, text: str, wait_s: float) -> Future[Any]:
        return self._transport.post(spec.source, "session_failed", spec.ring_id, session, text, timeout_s=wait_s)

    def _failure_was_told(self, spec: StageSpec, session: int, text: str, told: Future[Any]) -> None:
        if self._has_moved(spec, told):
            self.session_failed(session, text)
        else:
            self._check(told)

    def _judge(self, spec: StageSpec, tokens: tuple[SampledToken, ...], told: Future[Any]) -> None:
        if self._has_moved(spec, told):
            self.tokens(tokens)
            return
        if not isinstance(told.exception(), CallTimeout):
            self._check(told)
            return
        with self._lock:
            self._unconfirmed += tokens
            if self._is_telling_again:
                return
            self._is_telling_again = True
        self._tell_again()

    def _tell_again(self) -> None:
        """One message at a time, with all that has gathered."""
        with self._lock:
            gathered = tuple(self._unconfirmed)
            if not gathered:
                self._is_telling_again = False
                return
        spec = self.spec
        send = partial(self._post, spec, gathered)
        on_answer = partial(self._confirmed, spec, len(gathered))
        Delivery(send, on_answer, first_s=2 * CONFIRM_S, is_over=self._is_over).begin()

    def _confirmed(self, spec: StageSpec, num_tokens: int, told: Future[Any]) -> None:
        if not self._has_moved(spec, told):
            self._check(told)
            with self._lock:
                if told.exception() is not None:
                    self._unconfirmed.clear()
                del self._unconfirmed[:num_tokens]
        self._tell_again()

    def _has_moved(self, spec: StageSpec, told: Future[Any]) -> bool:
        """Whether it was refused for a ring that the stage has left meanwhile."""
        return isinstance(told.exception(), PlanNotInForce) and self.spec is not spec

    def _check(self, told: Future[Any]) -> None:
        """A source that is gone, or holds this ring no more, needs no news: its device drops the stage (`orphans`)."""
        error = told.exception()
        needs_none = isinstance(error, (DeviceLost, PlanNotInForce)) or self._is_over()
        if error is not None and not needs_none:
            self._on_refused(error)
