"""What happens to devices and links during a simulated run, as people write it.

t=5 slow pixel 3x          from 5 s on, pixel takes three times as long
t=9 slow pixel 1x          it is as fast as profiled again
t=5 slow pixel>cloud 4x    the link from pixel to cloud
t=12 leave laptop          it is gone, without a word
t=20 join laptop           it comes (back); a device whose first event is this one is absent before
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated

from shardnet.described.schema import Place, nearest_name, read_record, require
from shardnet.errors import BadConfiguration
from shardnet.foreign.bounds import SECONDS, Amount, check_fields
from shardnet.foreign.quoting import quoted

KINDS = ("slow", "leave", "join")
_FORM = re.compile(
    r"\s*t\s*=\s*(?P<at>[0-9.]+)\s*s?\s+(?P<kind>\w+)\s+(?P<device>\S+)(?:\s+(?P<factor>[0-9.]+)\s*x)?\s*"
)


@dataclass(frozen=True)
class Event:
    """One thing that happens."""

    at_s: Annotated[float, SECONDS]
    kind: str
    """`slow`, `leave` or `join`."""
    device: str
    to: str | None = None
    """With `slow`: the link from `device` to this one, instead of the device."""
    factor: Annotated[float, Amount(1e9, above_zero=True, smallest=1e-9)] = 1.0
    """With `slow`: how many times the profiled time it takes from now on."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.kind in KINDS, f"kind must be one of {', '.join(KINDS)}, but is {quoted(self.kind)}.")
        require(self.to is None or self.kind == "slow", f"a link can only slow down, not {self.kind}.")

    def __str__(self) -> str:
        where = f"{self.device}>{self.to}" if self.to else self.device
        return f"{self.kind} {where}" + (f" {self.factor:g}x" if self.kind == "slow" else "")


def parse_event(text: str) -> Event:
    """Read the form at the top of this file.

    Raises:
        BadConfiguration: it is not of that form.
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise BadConfiguration(
            f"cannot read the event {quoted(text)}; write it like 't=5 slow pixel 3x' or 't=9 leave pixel'."
        )
    try:
        at_s, factor = float(found["at"]), float(found["factor"] or 1)
    except ValueError as error:
        raise BadConfiguration(
            f"the event {quoted(text)} has a number that is none; write it like 't=5 slow pixel 3x'."
        ) from error
    if found["kind"] == "slow" and not found["factor"]:
        raise BadConfiguration(f"the event {quoted(text)} does not say how slow; write it like 't=5 slow pixel 3x'.")
    device, _, to = found["device"].partition(">")
    try:
        return Event(at_s, found["kind"], device, to or None, factor)
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


def check_events(events: Iterable[Event], devices: Collection[str], links: Collection[tuple[str, str]]) -> None:
    """Refuse events of devices and links that the problem does not have, and a second leave or join in a row.

    Raises:
        BadConfiguration: names the event.
    """
    events = sorted(events, key=lambda event: event.at_s)
    _check_names(events, devices, links)
    latest: dict[str, Event] = {}
    for event in events:
        if event.kind == "slow":
            continue
        before = latest.get(event.device)
        if before is not None and before.kind == event.kind:
            has = "left" if event.kind == "leave" else "joined"
            raise BadConfiguration(
                f"event {quoted(f't={event.at_s:g} {event}')}: {event.device} has {has} at t={before.at_s:g} already."
            )
        latest[event.device] = event


def _check_names(events: Iterable[Event], devices: Collection[str], links: Collection[tuple[str, str]]) -> None:
    for event in events:
        for name in (event.device, event.to):
            if name is not None and name not in devices:
                raise BadConfiguration(
                    f"event {quoted(str(event))}: no device is called {quoted(name)}; "
                    f"{nearest_name(name, sorted(devices))}"
                )
        if event.to is not None and (event.device, event.to) not in links:
            raise BadConfiguration(f"event {quoted(str(event))}: there is no link from {event.device} to {event.to}.")
