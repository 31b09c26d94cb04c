"""A script: a cluster of emulated devices, a model, conversations, and what happens meanwhile, in one file.

The test bed (`tests/testbed/`) plays it on processes, and `shardnet simulate --script` on paper. Pure:
`launch/files/config_files.py` reads files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from shardnet.described.clusters import (
    GIB,
    MAX_DEVICES,
    DeviceClass,
    PaperCluster,
    PaperDevice,
    read_device_class,
)
from shardnet.described.schema import LocatedDict, Place, nearest_name, read_record, require
from shardnet.errors import BadConfiguration
from shardnet.foreign.bounds import SECONDS, TOKENS, Amount, Count, Name, check_fields
from shardnet.foreign.quoting import quoted
from shardnet.plan import Link, Plan, stages_from_counts
from shardnet.planner.costs import evaluate
from shardnet.planner.problem import Problem
from shardnet.policy.rebalance import Replan
from shardnet.simulator.events import Event, absent_at_start, check_events, parse_event
from shardnet.simulator.load import Load, Recovery

COORDINATOR = "coordinator"
"""The process that asks: none of the devices, but its links to them can be cut and slow."""
CHARACTERS_PER_TOKEN = 4
"""Of a prompt whose tokens nobody has counted."""
DEATH_KNOWN_S = 0.1
"""The connection of a process that dies breaks at once."""
_AT_LEAST_ONE = Count(1, TOKENS.most)


@dataclass(frozen=True)
class ScriptDevice:
    """A device to emulate."""

    name: Annotated[str, Name()]
    slowdown: Annotated[float, Amount(1e6, smallest=1.0, above_zero=True)] = 1.0
    """So many times as long as one core of this machine takes to compute."""
    memory_gib: Annotated[float | None, Amount(1e6, above_zero=True, smallest=1e-3)] = None
    """That its models may take; what there is where None."""
    units: Annotated[int | None, Count(0, 100_000)] = None
    """Of the model; where no device says so, the planner does."""

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.name not in ("all", COORDINATOR), f"name must not be {self.name!r}, which has a meaning.")

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory_gib is None else round(self.memory_gib * GIB)


@dataclass(frozen=True)
class ScriptLink:
    """Links between every device of `from` and of `to`, both ways. A later entry replaces an earlier one's."""

    from_: str | tuple[str, ...]
    """A device, a list of these, or `all`."""
    to: str | tuple[str, ...]
    mbit_per_s: Annotated[float, Amount(1e6, above_zero=True, smallest=1e-3)] = 1000.0
    latency_ms: Annotated[float, Amount(1e5)] = 0.0
    """One way."""
    loss: Annotated[float, Amount(0.9)] = 0.0
    """Share of the packets that is lost, at random."""
    one_way: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Road:
    """What one direction between two devices gives."""

    bytes_per_s: float = 1e9 / 8
    latency_s: float = 0.0
    loss: float = 0.0
    """Share of the packets that is lost. It is emulated, and not predicted."""


@dataclass(frozen=True)
class ScriptConversation:
    """A prompt, and how it is answered: always with all its tokens."""

    tokens: Annotated[int, _AT_LEAST_ONE] = 64
    prompt: str | None = None
    prompt_tokens: Annotated[int, _AT_LEAST_ONE] = 64
    """Where there is no text: so many made-up tokens."""
    temperature: Annotated[float, Amount(1e3)] = 0.0
    top_k: Annotated[int, Count(0, 2**31)] = 0
    top_p: Annotated[float, Amount(1.0, above_zero=True)] = 1.0
    repetition_penalty: Annotated[float, Amount(1e3, above_zero=True)] = 1.0
    seed: Annotated[int, Count(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.prompt != "", "prompt must not be empty; leave it out for made-up tokens.")

    @property
    def num_prompt_tokens(self) -> int:
        """A guess where the prompt is text."""
        return self.prompt_tokens if self.prompt is None else 1 + len(self.prompt) // CHARACTERS_PER_TOKEN


@dataclass(frozen=True)
class Script:
    """What a script may say."""

    name: Annotated[str, Name()]
    devices: tuple[ScriptDevice, ...]
    conversations: tuple[ScriptConversation, ...] = (ScriptConversation(),)
    links: tuple[ScriptLink, ...] = ()
    """Pairs that no entry names are linked as fast as this machine can."""
    events: tuple[Event, ...] = ()
    model: str = "smollm2-135m-instruct"
    dtype: str = "float32"
    standby: str = "warm"
    """Of `Cluster.load`: "warm" keeps units ready for a loss, where memory is left, "hot" copies of sessions, too."""
    settle_s: Annotated[float, SECONDS] = 0.0
    """From the load until the conversations begin, at the least: what is kept ready is loaded meanwhile."""
    machine: str = "emulated_core"
    """The device class of what computes at slowdown 1; for predictions."""
    about: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        require(len(self.devices) > 0, "devices is empty; a bed needs at least one.")
        require(len(self.devices) <= MAX_DEVICES, f"more than {MAX_DEVICES} devices cannot be planned.")
        require(len(self.conversations) > 0, "conversations is empty; a run needs at least one.")
        for name in self.names:
            require(self.names.count(name) == 1, f"two devices are called {name!r}; give each its own name.")
        own = [ends for name in self.names for ends in ((COORDINATOR, name), (name, COORDINATOR))]
        check_events(self.events, [*self.names, COORDINATOR], {*self.roads, *own})
        for event in self.events:
            is_device = event.to is not None or event.device != COORDINATOR
            require(
                is_device, f"event {quoted(str(event))}: the coordinator is no device; only its links can be meant."
            )
        first = self.conversations[0].tokens
        for event in self.events:
            late = event.token is not None and event.token > first
            require(not late, f"event {quoted(f'{event.when} {event}')}: the first conversation has {first} tokens.")
        require(len(self.present) > 0, "every device joins later; at least one must be there at the start.")
        self._check_units()

    def _check_units(self) -> None:
        given = [device.name for device in self.present if device.units is not None]
        missing = [device.name for device in self.present if device.units is None]
        if given and missing:
            raise BadConfiguration(
                f"{given[0]} has units, but {missing[0]} has none; give all of them units, or leave it to the planner."
            )
        for device in self.devices:
            if device.units and device not in self.present:
                raise BadConfiguration(f"{device.name} has units, but it joins later; give them to others.")

    @property
    def names(self) -> list[str]:
        return [device.name for device in self.devices]

    @property
    def present(self) -> list[ScriptDevice]:
        """The devices that are there at the start."""
        late = absent_at_start(self.events)
        return [device for device in self.devices if device.name not in late]

    @property
    def paper_events(self) -> tuple[Event, ...]:
        """Those that can be predicted: on paper the coordinator has no links."""
        return tuple(event for event in self.events if COORDINATOR not in (event.device, event.to))

    @property
    def split(self) -> list[int] | None:
        """Units of each device that is there at the start; None where the planner decides."""
        units = [device.units for device in self.present]
        return None if None in units else [number or 0 for number in units]

    @property
    def load(self) -> Load:
        """What is asked of the cluster: all conversations at once, each as long as the longest."""
        return Load(
            in_flight=len(self.conversations),
            prompt_tokens=max(each.num_prompt_tokens for each in self.conversations),
            new_tokens=max(each.tokens for each in self.conversations),
        )

    @property
    def roads(self) -> dict[tuple[str, str], Road]:
        """(from, to) -> what it gives, of all pairs.

        Raises:
            BadConfiguration: a link names no device.
        """
        names = self.names
        roads = {(one, other): Road() for one in names for other in names if one != other}
        for entry in self.links:
            road = Road(entry.mbit_per_s * 1e6 / 8, entry.latency_ms / 1e3, entry.loss)
            for one in _named(entry.from_, names):
                for other in _named(entry.to, names):
                    roads[one, other] = road
                    roads[other, one] = roads[other, one] if entry.one_way else road
        return {ends: road for ends, road in roads.items() if ends[0] != ends[1]}


def read_script(data: object, file: str = "") -> Script:
    """Check the mapping of a script's file.

    Raises:
        BadConfiguration: an unknown key or device, a value or an event that cannot be.
    """
    place = Place(file)
    if not isinstance(data, Mapping):
        raise place.error(f"must be a mapping with keys such as name, devices, events, but is {quoted(data)}.")
    rows = data.get("events")
    if isinstance(rows, str) or not isinstance(rows, Sequence):
        return read_record(Script, data, place)  # which says what is wrong, where they are there
    events = [_as_mapping(row, place.at(data, "events").item(index, row)) for index, row in enumerate(rows)]
    lines, line = getattr(data, "lines", {}), getattr(data, "line", 0)
    return read_record(Script, LocatedDict({**data, "events": events}, lines, line), place)


def _as_mapping(row: object, place: Place) -> object:
    """An event that is written as text, as the fields that it has."""
    if not isinstance(row, str):
        return row
    try:
        event = parse_event(row)
    except BadConfiguration as error:
        raise place.error(str(error)) from error
    return {name: value for name, value in vars(event).items() if value is not None}


def paper_cluster(script: Script, classes: Mapping[str, object]) -> PaperCluster:
    """The script's devices with estimated numbers, by the class of the machine that they are emulated on.

    Raises:
        BadConfiguration: there is no such class.
    """
    if script.machine not in classes:
        hint = nearest_name(script.machine, list(classes))
        raise BadConfiguration(f"machine: unknown device class {quoted(script.machine)}; {hint}")
    kind = read_device_class(classes[script.machine], f"devices/{script.machine}.yaml")
    devices = tuple(PaperDevice(device.name, device.name, _slower(kind, device)) for device in script.devices)
    links = tuple(Link(*ends, road.latency_s, road.bytes_per_s) for ends, road in script.roads.items())
    return PaperCluster(script.name, script.present[0].name, devices, links, pin_embedding=False)


def given_plan(script: Script, problem: Problem) -> Plan | None:
    """The plan that the script spells out; None where the planner is to make one.

    Raises:
        BadConfiguration: it does not give all units of the model away.
    """
    split = script.split
    if split is None:
        return None
    given, there = sum(split), problem.num_units
    require(given == there, f"{script.name}: its devices have {given} units, but {script.model} has {there}.")
    stages = stages_from_counts([device.name for device in script.present], split)
    cost = evaluate(problem, stages)
    return Plan(stages, method="given", lap_s=cost.lap_s, rate_per_s=cost.rate(len(script.conversations)))


def recovery_of(
    script: Script, load_bytes_per_s: Mapping[str, float], replan: Replan, rebalance: bool = True
) -> Recovery:
    """How a cluster of processes answers to what happens: the coordinator is none of its devices."""
    return Recovery(
        replan,
        load_bytes_per_s=dict(load_bytes_per_s),
        detect_s=DEATH_KNOWN_S,
        standby=script.standby,
        settled_s=script.settle_s,
        rebalance=rebalance and script.split is None,
        is_source_apart=True,
    )


def _slower(kind: DeviceClass, device: ScriptDevice) -> DeviceClass:
    return replace(
        kind,
        memory_gib=kind.memory_gib if device.memory_gib is None else device.memory_gib,
        read_gb_per_s=kind.read_gb_per_s / device.slowdown,
        gflops=kind.gflops / device.slowdown,
        unit_overhead_ms=kind.unit_overhead_ms * device.slowdown,
        measured=(),
    )


def _named(names: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """The devices that a link's end means."""
    if not isinstance(names, str):
        return [device for name in names for device in _named(name, known)]
    if names == "all":
        return list(known)
    if names not in known:
        raise BadConfiguration(f"links: no device is called {quoted(names)}; {nearest_name(names, known)}")
    return [names]
