from __future__ import annotations

import copy
from typing import Any

import pytest

from shardnet.described.clusters import read_cluster, with_bandwidth, with_source
from shardnet.described.estimates import Workload, estimate_problem
from shardnet.errors import BadConfiguration
from shardnet.launch.files.config_files import known_names, load_cluster, load_model_config
from shardnet.planner.problem import Problem

CLASSES = {"phone": {"memory_gib": 2, "read_gb_per_s": 10, "gflops": 50}}
CLUSTER: dict[str, Any] = {
    "name": "c",
    "source": "p-1",
    "devices": [
        {"name": "p", "class": "phone", "count": 3, "spread": 0.2},
        {"name": "big", "memory_gib": 8, "read_gb_per_s": 40, "gflops": 500},
    ],
    "links": [
        {"from": "all", "to": "all", "mbit_per_s": 100, "latency_ms": 5},
        {"from": "source", "to": "big", "mbit_per_s": 8, "latency_ms": 1, "one_way": True},
    ],
}


def test_counts_classes_and_links() -> None:
    cluster = read_cluster(CLUSTER, CLASSES)
    assert [device.name for device in cluster.devices] == ["p-1", "p-2", "p-3", "big"]
    assert len(cluster.links) == 12
    speeds = {(link.source, link.target): link.bytes_per_s for link in cluster.links}
    assert speeds["p-1", "big"] == 1e6 and speeds["big", "p-1"] == 12.5e6
    reads = [device.kind.read_gb_per_s for device in cluster.devices[:3]]
    assert len(set(reads)) == 3 and all(8 <= read <= 12 for read in reads)
    assert read_cluster(CLUSTER, CLASSES) == cluster


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("devices", 0, "clas"), "phone", "did you mean 'class'"),
        (("devices", 0, "class"), "phon", "did you mean 'phone'"),
        (("devices", 0, "count"), 0, "count: must be a whole number, 1 or more"),
        (("devices", 1, "memory_gib"), "8 GB", "must be a number"),
        (("devices", 1, "memory_gib"), -1, "memory_gib: must be a number, 0 or more"),
        (("devices", 1, "gflops"), None, "has no gflops"),
        (("devices", 1, "name"), "p-2", "two devices are called 'p-2'"),
        (("devices", 1, "name"), "all", "has a meaning in links"),
        (("devices",), [], "at least one"),
        (("source",), "p-9", "the source 'p-9' is not one of its 4 devices; did you mean 'p-"),
        (("links", 0, "mbit_per_s"), 0, "mbit_per_s: must be a number, greater than 0"),
        (("links", 0, "latency_ms"), -1, "latency_ms: must be a number, 0 or more"),
        (("links", 1, "to"), "bigg", "no device or group is called 'bigg'; did you mean 'big'"),
    ],
)
def test_says_what_is_wrong(path: tuple[Any, ...], value: Any, said: str) -> None:
    data = copy.deepcopy(CLUSTER)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(BadConfiguration) as caught:
        read_cluster(data, CLASSES, "c.yaml")
    assert said in str(caught.value) and "c.yaml" in str(caught.value)


def test_bandwidth_and_source_can_be_changed() -> None:
    cluster = read_cluster(CLUSTER, CLASSES)
    faster = with_bandwidth(cluster, "p", "big", 80)
    assert {link.bytes_per_s for link in faster.links if "big" in (link.source, link.target)} == {1e7}
    assert with_source(cluster, "big").source == "big"
    with pytest.raises(BadConfiguration, match="did you mean 'big'"):
        with_bandwidth(cluster, "bigg", "p", 5)
    with pytest.raises(BadConfiguration, match="no link between"):
        with_bandwidth(cluster, "big", "big", 5)
    with pytest.raises(BadConfiguration, match="Mbit/s must be a number, greater than 0"):
        with_bandwidth(cluster, "p", "big", 0)


def test_every_shipped_cluster_makes_a_problem() -> None:
    model = load_model_config("smollm2_135m")
    for name in known_names("clusters"):
        problem = estimate_problem(model, load_cluster(name), Workload()).problem
        assert problem.num_units == 32
        if problem.num_devices < 50:
            assert Problem.from_dict(problem.to_dict()) == problem


def test_the_thousand_devices_are_the_same_every_time() -> None:
    once, again = load_cluster("thousand_mixed"), load_cluster("thousand_mixed")
    assert len(once.devices) == 1000 and once == again
    assert len({device.kind.read_gb_per_s for device in once.devices}) > 900


def test_measured_times_go_before_the_roofline() -> None:
    testbed, model = load_cluster("edgeshard_testbed"), load_model_config("llama-2-7b")
    measured = estimate_problem(model, testbed, Workload(dtype="float32", context_tokens=256))
    assert len(measured.measured) == 15
    agx = measured.problem.devices[0]
    assert agx.unit_seconds[1] == pytest.approx(5.498e-3)
    estimated = estimate_problem(model, testbed, Workload(dtype="float16", context_tokens=256))
    assert not estimated.measured and "Times are estimated." in estimated.notes


def test_the_roofline_comes_near_the_measured_blocks() -> None:
    """The fit of `read_gb_per_s` in configs/devices: within 10% for each kind of device."""
    testbed, model = load_cluster("edgeshard_testbed"), load_model_config("llama-2-7b")
    measured = estimate_problem(model, testbed, Workload(dtype="float32", context_tokens=64)).problem
    unmeasured = load_model_config("llama-2-7b")
    object.__setattr__(unmeasured, "name", "another")
    roofline = estimate_problem(unmeasured, testbed, Workload(dtype="float32", context_tokens=64)).problem
    for index in (0, 12, 14):
        blocks = slice(1, 33)
        told = sum(measured.devices[index].unit_seconds[blocks])
        assert sum(roofline.devices[index].unit_seconds[blocks]) == pytest.approx(told, rel=0.1)


def test_more_sessions_in_a_step_cost_less_than_as_many_steps() -> None:
    model, home = load_model_config("llama-2-7b"), load_cluster("home")
    one = estimate_problem(model, home, Workload(bits=4)).problem
    eight = estimate_problem(model, home, Workload(bits=4, step_sessions=8, sessions=8)).problem
    laptop = one.index["laptop"]
    ratio = sum(eight.devices[laptop].unit_seconds) / sum(one.devices[laptop].unit_seconds)
    assert 1 < ratio < 8
    assert eight.units[1].output_bytes == 8 * one.units[1].output_bytes


def test_prefill_is_cheaper_than_decode_and_counts_no_more_than_arithmetic() -> None:
    problem = estimate_problem(load_model_config("llama-2-7b"), load_cluster("home"), Workload(bits=4)).problem
    for device in problem.devices:
        assert device.prefill_unit_seconds is not None
        assert 0 < sum(device.prefill_unit_seconds) < sum(device.unit_seconds)


def test_refuses_a_context_beyond_the_models() -> None:
    with pytest.raises(BadConfiguration, match="context of 2048 tokens, but 4096"):
        estimate_problem(load_model_config("bloom-1b7"), load_cluster("home"), Workload(context_tokens=4096))
