"""Devices and clusters as people describe them, turned into records. Pure: `launch/files/config_files.py` reads files.

A cluster names its devices one by one or by the dozen (`count`), each with its numbers or with a `class` from
`configs/devices/`, and its links between devices, groups of devices, or all of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated

from shardnet.described.schema import Place, nearest_name, read_record, require
from shardnet.errors import BadConfiguration
from shardnet.foreign.bounds import Amount, Count, Name, check_fields
from shardnet.foreign.quoting import quoted
from shardnet.plan import Link

GIB = 1024**3
MAX_DEVICES = 4096
"""As many as a problem may have."""
MAX_LINKS = 1_100_000
"""A thousand devices, each linked to all others, have a million; they take 300 MB."""
_SIZE = Amount(1e9)
"""Of memory in GiB, overheads and latencies in ms, measured times in ms."""
_SPEED = Amount(1e9, above_zero=True, smallest=1e-9)
"""GB/s, GFLOP/s, MB/s, Mbit/s."""
_POWER = Amount(1e9, above_zero=True)
"""W, J/MB, Wh."""


@dataclass(frozen=True)
class Measured:
    """Decode times of one model's units, where somebody measured them."""

    model: str
    bits: int
    unit_ms: Annotated[tuple[float, ...], _SIZE]
    source: str = ""

    def __post_init__(self) -> None:
        require(len(self.unit_ms) >= 3, f"unit_ms needs a time for each unit, but has {len(self.unit_ms)}.")
        check_fields(self)


@dataclass(frozen=True)
class DeviceClass:
    """What all devices of one kind are like."""

    memory_gib: Annotated[float, _SIZE]
    """That shardnet may use, not what is soldered in. 0: only a relay, such as a router."""
    read_gb_per_s: Annotated[float, _SPEED]
    """Bytes of weights that its linear layers really read in a second: decoding is bound by this."""
    gflops: Annotated[float, _SPEED]
    """Arithmetic that it really reaches in prefill."""
    unit_overhead_ms: Annotated[float, _SIZE] = 0.0
    """Time of one unit besides: launching kernels, small operations."""
    active_w: Annotated[float | None, _POWER] = None
    """Power while computing."""
    radio_j_per_mb: Annotated[float | None, _POWER] = None
    """Energy of a megabyte sent or received."""
    battery_wh: Annotated[float | None, _POWER] = None
    """What may be taken from the battery."""
    load_mb_per_s: Annotated[float, _SPEED] = 200.0
    """From its storage, when it loads a shard."""
    measured: tuple[Measured, ...] = ()
    about: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class DeviceEntry:
    """One line of a cluster: a device, or `count` alike ones called name-1, name-2, ..."""

    name: Annotated[str, Name()]
    class_: str | None = None
    """A name from `configs/devices/`; the numbers given here go before those of the class."""
    count: Annotated[int, Count(1, MAX_DEVICES)] = 1
    spread: Annotated[float, Amount(0.999)] = 0.0
    """The devices' speeds differ by up to this share, drawn from the cluster's seed."""
    memory_gib: Annotated[float | None, _SIZE] = None
    read_gb_per_s: Annotated[float | None, _SPEED] = None
    gflops: Annotated[float | None, _SPEED] = None
    unit_overhead_ms: Annotated[float | None, _SIZE] = None
    active_w: Annotated[float | None, _POWER] = None
    radio_j_per_mb: Annotated[float | None, _POWER] = None
    battery_wh: Annotated[float | None, _POWER] = None
    load_mb_per_s: Annotated[float | None, _SPEED] = None
    measured: tuple[Measured, ...] | None = None
    about: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.name not in ("all", "source"), f"name must not be {self.name!r}, which has a meaning in links.")


@dataclass(frozen=True)
class LinkEntry:
    """Links between every device of `from` and of `to`, both ways. A later entry replaces an earlier one's."""

    from_: str | tuple[str, ...]
    """A device, the name of an entry with a count, a list of these, `source`, or `all`."""
    to: str | tuple[str, ...]
    mbit_per_s: Annotated[float, _SPEED]
    latency_ms: Annotated[float, _SIZE]
    one_way: bool = False
    about: str = ""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster file may say."""

    name: Annotated[str, Name()]
    source: str
    """The device where the prompt is typed."""
    devices: tuple[DeviceEntry, ...]
    links: tuple[LinkEntry, ...]
    seed: Annotated[int, Count(0, 2**63)] = 0
    pin_embedding: bool = True
    """The prompt's text stays on the source: only hidden states leave it."""
    pin_head: bool = False
    """So does the answer's."""
    about: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        require(len(self.devices) > 0, "devices is empty; a cluster needs at least one.")
        count = sum(entry.count for entry in self.devices)
        require(count <= MAX_DEVICES, f"{count} devices are more than the {MAX_DEVICES} that can be planned.")


@dataclass(frozen=True)
class PaperDevice:
    """One device of a cluster, all its numbers settled."""

    name: str
    group: str
    kind: DeviceClass


@dataclass(frozen=True)
class PaperCluster:
    """Devices, and the directed links between them."""

    name: str
    source: str
    devices: tuple[PaperDevice, ...]
    links: tuple[Link, ...]
    pin_embedding: bool = True
    pin_head: bool = False

    def without(self, *names: str) -> PaperCluster:
        """The same without some devices and their links."""
        return replace(
            self,
            devices=tuple(device for device in self.devices if device.name not in names),
            links=tuple(link for link in self.links if link.source not in names and link.target not in names),
        )


def read_cluster(data: object, classes: Mapping[str, object], file: str = "") -> PaperCluster:
    """Check a cluster's description and settle every device and link.

    Args:
        data: the mapping of a cluster file.
        classes: mappings of device classes by name.
        file: for error messages.

    Raises:
        BadConfiguration: an unknown key, class or device; a double name; a value that cannot be.
    """
    place = Place(file)
    described = read_record(ClusterFile, data, place)
    entries = data["devices"] if isinstance(data, Mapping) else ()
    devices: list[PaperDevice] = []
    for index, (entry, raw) in enumerate(zip(described.devices, entries, strict=True)):
        at = place.at(data, "devices").item(index, raw)
        devices += _settle(entry, classes, described.seed, at)
    _check_devices(devices, described.source, place)
    links = _settle_links(described, devices, data, place)
    return PaperCluster(
        described.name, described.source, tuple(devices), links, described.pin_embedding, described.pin_head
    )


def read_device_class(data: object, file: str = "") -> DeviceClass:
    """Check the description of a device class."""
    return read_record(DeviceClass, data, Place(file))


def with_bandwidth(cluster: PaperCluster, first: str, second: str, mbit_per_s: float) -> PaperCluster:
    """The same with another bandwidth on the links between two devices or groups, both ways.

    Raises:
        BadConfiguration: no such devices, or no link between them.
    """
    fault = _SPEED.fault(mbit_per_s)
    require(fault is None, f"--bandwidth in Mbit/s {fault}.")
    known = _known_names(cluster.devices, cluster.source)
    one = set(_named(first, known, Place("--bandwidth")))
    other = set(_named(second, known, Place("--bandwidth")))
    bytes_per_s, changed, links = mbit_per_s * 1e6 / 8, 0, []
    for link in cluster.links:
        here = (link.source in one and link.target in other) or (link.source in other and link.target in one)
        changed += here
        links.append(replace(link, bytes_per_s=bytes_per_s) if here else link)
    require(changed > 0, f"there is no link between {quoted(first)} and {quoted(second)} in {cluster.name}.")
    return replace(cluster, links=tuple(links))


def with_source(cluster: PaperCluster, source: str) -> PaperCluster:
    """The same with the prompt typed on another device."""
    _check_devices(cluster.devices, source, Place(cluster.name))
    return replace(cluster, source=source)


def _settle(entry: DeviceEntry, classes: Mapping[str, object], seed: int, place: Place) -> Iterator[PaperDevice]:
    """The devices of one entry, with their names and spread speeds."""
    kind = _kind_of(entry, classes, place)
    for index in range(entry.count):
        name = entry.name if entry.count == 1 else f"{entry.name}-{index + 1}"
        if entry.spread:
            factor = 1 + entry.spread * random.Random(f"{seed}/{name}").uniform(-1, 1)
            yield PaperDevice(name, entry.name, _scaled(kind, factor))
        else:
            yield PaperDevice(name, entry.name, kind)


def _scaled(kind: DeviceClass, factor: float) -> DeviceClass:
    measured = tuple(replace(each, unit_ms=tuple(ms / factor for ms in each.unit_ms)) for each in kind.measured)
    return replace(kind, read_gb_per_s=kind.read_gb_per_s * factor, gflops=kind.gflops * factor, measured=measured)


def _kind_of(entry: DeviceEntry, classes: Mapping[str, object], place: Place) -> DeviceClass:
    own = {
        field.name: getattr(entry, field.name)
        for field in fields(DeviceClass)
        if field.name != "about" and getattr(entry, field.name) is not None
    }
    if entry.class_ is not None and entry.class_ not in classes:
        raise place.error(f"unknown device class {quoted(entry.class_)}; {nearest_name(entry.class_, list(classes))}")
    try:
        if entry.class_ is None:
            missing = [name for name in ("memory_gib", "read_gb_per_s", "gflops") if name not in own]
            require(not missing, f"device {entry.name!r} has no {', '.join(missing)}; give them, or a class.")
            return DeviceClass(**own)
        return replace(read_device_class(classes[entry.class_], f"devices/{entry.class_}.yaml"), **own)
    except BadConfiguration as error:
        raise place.error(str(error)) from error


def _check_devices(devices: Sequence[PaperDevice], source: str, place: Place) -> None:
    names = [device.name for device in devices]
    times = Counter(names)
    if len(times) < len(names):
        raise place.error(f"two devices are called {times.most_common(1)[0][0]!r}; give each its own name.")
    if source not in times:
        raise place.error(
            f"the source {quoted(source)} is not one of its {len(names)} devices; {nearest_name(source, names)}"
        )


def _settle_links(
    described: ClusterFile, devices: Sequence[PaperDevice], data: object, place: Place
) -> tuple[Link, ...]:
    links: dict[tuple[str, str], Link] = {}
    raw = data["links"] if isinstance(data, Mapping) else ()
    known = _known_names(devices, described.source)
    num_made = 0
    for index, entry in enumerate(described.links):
        at = place.at(data, "links").item(index, raw[index])
        starts, ends = _named(entry.from_, known, at), _named(entry.to, known, at)
        num_made += len(starts) * len(ends)
        if num_made > MAX_LINKS:
            raise at.error(f"{num_made} links are more than the {MAX_LINKS} that can be planned; link fewer devices.")
        latency_s, bytes_per_s = entry.latency_ms / 1e3, entry.mbit_per_s * 1e6 / 8
        for first in starts:
            for second in ends:
                if first == second:
                    continue
                links[first, second] = Link(first, second, latency_s, bytes_per_s)
                if not entry.one_way:
                    links[second, first] = Link(second, first, latency_s, bytes_per_s)
    return tuple(links.values())


def _known_names(devices: Sequence[PaperDevice], source: str) -> dict[str, tuple[str, ...]]:
    """The devices that each word at a link's end means."""
    known: dict[str, dict[str, None]] = {"all": dict.fromkeys(device.name for device in devices)}
    for device in devices:
        for name in (device.name, device.group):
            known.setdefault(name, {})[device.name] = None
    known["source"] = known[source]
    return {name: tuple(meant) for name, meant in known.items()}


def _named(names: str | Sequence[str], known: Mapping[str, tuple[str, ...]], place: Place) -> tuple[str, ...]:
    """The devices that a link's end means."""
    if not isinstance(names, str):
        return tuple(dict.fromkeys(device for name in names for device in _named(name, known, place)))
    if names not in known:
        raise place.error(f"no device or group is called {quoted(names)}; {nearest_name(names, sorted(known))}")
    return known[names]
