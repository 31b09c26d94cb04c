"""Where both sides compute: the same devices, cores and links for shardnet and for llama.cpp."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import shardnet
from shardnet.simulator import Event
from shardnet.simulator.script import COORDINATOR, Road, ScriptDevice

sys.path.insert(0, str(Path(__file__).parents[2]))
from testbed.bed import ADDRESS, Bed

from rivals.cases import FAR, NEAR, ONE
from rivals.llama_cpp import LlamaCpp, over_servers, served

NUM_DEVICES = {ONE: 1, NEAR: 3, FAR: 3}
LOCALHOST = "127.0.0.1"
FAST = 0.01
"""Of the usual time on a link."""


@dataclass(frozen=True)
class Setting:
    """What is the same for both sides."""

    programs: Mapping[str, Path]
    tensors: Path
    """Where llama.cpp's RPC servers keep tensors that they have got once."""
    road: Road
    """Between any two of the emulated hosts, that of who asks among them."""
    asker_computes: bool
    """Whether llama.cpp's process that asks is the first of the devices; or else a host more, as shardnet's is."""


@dataclass(frozen=True)
class Pair:
    """Both sides, ready to be asked in turns."""

    cluster: shardnet.Cluster
    rival: LlamaCpp


@contextmanager
def shardnet_alone(num_devices: int, road: Road | None, slowdown: float = 1.0) -> Iterator[shardnet.Cluster]:
    """The devices of shardnet, one thread each: emulated hosts with that road between any two, or on loopback.

    Args:
        slowdown: of emulated hosts: how many times slower than this machine they compute.
    """
    with ExitStack() as ends:
        if road is None:
            yield ends.enter_context(shardnet.Cluster.local(num_devices, threads_per_device=1))
        else:
            yield ends.enter_context(_bed(num_devices, road, slowdown)).cluster


@contextmanager
def both_sides(place: str, model: Path, num_blocks: int, setting: Setting) -> Iterator[Pair]:
    """The devices of shardnet and the servers of llama.cpp. Who has nothing to do uses no core.

    A device keeps to a core of its own where there are that many and one to spare for who asks.
    """
    num_devices = NUM_DEVICES[place]
    with ExitStack() as ends:
        bed = ends.enter_context(_bed(num_devices, setting.road)) if place == FAR else None
        cluster = bed.cluster if bed else ends.enter_context(shardnet.Cluster.local(num_devices, threads_per_device=1))
        pids = [int(answer["pid"]) for answer in cluster.describe()]
        cores = _cores(num_devices)
        for pid, core in zip(pids, cores):
            _keep_to(pid, core)
        within = [("nsenter", f"--net=/proc/{pid}/ns/net") if bed else () for pid in pids]
        kept = [(*("taskset", "--cpu-list", str(core)), *words) for core, words in zip(cores, within)] or within
        hosts = [ADDRESS.format(number + 2) if bed else LOCALHOST for number in range(num_devices)]
        if place == ONE:
            yield Pair(cluster, LlamaCpp(setting.programs, model, kept[0]))
            return
        first = 1 if setting.asker_computes else 0
        program = setting.programs["ggml-rpc-server"]
        servers = ends.enter_context(served(program, hosts[first:], kept[first:], setting.tensors))
        where = over_servers(servers, num_blocks=num_blocks, computes=setting.asker_computes)
        before = tuple(kept[0]) if first else ()
        hurry = partial(_hurry, bed) if bed else lambda is_loading: None
        yield Pair(cluster, LlamaCpp(setting.programs, model, before, where, hurry))


def _hurry(bed: Bed, is_loading: bool) -> None:
    """Let the links be fast while llama.cpp loads, which would take a minute of each turn, and is not measured."""
    for one, other in itertools.combinations((COORDINATOR, *bed.cluster.devices), 2):
        factor = FAST if is_loading else 1.0
        bed.strike(Event(0.0, "slow", one, other, factor=factor, both_ways=True))


def _bed(num_devices: int, road: Road, slowdown: float = 1.0) -> Bed:
    names = "abcdefgh"[:num_devices]
    roads = dict.fromkeys(itertools.permutations((COORDINATOR, *names), 2), road)
    return Bed([ScriptDevice(name, slowdown=slowdown) for name in names], roads)


def _cores(num_devices: int) -> list[int]:
    ours = sorted(os.sched_getaffinity(0))
    return ours[:num_devices] if num_devices < len(ours) else []


def _keep_to(pid: int, core: int) -> None:
    for thread in _threads(pid):
        os.sched_setaffinity(thread, {core})


def _threads(pid: int) -> Iterable[int]:
    return map(int, os.listdir(f"/proc/{pid}/task"))
