"""What is compared with llama.cpp, and the bars of each: the least ratio of our tokens per second to theirs."""

from __future__ import annotations

from dataclasses import dataclass

EMBEDDED, LARGE = "embedded", "1.1b"
MODELS = (EMBEDDED, LARGE)
ONE, NEAR, FAR = "one", "near", "far"
"""One device; three on loopback; three with emulated links between them."""
DECODE, LOOK_UP, PREFILL, SESSIONS = "decode", "look-up", "prefill", "sessions"


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    place: str
    what: str
    bars: dict[str, float]
    """By the model."""
    text: str = ""
    """Of look-up: which one."""
    against_plain: bool = False
    """Beside our own plain decoding of the same text, and not beside llama.cpp's."""

    @property
    def title(self) -> str:
        devices = {ONE: "one device", NEAR: "three devices, loopback", FAR: "three devices, emulated links"}
        of = f": {self.text}" if self.text else ""
        beside = ", beside our own plain decoding" if self.against_plain else ""
        return f"{devices[self.place]}, {self.what}{of}{beside}"


CASES = (
    Case("one", ONE, DECODE, {EMBEDDED: 0.72, LARGE: 1.15}),
    Case("near", NEAR, DECODE, {EMBEDDED: 0.7, LARGE: 1.15}),
    Case("far", FAR, DECODE, {EMBEDDED: 1.7, LARGE: 1.6}),
    Case("far-editing", FAR, LOOK_UP, {EMBEDDED: 4.0, LARGE: 3.0}, "editing"),
    Case("far-summarising", FAR, LOOK_UP, {EMBEDDED: 4.0, LARGE: 3.0}, "summarising"),
    Case("far-editing-gain", FAR, LOOK_UP, {EMBEDDED: 2.0, LARGE: 2.0}, "editing", against_plain=True),
    Case("far-summarising-gain", FAR, LOOK_UP, {EMBEDDED: 2.0, LARGE: 2.0}, "summarising", against_plain=True),
    Case("far-story-gain", FAR, LOOK_UP, {EMBEDDED: 0.97, LARGE: 0.97}, "story", against_plain=True),
    Case("far-prefill", FAR, PREFILL, {EMBEDDED: 6.0, LARGE: 5.0}),
    Case("far-sessions", FAR, SESSIONS, {EMBEDDED: 3.0, LARGE: 2.0}),
)
