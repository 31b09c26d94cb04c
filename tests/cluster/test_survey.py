"""What the coordinator asks of devices, and what it need not ask: devices that play their answers, in one process."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shardnet.cluster.placement import num_at_once
from shardnet.cluster.survey import Surveyor
from shardnet.described.model_sizes import ModelConfig, unit_works
from shardnet.loader import ModelFiles
from shardnet.models.plain_config import PlainConfig
from shardnet.plan import Plan, StagePlan
from shardnet.profiling.hardware import Hardware
from shardnet.profiling.link_probe import expose_probe
from shardnet.profiling.measurement import DeviceMeasurement, StepTiming, UnitMeasurement
from shardnet.progress import silent
from shardnet.transport.base import Transport
from shardnet.transport.device_messages import DeviceDescription, MeasuredDevice
from shardnet.transport.in_process.network import InProcessNetwork

FILES = cast(
    ModelFiles,
    SimpleNamespace(
        copy=SimpleNamespace(name="by content"),
        config=PlainConfig({"model_type": "llama"}),
        dtype="bfloat16",
        weights="auto",
        like_weights="auto",
        profile=SimpleNamespace(units=[SimpleNamespace(output_bytes=128)], kv_dtype="auto", unit_weights=()),
    ),
)
[_, BLOCK, _] = unit_works(
    ModelConfig(
        "tiny", "llama", hidden=64, blocks=1, heads=2, kv_heads=2, intermediate=128, vocab=100, context_tokens=64
    ),
    "bfloat16",
)


class PlayedDevice:
    """Describes itself as told, and counts how often it is measured."""

    def __init__(
        self,
        transport: Transport,
        host: str,
        network: str,
        kind: str,
        block_s: float,
        promised_bytes: int = 0,
        compute: str = "cpu",
    ) -> None:
        self.num_measured = 0
        self.not_kept = ""
        self._described = DeviceDescription(
            device=transport.name,
            pid=1,
            host=host,
            network=network,
            kind=kind,
            machine="x86_64",
            num_threads=1,
            num_cores=2,
            compute=compute,
            memory_total_bytes=2**30,
            memory_usable_bytes=1_000_000,
            memory_promised_bytes=promised_bytes,
            memory_allowed_bytes=None,
            rss_bytes=0,
            peak_rss_bytes=0,
            num_os_threads=1,
        )
        self._kind, self._block_s = kind, block_s
        expose_probe(transport)
        transport.expose("describe", lambda: self._described)
        transport.expose("profile", self._profile)

    def _profile(self, *_: Any) -> MeasuredDevice:
        self.num_measured += 1
        steps = (
            StepTiming(1, 1, 64, self._block_s),
            StepTiming(1, 1, 512, 2 * self._block_s),
            StepTiming(1, 64, 0, 1.0),
        )
        measurement = DeviceMeasurement(
            device=self._kind,
            model="tiny",
            dtype="bfloat16",
            hardware=Hardware("x86_64", "cpu", 2, (), 2**30, False),
            versions={},
            measured_at_s=0.0,
            took_s=1.0,
            memory_bytes=1_000_000,
            num_threads=1,
            trials=(),
            units=(UnitMeasurement(BLOCK, (0,), steps),),
        )
        return MeasuredDevice(json.dumps(measurement.as_dict()), self.not_kept)


def test_each_kind_is_measured_once_and_each_way_once(tmp_path: Path) -> None:
    with InProcessNetwork() as network:
        here = network.join("coordinator")
        a = PlayedDevice(network.join("a"), "laptop", "laptop-1", "1-thread", 0.001)
        b = PlayedDevice(network.join("b"), "laptop", "laptop-1", "1-thread", 0.001)
        c = PlayedDevice(network.join("c"), "laptop", "laptop-2", "1-thread-of-0.5-cores", 0.002)
        told: list[float] = []
        surveyor = Surveyor(here)
        survey = surveyor.survey(
            ["a", "b", "c"], FILES, tmp_path, lambda _, done, total: told.append(done / total), context_tokens=64
        )
        at_length = surveyor.survey(["a", "b", "c"], FILES, tmp_path, silent, context_tokens=512)
        in_a_later_cluster = Surveyor(here).survey(["a", "b"], FILES, tmp_path, silent)
    assert [a.num_measured, b.num_measured, c.num_measured] == [3, 0, 2]
    assert [device.name for device in survey.devices] == ["a", "b", "c"]
    assert [device.decode_unit_s for device in survey.devices] == [(0.001,), (0.001,), (0.002,)]
    assert [device.decode_unit_s for device in at_length.devices] == [(0.002,), (0.002,), (0.004,)]
    assert survey.links == at_length.links, "links are measured once"
    ways = {(link.source, link.target): (link.latency_s, link.bytes_per_s) for link in survey.links}
    assert len(ways) == 6
    assert ways["a", "c"] == ways["b", "c"] != ways["a", "b"]
    assert {(link.source, link.target): (link.latency_s, link.bytes_per_s) for link in in_a_later_cluster.links} == {
        pair: ways[pair] for pair in (("a", "b"), ("b", "a"))
    }, "the link within the laptop is kept"


def test_a_profile_that_a_device_cannot_keep_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with InProcessNetwork() as network:
        here = network.join("coordinator")
        for name in ("a", "b"):
            device = PlayedDevice(network.join(name), name, name, name, 0.001)
            device.not_kept = f"Cannot keep profiles on {name}."
        surveyor = Surveyor(here)
        surveyor.survey(["a", "b"], FILES, tmp_path, silent)
        surveyor.survey(["a", "b"], FILES, tmp_path, silent)
    assert caplog.messages == ["Cannot keep profiles on a. This run does without, and measures again."]


def test_devices_of_one_host_share_what_is_left_of_its_memory() -> None:
    """Once, what sessions had reserved and not written to yet counted as free, and was given to the next model, too."""
    with InProcessNetwork() as network:
        here = network.join("coordinator")
        for name, host, promised in (("a", "laptop", 150_000), ("b", "laptop", 50_000), ("c", "phone", 2_000_000)):
            PlayedDevice(network.join(name), host, host, "1-thread", 0.001, promised)
        found = Surveyor(here).memory(["a", "b", "c"])
    assert [device.memory_bytes for device in found] == [400_000, 400_000, 0]


def test_an_accelerator_shares_no_memory_with_the_processor_of_its_host() -> None:
    with InProcessNetwork() as network:
        here = network.join("coordinator")
        for name, compute in (("a", "cpu"), ("b", "cpu"), ("c", "cuda:0"), ("d", "cuda:1")):
            PlayedDevice(network.join(name), "node", "node", f"1-thread-{compute}", 0.001, 100_000, compute)
        found = Surveyor(here).memory(["a", "b", "c", "d"])
    assert [device.memory_bytes for device in found] == [400_000, 400_000, 900_000, 900_000]
    assert len({device.host for device in found}) == 3


def test_metal_shares_the_memory_of_the_processor_and_not_its_cores() -> None:
    """The same memory was offered twice."""
    with InProcessNetwork() as network:
        here = network.join("coordinator")
        for name, compute in (("a", "cpu"), ("b", "mps")):
            PlayedDevice(network.join(name), "mac", "mac", f"1-thread-{compute}", 0.001, 100_000, compute)
        found = Surveyor(here).memory(["a", "b"])
    assert [device.memory_bytes for device in found] == [400_000, 400_000]
    assert [device.host for device in found] == ["mac", "mac/mps"]


def test_devices_of_one_card_do_not_compute_at_the_same_time() -> None:
    """As many groups of sessions went round as the processor beside it had cores for, and waited for each other."""
    plan = Plan(tuple(StagePlan(name, number, number) for number, name in enumerate("abcd")))
    with InProcessNetwork() as network:
        here = network.join("coordinator")
        for name, compute in (("a", "cuda:0"), ("b", "cuda:0"), ("c", "cpu"), ("d", "cpu")):
            PlayedDevice(network.join(name), "node", "node", f"1-thread-{compute}", 0.001, 0, compute)
        assert num_at_once(plan, Surveyor(here).memory("abcd")) == 3
