"""Which devices are there, which are suspected, which are lost. Pure: time is an argument, and nobody is asked here.

Whoever performs this asks devices for signs of life when it is told to, and hands in what it hears.

    present    silent for `suspect_after_s`                                         -> suspected
    suspected  heard again                                                          -> present
    either     its process ended, its connection broke and it was not heard within
               `grace_s` of that, or silent for `lost_after_s`                      -> lost, for good

A frozen phone and a cut link look alike from afar: silence alone takes long to mean that a device is lost. Doubt is
another thing: something that was sent to a device, or that it computed, has failed. The signs of a dead process may
take `grace_s` to show; where none has shown by then and it answers, the device lives, and the fault lies elsewhere. A
connection that broke is such a sign, but no proof: the device is asked at once, and what it answers counts for more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

Status = Literal["present", "suspected", "lost"]


@dataclass(frozen=True)
class Limits:
    """How long things may take."""

    ask_every_s: float = 1.0
    suspect_after_s: float = 2.0
    lost_after_s: float = 60.0
    """A phone may doze, but nobody waits forever. As long as a link between hosts is kept without a connection."""
    grace_s: float = 0.5


@dataclass(frozen=True)
class Member:
    """What is known of one device."""

    status: Status = "present"
    why: str = ""
    """Of a status that is not `present`, in words."""
    next_ask_s: float = float("-inf")
    silent_since_s: float | None = None
    """When it was first asked what it has not answered; None where it has answered."""
    doubted_until_s: float | None = None
    broken_until_s: float | None = None
    """Its connection broke: until then it may answer all the same, or show how its process ended."""


Members = Mapping[str, Member]


class Came(NamedTuple):
    """A device has joined, or one of that name has come back: whatever was known of that name is over."""

    device: str


class Heard(NamedTuple):
    """A device has answered."""

    device: str


class Broken(NamedTuple):
    """The connection to a device broke."""

    device: str


class Ended(NamedTuple):
    """A device's process has ended."""

    device: str
    how: str


class Doubted(NamedTuple):
    """What was sent to a device, or what it computed, has failed."""

    device: str


class Passed(NamedTuple):
    """Time has passed."""


Event = Came | Heard | Broken | Ended | Doubted | Passed


class Action(NamedTuple):
    """What is to be done about a device, and why."""

    kind: Literal["ask", "suspect", "trust", "lose", "believe"]
    """`ask` for a sign of life; `believe` that a doubted device lives: the fault lies elsewhere."""
    device: str
    why: str = ""


def present(devices: Iterable[str], now_s: float, limits: Limits) -> Members:
    """At the beginning everybody is there, and has just been heard."""
    return {device: Member(next_ask_s=now_s + limits.ask_every_s) for device in devices}


def handle(now_s: float, members: Members, event: Event, limits: Limits) -> tuple[Members, tuple[Action, ...]]:
    """What is known after `event`, and what is to be done. Unknown and lost devices are passed over."""
    if isinstance(event, Came):
        return {**members, **present([event.device], now_s, limits)}, ()
    devices = list(members) if isinstance(event, Passed) else [event.device]
    known = dict(members)
    actions: list[Action] = []
    for device in devices:
        member = known.get(device)
        if member is not None and member.status != "lost":
            known[device], more = _handle_one(now_s, device, member, event, limits)
            actions += more
    return known, tuple(actions)


def _handle_one(now_s: float, device: str, member: Member, event: Event, limits: Limits) -> tuple[Member, list[Action]]:
    if isinstance(event, Heard):
        heard = replace(member, status="present", why="", silent_since_s=None, broken_until_s=None)
        return heard, [Action("trust", device)] if member.status == "suspected" else []
    if isinstance(event, Ended):
        return _lost(device, member, event.how)
    if isinstance(event, Broken):
        until_s = now_s + limits.grace_s if member.broken_until_s is None else member.broken_until_s
        return _asked(now_s, device, replace(member, broken_until_s=until_s), limits)
    if isinstance(event, Doubted):
        until_s = now_s + limits.grace_s if member.doubted_until_s is None else member.doubted_until_s
        return _asked(now_s, device, replace(member, doubted_until_s=until_s), limits)
    return _pass_time(now_s, device, member, limits)


def _pass_time(now_s: float, device: str, member: Member, limits: Limits) -> tuple[Member, list[Action]]:
    silent_s = 0.0 if member.silent_since_s is None else now_s - member.silent_since_s
    if member.broken_until_s is not None and now_s >= member.broken_until_s:
        return _lost(device, member, "its connection broke")
    if silent_s >= limits.lost_after_s:
        return _lost(device, member, f"it has not answered for {limits.lost_after_s:.0f} s")
    actions = []
    if silent_s >= limits.suspect_after_s and member.status == "present":
        why = f"it has been silent for {limits.suspect_after_s:g} s"
        member = replace(member, status="suspected", why=why)
        actions.append(Action("suspect", device, why))
    has_answered = member.silent_since_s is None and member.broken_until_s is None
    if member.doubted_until_s is not None and now_s >= member.doubted_until_s and has_answered:
        member = replace(member, doubted_until_s=None)
        actions.append(Action("believe", device))
    if now_s >= member.next_ask_s:
        member, asks = _asked(now_s, device, member, limits)
        actions += asks
    return member, actions


def _asked(now_s: float, device: str, member: Member, limits: Limits) -> tuple[Member, list[Action]]:
    """Asked again while it is silent, too: a question, or its answer, may have been lost."""
    since_s = now_s if member.silent_since_s is None else member.silent_since_s
    asked = replace(member, next_ask_s=now_s + limits.ask_every_s, silent_since_s=since_s)
    return asked, [Action("ask", device)]


def _lost(device: str, member: Member, why: str) -> tuple[Member, list[Action]]:
    return replace(member, status="lost", why=why), [Action("lose", device, why)]
