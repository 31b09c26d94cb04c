from __future__ import annotations

import pytest

from shardnet.errors import BadRequest, DeviceLost
from shardnet.profiling.hop_probe import hop_laps_s
from shardnet.profiling.link_probe import MAX_PROBE_BYTES, expose_probe, measure_link, measure_links
from shardnet.transport.in_process.network import InProcessNetwork


def test_a_link_is_measured_both_ways() -> None:
    told: list[float] = []
    with InProcessNetwork() as network:
        a, b = network.join("a"), network.join("b")
        expose_probe(b)
        link = measure_link(a, "b", max_seconds=0.5, progress=lambda _, done, total: told.append(done / total))
    assert (link.source, link.target) == ("a", "b")
    assert 0 < link.latency_s < 0.1
    assert link.latency_s <= link.slow_latency_s
    assert link.to_bytes_per_s > 1e6 and link.from_bytes_per_s > 1e6
    assert link.decode_s >= link.hop_s > 0 and link.prefill_to_s >= link.latency_s
    assert told == sorted(told) and told[-1] == 1


def test_a_slow_link_has_its_latency() -> None:
    with InProcessNetwork() as network:
        a, b = network.join("a"), network.join("b")
        expose_probe(b)
        network.delay("a", "b", 0.02)
        link = measure_link(a, "b", max_seconds=0.5)
    assert 0.01 <= link.latency_s < 0.05


def test_every_pair_is_measured_by_its_own_devices() -> None:
    with InProcessNetwork() as network:
        transports = [network.join(name) for name in ("a", "b", "c")]
        for transport in transports:
            expose_probe(transport)
        links = measure_links(transports[0], ["a", "b", "c"], max_seconds_per_link=0.2)
    assert [(link.source, link.target) for link in links] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_lost_device_is_named_and_a_huge_probe_refused() -> None:
    with InProcessNetwork() as network:
        a, b = network.join("a"), network.join("b")
        expose_probe(b)
        with pytest.raises(BadRequest, match="a probe may ask for"):
            a.call("b", "probe_source", MAX_PROBE_BYTES + 1, timeout_s=5).result()
        network.kill("b")
        with pytest.raises(DeviceLost):
            measure_link(a, "b", max_seconds=0.2)


def test_a_hop_of_a_ring_takes_the_way_there_and_back() -> None:
    with InProcessNetwork() as network:
        a, b = network.join("a"), network.join("b")
        expose_probe(b)
        network.delay("a", "b", 0.02)
        laps = hop_laps_s(a, "b", 1152, slot_s=0.2)
        with pytest.raises(BadRequest, match="a hidden state has"):
            hop_laps_s(a, "b", 0, slot_s=0.2)
    assert len(laps) >= 3
    assert 0.02 <= min(laps) < 0.2
