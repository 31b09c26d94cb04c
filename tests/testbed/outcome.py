"""What came out of a run, measured or predicted: how long each event was felt, and how fast it went besides. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from shardnet.simulator.events import Event
from shardnet.simulator.result import Result

GAPS = 3
"""So many of the longest are told."""
KNOWN = (
    "lost",
    "suspected",
    "cut off",
    "left",
    "joined",
    "back",
    "heard again",
    "rerouted",
    "rebalancing",
    "rebalanced",
    "drained",
)
DONE = ("recovered", "rebalanced", "rerouted", "drained")
COMPARED = ("lost", "suspected", "cut off", "back", "recovered", "drained")
"""What a real run and a predicted one both tell."""


class Struck(NamedTuple):
    """An event of the script, when it happened."""

    event: Event
    at_s: float
    is_emulated: bool = True


class News(NamedTuple):
    """What was done about it."""

    at_s: float
    kind: str
    device: str = ""
    text: str = ""
    seconds: float | None = None
    """How long it took."""


class Felt(NamedTuple):
    """An event, and how long it was felt. Seconds; None where nothing of the kind came."""

    event: str
    at_s: float
    known_s: float | None
    """From the event until it was known."""
    repaired_s: float | None
    """From then until the sessions went on."""
    token_s: float | None
    """From knowing to the first token, of any conversation, that came after the repair; others may be under way."""
    is_emulated: bool


class Gap(NamedTuple):
    """Between two tokens of one conversation."""

    seconds: float
    at_s: float
    conversation: int


@dataclass(frozen=True)
class Outcome:
    """What came out of a run."""

    felt: tuple[Felt, ...]
    kinds: tuple[str, ...]
    """Of the news, in order: those of `COMPARED`."""
    before_per_s: float | None
    """Tokens of all conversations, from the first one to the first event."""
    after_per_s: float | None
    """From when the last event was dealt with to the last token."""
    gaps: tuple[Gap, ...]
    """The longest between two tokens, longest first."""
    begin_s: float
    """When the first token came."""
    end_s: float
    """When the last one did."""

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "felt": [each._asdict() for each in self.felt],
            "gaps": [each._asdict() for each in self.gaps],
        }


def outcome_of(struck: Sequence[Struck], news: Sequence[News], came_s: Sequence[Sequence[float]]) -> Outcome:
    """
    Args:
        came_s: when each token of each conversation came.
    """
    tokens_s = sorted(at_s for times in came_s for at_s in times)
    begin_s, end_s = (tokens_s[0], tokens_s[-1]) if tokens_s else (0.0, 0.0)
    first_s = min([each.at_s for each in struck], default=end_s)
    settled_s = max([each.at_s for each in struck] + [each.at_s for each in news if each.kind in DONE], default=begin_s)
    gaps = [
        Gap(later - earlier, earlier, number)
        for number, times in enumerate(came_s)
        for earlier, later in pairwise(times)
    ]
    return Outcome(
        felt=tuple(_felt(each, news, tokens_s) for each in struck),
        kinds=tuple(each.kind for each in news if each.kind in COMPARED),
        before_per_s=_rate(tokens_s, begin_s, min(first_s, end_s)),
        after_per_s=_rate(tokens_s, settled_s, end_s),
        gaps=tuple(sorted(gaps, reverse=True)[:GAPS]),
        begin_s=begin_s,
        end_s=end_s,
    )


def predicted_outcome(result: Result, events: Sequence[Event]) -> Outcome:
    """The same of a simulated run."""
    left = list(events)
    struck, news = [], []
    for each in result.happenings:
        event = next((event for event in left if each.kind == "event" and str(event) == each.what), None)
        if event is None:
            news.append(News(each.at_s, each.kind, each.device, each.what))
        else:
            left.remove(event)
            struck.append(Struck(event, each.at_s))
    came: dict[int, list[float]] = {}
    for request in result.requests:
        if request.first_token_s is not None:
            came.setdefault(request.session, []).append(request.first_token_s)
    for lap in result.laps:
        came.setdefault(lap.session, []).append(lap.end_s)
    return outcome_of(struck, news, [sorted(came[number]) for number in sorted(came)])


def _felt(struck: Struck, news: Iterable[News], tokens_s: Sequence[float]) -> Felt:
    event = struck.event
    later = [each for each in news if each.at_s >= struck.at_s]
    about = [each for each in later if event.to is not None or each.device in ("", event.device)]
    known_s = _first(each.at_s for each in about if each.kind in KNOWN)
    done_s = token_s = None
    if known_s is not None:
        done_s = _first(each.at_s for each in later if each.kind in DONE and each.at_s >= known_s)
        token_s = _first(at_s for at_s in tokens_s if at_s > (known_s if done_s is None else done_s))
    return Felt(
        event=f"{event.when} {event}",
        at_s=struck.at_s,
        known_s=None if known_s is None else known_s - struck.at_s,
        repaired_s=None if done_s is None or known_s is None else done_s - known_s,
        token_s=None if token_s is None or known_s is None else token_s - known_s,
        is_emulated=struck.is_emulated,
    )


def _first(times: Iterable[float]) -> float | None:
    return min(times, default=None)


def _rate(tokens_s: Sequence[float], begin_s: float, end_s: float) -> float | None:
    """Tokens per second; None where there are too few to tell."""
    within = [at_s for at_s in tokens_s if begin_s <= at_s <= end_s]
    if len(within) < 3 or within[-1] <= within[0]:
        return None
    return (len(within) - 1) / (within[-1] - within[0])
