"""What is measured in each turn, and where: all combinations that were asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shardnet.launch.bench.options import DECODE, PREFILL, SESSIONS, BenchOptions
from shardnet.launch.values import DEFAULT_DEVICES


@dataclass(frozen=True)
class Place:
    """Local devices, and what each of them holds."""

    num_devices: int
    split: tuple[int, ...] | None
    """Units of each; None lets the planner say."""


@dataclass(frozen=True)
class Point:
    """One thing that is measured."""

    what: str
    num_sessions: int
    prompt_tokens: int
    """Of each session."""
    new_tokens: int

    @property
    def context_tokens(self) -> int:
        """Of each session at its end."""
        return self.prompt_tokens + self.new_tokens


def places_of(options: BenchOptions) -> list[Place]:
    """The splits by hand, and the numbers of devices for the planner: three where nothing was said."""
    by_hand = [Place(len(split), split) for split in options.splits]
    counts = options.devices or (() if by_hand else (DEFAULT_DEVICES,))
    return [*(Place(count, None) for count in counts), *by_hand]


def points_of(options: BenchOptions) -> list[Point]:
    """In the order of the table."""
    of = {
        DECODE: [Point(DECODE, 1, prompt, options.tokens) for prompt in options.prompt],
        PREFILL: [Point(PREFILL, 1, prompt, 1) for prompt in options.prefill],
        SESSIONS: [
            Point(SESSIONS, sessions, prompt, options.tokens)
            for prompt in options.prompt
            for sessions in options.sessions
        ],
    }
    return [point for kind in options.kinds for point in of[kind]]
