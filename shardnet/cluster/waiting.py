"""Waits for what devices answer while one ring takes over from another, but no longer than that is of use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from shardnet.errors import CallTimeout, DeviceLost, ShardnetError
from shardnet.plan import StagePlan
from shardnet.session.sessions import VERDICT_S

UNFINISHED = "the change to another ring was broken off. Load the model again."


class BrokenOff(Exception):
    """Something more happened: the round is of no use any more."""


class Refused(Exception):
    """A device did not take what was given to it."""

    def __init__(self, device: str, error: ShardnetError) -> None:
        super().__init__(device)
        self.device = device
        self.error = error


class Waiting:
    """In one round.

    Args:
        broken_off: fails when something more happens.
        ended: fails when the model is closed or ends.
        is_somebody_silent: whether of a device it is not known yet if it comes back.
    """

    def __init__(self, broken_off: Future[None], ended: Future[None], is_somebody_silent: Callable[[], bool]) -> None:
        self._broken_off = broken_off
        self._ended = ended
        self._is_somebody_silent = is_somebody_silent

    def for_answer(self, answer: Future[Any]) -> Any:
        """What a device answers.

        Raises:
            BrokenOff: something more happens.
            ShardnetError: what the device raises, or what has ended the model.
        """
        wait((answer, self._broken_off, self._ended), return_when=FIRST_COMPLETED)
        self._raise_if_ended()
        if not self._broken_off.done() and isinstance(answer.exception(), (DeviceLost, CallTimeout)):
            self._wait_for_verdict()
        if self._broken_off.done():
            raise BrokenOff
        self._raise_if_ended()
        return answer.result()

    def for_taking(self, answer: Future[Any], stage: StagePlan) -> Any:
        """The same where a device is given a stage.

        Raises:
            Refused: it cannot take it.
        """
        try:
            return self.for_answer(answer)
        except (DeviceLost, CallTimeout):
            raise
        except ShardnetError as error:
            self._raise_if_ended()
            raise Refused(stage.device, error) from error

    def _wait_for_verdict(self) -> None:
        """A connection broke, or a device is silent: who watches the devices is about to say whether one is lost."""
        limit_s = None if self._is_somebody_silent() else VERDICT_S
        wait((self._broken_off, self._ended), timeout=limit_s, return_when=FIRST_COMPLETED)

    def _raise_if_ended(self) -> None:
        if self._ended.done():
            self._ended.result()
