"""The placement problem: units, devices, links, and what must stay where. Pure; standard library only.

`Problem` is what every method takes. `Problem.from_dict` reads the JSON format of `shardnet plan --problem` and refuses
what cannot be meant. Seconds and bytes throughout. What a plan costs: see `costs`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from shardnet.errors import BadConfiguration
from shardnet.foreign.bounds import BYTES, JOULES, JOULES_PER_BYTE, SECONDS, SESSIONS, TOKENS, WATTS
from shardnet.foreign.plain_files import read_json
from shardnet.foreign.quoting import quoted
from shardnet.planner.fields import (
    check_bounds,
    check_flag,
    check_keys,
    check_list,
    check_name,
    check_unique,
    check_value,
    nearest,
)
from shardnet.planner.links import Link, Routes

MAX_UNITS = 4096
MAX_DEVICES = 4096
MAX_FILE_BYTES = 256 * 1024**2
"""A thousand devices, each linked to all others, take 100 MB."""


@dataclass(frozen=True)
class Unit:
    """The smallest thing that can be placed: the embedding, one block, the head."""

    name: str
    weight_bytes: Annotated[float, BYTES]
    kv_bytes_per_token: Annotated[float, BYTES]
    """KV cache for one token of one session."""
    output_bytes: Annotated[float, BYTES]
    """What leaves the unit in one step."""


@dataclass(frozen=True)
class Device:
    """A place for units."""

    name: str
    memory_bytes: Annotated[float, BYTES]
    """Memory that weights and KV caches may use."""
    unit_seconds: Annotated[tuple[float, ...], SECONDS]
    """Seconds of one decode step of each unit, in unit order."""
    prefill_unit_seconds: Annotated[tuple[float, ...] | None, SECONDS] = None
    """Seconds of prefill of each unit for one token; predicts the time to the first token, never the placement."""
    active_w: Annotated[float | None, WATTS] = None
    """Watts while computing; None where unknown, and then no energy is predicted."""
    radio_j_per_byte: Annotated[float, JOULES_PER_BYTE] = 0.0
    """Joules for each byte that the device sends or receives."""
    battery_j: Annotated[float | None, JOULES] = None
    """Joules that may be spent on filling the context of all sessions; None for no limit."""


@dataclass(frozen=True)
class Problem:
    """What is to be placed and where it may go. Checked when it is made.

    Raises:
        BadConfiguration: something in it is impossible; the message says what.
    """

    units: tuple[Unit, ...]
    devices: tuple[Device, ...]
    links: tuple[Link, ...]
    source: str
    pin_embedding: bool = True
    """Unit 0 stays on the source, so that no prompt leaves it in clear."""
    pin_head: bool = False
    """The last unit stays on the source, so that no answer leaves it in clear."""
    return_bytes: float = 8
    """What travels from the last unit's device to the first unit's: a token id."""
    context_tokens: int = 0
    """Tokens of each session for which KV memory is kept."""
    sessions: int = 1
    relays: bool = True
    """Whether a payload may go over other devices, where that is faster. The stages of a running cluster send straight
    to each other."""

    def __post_init__(self) -> None:
        _check_units(self.units)
        _check_devices(self.devices, len(self.units))
        _check_links(self.links, [device.name for device in self.devices])
        check_name("The source", self.source)
        if self.source not in self.index:
            hint = nearest(self.source, self.index)
            raise BadConfiguration(f"The source {quoted(self.source)} is not one of the devices{hint}.")
        check_flag("pin_embedding", self.pin_embedding)
        check_flag("pin_head", self.pin_head)
        check_value("return_bytes", self.return_bytes, BYTES)
        check_value("context_tokens", self.context_tokens, TOKENS)
        check_value("sessions", self.sessions, SESSIONS)
        check_flag("relays", self.relays)

    @property
    def num_units(self) -> int:
        return len(self.units)

    @property
    def num_devices(self) -> int:
        return len(self.devices)

    @cached_property
    def index(self) -> dict[str, int]:
        """The position of each device by name."""
        return {device.name: i for i, device in enumerate(self.devices)}

    @cached_property
    def unit_memory_bytes(self) -> tuple[float, ...]:
        """Memory of each unit [units] in B: its weights and the KV caches of all sessions."""
        tokens = self.context_tokens * self.sessions
        return tuple(unit.weight_bytes + unit.kv_bytes_per_token * tokens for unit in self.units)

    def memory_of_units(self, first_unit: int, last_unit: int) -> float:
        """Memory in B of the units from the first to the last one, the last included."""
        return sum(self.unit_memory_bytes[first_unit : last_unit + 1])

    @cached_property
    def routes(self) -> Routes:
        """The fastest routes between the devices."""
        radio_j_per_byte = {device.name: device.radio_j_per_byte for device in self.devices}
        return Routes(self.links, radio_j_per_byte, relays=self.relays)

    @classmethod
    def from_dict(cls, data: Any) -> Problem:
        """Read the JSON format of a problem.

        Raises:
            BadConfiguration: a key is unknown or missing, or a value is impossible.
        """
        check_keys("The problem", data, _PROBLEM_KEYS, required=("units", "devices", "links", "source"))
        rows = {key: check_list(key, data[key]) for key in ("units", "devices", "links")}
        _check_size(len(rows["units"]), len(rows["devices"]))
        units = tuple(_read_unit(i, row) for i, row in enumerate(rows["units"]))
        if any(unit.kv_bytes_per_token for unit in units) and "context_tokens" not in data:
            raise BadConfiguration("Units have a KV cache, but context_tokens is missing: say how many tokens to keep.")
        options = {key: data[key] for key in _PROBLEM_KEYS[3:] if key in data}
        devices = tuple(_read_device(i, row) for i, row in enumerate(rows["devices"]))
        return cls(units, devices, tuple(_read_link(i, row) for i, row in enumerate(rows["links"])), **options)

    @classmethod
    def from_file(cls, path: str | Path) -> Problem:
        """Read a problem from a JSON file.

        Raises:
            BadConfiguration: the file cannot be read, is not JSON, or describes an impossible problem.
        """
        return cls.from_dict(read_json(path, MAX_FILE_BYTES, "the problem file"))

    def to_dict(self) -> dict[str, Any]:
        """The JSON format that `from_dict` reads."""
        links = [
            {"from": link.source, "to": link.target, "latency_s": link.latency_s, "bytes_per_s": link.bytes_per_s}
            for link in self.links
        ]
        devices = []
        for device in self.devices:
            row = {key: value for key, value in asdict(device).items() if value is not None}
            row["unit_seconds"] = list(device.unit_seconds)
            if device.prefill_unit_seconds is not None:
                row["prefill_unit_seconds"] = list(device.prefill_unit_seconds)
            devices.append(row)
        rest = {key: getattr(self, key) for key in _PROBLEM_KEYS[3:]}
        return {"units": [asdict(unit) for unit in self.units], "devices": devices, "links": links, **rest}


_PROBLEM_KEYS = (
    *("units", "devices", "links"),
    *("source", "pin_embedding", "pin_head", "return_bytes", "context_tokens", "sessions", "relays"),
)
_UNIT_KEYS = ("name", "weight_bytes", "kv_bytes_per_token", "output_bytes")
_DEVICE_REQUIRED = ("name", "memory_bytes", "unit_seconds")
_DEVICE_KEYS = (*_DEVICE_REQUIRED, "prefill_unit_seconds", "active_w", "radio_j_per_byte", "battery_j")
_LINK_KEYS = ("from", "to", "latency_s", "bytes_per_s")


def _read_unit(position: int, row: Any) -> Unit:
    check_keys(f"Unit {position}", row, _UNIT_KEYS, required=("name", "weight_bytes", "output_bytes"))
    return Unit(row["name"], row["weight_bytes"], row.get("kv_bytes_per_token", 0), row["output_bytes"])


def _read_device(position: int, row: Any) -> Device:
    check_keys(f"Device {position}", row, _DEVICE_KEYS, required=_DEVICE_REQUIRED)
    values = {key: row[key] for key in _DEVICE_KEYS if row.get(key) is not None}
    for key in ("unit_seconds", "prefill_unit_seconds"):
        if key in values:
            values[key] = tuple(check_list(f"{key} of device {quoted(row['name'])}", values[key]))
    missing = [key for key in _DEVICE_REQUIRED if key not in values]
    if missing:
        raise BadConfiguration(f"Device {position} has null for {missing[0]!r}; give a value.")
    return Device(**values)


def _read_link(position: int, row: Any) -> Link:
    check_keys(f"Link {position}", row, _LINK_KEYS, required=_LINK_KEYS)
    return Link(row["from"], row["to"], row["latency_s"], row["bytes_per_s"])


def _check_size(num_units: int, num_devices: int) -> None:
    for what, count, most in (("units", num_units, MAX_UNITS), ("devices", num_devices, MAX_DEVICES)):
        if not count:
            raise BadConfiguration(f"The problem has no {what}: give at least one.")
        if count > most:
            raise BadConfiguration(f"The problem has {count} {what}, but at most {most} can be placed: group them.")


def _check_units(units: tuple[Unit, ...]) -> None:
    _check_size(len(units), 1)
    for i, unit in enumerate(units):
        check_name(f"Unit {i}", unit.name)
        check_bounds(unit, "unit", unit.name)
    check_unique("units", [unit.name for unit in units], " (units form a chain, never a cycle)")


def _check_devices(devices: tuple[Device, ...], num_units: int) -> None:
    _check_size(1, len(devices))
    for i, device in enumerate(devices):
        check_name(f"Device {i}", device.name)
        for key in ("unit_seconds", "prefill_unit_seconds"):
            seconds = getattr(device, key)
            if seconds is not None and len(seconds) != num_units:
                raise BadConfiguration(
                    f"{key} of device {device.name!r} has {len(seconds)} values, but there are {num_units} units."
                )
        check_bounds(device, "device", device.name)
    check_unique("devices", [device.name for device in devices])


def _check_links(links: tuple[Link, ...], names: list[str]) -> None:
    known, linked = set(names), set[str]()
    for i, link in enumerate(links):
        for end in (link.source, link.target):
            _check_end(i, end, known, names)
        if link.source == link.target:
            raise BadConfiguration(f"Link {i} goes from {link.source!r} to itself: remove it.")
        check_bounds(link, "the link", f"{link.source} to {link.target}")
        linked.update((link.source, link.target))
    check_unique("links", [f"{link.source} to {link.target}" for link in links])
    lonely = [name for name in names if name not in linked]
    if lonely and len(names) > 1:
        raise BadConfiguration(f"Device {lonely[0]!r} has no links: give its links, or remove it.")


def _check_end(i: int, end: Any, known: set[str], names: list[str]) -> None:
    if not isinstance(end, str) or end not in known:
        hint = nearest(end, names) if isinstance(end, str) else ""
        raise BadConfiguration(f"Link {i} names {quoted(end)}, which is not one of the devices{hint}.")
