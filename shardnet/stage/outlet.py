"""Where a stage's results go: what a stage asks of whatever carries them. Over a network that is `device.outlet`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from shardnet.errors import BadRequest
from shardnet.transport.listener_messages import StraightTokens
from shardnet.transport.messages import Part
from shardnet.transport.session_messages import SampledToken


class Outlet(Protocol):
    """Where a stage's results go. None of these may wait."""

    def hop(self, parts: tuple[Part, ...], rows: torch.Tensor) -> None:
        """Decode work for the next stage of the ring (after the last comes the first)."""

    def bulk_hop(self, parts: tuple[Part, ...], rows: torch.Tensor, on_taken: Callable[[], None]) -> None:
        """Prompt chunks for the next stage; `on_taken` is called when it starts on the last of them."""

    def tokens(self, tokens: tuple[SampledToken, ...]) -> None:
        """What was sampled, for the source."""

    def straight(self, member: str, tokens: StraightTokens) -> None:
        """The same for the listener of some of its sessions. Nothing depends on it."""

    def session_failed(self, session: int, error: BadRequest) -> None:
        """One session cannot go on."""

    def failed(self, error: BaseException) -> None:
        """The computation failed; the stage has stopped."""
