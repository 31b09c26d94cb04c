"""What one more phone would bring."""

from __future__ import annotations

from dataclasses import replace

from shardnet.cluster.one_more import Placed, gain_of, room_for
from shardnet.described.clusters import GIB, DeviceClass
from shardnet.plan import DeviceProfile, ModelProfile, UnitProfile

NUM_BLOCKS = 10
UNITS = (
    UnitProfile("embedding", GIB // 10, 0, 4096),
    *(UnitProfile(f"block {n}", GIB // 2, 1024, 4096, GIB // 4) for n in range(NUM_BLOCKS)),
    UnitProfile("head", GIB // 10, 0, 8),
)
"""5.2 GiB."""
MODEL = ModelProfile("model", "llama", "bfloat16", UNITS, 2048)
PHONE = DeviceClass(memory_gib=5, read_gb_per_s=12, gflops=60, unit_overhead_ms=0.15)


def placed(*devices: DeviceProfile) -> Placed:
    return Placed(MODEL, devices, (), "auto", "latency", 1, 2048, None)


def device(memory_gib: float, block_s: float) -> DeviceProfile:
    times = (0.0001, *([block_s] * NUM_BLOCKS), 0.0005)
    return DeviceProfile("laptop", int(memory_gib * GIB), times, times)


def test_a_fast_phone_beside_a_slow_board_is_worth_so_much_and_no_larger_one_more() -> None:
    """The board takes 200 ms a block, the phone about 45: with 6 GiB it holds all of them, with 12 no more."""
    text = gain_of(placed(device(8, 0.2)), PHONE, "a phone")
    assert text.startswith("Predicted: 2001 ms a token. A phone with 6 GiB for models more: 4"), text
    assert text.endswith(" ms.")


def test_where_one_answer_would_be_no_faster_it_says_so() -> None:
    text = gain_of(placed(device(8, 0.002)), PHONE, "a phone")
    assert text == "Predicted: 21 ms a token. A phone more would make that no faster."


def test_what_was_not_measured_is_not_predicted() -> None:
    assert gain_of(placed(DeviceProfile("laptop", 8 * GIB)), PHONE, "a phone") == ""


def test_the_smallest_phone_that_would_hold_what_does_not_fit() -> None:
    bare = DeviceProfile("laptop", 4 * GIB)
    assert room_for(placed(bare), PHONE, "a phone") == "Predicted: a phone with 2 GiB for models more would hold it."
    assert room_for(placed(), PHONE, "a phone") == "Predicted: a phone with 6 GiB for models more would hold it."
    huge = replace(MODEL, units=tuple(replace(unit, weight_bytes=unit.weight_bytes * 10) for unit in UNITS))
    assert room_for(replace(placed(bare), profile=huge), PHONE, "a phone") == ""
