"""What happens to devices and links during a run, as people write it.

t=5 slow pixel 3x          from 5 s on, pixel takes three times as long
t=9 slow pixel 1x          it is as fast as before again
t=5 slow pixel>cloud 4x    the link from pixel to cloud; pixel<>cloud means both ways
t=5 freeze pixel           it stops where it is, and says nothing
t=8 thaw pixel             it goes on where it stopped
t=12 kill laptop           it is gone, without a word
t=12 leave laptop          it says goodbye, and is gone
t=20 join laptop           it comes (back); a device whose first event is this one is absent before
t=5 cut pixel>cloud        nothing gets from pixel to cloud any more
t=9 mend pixel>cloud       it does again
token=40 kill pixel        as soon as the first conversation has 40 tokens, whatever the time is then

Pure: `shardnet.simulator.run` performs it on paper, and the test bed (`tests/testbed/`) on processes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from shardnet.described.schema import Place, nearest_name, read_record, require
from shardnet.errors import BadConfiguration
from shardnet.foreign.bounds import SECONDS, TOKENS, Amount, Count, check_fields
from shardnet.foreign.quoting import quoted

ON_DEVICES = ("slow", "freeze", "thaw", "kill", "leave", "join")
ON_LINKS = ("slow", "cut", "mend")
KINDS = tuple(dict.fromkeys(ON_DEVICES + ON_LINKS))
BECOMES = {
    "freeze": ("there", "frozen"),
    "thaw": ("frozen", "there"),
    "kill": ("there or frozen", "gone"),
    "leave": ("there", "gone"),
    "join": ("gone", "there"),
    "cut": ("open", "cut"),
    "mend": ("cut", "open"),
}
"""What must be true of a device or a link before an event, and what is true after it."""
_FORM = re.compile(
    r"\s*(?:t\s*=\s*(?P<at>-?[0-9.]+)\s*s?|token\s*=\s*(?P<token>-?[0-9]+))\s+(?P<kind>\w+)\s+"
    r"(?P<device>[^\s<>]+)(?:(?P<ways><?>)(?P<to>[^\s<>]+))?(?:\s+(?P<factor>[0-9.]+)\s*x)?\s*"
)
_LIKE = "write it like 't=5 slow pixel 3x', 't=9 kill pixel' or 'token=40 cut pixel>cloud'"


@dataclass(frozen=True)
class Event:
    """One thing that happens, at a time or at a token."""

    at_s: Annotated[float | None, SECONDS] = None
    kind: str = ""
    """One of `KINDS`."""
    device: str = ""
    to: str | None = None
    """The link from `device` to this one is meant, instead of the device."""
    factor: Annotated[float, Amount(1e9, above_zero=True, smallest=1e-9)] = 1.0
    """With `slow`: how many times the usual time it takes from now on."""
    token: Annotated[int | None, Count(1, TOKENS.most)] = None
    """It happens as soon as the first conversation has so many tokens."""
    both_ways: bool = False
    """The link from `to` to `device` is meant as well."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.kind in KINDS, f"kind must be one of {', '.join(KINDS)}, but is {quoted(self.kind)}.")
        require((self.at_s is None) != (self.token is None), "say either a time (t, at_s) or a token.")
        require(self.to is None or self.kind in ON_LINKS, f"a link can only {' or '.join(ON_LINKS)}, not {self.kind}.")
        require(self.to is not None or self.kind in ON_DEVICES, f"say which link to {self.kind}, such as a>b.")
        require(self.to is not None or not self.both_ways, "both_ways needs a link.")

    @property
    def ways(self) -> tuple[tuple[str, str], ...]:
        """The directed links that are meant; none where a device is."""
        if self.to is None:
            return ()
        there = (self.device, self.to)
        return (there, there[::-1]) if self.both_ways else (there,)

    @property
    def when(self) -> str:
        """As people write it: "t=5"."""
        return f"token={self.token}" if self.at_s is None else f"t={self.at_s:g}"

    def __str__(self) -> str:
        where = self.device
        if self.to is not None:
            where += ("<>" if self.both_ways else ">") + self.to
        return f"{self.kind} {where}" + (f" {self.factor:g}x" if self.kind == "slow" else "")


def parse_event(text: str) -> Event:
    """Read the form at the top of this file.

    Raises:
        BadConfiguration: it is not of that form.
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise BadConfiguration(f"cannot read the event {quoted(text)}; {_LIKE}.")
    try:
        at_s = None if found["at"] is None else float(found["at"])
        factor = float(found["factor"] or 1)
        token = None if found["token"] is None else int(found["token"])
    except ValueError as error:
        raise BadConfiguration(f"the event {quoted(text)} has a number that is none; {_LIKE}.") from error
    kind = found["kind"]
    if (kind == "slow") != (found["factor"] is not None):
        how = "does not say how slow" if kind == "slow" else "says how slow, which only 'slow' may"
        raise BadConfiguration(f"the event {quoted(text)} {how}; {_LIKE}.")
    try:
        return Event(at_s, kind, found["device"], found["to"], factor, token, found["ways"] == "<>")
    except BadConfiguration as error:
        raise BadConfiguration(f"event {quoted(text)}: {error}") from error


def read_events(data: object, file: str = "") -> tuple[Event, ...]:
    """Events from a file: a list of texts, or of mappings with the fields of `Event`; or `{events: [...]}`."""
    rows = data.get("events") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise Place(file).error("must be a list of events, or a mapping with the key 'events'.")
    return tuple(
        parse_event(row) if isinstance(row, str) else read_record(Event, row, Place(file).item(index, row))
        for index, row in enumerate(rows)
    )


def in_order(events: Iterable[Event]) -> list[Event]:
    """By their times; as they are listed where some strike at a token, since then nobody knows better."""
    listed = list(events)
    if any(event.at_s is None for event in listed):
        return listed
    return sorted(listed, key=lambda event: event.at_s or 0.0)


def absent_at_start(events: Iterable[Event]) -> list[str]:
    """The devices whose first event is that they join."""
    first: dict[str, str] = {}
    for event in in_order(events):
        if event.to is None and event.kind != "slow":
            first.setdefault(event.device, event.kind)
    return [device for device, kind in first.items() if kind == "join"]


def check_events(events: Sequence[Event], devices: Collection[str], links: Collection[tuple[str, str]]) -> None:
    """Refuse events of devices and links that are not there, and what cannot be then: who is gone cannot leave again.

    Raises:
        BadConfiguration: names the event.
    """
    _check_names(events, devices, links)
    state = dict.fromkeys(absent_at_start(events), "gone")
    for event in in_order(events):
        if event.kind == "slow":
            continue
        before, after = BECOMES[event.kind]
        subjects = [f"{source}>{target}" for source, target in event.ways] or [event.device]
        for subject in subjects:
            now = state.get(subject, "open" if event.ways else "there")
            if now not in before.split(" or "):
                raise BadConfiguration(
                    f"event {quoted(f'{event.when} {event}')}: {subject} is {now} by then, and must be {before}."
                )
            state[subject] = after


def _check_names(events: Iterable[Event], devices: Collection[str], links: Collection[tuple[str, str]]) -> None:
    for event in events:
        for name in (event.device, event.to):
            if name is not None and name not in devices:
                raise BadConfiguration(
                    f"event {quoted(str(event))}: no device is called {quoted(name)}; "
                    f"{nearest_name(name, sorted(devices))}"
                )
        for source, target in event.ways:
            if (source, target) not in links:
                raise BadConfiguration(f"event {quoted(str(event))}: there is no link from {source} to {target}.")
